"""Overlapping tiles that cover a grid, and how much each counts where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Box", "TilePlan", "plan_tiles"]

FLOOR = 1e-3
"""Least importance of a voxel of a tile, against 1 at its centre."""


@dataclass(frozen=True)
class Box:
    """A part of a grid: voxels ``start <= (z, y, x) < stop``."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        z, y, x = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array of the grid."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def meets(self, other: Box) -> bool:
        """Whether the two share a voxel."""
        return all(
            a < d and c < b
            for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True)
        )

    def on_stride(self, stride: Sequence[int]) -> Box:
        """Return the coarse voxels, each ``stride`` fine ones from 0 on, that cover the box."""
        lo = tuple(a // s for a, s in zip(self.start, stride, strict=True))
        hi = tuple(-(-b // s) for b, s in zip(self.stop, stride, strict=True))
        return Box(lo, hi)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TilePlan:
    """Tiles of a grid, in the order in which they are computed.

    Parameters
    ----------
    shape
        Voxels of the grid along (z, y, x).
    tile
        Nominal size; tiles at the high end may be smaller.
    starts
        Where tiles start, per axis: the tiles are all combinations.
    tiles
        Those to compute.
    box
        The part of the grid that is wanted.
    """

    shape: tuple[int, int, int]
    tile: tuple[int, int, int]
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    tiles: tuple[Box, ...]
    box: Box

    @property
    def starts_product(self) -> list[tuple[int, int, int]]:
        """Corners of all tiles of the grid, wanted or not."""
        return list(product(*self.starts))

    def within(self, box: Box) -> TilePlan:
        """Return the plan for a part of the grid: the tiles that touch it.

        All that contributes to the part is computed, so that what comes out for it
        equals a run over the whole grid.
        """
        return replace(self, tiles=tuple(t for t in self.tiles if t.meets(box)), box=box)

    def weights(
        self, tile: Box, stride: Sequence[int] = (1, 1, 1)
    ) -> list[npt.NDArray[np.float32]]:
        """Share of the tile in the blend, per axis; at each voxel the tiles' products sum to 1.

        Parameters
        ----------
        tile
            One of the plan's tiles.
        stride
            Of the map that is blended; its voxels then count, not the grid's.

        Returns
        -------
        list of arrays
            Along z, y and x, one value for each voxel of ``tile.on_stride(stride)``.
        """
        return [self._axis_weights(axis, tile.start[axis], stride[axis]) for axis in range(3)]

    def _axis_weights(self, axis: int, start: int, stride: int) -> npt.NDArray[np.float32]:
        size = -(-self.shape[axis] // stride)
        total = np.zeros(size)
        mine = slice(0, 0)
        own = np.zeros(0)
        for other in self.starts[axis]:
            stop = min(other + self.tile[axis], self.shape[axis])
            where = slice(other // stride, -(-stop // stride))
            # Distance of voxel centres from the middle of the nominal tile, in half sizes
            # of it; 8 standard deviations span the tile.
            centres = (np.arange(where.start, where.stop) + 0.5) * stride - other
            middle = self.tile[axis] / 2
            importance = np.exp(-0.5 * ((centres - middle) / (self.tile[axis] / 8)) ** 2)
            importance = np.maximum(importance, FLOOR)
            total[where] += importance
            if other == start:
                mine, own = where, importance
        return (own / total[mine]).astype(np.float32)


def plan_tiles(
    shape: Sequence[int],
    tile: Sequence[int],
    min_overlap: float = 0.25,
    multiple: Sequence[int] = (1, 1, 1),
) -> TilePlan:
    """Cover a grid with the fewest tiles that overlap by at least a given share.

    Parameters
    ----------
    shape
        Voxels of the grid along (z, y, x).
    tile
        Largest size of a tile; an axis that is no longer than it is not cut.
    min_overlap
        Least overlap of neighbours, as a share of the tile, 0 to below 1.
    multiple
        Tiles start at multiples of it (the network's total stride), so that coarse maps
        of all tiles lie on one grid; tiles that are cut have a multiple of it as size.

    Raises
    ------
    ValueError
        If a size is not positive or the overlap not in [0, 1).
    """
    if min(*shape, *tile, *multiple) < 1:
        raise ValueError(f"shape {shape}, tile {tile} and multiple {multiple} must be positive")
    if not 0 <= min_overlap < 1:
        raise ValueError(f"overlap {min_overlap} must be at least 0 and below 1")
    axes = [_plan_axis(n, t, min_overlap, m) for n, t, m in zip(shape, tile, multiple, strict=True)]
    sizes: Any = tuple(size for size, _ in axes)
    starts: Any = tuple(s for _, s in axes)
    whole: Any = tuple(int(n) for n in shape)
    tiles = []
    for corner in product(*starts):
        stop: Any = tuple(min(c + s, n) for c, s, n in zip(corner, sizes, whole, strict=True))
        tiles.append(Box(corner, stop))
    return TilePlan(whole, sizes, starts, tuple(tiles), Box((0, 0, 0), whole))


def _plan_axis(size: int, tile: int, overlap: float, multiple: int) -> tuple[int, tuple[int, ...]]:
    if size <= tile:
        return int(size), (0,)
    tile = max(tile // multiple, 1) * multiple
    if size <= tile:
        return int(size), (0,)
    # In units of `multiple`: where the last tile starts, and the longest step allowed.
    last = -(-(size - tile) // multiple)
    step = max(1, int(tile * (1 - overlap) / multiple + 1e-9))
    count = -(-last // step) + 1
    return tile, tuple(round(i * last / (count - 1)) * multiple for i in range(count))
