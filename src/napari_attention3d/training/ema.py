"""Exponential moving average of the weights: steadier than the last step's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Average of a network's ``state_dict``.

    ``average += (1 - d) * (weights - average)`` with ``d = min(decay, (1 + n) / (10 + n))``
    after n updates, so that the first steps are soon forgotten. Integer entries are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value.detach(), 1 - decay)
            else:
                self.state[key].copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights."""
        return self.state
