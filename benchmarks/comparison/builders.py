"""The networks that are compared, at comparable widths, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.networks.nets import AttentionUnet, UNet
from torch import Tensor, nn

from napari_attention3d.networks import NetworkOutput, build_network

WIDTHS = (8, 16, 32, 64, 128)
STRIDES = (2, 2, 2, 2)
MULTIPLE = 16
"""Sizes that every network takes: MONAI's want multiples of their total stride."""


class Bare(nn.Module):
    """A network that returns logits alone, as one that returns a `NetworkOutput`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> NetworkOutput:
        return NetworkOutput(self.network(x), {}, ())


def _unet(classes: int, **changes: Any) -> nn.Module:
    return build_network(
        "attention-unet", channels=WIDTHS, in_channels=1, num_classes=classes, **changes
    )


def _guided(classes: int, **changes: Any) -> nn.Module:
    settings = {"variant": "refined", "in_channels": 1, "num_classes": classes} | changes
    return build_network("guided-attention", preset="small", **settings)


def _monai_attention_unet(classes: int) -> nn.Module:
    return Bare(AttentionUnet(3, 1, classes, channels=WIDTHS, strides=STRIDES))


def _monai_unet(classes: int) -> nn.Module:
    return Bare(
        UNet(3, 1, classes, channels=WIDTHS, strides=STRIDES, num_res_units=2, norm="instance")
    )


BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "attention-unet": _unet,
    "guided": _guided,
    "guided-stride-4": lambda classes: _guided(classes, head_width=0),
    # Eight times the tokens, so keys and values are pooled by twice as much along each axis.
    "guided-stride-2": lambda classes: _guided(classes, head_width=0, stem_pool=1, kv_pool=4),
    "monai-attention-unet": _monai_attention_unet,
    "monai-unet": _monai_unet,
    "plain-unet": lambda classes: _unet(classes, ungated_levels=len(STRIDES)),
    # What position attention costs when it sees less; "guided" itself pools by 2.
    "guided-exact": lambda classes: _guided(classes, kv_pool=1),
    "guided-pool-4": lambda classes: _guided(classes, kv_pool=4),
    "guided-window-4": lambda classes: _guided(classes, kv_pool=1, window=4),
}
"""By name: number of classes to network."""

TITLES = {
    "attention-unet": "Attention U-Net (ours)",
    "guided": "guided attention (ours), small",
    "guided-stride-4": "guided attention, the paper's stride 4: no refinement head",
    "guided-stride-2": "guided attention, stride 2 instead of the head",
    "monai-attention-unet": "MONAI AttentionUnet",
    "monai-unet": "MONAI UNet, 2 residual units, instance norm",
    "plain-unet": "plain U-Net: ours, no gates",
    "guided-exact": "guided, every voxel of the grid",
    "guided-pool-4": "guided, keys and values pooled by 4",
    "guided-window-4": "guided, windows of 4 x 4 x 4",
}

GROUPS = {
    "all": [n for n in BUILDERS if not n.startswith(("guided-e", "guided-p", "guided-w"))],
    "attention": ["guided-exact", "guided", "guided-pool-4", "guided-window-4"],
}


def build(name: str, classes: int) -> nn.Module:
    """Network of BUILDERS, one input channel."""
    return BUILDERS[name](classes)


def parameter_count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
