"""From one grid to another over the same axes: separable, linear, at exact physical centres.

Linear interpolation along three axes is a product of three small matrices. Each row of
such a matrix holds the weights of the source voxels for one target voxel; where the
target is coarser, the linear weights are convolved with a Gaussian first, against
aliasing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..geometry import Geometry

__all__ = [
    "Resampler",
    "axis_positions",
    "axis_weights",
    "resample",
    "resample_axis",
    "same_grid",
]

BLUR_ABOVE = 1.2
"""A target coarser than this many source voxels is blurred before sampling."""


def axis_positions(source: Geometry, target: Geometry) -> list[npt.NDArray[np.float64]]:
    """Where the target's voxel centres lie, as fractional indices of the source, per axis.

    Raises
    ------
    ValueError
        If the two grids' axes do not run in parallel.
    """
    affine = np.linalg.inv(source.affine) @ target.affine
    matrix = affine[:3, :3]
    if np.abs(matrix - np.diag(np.diag(matrix))).max() > 1e-6 * np.abs(matrix).max():
        raise ValueError("the grids' axes are not parallel")
    positions = []
    for axis in range(3):
        where = matrix[axis, axis] * np.arange(target.shape[axis]) + affine[axis, 3]
        whole = np.round(where)
        # A centre on a centre is exactly that: the weight is 1, the value bit-exact.
        positions.append(np.where(np.abs(where - whole) < 1e-6, whole, where))
    return positions


def same_grid(source: Geometry, target: Geometry) -> bool:
    """Whether all voxel centres coincide."""
    return source.shape == target.shape and all(
        np.array_equal(p, np.arange(n))
        for p, n in zip(axis_positions(source, target), target.shape, strict=True)
    )


def axis_weights(
    size: int, positions: npt.NDArray[np.float64], sigma: float = 0.0
) -> npt.NDArray[np.float32]:
    """Weights (len(positions), size) of linear interpolation; rows sum to 1.

    Parameters
    ----------
    size
        Source voxels along the axis.
    positions
        Fractional source indices; outside the source its border voxel goes on for ever.
    sigma
        Standard deviation, in source voxels, of a Gaussian applied to the source first.
    """
    index = np.arange(len(positions))[:, None]
    reach = int(np.ceil(4 * sigma))
    taps = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (taps / sigma) ** 2) if sigma > 0 else np.ones(1)
    kernel /= kernel.sum()
    low = np.floor(positions)
    weights = np.zeros((len(positions), size))
    for step, share in ((0, 1 - (positions - low)), (1, positions - low)):
        columns = np.clip(low[:, None] + step + taps, 0, size - 1).astype(int)
        np.add.at(weights, (index, columns), share[:, None] * kernel)
    return weights.astype(np.float32)


def resample_axis(array: Tensor, axis: int, weights: npt.NDArray[np.float32]) -> Tensor:
    """Apply `axis_weights` along spatial `axis` (0 to 2) of (..., Z, Y, X)."""
    if weights.shape[0] == weights.shape[1] and np.array_equal(weights, np.eye(len(weights))):
        return array
    matrix = torch.from_numpy(weights).to(array.device)
    dim = array.ndim - 3 + axis
    if axis == 2:
        return array @ matrix.T
    if axis == 1:
        return matrix @ array
    used = np.flatnonzero(weights.any(axis=0))
    first, last = int(used[0]), int(used[-1]) + 1
    part = array.narrow(dim, first, last - first).flatten(-2)
    moved = matrix[:, first:last] @ part
    return moved.reshape(*moved.shape[:-1], *array.shape[-2:])


class Resampler:
    """Brings parts of a scan from one grid to another with parallel axes.

    Parameters
    ----------
    source, target
        The grids, in the same unit.
    antialias
        Blur axes whose target voxels are more than 1.2 source voxels apart, with
        ``sigma = (ratio - 1) / 2`` source voxels: together with the linear weights this
        lets about half of the amplitude through at the target's highest frequency.
    """

    def __init__(self, source: Geometry, target: Geometry, *, antialias: bool = True) -> None:
        self.source, self.target = source, target
        self.matrices: list[npt.NDArray[np.float32] | None] = []
        for axis, positions in enumerate(axis_positions(source, target)):
            size = source.shape[axis]
            if np.array_equal(positions, np.arange(size)):
                self.matrices.append(None)  # nothing moves along this axis
                continue
            far = abs(positions[1] - positions[0]) if len(positions) > 1 else float(size)
            sigma = (far - 1) / 2 if antialias and far > BLUR_ABOVE else 0.0
            self.matrices.append(axis_weights(size, positions, sigma))

    def window(self, axis: int, start: int, stop: int) -> tuple[int, int]:
        """Source voxels along an axis that target voxels ``start`` to ``stop`` are made of."""
        matrix = self.matrices[axis]
        if matrix is None:
            return start, stop
        used = np.flatnonzero(matrix[start:stop].any(axis=0))
        return int(used[0]), int(used[-1]) + 1

    def apply(self, array: Tensor, ranges: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Resample (..., z, y, x).

        Parameters
        ----------
        array
            float32, the source's voxels in the `window` of each range.
        ranges
            Target voxels (start, stop) per axis; None: all.
        """
        for axis, matrix in enumerate(self.matrices):
            if matrix is None:
                continue
            start, stop = ranges[axis] if ranges is not None else (0, matrix.shape[0])
            a, b = self.window(axis, start, stop) if ranges is not None else (0, matrix.shape[1])
            array = resample_axis(array, axis, matrix[start:stop, a:b])
        return array


def resample(
    array: Tensor, source: Geometry, target: Geometry, *, antialias: bool = True
) -> Tensor:
    """Bring a whole (..., Z, Y, X) float32 array from one grid to another: see `Resampler`.

    Returns
    -------
    Tensor
        (..., *target.shape); the same tensor if the grids coincide.
    """
    return Resampler(source, target, antialias=antialias).apply(array)
