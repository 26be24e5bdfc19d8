"""Building blocks shared by the networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from .norm import ScanNorm3d

__all__ = [
    "Activation",
    "Conv3d",
    "ConvNormAct",
    "ConvStack",
    "Norm",
    "Size3",
    "activation",
    "kaiming_",
    "norm_layer",
    "pad_to_multiple",
    "product",
    "resize",
    "same_padding",
    "triple",
]

SMALL_SAMPLE = 20_480
"""Channels times the first two spatial sizes up to which torch avoids oneDNN, see `Conv3d`."""

Size3 = tuple[int, int, int]
Norm = Literal["instance", "batch", "group"]
Activation = Literal["relu", "leakyrelu", "prelu"]


def triple(value: int | Sequence[int]) -> Size3:
    """Return ``(z, y, x)`` from one number or three.

    Raises
    ------
    ValueError
        If there are not three numbers, or one is below 1.
    """
    z, y, x = (value, value, value) if isinstance(value, int) else tuple(int(v) for v in value)
    if min(z, y, x) < 1:
        raise ValueError(f"{value} must be positive along z, y and x")
    return z, y, x


def product(sizes: Sequence[Size3]) -> Size3:
    """Return the product along each axis."""
    z = y = x = 1
    for size in sizes:
        z, y, x = z * size[0], y * size[1], x * size[2]
    return z, y, x


def same_padding(kernel: Size3) -> Size3:
    """Zero padding that keeps the size for odd kernels."""
    if any(k % 2 == 0 for k in kernel):
        raise ValueError(f"kernel {kernel} must be odd along each axis")
    z, y, x = (k // 2 for k in kernel)
    return z, y, x


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Normalisation by name, see `ScanNorm3d` for "instance"."""
    if norm == "instance":
        return ScanNorm3d(channels)
    if norm == "batch":
        return nn.BatchNorm3d(channels)
    if norm == "group":
        groups = max(n for n in range(1, 9) if channels % n == 0)
        return nn.GroupNorm(groups, channels)
    raise ValueError(f"norm {norm!r} is not known; use instance, batch or group")


def activation(act: Activation) -> nn.Module:
    """Activation by name."""
    if act == "relu":
        return nn.ReLU(inplace=True)
    if act == "leakyrelu":
        return nn.LeakyReLU(0.01, inplace=True)
    if act == "prelu":
        return nn.PReLU()
    raise ValueError(f"activation {act!r} is not known; use relu, leakyrelu or prelu")


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` that keeps to oneDNN for single small volumes on the CPU.

    torch sends a batch of one in float32 with a kernel of at most 3 and C * Z * Y below
    about 20,000 to a loop several times slower than oneDNN at twice the work. So such a
    sample goes through twice, and one result is dropped.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, Z, Y, X)."""
        if (
            x.shape[0] == 1
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and 1 < max(self.kernel_size) <= 3
            and self.stride == (1, 1, 1)
            and x.shape[1] * x.shape[2] * x.shape[3] <= SMALL_SAMPLE
        ):
            return super().forward(x.expand(2, -1, -1, -1, -1))[:1]
        return super().forward(x)


class ConvNormAct(nn.Sequential):
    """Convolution, normalisation, activation; zero-padded to keep size / stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: Size3 = (3, 3, 3),
        stride: Size3 = (1, 1, 1),
        norm: Norm = "instance",
        act: Activation = "relu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv = Conv3d(
            in_channels, out_channels, kernel, stride, same_padding(kernel), bias=bias
        )
        self.norm = norm_layer(norm, out_channels)
        self.act = activation(act)


class ConvStack(nn.Sequential):
    """Several `ConvNormAct` in a row; only the first one strides or changes the width."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        depth: int = 2,
        kernel: Size3 = (3, 3, 3),
        stride: Size3 = (1, 1, 1),
        norm: Norm = "instance",
        act: Activation = "relu",
        bias: bool = False,
    ) -> None:
        layers = [
            ConvNormAct(
                in_channels if i == 0 else out_channels,
                out_channels,
                kernel=kernel,
                stride=stride if i == 0 else (1, 1, 1),
                norm=norm,
                act=act,
                bias=bias,
            )
            for i in range(depth)
        ]
        super().__init__(*layers)


def resize(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Resize trilinearly to an explicit (z, y, x) size; the same tensor if it has it already."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return nnf.interpolate(x, size=tuple(size), mode="trilinear", align_corners=align_corners)


def pad_to_multiple(x: Tensor, multiple: Size3, smallest: Size3 = (1, 1, 1)) -> Tensor:
    """Repeat the last planes of (B, C, Z, Y, X) until each size is a multiple, and not too small.

    Padding stands on the high side only, so that voxel (0, 0, 0) stays where it is.
    """
    target = [
        max(-(-size // m) * m, least)
        for size, m, least in zip(x.shape[2:], multiple, smallest, strict=True)
    ]
    extra = [t - size for t, size in zip(target, x.shape[2:], strict=True)]
    if not any(extra):
        return x
    # F.pad counts from the last axis backwards.
    return nnf.pad(x, (0, extra[2], 0, extra[1], 0, extra[0]), mode="replicate")


def kaiming_(module: nn.Module) -> None:
    """He initialisation of all convolutions (fan in, for ReLU), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
