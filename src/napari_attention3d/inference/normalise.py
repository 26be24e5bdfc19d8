"""Intensities of a scan to the range that a network was trained on.

Training and inference call the same functions, so that they can't drift apart. What a
scan needs is a few numbers per channel (`Scaling`), found from all of it at once or slab
by slab (`ScalingMeter`), which gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.card import Normalisation

__all__ = [
    "SAMPLE_VOXELS",
    "Scaling",
    "ScalingMeter",
    "measure_scaling",
    "normalise",
    "regular_sample",
]

SAMPLE_VOXELS = 2**21
"""Statistics are taken over all voxels up to this number, above it over a regular grid of them."""


def regular_sample(array: Tensor, voxels: int = SAMPLE_VOXELS) -> Tensor:
    """Every n-th voxel along each of the last three axes, at most about `voxels` of them.

    Parameters
    ----------
    array
        (..., Z, Y, X).
    voxels
        Most voxels to keep; `array` comes back as it is if it has no more.
    """
    steps = sample_steps(array.shape[-3:], voxels)
    return array[..., :: steps[0], :: steps[1], :: steps[2]]


def sample_steps(shape: Sequence[int], voxels: int) -> tuple[int, int, int]:
    """Smallest steps, grown along the longest sampled axis first, that keep at most `voxels`."""
    steps = [1, 1, 1]
    while True:
        counts = [-(-n // s) for n, s in zip(shape, steps, strict=True)]
        if counts[0] * counts[1] * counts[2] <= voxels or max(counts) == 1:
            return steps[0], steps[1], steps[2]
        steps[counts.index(max(counts))] += 1


@dataclass(frozen=True)
class Scaling:
    """``(clip(x, lower, upper) - shift) / divisor``, one value of each per channel.

    Empty tuples leave intensities as they are.
    """

    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    divisor: tuple[float, ...] = ()

    def apply(self, array: Tensor) -> Tensor:
        """Scale (C, z, y, x), any part of the scan; float32."""
        x = array.float()
        if not self.lower:
            return x
        low, high, shift, divisor = (
            torch.tensor(v, dtype=torch.float32, device=x.device).view(-1, 1, 1, 1)
            for v in (self.lower, self.upper, self.shift, self.divisor)
        )
        return torch.minimum(torch.maximum(x, low), high).sub_(shift).div_(divisor)


class ScalingMeter:
    """Finds a scan's `Scaling` from slabs of it.

    Parameters
    ----------
    shape
        Of the whole grid (z, y, x).
    rule
        What to do: see `Normalisation`. With "percentile" and "zscore" a scan whose two
        percentiles coincide (almost all of it is one value) uses its minimum and maximum
        instead.
    """

    def __init__(self, shape: Sequence[int], rule: Normalisation) -> None:
        self.rule = rule
        self.steps = sample_steps(shape, SAMPLE_VOXELS)
        self.samples: list[Tensor] = []
        self.lowest: Tensor | None = None
        self.highest: Tensor | None = None

    def add(self, first: int, slab: Tensor) -> None:
        """Take planes ``first`` onwards: (C, z, y, x); slabs come in order."""
        if self.rule.kind in ("none", "window"):
            return
        z, y, x = self.steps
        self.samples.append(slab[:, -first % z :: z, ::y, ::x].float().clone())
        low, high = slab.flatten(1).min(1).values.float(), slab.flatten(1).max(1).values.float()
        self.lowest = low if self.lowest is None else torch.minimum(self.lowest, low)
        self.highest = high if self.highest is None else torch.maximum(self.highest, high)

    def result(self, channels: int) -> Scaling:
        """Return what was found; a constant channel becomes 0."""
        rule = self.rule
        if rule.kind == "none":
            return Scaling()
        tiny = torch.finfo(torch.float32).tiny
        if rule.kind == "window":
            lower, upper = torch.tensor([rule.lower, rule.upper])
            found = [(lower, upper, lower, upper - lower)] * channels
        else:
            sample = torch.cat(self.samples, dim=1).flatten(1)
            found = [self._channel(index, values) for index, values in enumerate(sample)]
        columns = [torch.stack(list(column)) for column in zip(*found, strict=True)]
        columns[3] = columns[3].clamp_min(tiny)
        lower_, upper_, shift, divisor = (tuple(c.tolist()) for c in columns)
        return Scaling(lower_, upper_, shift, divisor)

    def _channel(self, index: int, sample: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert self.lowest is not None
        assert self.highest is not None
        share = sample.new_tensor([self.rule.lower / 100, self.rule.upper / 100])
        lower, upper = torch.quantile(sample, share.clamp(0, 1))
        if bool(upper <= lower):
            lower, upper = self.lowest[index], self.highest[index]
        if self.rule.kind == "percentile":
            return lower, upper, lower, upper - lower
        clipped = torch.minimum(torch.maximum(sample, lower), upper)
        variance, mean = torch.var_mean(clipped, correction=0)
        return lower, upper, mean, variance.sqrt()


def measure_scaling(array: Tensor, rule: Normalisation) -> Scaling:
    """Find the `Scaling` of a whole scan (C, Z, Y, X), on any device."""
    meter = ScalingMeter(array.shape[1:], rule)
    meter.add(0, array)
    return meter.result(array.shape[0])


def normalise(array: Tensor, normalisation: Normalisation) -> Tensor:
    """Bring intensities to the network's range, each channel by itself.

    Parameters
    ----------
    array
        (C, Z, Y, X) or (Z, Y, X), on any device; the whole field of view, since the
        statistics are taken over all of its voxels.
    normalisation
        What to do.

    Returns
    -------
    Tensor
        float32, same shape and device; a constant channel becomes 0.
    """
    channels = array.reshape(-1, *array.shape[-3:])
    return measure_scaling(channels, normalisation).apply(channels).reshape(array.shape)
