"""The grid on which the head works: the scan's own, or a coarser one if that is large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as nnf

__all__ = ["WorkGrid", "choose_work_grid"]

WORK_VOXELS = 2_000_000
Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class WorkGrid:
    """Blocks of `factors` voxels (z, y, x) of a scan of `shape`; the last may be cut."""

    shape: Size3
    factors: Size3

    @property
    def is_coarser(self) -> bool:
        """Whether a block holds more than one voxel."""
        return self.factors != (1, 1, 1)

    @property
    def work_shape(self) -> Size3:
        """Blocks along (z, y, x)."""
        z, y, x = (-(-n // f) for n, f in zip(self.shape, self.factors, strict=True))
        return z, y, x

    def reduce(self, array: Any) -> npt.NDArray[np.float32]:
        """Block means of (..., Z, Y, X), a few planes at a time; float32."""
        fz, fy, fx = self.factors
        lead = tuple(array.shape[:-3])
        out = np.empty((*lead, *self.work_shape), np.float32)
        for k in range(self.work_shape[0]):
            planes = np.asarray(array[..., k * fz : (k + 1) * fz, :, :], dtype=np.float32)
            if not self.is_coarser:
                out[..., k, :, :] = planes[..., 0, :, :]
                continue
            plane = planes.mean(axis=-3)
            pad = [(0, 0)] * len(lead) + [
                (0, self.work_shape[1] * fy - self.shape[1]),
                (0, self.work_shape[2] * fx - self.shape[2]),
            ]
            plane = np.pad(plane, pad, mode="edge")
            blocks = plane.reshape(*lead, self.work_shape[1], fy, self.work_shape[2], fx)
            out[..., k, :, :] = blocks.mean(axis=(-3, -1))
        return out

    def blocks_of(self, voxels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Blocks (N, 3) that hold the voxels (N, 3)."""
        return np.asarray(voxels // np.array(self.factors))

    def blocks_between(self, first: int, last: int, axis: int = 0) -> tuple[int, int]:
        """Blocks that `expand` needs for the scan's planes ``first`` to ``last``."""
        factor = self.factors[axis]
        return max(0, first // factor - 1), min(self.work_shape[axis], -(-last // factor) + 1)

    def expand(
        self,
        array: npt.NDArray[np.float32],
        first: int,
        last: int,
        axis: int = 0,
        origin: int = 0,
    ) -> npt.NDArray[np.float32]:
        """Planes ``first`` to ``last`` of the scan's grid, linear between block centres.

        Parameters
        ----------
        array
            (K, z, y, x) on the work grid.
        first, last
            Along `axis`.
        axis
            0, 1, 2: z, y, x.
        origin
            Block at which `array` begins along `axis`.

        Returns
        -------
        ndarray
            (K, Z, Y, X), ``last - first`` long along `axis`, as the scan along the others.
        """
        if not self.is_coarser:
            return array[_cut(axis, first - origin, last - origin)]
        low, high = self.blocks_between(first, last, axis)
        part = np.ascontiguousarray(array[_cut(axis, low - origin, high - origin)])
        size = [n * f for n, f in zip(part.shape[1:], self.factors, strict=True)]
        tensor = torch.from_numpy(part)[None].float()
        full = nnf.interpolate(tensor, size=size, mode="trilinear", align_corners=False)[0]
        kept = [slice(0, n) for n in self.shape]
        start = first - low * self.factors[axis]
        kept[axis] = slice(start, start + last - first)
        return full[(slice(None), *kept)].numpy()


def _cut(axis: int, first: int, last: int) -> tuple[slice, ...]:
    """Index of planes along an axis of (K, z, y, x)."""
    return (slice(None),) * (1 + axis) + (slice(first, last),)


def choose_work_grid(
    shape: Sequence[int], ratio: npt.NDArray[np.float64], limit: int = WORK_VOXELS
) -> WorkGrid:
    """Smallest blocks with which at most `limit` of them are left.

    Parameters
    ----------
    shape
        The scan's (Z, Y, X).
    ratio
        Voxel size over the smallest: fine axes are joined first.
    limit
        Most blocks.
    """
    factors = [1, 1, 1]
    while np.prod([-(-n // f) for n, f in zip(shape, factors, strict=True)]) > limit:
        sizes = [f * r if n > f else np.inf for f, r, n in zip(factors, ratio, shape, strict=True)]
        factors[2 - int(np.argmin(sizes[::-1]))] += 1
    return WorkGrid(
        (int(shape[0]), int(shape[1]), int(shape[2])), (factors[0], factors[1], factors[2])
    )
