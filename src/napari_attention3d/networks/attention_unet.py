"""3D Attention U-Net (Oktay et al. 2018, arXiv:1804.03999).

The architecture reads top down in `AttentionUNet.__init__`; docs/networks.md has the
equations, and the places where published code differs from the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .attention_gate import GridGate
from .base import MapSpec, NetworkOutput, SegmentationNetwork
from .blocks import (
    Activation,
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

__all__ = ["AttentionUNet", "gate_specs"]

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"channels": (8, 16, 32, 64)},
    "small": {"channels": (8, 16, 32, 64, 128)},
    "base": {"channels": (16, 32, 64, 128, 256)},
    "large": {"channels": (32, 64, 128, 256, 320)},
}


def gate_specs(levels: Sequence[int], strides: Sequence[Size3]) -> dict[str, MapSpec]:
    """Maps of the gates at `levels` (0 finest), each as computed: at the next level's grid."""
    specs = {}
    for level in levels:
        stride = product(strides[: level + 1])
        z, y, x = ((s - 1) / 2 for s in stride)
        specs[f"gate-level-{level + 1}"] = MapSpec(
            name=f"gate-level-{level + 1}",
            title=f"attention gate, level {level + 1}",
            stride=stride,
            offset=(z, y, x),
            value_range=(0.0, 1.0),
            description=(
                "Attention coefficients: the share of the skip connection's features that the "
                "gate lets through (0 none, 1 all)."
            ),
        )
    return specs


