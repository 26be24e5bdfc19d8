"""An image's values at the voxels of a mask, and their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from scipy import ndimage

from ..errors import InputError
from ..geometry import Geometry
from ..volumes.volume import Volume
from .masks import as_box, describe_grid_difference, in_unit_of

__all__ = ["Sampler", "Statistics"]

_POINTS_AT_ONCE = 2**20
_SHARE_OF_MEMORY = 0.25
_HISTOGRAM_TYPES = ("bool", "uint8", "int8", "uint16", "int16")


class Sampler:
    """One channel of an image, read at the voxels of a mask.

    On the mask's grid its values are taken as they are; on any other they are
    interpolated linearly at the centres of the mask's voxels, through both affines. Up to
    half a voxel outside the image its border goes on; farther out there is no value.

    Parameters
    ----------
    image
        ``(Z, Y, X)``.
    grid
        Of the mask.

    Raises
    ------
    InputError
        If one of the grids is calibrated and the other is not, and they differ.
    """

    def __init__(self, image: Volume, grid: Geometry) -> None:
        image = in_unit_of(image, grid)
        self.same = not describe_grid_difference(image.geometry, grid)
        if not self.same and image.geometry.unit != grid.unit:
            raise InputError(
                f"{image.name} is in {image.geometry.unit} and the mask in {grid.unit}; "
                "without a voxel size for both they can't be laid on each other"
            )
        self.dtype: np.dtype[Any] = image.dtype if self.same else np.dtype(np.float32)
        self._to_image = np.linalg.inv(image.geometry.affine) @ grid.affine
        self._shape = np.array(image.geometry.shape)
        size = int(np.prod(self._shape)) * image.dtype.itemsize
        free = _SHARE_OF_MEMORY * psutil.virtual_memory().available
        self._array = np.asarray(image.array) if size < free else image.array

    def values(self, start: Sequence[int], mask: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """Values at the mask's voxels.

        Parameters
        ----------
        start
            Index (z, y, x) of the mask's first voxel in the whole grid.
        mask
            ``(z, y, x)``.

        Returns
        -------
        ndarray
            One per voxel, in their order; NaN where the image does not reach.
        """
        if self.same:
            stop = [a + n for a, n in zip(start, mask.shape, strict=True)]
            part: npt.NDArray[Any] = np.asarray(self._array[as_box(start, stop)])
            return part[mask]
        places = np.argwhere(mask)
        parts = [
            self._interpolated(places[i : i + _POINTS_AT_ONCE] + start)
            for i in range(0, len(places), _POINTS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def _interpolated(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        where = index @ self._to_image[:3, :3].T + self._to_image[:3, 3]
        whole = np.rint(where)
        where = np.where(np.abs(where - whole) < 1e-6, whole, where)
        inside = ((where >= -0.5) & (where <= self._shape - 0.5)).all(axis=1)
        result = np.full(len(index), np.nan, dtype=np.float32)
        if inside.any():
            where = np.clip(where[inside], 0, self._shape - 1)
            low = np.floor(where.min(axis=0)).astype(int)
            high = np.ceil(where.max(axis=0)).astype(int) + 1
            part = np.asarray(self._array[as_box(low, high)], dtype=np.float32)
            result[inside] = ndimage.map_coordinates(part, (where - low).T, order=1)
        return result


class Statistics:
    """Mean, deviation, extremes and percentiles of values that come in parts; exact.

    Integers of up to 16 bits are counted, so any number of them fits in memory; other
    values are kept until the end.

    Parameters
    ----------
    dtype
        Of the values.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._lowest: int | None = None
        if dtype.name in _HISTOGRAM_TYPES:
            self._lowest = 0 if dtype.kind == "b" else int(np.iinfo(dtype).min)
        self._counts = np.zeros(0 if self._lowest is None else 2**16, dtype=np.int64)
        self._parts: list[npt.NDArray[Any]] = []
        self.left_out = 0
        """Values that were NaN or infinite."""

    def add(self, values: npt.NDArray[Any]) -> None:
        """Take in more values ``(N,)``."""
        if self._lowest is not None:
            shifted = values.astype(np.int64) - self._lowest
            counts = np.bincount(shifted)
            self._counts[: len(counts)] += counts
            return
        finite = np.isfinite(values)
        self.left_out += int(values.size - finite.sum())
        self._parts.append(values if finite.all() else values[finite])

    def result(self, percentiles: Sequence[float]) -> dict[str, float | None]:
        """The figures: mean, std (of the population), min, max and p5, p50, ...

        All are None if there are no finite values. Percentiles between two values are
        interpolated linearly.
        """
        names = ["mean", "std", "min", "max", *(f"p{p:g}" for p in percentiles)]
        figures = self._of_counts if self._lowest is not None else self._of_parts
        found = figures(np.asarray(percentiles, dtype=float))
        if found is None:
            return dict.fromkeys(names)
        return {name: float(value) for name, value in zip(names, found, strict=True)}

    def _of_counts(self, percentiles: npt.NDArray[np.float64]) -> list[float] | None:
        present = np.flatnonzero(self._counts)
        if not present.size:
            return None
        counts = self._counts[present]
        values = (present + (self._lowest or 0)).astype(np.float64)
        total = int(counts.sum())
        mean = float(values @ counts) / total
        std = float(np.sqrt(((values - mean) ** 2) @ counts / total))
        until = np.cumsum(counts)
        rank = percentiles / 100 * (total - 1)
        below, above = np.floor(rank), np.ceil(rank)
        low = values[np.searchsorted(until, below, side="right")]
        high = values[np.searchsorted(until, above, side="right")]
        between = low + (rank - below) * (high - low)
        return [mean, std, values[0], values[-1], *between]

    def _of_parts(self, percentiles: npt.NDArray[np.float64]) -> list[float] | None:
        values = np.concatenate(self._parts) if self._parts else np.zeros(0)
        if not values.size:
            return None
        mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        return [mean, std, values.min(), values.max(), *np.percentile(values, percentiles)]
