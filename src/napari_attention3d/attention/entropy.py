"""How undecided a network is, from its own probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..networks.base import MapSpec, NetworkOutput, SegmentationNetwork

__all__ = ["Entropy"]


class Entropy:
    """Entropy of the class probabilities over its largest possible value."""

    name = "entropy"
    passes = 1
    colormap = "inferno"

    def missing(self, network: SegmentationNetwork) -> str:
        """Every network has probabilities."""
        return ""

    def spec(self, network: SegmentationNetwork) -> MapSpec:
        """At the model's full resolution."""
        return MapSpec(
            name=self.name,
            title="uncertainty (entropy)",
            stride=(1, 1, 1),
            offset=(0.0, 0.0, 0.0),
            value_range=(0.0, 1.0),
            description="0: sure of one class; 1: all classes alike. Sure does not mean right.",
        )

    def compute(self, network: SegmentationNetwork, x: Tensor) -> tuple[NetworkOutput, Tensor]:
        """Use the mask's own pass."""
        output = network(x)
        return output, self.of_logits(output.logits)

    @staticmethod
    def of_logits(logits: Tensor) -> Tensor:
        """(B, K, z, y, x) to (B, 1, z, y, x)."""
        p = torch.softmax(logits.float(), 1)
        value = -torch.xlogy(p, p).sum(1, keepdim=True) / math.log(p.shape[1])
        return value.clamp(0, 1)