@register("attention-unet", PRESETS)
class AttentionUNet(SegmentationNetwork):
    """U-Net whose skip connections pass through attention gates.

    Parameters
    ----------
    in_channels, num_classes
        Channels of the scan; classes with the background.
    channels
        Width of each level, finest first.
    strides
        Stride (z, y, x) from each level to the next (one fewer than levels); one number
        or three, default 2. ``(1, 2, 2)`` for thick slices.
    kernels
        Kernel (z, y, x) of each level, odd; default 3.
    norm
        "instance" (scan-calibrated at inference, see `ScanNorm3d`), "batch" or "group".
    act
        "relu", "leakyrelu" or "prelu".
    gates_per_level
        1, or 2 in parallel (the paper's multi-dimensional coefficients).
    ungated_levels
        The finest levels without a gate; the paper leaves the first one open. As many as
        there are skips: a plain U-Net.
    out_transform
        Output transform of the gates.
    psi_bias
        First bias of the gates' logit.
    deep_supervision
        "none"; "separate": side logits at each decoder level, for the loss; "fused":
        the side logits of all levels joined by a last 1x1x1 convolution (Oktay's code).
    decoder_depth
        Convolutions at each decoder level.
    align_corners
        Only for old imported weights.

    Raises
    ------
    ValueError
        If lengths, sizes or names do not fit together.
    """

    locality = "local"

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        channels: Sequence[int] = (8, 16, 32, 64, 128),
        strides: Sequence[int | Sequence[int]] | None = None,
        kernels: Sequence[int | Sequence[int]] | None = None,
        norm: Norm = "instance",
        act: Activation = "relu",
        gates_per_level: int = 1,
        ungated_levels: int = 1,
        out_transform: bool = True,
        psi_bias: float = 3.0,
        deep_supervision: Literal["none", "separate", "fused"] = "separate",
        decoder_depth: int = 2,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        levels = len(channels)
        if levels < 2:
            raise ValueError(f"channels {tuple(channels)} must name at least two levels")
        strides = [2] * (levels - 1) if strides is None else strides
        kernels = [3] * levels if kernels is None else kernels
        if len(strides) != levels - 1:
            raise ValueError(f"{levels} levels need {levels - 1} strides, got {len(strides)}")
        if len(kernels) != levels:
            raise ValueError(f"{levels} levels need {levels} kernels, got {len(kernels)}")
        if gates_per_level not in (1, 2):
            raise ValueError(f"gates_per_level is {gates_per_level}; it can be 1 or 2")
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; background counts, so at least 2")
        if in_channels < 1:
            raise ValueError(f"in_channels is {in_channels}; it must be at least 1")
        if deep_supervision not in ("none", "separate", "fused"):
            raise ValueError(f"deep_supervision {deep_supervision!r}: none, separate or fused")
        self.in_channels, self.num_classes = in_channels, num_classes
        self.channels = tuple(int(c) for c in channels)
        self.strides = tuple(triple(s) for s in strides)
        self.kernels = tuple(triple(k) for k in kernels)
        self.norm, self.act = norm, act
        self.gates_per_level, self.ungated_levels = gates_per_level, ungated_levels
        self.out_transform, self.psi_bias = out_transform, psi_bias
        self.deep_supervision = deep_supervision
        self.decoder_depth, self.align_corners = decoder_depth, align_corners

        widths: tuple[int, ...] = self.channels
        style: Any = {"norm": norm, "act": act}
        skips = range(levels - 1)
        self.encoder = nn.ModuleList(
            ConvStack(
                in_channels if i == 0 else widths[i - 1], widths[i], kernel=self.kernels[i], **style
            )
            for i in range(levels)
        )
        self.pools = nn.ModuleList(nn.MaxPool3d(s, s) for s in self.strides)
        self.gated = tuple(i for i in skips if i >= ungated_levels)
        self.gating = (
            ConvNormAct(widths[-1], widths[-1], kernel=(1, 1, 1), **style) if self.gated else None
        )
        self.gates = nn.ModuleDict({str(i): self._gates(i) for i in self.gated})
        self.combine = nn.ModuleDict(
            {
                str(i): ConvNormAct(2 * widths[i], widths[i], kernel=(1, 1, 1), **style)
                for i in self.gated
                if gates_per_level == 2
            }
        )
        # 1x1x1 before upsampling commutes with trilinear resizing and costs an eighth.
        self.reduce = nn.ModuleList(
            nn.Conv3d(widths[i + 1], widths[i], 1, bias=False) for i in skips
        )
        self.decoder = nn.ModuleList(
            ConvStack(
                2 * widths[i], widths[i], depth=decoder_depth, kernel=self.kernels[i], **style
            )
            for i in skips
        )
        sides = {"none": 1, "separate": levels - 1, "fused": levels - 1}[deep_supervision]
        self.heads = nn.ModuleList(nn.Conv3d(widths[i], num_classes, 1) for i in range(sides))
        self.fuse = (
            nn.Conv3d(num_classes * sides, num_classes, 1) if deep_supervision == "fused" else None
        )
        kaiming_(self)
        for gate in self.modules():
            if isinstance(gate, GridGate):
                gate.reset_psi()

    def _gates(self, level: int) -> nn.ModuleList:
        return nn.ModuleList(
            GridGate(
                self.channels[level],
                self.channels[level + 1],
                stride=self.strides[level],
                norm=self.norm,
                out_transform=self.out_transform,
                psi_bias=self.psi_bias,
                align_corners=self.align_corners,
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
            "kernels": [list(k) for k in self.kernels],
            "norm": self.norm,
            "act": self.act,
            "gates_per_level": self.gates_per_level,
            "ungated_levels": self.ungated_levels,
            "out_transform": self.out_transform,
            "psi_bias": self.psi_bias,
            "deep_supervision": self.deep_supervision,
            "decoder_depth": self.decoder_depth,
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
        """Segment a batch of any size.

        Parameters
        ----------
        x
            (B, C, Z, Y, X).
        return_maps
            Whether to return the gates' coefficients (B, 1, z, y, x), each at its own
            grid; with two gates per level their mean.

        Returns
        -------
        NetworkOutput
            Logits of the input's size; side logits only in training with "separate".
        """
        size = tuple(x.shape[2:])
        # Two voxels or more along each axis at the deepest level: a norm over one voxel
        # would wipe out what it holds.
        smallest = tuple(
            2 * s if n > 1 or s > 1 else 1 for s, n in zip(self.total_stride, size, strict=True)
        )
        x = pad_to_multiple(x, self.total_stride, (smallest[0], smallest[1], smallest[2]))
        logits, maps, sides = self._forward_padded(x, return_maps)
        z, y, w = size
        cropped = {}
        for name, value in maps.items():
            spec = self.map_specs[name]
            mz, my, mx = (-(-n // s) for n, s in zip(size, spec.stride, strict=True))
            cropped[name] = value[:, :, :mz, :my, :mx]
        return NetworkOutput(logits[:, :, :z, :y, :w], cropped, sides)

    def _forward_padded(
        self, x: Tensor, return_maps: bool
    ) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, ...]]:
        skips: list[Tensor] = []
        for level, stack in enumerate(self.encoder):
            x = stack(x if level == 0 else self.pools[level - 1](x))
            skips.append(x)
        gating = self.gating(x) if self.gating is not None else x
        maps: dict[str, Tensor] = {}
        features: list[Tensor] = []
        for level in reversed(range(len(self.channels) - 1)):
            skip = skips[level]
            if level in self.gated:
                skip, coefficients = self._gate(level, skip, gating)
                if return_maps:
                    maps[f"gate-level-{level + 1}"] = coefficients
            up = resize(self.reduce[level](x), skip.shape[2:], self.align_corners)
            x = self.decoder[level](torch.cat((skip, up), dim=1))
            gating = x
            features.insert(0, x)
        maps = {name: maps[name] for name in sorted(maps)}
        if self.fuse is not None:
            size = features[0].shape[2:]
            sides = [
                resize(head(f), size, self.align_corners)
                for head, f in zip(self.heads, features, strict=True)
            ]
            return self.fuse(torch.cat(sides, dim=1)), maps, ()
        logits = self.heads[0](features[0])
        supervised = self.training and self.deep_supervision == "separate"
        sides_out = (
            tuple(head(f) for head, f in zip(self.heads[1:], features[1:], strict=True))
            if supervised
            else ()
        )
        return logits, maps, sides_out

    def _gate(self, level: int, skip: Tensor, gating: Tensor) -> tuple[Tensor, Tensor]:
        gates = self.gates[str(level)]
        assert isinstance(gates, nn.ModuleList)
        passed = [gate(skip, gating) for gate in gates]
        if self.gates_per_level == 1:
            out, coefficients = passed[0]
            return out, coefficients
        joined = self.combine[str(level)](torch.cat([out for out, _ in passed], dim=1))
        (_, first), (_, second) = passed
        return joined, (first + second) / 2
