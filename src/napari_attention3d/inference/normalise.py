"""Intensities of a scan to the range that a network was trained on.

Training and inference call the same function, so that they can't drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.card import Normalisation

__all__ = ["SAMPLE_VOXELS", "normalise", "regular_sample"]

SAMPLE_VOXELS = 2**21
"""Percentiles are taken over all voxels up to this number, above it over a regular grid of them."""


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


def normalise(array: Tensor, normalisation: Normalisation) -> Tensor:
    """Bring intensities to the network's range, each channel by itself.

    Parameters
    ----------
    array
        (C, Z, Y, X) or (Z, Y, X), on any device; the whole field of view, since the
        percentiles are taken over all of its voxels.
    normalisation
        What to do: see `Normalisation`. With "percentile" and "zscore" a scan whose two
        percentiles coincide (almost all of it is one value) uses its minimum and
        maximum instead.

    Returns
    -------
    Tensor
        float32, same shape and device; a constant channel becomes 0.
    """
    x = array.float()
    if normalisation.kind == "none":
        return x
    channels = x.reshape(-1, *x.shape[-3:])
    done = torch.stack([_channel(c, normalisation) for c in channels])
    return done.reshape(x.shape)


def _channel(x: Tensor, normalisation: Normalisation) -> Tensor:
    if normalisation.kind == "window":
        lower = x.new_tensor(normalisation.lower)
        upper = x.new_tensor(normalisation.upper)
    else:
        sample = regular_sample(x).flatten()
        share = x.new_tensor([normalisation.lower / 100, normalisation.upper / 100])
        lower, upper = torch.quantile(sample, share.clamp(0, 1))
        flat = upper <= lower
        lower = torch.where(flat, x.min(), lower)
        upper = torch.where(flat, x.max(), upper)
    tiny = torch.finfo(torch.float32).tiny
    clipped = torch.minimum(torch.maximum(x, lower), upper)
    if normalisation.kind == "zscore":
        variance, mean = torch.var_mean(clipped, correction=0)
        return (clipped - mean) / variance.sqrt().clamp_min(tiny)
    return (clipped - lower) / (upper - lower).clamp_min(tiny)
