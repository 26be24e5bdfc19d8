"""Where the semantic autoencoder of a guided network fails to rebuild what it is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..networks.base import MapSpec, NetworkOutput, SegmentationNetwork
from ..networks.guided_attention import SCALES, GuidedAttentionNet

__all__ = ["ReconstructionError"]


class ReconstructionError:
    """``||R - in|| / ||in||`` over the channels, mean over the scales of the last step.

    Training asks the autoencoder to rebuild the features; where it can't, they are unlike
    those of the training data.
    """

    name = "reconstruction-error"
    passes = 1
    colormap = "inferno"

    def missing(self, network: SegmentationNetwork) -> str:
        """Guided networks only."""
        if isinstance(network, GuidedAttentionNet):
            return ""
        return "only guided-attention networks have an autoencoder"

    def spec(self, network: SegmentationNetwork) -> MapSpec:
        """On the attention's grid."""
        assert isinstance(network, GuidedAttentionNet)
        return MapSpec(
            name=self.name,
            title="autoencoder reconstruction error",
            stride=network.grid_stride,
            offset=(0.0, 0.0, 0.0),
            value_range=(0.0, None),
            description=(
                "Length of the error over the length of the features: 0 rebuilt exactly, 1 or "
                "more: nothing of them was known."
            ),
        )

    def compute(self, network: SegmentationNetwork, x: Tensor) -> tuple[NetworkOutput, Tensor]:
        """Read the autoencoder's input and output in the mask's own pass."""
        assert isinstance(network, GuidedAttentionNet)
        found: list[Tensor] = []

        def note(_: Any, given: tuple[Tensor], out: tuple[Tensor, Tensor]) -> None:
            before, rebuilt = given[0].float(), out[1].float()
            error = torch.linalg.vector_norm(rebuilt - before, dim=1, keepdim=True)
            size = torch.linalg.vector_norm(before, dim=1, keepdim=True).clamp(min=1e-6)
            found.append(torch.stack((error / size).chunk(SCALES)).mean(0))

        hook = network.autoencoders[-1].register_forward_hook(note)
        try:
            output = network(x)
        finally:
            hook.remove()
        z, y, w = (-(-n // s) for n, s in zip(x.shape[2:], network.grid_stride, strict=True))
        return output, found[0][:, :, :z, :y, :w]
