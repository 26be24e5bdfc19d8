"""Whether the scales of a guided network predict the same."""

from __future__ import annotations

import torch
from torch import Tensor

from ..networks.base import MapSpec, NetworkOutput, SegmentationNetwork
from ..networks.guided_attention import GuidedAttentionNet
from .kinds import disagreement

__all__ = ["ScaleAgreement"]


class ScaleAgreement:
    """1 minus the Jensen-Shannon divergence of the scales' predictions (last step).

    Each scale's refined attention has a head of its own; the mask is drawn from their
    mean. Where they disagree the mask is a compromise.
    """

    name = "agreement"
    passes = 1
    colormap = "viridis"

    def missing(self, network: SegmentationNetwork) -> str:
        """Guided networks only."""
        if isinstance(network, GuidedAttentionNet):
            return ""
        return "only guided-attention networks predict from several scales"

    def spec(self, network: SegmentationNetwork) -> MapSpec:
        """On the attention's grid."""
        assert isinstance(network, GuidedAttentionNet)
        return MapSpec(
            name=self.name,
            title="agreement of the scales",
            stride=network.grid_stride,
            offset=(0.0, 0.0, 0.0),
            value_range=(0.0, 1.0),
            description="1: the scales' own predictions are alike; 0: each is sure of another.",
        )

    def compute(self, network: SegmentationNetwork, x: Tensor) -> tuple[NetworkOutput, Tensor]:
        """Read the heads' outputs in the mask's own pass."""
        assert isinstance(network, GuidedAttentionNet)
        logits: list[Tensor] = []
        hooks = [
            head.register_forward_hook(lambda _, __, out: logits.append(out.float()))
            for head in network.attention_heads
        ]
        try:
            output = network(x)
        finally:
            for hook in hooks:
                hook.remove()
        value = 1 - disagreement((torch.softmax(one, 1) for one in logits), len(logits))
        z, y, w = (-(-n // s) for n, s in zip(x.shape[2:], network.grid_stride, strict=True))
        return output, value[:, :, :z, :y, :w]
