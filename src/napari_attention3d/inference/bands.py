"""Sums of overlapping tiles, held only as long as tiles that touch them are to come."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from .tiling import Box, TilePlan

__all__ = ["BandSums", "rolling_axis", "rolling_order"]


def rolling_axis(plan: TilePlan) -> int:
    """Axis along which the sums of the fewest voxels are held at once."""
    return min(range(3), key=lambda a: (plan.tile[a] / plan.shape[a], a))


def rolling_order(
    plan: TilePlan, axis: int, focus: Sequence[float] | None = None
) -> tuple[Box, ...]:
    """Order tiles so that few sums are held: row by row along the axis.

    Parameters
    ----------
    plan
        Its tiles are ordered.
    axis
        Of the rows.
    focus
        Voxel (z, y, x) of the grid that is looked at: the rows begin there, and in each
        row the nearest tiles come first.
    """
    if focus is None:
        return tuple(sorted(plan.tiles, key=lambda t: (t.start[axis], t.start)))

    def distance(tile: Box) -> float:
        middles = [(a + b - 1) / 2 for a, b in zip(tile.start, tile.stop, strict=True)]
        return sum((m - f) ** 2 for m, f in zip(middles, focus, strict=True))

    first = min(plan.tiles, key=distance, default=None)
    if first is None:
        return ()
    begin = first.start[axis]

    def place(tile: Box) -> tuple[bool, int, float]:
        # Up to the end, then from the beginning downwards: neighbours stay neighbours.
        row = tile.start[axis]
        return row < begin, abs(row - begin), distance(tile)

    return tuple(sorted(plan.tiles, key=place))


class BandSums:
    """Weighted sums of tiles over the wanted box, given out band by band.

    A band is a range of planes along the axis that the same rows of tiles touch.

    Parameters
    ----------
    plan
        Tiles and their weights.
    axis
        See `rolling_axis`.
    stride
        Of the values against the grid: (1, 1, 1) for logits.
    """

    def __init__(self, plan: TilePlan, axis: int, stride: Sequence[int] = (1, 1, 1)) -> None:
        self.plan, self.axis, self.stride = plan, axis, tuple(stride)
        self.want = plan.box.on_stride(stride)
        low, high = self.want.start[axis], self.want.stop[axis]
        edges = {low, high}
        spans = [tile.on_stride(stride) for tile in plan.tiles]
        for span in spans:
            edges |= {min(max(e, low), high) for e in (span.start[axis], span.stop[axis])}
        ordered = sorted(edges)
        self.bands = list(itertools.pairwise(ordered))
        self.missing = [
            sum(span.start[axis] < b and span.stop[axis] > a for span in spans)
            for a, b in self.bands
        ]
        self.sums: dict[int, Tensor] = {}

    def add(self, tile: Box, values: Tensor) -> list[tuple[int, Tensor]]:
        """Add a tile's values (K, z, y, x), float32 on the CPU.

        Returns
        -------
        list
            Bands that are complete now: first plane, counted from the wanted box's, and
            sums (K, z, y, x).
        """
        have = tile.on_stride(self.stride)
        lo = [max(a, b) for a, b in zip(have.start, self.want.start, strict=True)]
        hi = [min(a, b) for a, b in zip(have.stop, self.want.stop, strict=True)]
        if any(a >= b for a, b in zip(lo, hi, strict=True)):
            return self._count(have)
        weights = [
            torch.from_numpy(w[a - s : b - s])
            for w, a, b, s in zip(
                self.plan.weights(tile, self.stride), lo, hi, have.start, strict=True
            )
        ]
        for number, (a, b) in enumerate(self.bands):
            first, last = max(a, lo[self.axis]), min(b, hi[self.axis])
            if first < last:
                begin, end = list(lo), list(hi)
                begin[self.axis], end[self.axis] = first, last
                self._add_to(number, Box(tuple(begin), tuple(end)), have, lo, weights, values)  # type: ignore[arg-type]
        return self._count(have)

    def _add_to(
        self,
        number: int,
        part: Box,
        have: Box,
        lo: list[int],
        weights: list[Tensor],
        values: Tensor,
    ) -> None:
        cut = tuple(
            slice(a - s, b - s) for a, b, s in zip(part.start, part.stop, have.start, strict=True)
        )
        shares = [
            w[a - low : b - low]
            for w, a, b, low in zip(weights, part.start, part.stop, lo, strict=True)
        ]
        mine = values[(slice(None), *cut)]
        first = self.bands[number][0]
        origin = list(self.want.start)
        origin[self.axis] = first
        shape = list(self.want.shape)
        shape[self.axis] = self.bands[number][1] - first
        alone = all(bool((w == 1).all()) for w in shares)
        if alone and list(part.shape) == shape and number not in self.sums:
            self.sums[number] = mine
            return
        if number not in self.sums:
            self.sums[number] = torch.zeros((values.shape[0], *shape))
        into = tuple(
            slice(a - o, b - o) for a, b, o in zip(part.start, part.stop, origin, strict=True)
        )
        target = self.sums[number][(slice(None), *into)]
        if alone:
            target.add_(mine)
        else:
            z, y, x = shares
            target.addcmul_(mine, z.view(-1, 1, 1) * (y.view(-1, 1) * x))

    def _count(self, have: Box) -> list[tuple[int, Tensor]]:
        done = []
        for number, (a, b) in enumerate(self.bands):
            if have.start[self.axis] < b and have.stop[self.axis] > a:
                self.missing[number] -= 1
                if self.missing[number] == 0:
                    done.append((a - self.want.start[self.axis], self.sums.pop(number)))
        return done
