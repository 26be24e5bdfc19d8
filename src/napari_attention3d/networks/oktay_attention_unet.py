"""The attention U-Net as its authors' CT networks build it, so that their weights fit.

Against `AttentionUNet`: biases everywhere, batch norm, the whole width of the coarser level
is upsampled (no 1x1x1 reduction before), each gated skip passes a 1x1x1 convolution with
norm and ReLU even when there is one gate, the gates start as they are drawn, and the
logits of all levels are joined by a last 1x1x1 convolution (``unet_CT_single_att_dsv``
and ``unet_CT_multi_att_dsv`` of Oktay et al. 2018, arXiv:1804.03999).
`oktay_keys` names the correspondence of weights; a test compares the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .attention_gate import GridGate
from .attention_unet import gate_specs
from .base import MapSpec, NetworkOutput, SegmentationNetwork
from .blocks import (
    ConvNormAct,
    ConvStack,
    Norm,
    Size3,
    kaiming_,
    pad_to_multiple,
    product,
    resize,
    triple,
)
from .registry import register

__all__ = ["OktayAttentionUNet", "oktay_keys"]

PRESETS: dict[str, dict[str, Any]] = {
    "single": {"gates_per_level": 1},
    "multi": {"gates_per_level": 2},
}


@register("oktay-attention-unet", PRESETS)
class OktayAttentionUNet(SegmentationNetwork):
    """Attention U-Net with the authors' layout of the decoder.

    Parameters
    ----------
    in_channels, num_classes
        Channels of the scan; classes with the background.
    channels
        Width of each level, finest first; the authors' are 16 to 256.
    strides
        Stride from each level to the next, one number or (z, y, x); default 2.
    gates_per_level
        1 or 2; the finest level has none.
    norm
        "batch" as in the authors' code, or "instance", "group".
    align_corners
        How all trilinear resizing is done: True for weights trained with torch <= 0.3,
        where it could not be otherwise.

    Raises
    ------
    ValueError
        If lengths or sizes do not fit together.
    """

    locality = "local"

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        strides: Sequence[int | Sequence[int]] | None = None,
        gates_per_level: int = 1,
        norm: Norm = "batch",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        levels = len(channels)
        strides = [2] * (levels - 1) if strides is None else strides
        if levels < 3 or len(strides) != levels - 1:
            raise ValueError(f"at least 3 channels, and one stride fewer: {channels}, {strides}")
        if gates_per_level not in (1, 2):
            raise ValueError(f"gates_per_level is {gates_per_level}; it can be 1 or 2")
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; background counts, so at least 2")
        self.in_channels, self.num_classes = in_channels, num_classes
        self.channels = widths = tuple(int(c) for c in channels)
        self.strides = tuple(triple(s) for s in strides)
        self.gates_per_level, self.norm, self.align_corners = gates_per_level, norm, align_corners
        style: Any = {"norm": norm, "bias": True}
        skips = range(levels - 1)
        self.gated = tuple(skips)[1:]
        self.encoder = nn.ModuleList(
            ConvStack(in_channels if i == 0 else widths[i - 1], widths[i], **style)
            for i in range(levels)
        )
        self.pools = nn.ModuleList(nn.MaxPool3d(s, s) for s in self.strides)
        self.gating = ConvNormAct(widths[-1], widths[-1], kernel=(1, 1, 1), **style)
        self.gates = nn.ModuleDict({str(i): self._gates(i) for i in self.gated})
        self.combine = nn.ModuleDict(
            {
                str(i): ConvNormAct(
                    gates_per_level * widths[i], widths[i], kernel=(1, 1, 1), **style
                )
                for i in self.gated
            }
        )
        self.decoder = nn.ModuleList(
            ConvStack(widths[i] + widths[i + 1], widths[i], **style) for i in skips
        )
        self.heads = nn.ModuleList(nn.Conv3d(widths[i], num_classes, 1) for i in skips)
        self.fuse = nn.Conv3d(num_classes * len(skips), num_classes, 1)
        kaiming_(self)

    def _gates(self, level: int) -> nn.ModuleList:
        return nn.ModuleList(
            GridGate(
                self.channels[level],
                self.channels[level + 1],
                stride=self.strides[level],
                norm=self.norm,
                align_corners=self.align_corners,
                out_bias=True,
            )
            for _ in range(self.gates_per_level)
        )

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this network."""
        return {
            "in_channels": self.in_channels,
            "num_classes": self.num_classes,
            "channels": list(self.channels),
            "strides": [list(s) for s in self.strides],
            "gates_per_level": self.gates_per_level,
            "norm": self.norm,
            "align_corners": self.align_corners,
        }

    @property
    def total_stride(self) -> Size3:
        """Stride of the deepest level."""
        return product(self.strides)

    @property
    def map_specs(self) -> Mapping[str, MapSpec]:
        """One map per gated level, finest first."""
        return gate_specs(self.gated, self.strides)

    def forward(self, x: Tensor, return_maps: bool = False) -> NetworkOutput:
        """Segment a batch of any size; see `NetworkOutput`. Two gates show their mean."""
        size = tuple(x.shape[2:])
        # Two voxels at the deepest level where a norm measures: over one there is no variance.
        least = 2 if self.training or self.norm != "batch" else 1
        sz, sy, sx = (
            least * s if n > 1 or s > 1 else 1 for s, n in zip(self.total_stride, size, strict=True)
        )
        x = pad_to_multiple(x, self.total_stride, (sz, sy, sx))
        logits, maps = self._forward_padded(x)
        cropped = {}
        for name, spec in self.map_specs.items() if return_maps else ():
            z, y, w = (-(-n // s) for n, s in zip(size, spec.stride, strict=True))
            cropped[name] = maps[name][:, :, :z, :y, :w]
        return NetworkOutput(logits[:, :, : size[0], : size[1], : size[2]], cropped, ())

    def _forward_padded(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        skips: list[Tensor] = []
        for level, stack in enumerate(self.encoder):
            x = stack(x if level == 0 else self.pools[level - 1](x))
            skips.append(x)
        gating = self.gating(x)
        full = skips[0].shape[2:]
        maps: dict[str, Tensor] = {}
        sides: list[Tensor] = []
        for level in reversed(range(len(self.strides))):
            skip = skips[level]
            if level in self.gated:
                skip, maps[f"gate-level-{level + 1}"] = self._gate(level, skip, gating)
            up = resize(x, skip.shape[2:], self.align_corners)
            x = gating = self.decoder[level](torch.cat((skip, up), dim=1))
            sides.insert(0, resize(self.heads[level](x), full, self.align_corners))
        logits: Tensor = self.fuse(torch.cat(sides, dim=1))
        return logits, maps

    def _gate(self, level: int, skip: Tensor, gating: Tensor) -> tuple[Tensor, Tensor]:
        gates = self.gates[str(level)]
        assert isinstance(gates, nn.ModuleList)
        passed = [gate(skip, gating) for gate in gates]
        joined: Tensor = self.combine[str(level)](torch.cat([out for out, _ in passed], dim=1))
        first, *others = (alpha for _, alpha in passed)
        return joined, (first + others[0]) / 2 if others else first


def oktay_keys(gates_per_level: int) -> dict[str, str]:
    """Prefixes of our parameters and buffers, and of the authors', for five levels.

    Every key of one state dict starts with exactly one of these prefixes.
    """
    pairs: dict[str, str] = {"fuse": "final", "heads.0": "dsv1"}

    def conv_norm(ours: str, theirs: str) -> None:
        pairs[f"{ours}.conv"], pairs[f"{ours}.norm"] = f"{theirs}.0", f"{theirs}.1"

    def stack(ours: str, theirs: str) -> None:
        for j in range(2):
            conv_norm(f"{ours}.{j}", f"{theirs}.conv{j + 1}")

    for level in range(5):
        stack(f"encoder.{level}", "center" if level == 4 else f"conv{level + 1}")
    conv_norm("gating", "gating.conv1")
    for level in range(4):
        stack(f"decoder.{level}", f"up_concat{level + 1}.conv")
    for level in range(1, 4):
        pairs[f"heads.{level}"] = f"dsv{level + 1}.dsv.0"
        block = f"attentionblock{level + 1}"
        conv_norm(f"combine.{level}", f"{block}.combine_gates")
        for gate in range(gates_per_level):
            ours, theirs = f"gates.{level}.{gate}", f"{block}.gate_block_{gate + 1}"
            for part in ("theta", "phi", "psi"):
                pairs[f"{ours}.{part}"] = f"{theirs}.{part}"
            pairs[f"{ours}.out"] = f"{theirs}.W"
    return pairs
