"""3D residual encoder (He et al. 2016, arXiv:1512.03385), with the weights' usual names.

Parameters are named as in torchvision and MedicalNet (``conv1``, ``bn1``,
``layer2.0.downsample.0``, whatever the norm), so that `models.convert` can fill them.

Every kernel is odd and padded on both sides: voxel ``j`` of a map with stride ``s`` lies
on input voxel ``s * j``. Nothing is padded to a multiple of the stride; a map has
``ceil(size / stride)`` voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from .blocks import Activation, Conv3d, Norm, Size3, activation, norm_layer, product, triple

__all__ = ["BLOCKS", "Depth", "ResNetEncoder", "Shortcut", "upsample_centred"]

Depth = Literal[10, 18, 34, 50]
Shortcut = Literal["A", "B"]

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
}
"""Residual blocks of the four levels, by depth."""


class ZeroPadShortcut(nn.Module):
    """Shortcut A: every stride-th voxel, missing channels 0 (no parameters).

    MedicalNet and MONAI cut the gradient here; this one does not, the forward is the same.
    """

    def __init__(self, channels: int, stride: Size3) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) to (B, channels, ceil(Z / stride), ...)."""
        z, y, w = self.stride
        x = x[:, :, ::z, ::y, ::w]
        return nnf.pad(x, (0, 0, 0, 0, 0, 0, 0, self.channels - x.shape[1]))


