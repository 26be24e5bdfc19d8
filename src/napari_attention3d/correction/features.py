"""What a voxel looks like and where it is: features for a head that learns in seconds.

Computed once per scan. Per scale: Gaussian, gradient magnitude, Laplacian and local
standard deviation; besides, two medians, two wide Gaussians and the position. Scales are
multiples of the finest spacing, so that thick slices are smoothed less across.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["ScanFeatures", "noise_level", "scaled", "scan_features", "voxel_ratio"]

SCALES = (1.0, 2.0, 4.0)
WIDE = (8.0, 16.0)
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ScanFeatures:
    """Features of every voxel.

    Attributes
    ----------
    maps
        (F, Z, Y, X) float16, each brought to mean 0 and standard deviation 1.
    channels
        (C, Z, Y, X) float32, the scan between its percentiles; for edges.
    ratio
        Voxel size (z, y, x) over the smallest of them.
    noise
        Noise over the standard deviation of the scan, for each channel.
    """

    maps: npt.NDArray[np.float16]
    channels: Array
    ratio: npt.NDArray[np.float64]
    noise: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        _, z, y, x = self.channels.shape
        return z, y, x

    def at(self, voxels: npt.NDArray[np.intp]) -> Array:
        """Features (N, F) float32 of voxels (N, 3), their position (z, y, x) last."""
        picked = self.maps[(slice(None), *voxels.T)].T.astype(np.float32)
        return np.concatenate((picked, voxels.astype(np.float32)), axis=1)


def voxel_ratio(spacing: Sequence[float]) -> npt.NDArray[np.float64]:
    """Voxel size (z, y, x) over the smallest of them, at most 8."""
    sizes = np.asarray(spacing, dtype=float)
    return np.asarray(np.minimum(sizes / sizes.min(), 8.0))


def scaled(array: npt.NDArray[Any]) -> Array:
    """Clip to the 0.5th and 99.5th percentile, then mean 0 and standard deviation 1.

    NaN and infinity become the lowest value.
    """
    x = np.asarray(array, dtype=np.float32)
    finite = np.isfinite(x)
    sample = x[finite][:: max(1, x.size // 2**21)]
    if not sample.size:
        return np.zeros(x.shape, np.float32)
    low, high = np.percentile(sample, (0.5, 99.5))
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    x = np.clip(np.where(finite, x, low), low, high)
    return np.asarray((x - x.mean()) / (x.std() + 1e-6), dtype=np.float32)


def noise_level(x: npt.NDArray[Any], ratio: npt.NDArray[np.float64]) -> float:
    """Noise of a `scaled` scan: robust size of its second differences, across fine axes.

    0.01 to 0.1 for CT and MRI at a few mm, 0.6 for a noisy confocal stack.
    """
    axes = [a for a in range(3) if ratio[a] < 1.5 and x.shape[a] > 2]
    rough = x
    for axis in axes:
        rough = ndimage.convolve1d(rough, [-0.5, 1.0, -0.5], axis=axis)
    rough = np.abs(rough[rough != 0])
    if not rough.size:
        return 0.0
    # the kernel (-1/2, 1, -1/2) multiplies the variance of white noise by 3/2 per axis
    return float(np.median(rough) / 0.6745 / 1.5 ** (len(axes) / 2))


def scan_features(image: npt.NDArray[Any], spacing: Sequence[float]) -> Iterator[Any]:
    """Compute features, map by map; the last item is the `ScanFeatures`.

    Parameters
    ----------
    image
        (Z, Y, X) or (C, Z, Y, X), any type.
    spacing
        Voxel size (z, y, x).

    Yields
    ------
    tuple or ScanFeatures
        ``(done, total)`` after each map, then the result.
    """
    channels = image[None] if image.ndim == 3 else image
    ratio = voxel_ratio(spacing)
    makers: list[Callable[[Array, Array], list[Array]]] = [_itself, _median(3), _median(5)]
    makers += [_at_scale(scale, ratio) for scale in SCALES]
    makers += [_wide(scale, ratio) for scale in WIDE]
    total, done = len(makers) * len(channels), 0
    maps: list[npt.NDArray[np.float16]] = []
    plain = []
    for channel in channels:
        x = scaled(channel)
        plain.append(x)
        square = x * x
        for make in makers:
            maps += [_compact(values) for values in make(x, square)]
            done += 1
            yield done, total
    noise = tuple(noise_level(x, ratio) for x in plain)
    yield ScanFeatures(np.stack(maps), np.stack(plain), ratio, noise)


def _compact(values: Array) -> npt.NDArray[np.float16]:
    values = (values - values.mean()) / (values.std() + 1e-6)
    return np.clip(values, -1e3, 1e3).astype(np.float16)


def _sigma(scale: float, ratio: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sigma = scale / ratio
    return np.where(sigma < 0.3, 0.0, sigma)


def _itself(x: Array, square: Array) -> list[Array]:
    return [x]


def _median(size: int) -> Callable[[Array, Array], list[Array]]:
    return lambda x, square: [ndimage.median_filter(x, size)]


def _wide(scale: float, ratio: npt.NDArray[np.float64]) -> Callable[[Array, Array], list[Array]]:
    return lambda x, square: [_gaussian(x, _sigma(scale, ratio))]


def _gaussian(x: Array, sigma: npt.NDArray[np.float64]) -> Array:
    return np.asarray(ndimage.gaussian_filter(x, sigma, truncate=3.0))


def _at_scale(scale: float, ratio: npt.NDArray[np.float64]) -> Callable[..., list[Array]]:
    def make(x: Array, square: Array) -> list[Array]:
        sigma = _sigma(scale, ratio)
        g = _gaussian(x, sigma)
        steep = np.zeros_like(g)
        curved = np.zeros_like(g)
        for axis in range(3):
            if g.shape[axis] < 2:
                continue
            slope = np.gradient(g, axis=axis) / ratio[axis]
            steep += slope**2
            curved += np.gradient(slope, axis=axis) / ratio[axis]
        spread = np.maximum(_gaussian(square, sigma) - g * g, 0)
        return [g, np.sqrt(steep), curved, np.sqrt(spread)]

    return make
