"""The guided attention module and its semantic autoencoder (Sinha & Dolz 2019, Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from .blocks import Conv3d, ConvNormAct, Norm, Size3, norm_layer
from .self_attention import (
    ChannelAttention,
    ChannelMode,
    Combine,
    PositionAttention,
    PositionRecord,
)

__all__ = ["CODE_STRIDE", "GuidanceTrace", "GuidedModule", "SemanticAutoencoder", "magnitude"]


CODE_STRIDE = 4
"""Of the semantic autoencoder's code on the attention's grid."""


class GuidanceTrace(NamedTuple):
    """What the guided and reconstruction losses compare; each as ``[step][scale]``.

    Attributes
    ----------
    inputs
        (B, 2C, z, y, x): features and guide.
    latents
        Codes z of the semantic autoencoder, at a quarter of the grid.
    reconstructions
        R, of the inputs' shape.
    strengths
        Mean norm of the refined features A of each scale after the last step: for a log,
        without a gradient. Features that have collapsed are near 0 everywhere.
    """

    inputs: tuple[tuple[Tensor, ...], ...]
    latents: tuple[tuple[Tensor, ...], ...]
    reconstructions: tuple[tuple[Tensor, ...], ...]
    strengths: tuple[Tensor, ...] = ()


class _ScaleNorm(nn.Module):
    """A norm for each scale: the autoencoder's convolutions are shared, statistics are not.

    A scan-calibrated norm that four scales shared would keep the statistics of the last.
    Other norms are shared, as published.
    """

    def __init__(self, norm: Norm, channels: int, scales: int) -> None:
        super().__init__()
        count = scales if norm == "instance" else 1
        self.norms = nn.ModuleList(norm_layer(norm, channels) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """(scales * B, C, z, y, x), scale by scale."""
        if len(self.norms) == 1:
            out: Tensor = self.norms[0](x)
            return out
        parts = x.chunk(len(self.norms))
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)])


class ScaleConv(nn.Module):
    """3x3x3 convolution, norm of the scale, ReLU."""

    def __init__(self, a: int, b: int, norm: Norm, scales: int) -> None:
        super().__init__()
        self.conv = Conv3d(a, b, 3, padding=1, bias=False)
        self.norm = _ScaleNorm(norm, b, scales)

    def forward(self, x: Tensor) -> Tensor:
        return nnf.relu(self.norm(self.conv(x)), inplace=True)


class _Up(nn.Module):
    """Transposed 2x2x2 convolution with stride 2 (1 along axes that were not pooled), cropped."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(channels, channels, 2, stride=2)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        # The pooling rounded up, so that this can only be too large.
        up: Tensor = self.conv(x)
        return up[:, :, : size[0], : size[1], : size[2]]


class SemanticAutoencoder(nn.Module):
    """Encoder-decoder over features and guide; its code is the "semantic" latent z.

    Two levels of two convolutions and 2x2x2 max-pooling, mirrored by transposed
    convolutions; no activation at the end, since what it rebuilds is signed. One is
    shared by all scales of a step.

    Parameters
    ----------
    channels
        Of input and reconstruction (2C).
    multipliers
        Widths of the two levels in multiples of `channels`; the paper's code has (2, 4).
    norm
        As in `blocks`; "instance" keeps statistics for each of `scales`.
    """

    def __init__(
        self,
        channels: int,
        multipliers: Sequence[int] = (1, 2),
        *,
        norm: Norm = "instance",
        scales: int = 4,
    ) -> None:
        super().__init__()
        if len(multipliers) != 2 or min(multipliers) < 1:
            raise ValueError(f"autoencoder multipliers {tuple(multipliers)} must be two, 1 or more")
        one, two = (channels * int(m) for m in multipliers)

        def pair(a: int, b: int) -> nn.Sequential:
            return nn.Sequential(ScaleConv(a, b, norm, scales), ScaleConv(b, b, norm, scales))

        self.enc1, self.enc2 = pair(channels, one), pair(one, two)
        self.dec2, self.dec1 = pair(two, one), pair(one, channels)
        self.up2 = _Up(one)
        self.up1 = _Up(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode and rebuild.

        Parameters
        ----------
        x
            (scales * B, 2C, z, y, x): the batches of all scales, one after the other.

        Returns
        -------
        tuple of Tensor
            The code (scales * B, 2C * m2, z / 4, y / 4, x / 4), sizes rounded up, and
            the reconstruction, like `x`.
        """
        h = nnf.max_pool3d(self.enc1(x), 2, 2, ceil_mode=True)
        half = h.shape[2:]
        code = nnf.max_pool3d(self.enc2(h), 2, 2, ceil_mode=True)
        h = self.up2(self.dec2(code), half)
        return code, self.up1(self.dec1(h), x.shape[2:])


class GuidedModule(nn.Module):
    """One refinement step at one scale.

    ``A = W_8 * ((PAM(in) + CAM(in)) . W_sem * R)``, with ``in = [F'_s, G]`` (2C channels),
    R its reconstruction, W_sem 3x3x3 (2C to C) and W_8 1x1x1. Each attention stands
    between two 3x3x3 convolutions with norm and PReLU.

    Parameters
    ----------
    channels
        C.
    kv_pool, window, combine
        See `PositionAttention`.
    channel_attention
        See `ChannelAttention`.
    """

    def __init__(
        self,
        channels: int,
        *,
        norm: Norm,
        kv_pool: Size3,
        window: Size3 | None,
        channel_attention: ChannelMode,
        combine: Combine,
    ) -> None:
        super().__init__()

        def conv(a: int) -> ConvNormAct:
            return ConvNormAct(a, channels, norm=norm, act="prelu")

        self.position_in, self.position_out = conv(2 * channels), conv(channels)
        self.channel_in, self.channel_out = conv(2 * channels), conv(channels)
        self.position = PositionAttention(channels, kv_pool=kv_pool, window=window, combine=combine)
        self.channel = ChannelAttention(channel_attention, combine=combine)
        self.semantic = Conv3d(2 * channels, channels, 3, padding=1)
        self.out = nn.Conv3d(channels, channels, 1)

    def forward(
        self, x: Tensor, reconstruction: Tensor, keep: list[PositionRecord] | None = None
    ) -> Tensor:
        """Refine.

        Parameters
        ----------
        x, reconstruction
            (B, 2C, z, y, x) both.
        keep
            See `PositionAttention.forward`.

        Returns
        -------
        Tensor
            (B, C, z, y, x) refined attention features, signed.
        """
        position = self.position_out(self.position(self.position_in(x), keep))
        channel = self.channel_out(self.channel(self.channel_in(x)))
        refined: Tensor = self.out((position + channel) * self.semantic(reconstruction))
        return refined


def magnitude(attention: Tensor) -> Tensor:
    """Euclidean norm over the channels: (B, C, z, y, x) to (B, 1, z, y, x) float32."""
    strength: Tensor = torch.linalg.vector_norm(attention.float(), dim=1, keepdim=True)
    return strength
