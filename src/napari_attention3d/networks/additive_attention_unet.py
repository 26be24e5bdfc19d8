"""The attention U-Net as MONAI builds it, so that its weights can be used here.

It differs from `AttentionUNet` in every detail that moves a voxel: strided convolutions
down, transposed ones up, gates at the skip's full resolution with norms throughout, all
levels gated, one convolution after each merge with an affine-free instance norm.
`monai_keys` names the correspondence of weights; a test compares the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .attention_gate import AdditiveGate
from .base import MapSpec, NetworkOutput, SegmentationNetwork
from .blocks import (
    ConvStack,
    Norm,
    Size3,
    activation,
    kaiming_,
    norm_layer,
    pad_to_multiple,
    product,
    same_padding,
    triple,
)
from .norm import ScanNorm3d
from .registry import register

__all__ = ["AdditiveAttentionUNet", "monai_keys"]


class _Up(nn.Sequential):
    def __init__(
        self, in_channels: int, out_channels: int, kernel: Size3, stride: Size3, norm: Norm
    ) -> None:
        super().__init__()
        padding = same_padding(kernel)
        # Chosen so that the output is exactly stride times the input.
        extra = tuple(s + 2 * p - k for s, p, k in zip(stride, padding, kernel, strict=True))
        self.conv = nn.ConvTranspose3d(
            in_channels, out_channels, kernel, stride, padding, (extra[0], extra[1], extra[2])
        )
        self.norm = norm_layer(norm, out_channels)
        self.act = activation("relu")


class _Merge(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2 * channels, channels, 3, padding=1)
        self.norm = ScanNorm3d(channels, affine=False)
        self.act = nn.PReLU()


@register("additive-attention-unet", {"base": {"channels": (16, 32, 64, 128)}})
class AdditiveAttentionUNet(SegmentationNetwork):
    """Attention U-Net with additive gates at full resolution (MONAI's ``AttentionUnet``).

    Parameters
    ----------
    in_channels, num_classes
        Channels of the scan; classes with the background.
    channels
        Width of each level, finest first.
    strides
        Stride from each level to the next, one number or (z, y, x); default 2.
    kernel, up_kernel
        Kernels of the convolutions and the transposed ones, odd.
    norm
        "batch" as in MONAI, or "instance", "group".
    """

    locality = "local"

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128),
        strides: Sequence[int | Sequence[int]] | None = None,
        kernel: int | Sequence[int] = 3,
        up_kernel: int | Sequence[int] = 3,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        levels = len(channels)
        strides = [2] * (levels - 1) if strides is None else strides
        if levels < 2 or len(strides) != levels - 1:
            raise ValueError(f"{levels} levels need {max(1, levels - 1)} strides: {strides}")
        if min(channels[:-1]) < 2:
            raise ValueError("each gated level needs at least 2 channels")
        self.in_channels, self.num_classes, self.norm = in_channels, num_classes, norm
        self.channels = tuple(int(c) for c in channels)
        self.strides = tuple(triple(s) for s in strides)
        self.kernel, self.up_kernel = triple(kernel), triple(up_kernel)
        widths = self.channels
        self.encoder = nn.ModuleList(
            ConvStack(
                in_channels if i == 0 else widths[i - 1],
                widths[i],
                kernel=self.kernel,
                stride=(1, 1, 1) if i == 0 else self.strides[i - 1],
                norm=norm,
                bias=True,
            )
            for i in range(levels)
        )
        skips = range(levels - 1)
        self.ups = nn.ModuleList(
            _Up(widths[i + 1], widths[i], self.up_kernel, self.strides[i], norm) for i in skips
        )
        self.gates = nn.ModuleList(
            AdditiveGate(widths[i], widths[i], inner_channels=widths[i] // 2, norm=norm)
            for i in skips
        )
        self.merges = nn.ModuleList(_Merge(widths[i]) for i in skips)
        self.head = nn.Conv3d(widths[0], num_classes, 1)
        kaiming_(self)

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this network."""
        return {
            "in_channels": self.in_channels,
            "num_classes": self.num_classes,
            "channels": list(self.channels),
            "strides": [list(s) for s in self.strides],
            "kernel": list(self.kernel),
            "up_kernel": list(self.up_kernel),
            "norm": self.norm,
        }

    @property
    def total_stride(self) -> Size3:
        """Stride of the deepest level."""
        return product(self.strides)

    @property
    def map_specs(self) -> Mapping[str, MapSpec]:
        """One map per level; centred strided convolutions put voxel j on input voxel s j."""
        specs = {}
        for level in range(len(self.strides)):
            name = f"gate-level-{level}"
            specs[name] = MapSpec(
                name=name,
                title=f"attention gate, level {level}",
                stride=product(self.strides[:level]),
                offset=(0.0, 0.0, 0.0),
                description=(
                    "Attention coefficients; a norm before the sigmoid pins their mean near 0.5, "
                    "so compare within this map only."
                ),
            )
        return specs

    def forward(self, x: Tensor, return_maps: bool = False) -> NetworkOutput:
        """Segment a batch of any size; see `NetworkOutput`."""
        size = tuple(x.shape[2:])
        # Two voxels at the deepest level where a norm measures: over one there is no variance.
        least = 2 if self.training or self.norm != "batch" else 1
        smallest = tuple(
            least * s if n > 1 or s > 1 else 1 for s, n in zip(self.total_stride, size, strict=True)
        )
        x = pad_to_multiple(x, self.total_stride, (smallest[0], smallest[1], smallest[2]))
        skips: list[Tensor] = []
        for stack in self.encoder:
            x = stack(x)
            skips.append(x)
        maps: dict[str, Tensor] = {}
        for level in reversed(range(len(self.ups))):
            up = self.ups[level](x)
            gated, alpha = self.gates[level](skips[level], up)
            if return_maps:
                name = f"gate-level-{level}"
                z, y, w = (
                    -(-n // s) for n, s in zip(size, product(self.strides[:level]), strict=True)
                )
                maps[name] = alpha[:, :, :z, :y, :w]
            x = self.merges[level](torch.cat((gated, up), dim=1))
        logits = self.head(x)[:, :, : size[0], : size[1], : size[2]]
        return NetworkOutput(logits, {name: maps[name] for name in sorted(maps)}, ())


def monai_keys(levels: int) -> dict[str, str]:
    """Prefixes of our parameters and buffers, and of MONAI's, for a network of `levels`.

    Every key of one state dict starts with exactly one of these prefixes.
    """
    pairs: dict[str, str] = {"head": "model.2.conv"}

    def block(ours: str, theirs: str) -> None:
        for j in range(2):
            pairs[f"{ours}.{j}.conv"] = f"{theirs}.conv.{j}.conv"
            pairs[f"{ours}.{j}.norm"] = f"{theirs}.conv.{j}.adn.N"

    block("encoder.0", "model.0")
    layer = "model.1"
    for level in range(levels - 1):
        deepest = level == levels - 2
        below = f"{layer}.submodule" if deepest else f"{layer}.submodule.0"
        block(f"encoder.{level + 1}", below)
        for ours, theirs in (("phi", "W_g"), ("theta", "W_x"), ("psi", "psi")):
            pairs[f"gates.{level}.{ours}.0"] = f"{layer}.attention.{theirs}.0.conv"
            pairs[f"gates.{level}.{ours}.1"] = f"{layer}.attention.{theirs}.1"
        pairs[f"ups.{level}.conv"] = f"{layer}.upconv.up.conv"
        pairs[f"ups.{level}.norm"] = f"{layer}.upconv.up.adn.N"
        pairs[f"merges.{level}.conv"] = f"{layer}.merge.conv"
        pairs[f"merges.{level}.act"] = f"{layer}.merge.adn.A"
        layer = f"{layer}.submodule.1"
    return pairs
