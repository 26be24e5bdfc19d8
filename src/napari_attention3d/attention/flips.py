"""Whether a network says the same of a mirrored scan."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from ..networks.base import MapSpec, NetworkOutput, SegmentationNetwork
from .kinds import disagreement

__all__ = ["FlipSpread"]

FLIPS = ((2,), (3,), (4,))


class FlipSpread:
    """Jensen-Shannon divergence of the predictions for the scan and its three mirror images.

    A network that was trained on upright scans has never seen them upside down: the map
    says where it leans on that, as well as where it is unsure.
    """

    name = "flip-spread"
    passes = 1 + len(FLIPS)
    colormap = "inferno"

    def missing(self, network: SegmentationNetwork) -> str:
        """Every network can be given a mirrored scan."""
        return ""

    def spec(self, network: SegmentationNetwork) -> MapSpec:
        """At the model's full resolution."""
        return MapSpec(
            name=self.name,
            title="spread under flips",
            stride=(1, 1, 1),
            offset=(0.0, 0.0, 0.0),
            value_range=(0.0, 1.0),
            description="0: the same class whichever way the scan is mirrored; 1: all differ.",
        )

    def compute(self, network: SegmentationNetwork, x: Tensor) -> tuple[NetworkOutput, Tensor]:
        """One pass per mirror image; the mask is that of the plain scan."""
        plain = network(x)

        def shares() -> Iterator[Tensor]:
            for axes in FLIPS:
                logits = torch.flip(network(torch.flip(x, axes)).logits, axes)
                yield torch.softmax(logits.float(), 1)

        return plain, disagreement(
            chain([torch.softmax(plain.logits.float(), 1)], shares()), self.passes
        )