def _conv3(a: int, b: int, stride: Size3 = (1, 1, 1), dilation: int = 1) -> Conv3d:
    return Conv3d(a, b, 3, stride, dilation, dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions and the shortcut (depth 10, 18, 34)."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: Size3,
        dilation: int,
        shortcut: Shortcut,
        norm: Norm,
        act: Activation,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3(in_channels, width, stride, dilation)
        self.bn1 = norm_layer(norm, width)
        self.relu = activation(act)
        self.conv2 = _conv3(width, width, (1, 1, 1), dilation)
        self.bn2 = norm_layer(norm, width)
        self.downsample = _shortcut(in_channels, width, stride, shortcut, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Residual block."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 and 1x1x1 convolutions and the shortcut (depth 50)."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: Size3,
        dilation: int,
        shortcut: Shortcut,
        norm: Norm,
        act: Activation,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, width, 1, bias=False)
        self.bn1 = norm_layer(norm, width)
        self.conv2 = _conv3(width, width, stride, dilation)
        self.bn2 = norm_layer(norm, width)
        self.conv3 = nn.Conv3d(width, 4 * width, 1, bias=False)
        self.bn3 = norm_layer(norm, 4 * width)
        self.relu = activation(act)
        self.downsample = _shortcut(in_channels, 4 * width, stride, shortcut, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Residual block."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


def _shortcut(a: int, b: int, stride: Size3, shortcut: Shortcut, norm: Norm) -> nn.Module | None:
    if a == b and stride == (1, 1, 1):
        return None
    if shortcut == "A":
        return ZeroPadShortcut(b, stride)
    return nn.Sequential(nn.Conv3d(a, b, 1, stride, bias=False), norm_layer(norm, b))


class ResNetEncoder(nn.Module):
    """Residual encoder with four levels.

    Parameters
    ----------
    in_channels
        Channels of the scan.
    depth
        10, 18, 34 (basic blocks) or 50 (bottlenecks, whose outputs are 4 times wider).
    widths
        Width of each level.
    stem_kernel, stem_stride
        Of the first convolution: one odd number or three, and one number or three.
    stem_pool
        Stride of the 3x3x3 max-pooling after it; 1: no pooling.
    strides
        Stride into levels 2, 3 and 4; ``(1, 2, 2)`` for thick slices.
    shortcut
        "B": strided 1x1x1 convolution and norm (MedicalNet 10, 50); "A": strided voxels
        padded with zero channels (MedicalNet 18, 34).
    dilated
        Levels 3 and 4 keep the stride of level 2 and dilate by 2 and 4 instead
        (MedicalNet's weights were trained so).
    norm, act
        As in `blocks`.

    Raises
    ------
    ValueError
        If a value is not known, or lengths do not fit.
    """

    def __init__(
        self,
        in_channels: int = 1,
        depth: int = 18,
        widths: Sequence[int] = (64, 128, 256, 512),
        *,
        stem_kernel: int | Sequence[int] = 7,
        stem_stride: int | Sequence[int] = 2,
        stem_pool: int | Sequence[int] = 2,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2),
        shortcut: Shortcut = "B",
        dilated: bool = False,
        norm: Norm = "instance",
        act: Activation = "relu",
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth is {depth}; it can be {', '.join(map(str, BLOCKS))}")
        if len(widths) != 4 or len(strides) != 3:
            raise ValueError("the encoder has four widths and three strides between its levels")
        if shortcut not in ("A", "B"):
            raise ValueError(f"shortcut {shortcut!r} is not known; use A or B")
        kernel = triple(stem_kernel)
        if any(k % 2 == 0 for k in kernel):
            raise ValueError(f"stem_kernel {kernel} must be odd along each axis")
        self.depth, self.dilated = depth, dilated
        self.stem_stride, self.pool_stride = triple(stem_stride), triple(stem_pool)
        stem = int(widths[0])
        z, y, x = (k // 2 for k in kernel)
        self.conv1 = nn.Conv3d(in_channels, stem, kernel, self.stem_stride, (z, y, x), bias=False)
        self.bn1 = norm_layer(norm, stem)
        self.relu = activation(act)
        self.maxpool = (
            nn.Identity()
            if self.pool_stride == (1, 1, 1)
            else nn.MaxPool3d(3, self.pool_stride, padding=1)
        )
        block = Bottleneck if depth == 50 else BasicBlock
        steps: list[Size3] = [(1, 1, 1), *(triple(s) for s in strides)]
        dilations = [1, 1, 1, 1]
        if dilated:
            steps[2:], dilations[2:] = [(1, 1, 1), (1, 1, 1)], [2, 4]
        style: dict[str, Any] = {"shortcut": shortcut, "norm": norm, "act": act}
        channels = stem
        for level, (width, step, dilation) in enumerate(zip(widths, steps, dilations, strict=True)):
            blocks = []
            for number in range(BLOCKS[depth][level]):
                first = number == 0
                blocks.append(
                    block(
                        channels,
                        int(width),
                        stride=step if first else (1, 1, 1),
                        dilation=dilation,
                        **style,
                    )
                )
                channels = int(width) * block.expansion
            setattr(self, f"layer{level + 1}", nn.Sequential(*blocks))
        self.stem_channels = stem
        self.out_channels = tuple(int(w) * block.expansion for w in widths)
        self.level_steps = tuple(steps)

    @property
    def feature_strides(self) -> tuple[Size3, ...]:
        """Stride of each of the four levels against the input (z, y, x)."""
        base = product((self.stem_stride, self.pool_stride))
        return tuple(product((base, *self.level_steps[: i + 1])) for i in range(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode a batch.

        Parameters
        ----------
        x
            (B, C, Z, Y, X).

        Returns
        -------
        list of Tensor
            The stem's features at `stem_stride` (before pooling), then the four levels'.
        """
        x = self.relu(self.bn1(self.conv1(x)))
        features = [x]
        x = self.maxpool(x)
        for level in range(4):
            x = getattr(self, f"layer{level + 1}")(x)
            features.append(x)
        return features


def upsample_centred(x: Tensor, factor: Size3, size: Sequence[int]) -> Tensor:
    """Resize trilinearly so that voxel ``j`` comes to lie on voxel ``factor * j``.

    This is where odd, centred kernels put their features; ``interpolate`` without
    align_corners would move them by ``(factor - 1) / 2`` voxels. Past the last voxel of
    `x` its value holds.

    Parameters
    ----------
    x
        (B, C, z, y, x).
    factor
        Along (z, y, x), at least 1.
    size
        Of the result (z, y, x): at most ``factor`` times that of `x`.

    Returns
    -------
    Tensor
        (B, C, *size)
    """
    if factor == (1, 1, 1):
        return x[:, :, : size[0], : size[1], : size[2]]
    # One more plane at the high side: then corners align at n * factor + 1 voxels.
    grown = nnf.pad(x, tuple(v for f in reversed(factor) for v in (0, int(f > 1))), "replicate")
    full = [n * f + 1 if f > 1 else n for n, f in zip(x.shape[2:], factor, strict=True)]
    resized = torch.nn.functional.interpolate(
        grown, size=full, mode="trilinear", align_corners=True
    )
    return resized[:, :, : size[0], : size[1], : size[2]]
