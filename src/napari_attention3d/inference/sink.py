"""Where a run's logits go: slab by slab to labels on the scan's own grid, or kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry import Geometry, Reorientation
from .resample import axis_positions, axis_weights, resample_axis, same_grid
from .tiling import Box

__all__ = [
    "Allocate",
    "Finished",
    "Logits",
    "Results",
    "ScanResults",
    "ScanSink",
    "Sink",
    "box_around",
    "check_finite",
    "in_memory",
    "label_type",
    "scan_slices",
    "to_scan_grid",
]

SLAB_BYTES = 2**26
"""Interpolated logits of some of the scan's planes: about this much memory, times two or three."""
FLOAT32_VALUES = 2**28
"""Probabilities of more values than this are float16."""

Allocate = Callable[[str, tuple[int, ...], np.dtype[Any]], Any]
"""Name ("labels", ...), shape and type to an array that slices can be assigned to."""


@dataclass(frozen=True)
class Finished:
    """A part of the labels that is final.

    Attributes
    ----------
    start
        Its first voxel (z, y, x) in the result's array.
    labels
        (z, y, x), in the result's own order of axes.
    """

    start: tuple[int, int, int]
    labels: npt.NDArray[Any]


class Sink(Protocol):
    """Takes blended logits, some planes at a time, each plane once, in any order."""

    def push(self, axis: int, start: int, slab: Tensor) -> list[Finished]:
        """Take planes ``start`` onwards along `axis` (0 to 2): float32 (K, z, y, x)."""

    def left(self) -> list[Box]:
        """Return the parts of the results that are not final."""


class Results(Protocol):
    """What a run is to fill.

    Attributes
    ----------
    shape
        Of all that is wanted (z, y, x), in the order of the model's axes.
    """

    shape: tuple[int, int, int]

    def part(self, wanted: Box | None = None) -> tuple[Box, Sink]:
        """Return what a part of the results (None: all) needs of the grid, and takes it."""


def label_type(classes: int) -> np.dtype[Any]:
    """Smallest unsigned type that holds the class numbers."""
    return np.dtype(np.uint8 if classes <= 256 else np.uint16)


def check_finite(slab: Tensor) -> None:
    """Raise InputError if logits are not finite."""
    # The sum is finite only if all are, and needs no temporary copy; it may also overflow.
    if not bool(slab.sum().isfinite()) and not bool(torch.isfinite(slab).all()):
        raise InputError(
            "the network returned values that are not finite; run it with precision exact, or "
            "the model or its normalisation does not suit this scan"
        )


class Logits:
    """Keeps the logits themselves.

    Parameters
    ----------
    classes
        Number of them, K.
    box
        The part of the grid that is wanted.

    Attributes
    ----------
    logits
        float32 (K, z, y, x).
    """

    def __init__(self, classes: int, box: Box) -> None:
        self.box, self.shape = box, box.shape
        self.logits = torch.empty((classes, *box.shape))

    def part(self, wanted: Box | None = None) -> tuple[Box, Sink]:
        """A part of the grid needs itself."""
        wanted = wanted or Box((0, 0, 0), self.shape)
        start = tuple(a + b for a, b in zip(self.box.start, wanted.start, strict=True))
        stop = tuple(a + b for a, b in zip(self.box.start, wanted.stop, strict=True))
        sink = _LogitSink(self.logits[(slice(None), *wanted.slices)], wanted)
        return Box(start, stop), sink  # type: ignore[arg-type]


class _LogitSink:
    def __init__(self, logits: Tensor, wanted: Box) -> None:
        self.logits, self.wanted = logits, wanted
        self.planes = _OpenPlanes(wanted)

    def push(self, axis: int, start: int, slab: Tensor) -> list[Finished]:
        check_finite(slab)
        count = slab.shape[1 + axis]
        self.logits.narrow(1 + axis, start, count).copy_(slab)
        self.planes.along(axis)[start : start + count] = False
        return []

    def left(self) -> list[Box]:
        return self.planes.boxes()


class _OpenPlanes:
    """Which planes of a part are not final yet."""

    def __init__(self, wanted: Box) -> None:
        self.wanted = wanted
        self.axis: int | None = None
        self.open = np.ones(0, bool)

    def along(self, axis: int) -> npt.NDArray[np.bool_]:
        """Flags of the planes along an axis, which stays the same for all of the part."""
        if self.axis is None:
            self.axis, self.open = axis, np.ones(self.wanted.shape[axis], bool)
        if axis != self.axis:
            raise ValueError(f"planes along axis {axis} after some along axis {self.axis}")
        return self.open

    def boxes(self) -> list[Box]:
        """Return what is not final."""
        if self.axis is None:
            return [self.wanted]
        return [_planes_of(self.wanted, self.axis, a, b) for a, b in _runs(self.open)]


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Ranges (start, stop) of True."""
    ends = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return list(zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True))


def _planes_of(box: Box, axis: int, start: int, stop: int) -> Box:
    """Planes ``start`` to ``stop`` of a box, counted from its first."""
    low, high = list(box.start), list(box.stop)
    low[axis], high[axis] = box.start[axis] + start, box.start[axis] + stop
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


class ScanResults:
    """Labels, and what else was asked for, on the scan's own grid.

    Logits are interpolated class by class at the scan's voxel centres; the largest wins.
    Probabilities are the softmax of the interpolated logits: the labels are always their
    argmax. Where the grids coincide nothing is interpolated.

    Parameters
    ----------
    classes
        Number of them, K.
    grid
        The model's whole grid.
    target
        Grid of the results, with axes parallel to the model's and in its unit; outside
        the model's grid its border goes on.
    reorientation
        What was applied to the scan's array to give the target's axes; undone here.
    probabilities, uncertainty
        Whether to compute them too.
    allocate
        Makes the arrays, in the scan's own order of axes; default: in memory.

    Attributes
    ----------
    labels
        (Z, Y, X) uint8, or uint16 for more than 256 classes.
    probabilities
        (K, Z, Y, X) float32, or float16 for very many values; None unless asked for.
    uncertainty
        (Z, Y, X) float32: entropy of the probabilities over its largest possible value,
        0 (sure) to 1; None unless asked for.
    found
        Whether any voxel was given a class other than background.
    """

    def __init__(
        self,
        classes: int,
        grid: Geometry,
        target: Geometry,
        reorientation: Reorientation,
        *,
        probabilities: bool = False,
        uncertainty: bool = False,
        allocate: Allocate | None = None,
    ) -> None:
        self.classes, self.grid, self.target = classes, grid, target
        self.shape = target.shape
        self.back = reorientation.inverse()
        self.found = False
        make = allocate or in_memory
        shape = self.back.apply_shape(target.shape)
        self.labels = make("labels", shape, label_type(classes))
        kind = np.float32 if classes * math.prod(shape) <= FLOAT32_VALUES else np.float16
        self.probabilities = self.uncertainty = None
        if probabilities:
            self.probabilities = make("probabilities", (classes, *shape), np.dtype(kind))
        if uncertainty:
            self.uncertainty = make("uncertainty", shape, np.dtype(np.float32))

    def part(self, wanted: Box | None = None) -> tuple[Box, Sink]:
        """Return the grid's voxels that interpolation at the part's centres reads, and a sink."""
        wanted = wanted or Box((0, 0, 0), self.shape)
        box = box_around(self.target.cropped(wanted.start, wanted.shape), self.grid)
        return box, ScanSink(self, wanted, box)

    def write(self, logits: Tensor, box: Box) -> Finished:
        """Turn interpolated logits (K, z, y, x) of a part of the target into results."""
        where = scan_slices(self.back, self.shape, list(zip(box.start, box.stop, strict=True)))
        winners = _winners(logits).to(torch.uint8 if self.classes <= 256 else torch.int32)
        labels = np.ascontiguousarray(self.back.apply(winners.cpu().numpy()))
        labels = labels.astype(label_type(self.classes), copy=False)
        self.labels[where] = labels
        self.found = self.found or bool(labels.any())
        if self.probabilities is not None or self.uncertainty is not None:
            p = torch.softmax(logits, 0)
            if self.probabilities is not None:
                shares = self.back.apply(p.cpu().numpy())
                self.probabilities[(slice(None), *where)] = shares.astype(self.probabilities.dtype)
            if self.uncertainty is not None:
                entropy = -torch.xlogy(p, p).sum(0) / math.log(self.classes)
                self.uncertainty[where] = self.back.apply(entropy.clamp(0, 1).cpu().numpy())
        return Finished((where[0].start, where[1].start, where[2].start), labels)


def _winners(logits: Tensor) -> Tensor:
    """Class of the largest of logits (K, z, y, x), the first of equals."""
    # Both are many times as fast as argmax over an axis that is not the last.
    return logits[1] > logits[0] if len(logits) == 2 else logits.max(0).indices


class ScanSink:
    """Finishes planes of the scan as soon as the model's planes around them are there.

    So no (K, Z, Y, X) array is needed, whatever the size of the scan.

    Parameters
    ----------
    results
        Whose part is filled.
    wanted
        The part, in voxels of the target.
    box
        The part of the model's grid that will be pushed.
    """

    def __init__(self, results: ScanResults, wanted: Box, box: Box) -> None:
        self.results, self.wanted = results, wanted
        source = results.grid.cropped(box.start, box.shape)
        target = results.target.cropped(wanted.start, wanted.shape)
        self.exact = same_grid(source, target)
        positions = axis_positions(source, target)
        self.weights = [axis_weights(n, p) for n, p in zip(source.shape, positions, strict=True)]
        self.ranges = [_needs(p, n) for n, p in zip(source.shape, positions, strict=True)]
        self._kept: list[tuple[int, Tensor]] = []
        self._planes = _OpenPlanes(wanted)

    def left(self) -> list[Box]:
        """Return the parts of the results that are not final."""
        return self._planes.boxes()

    def push(self, axis: int, start: int, slab: Tensor) -> list[Finished]:
        """Finish the planes of the scan that have all they need now."""
        check_finite(slab)
        lo, x = self._joined(axis, start, slab)
        hi = lo + x.shape[1 + axis]
        first, last = self.ranges[axis]
        opened = self._planes.along(axis)
        ready = np.flatnonzero(opened & (first >= lo) & (last < hi))
        finished = []
        for run in np.split(ready, np.flatnonzero(np.diff(ready) > 1) + 1):
            for a, b in self._portions(axis, run):
                finished.append(self._finish(axis, a, b, lo, x))
        opened[ready] = False
        self._keep(axis, lo, x)
        return finished

    def _joined(self, axis: int, start: int, slab: Tensor) -> tuple[int, Tensor]:
        """The slab with the kept planes that touch it."""
        parts = [(start, slab)]
        for piece in list(self._kept):
            if piece[0] + piece[1].shape[1 + axis] == parts[0][0]:
                parts.insert(0, piece)
            elif parts[-1][0] + parts[-1][1].shape[1 + axis] == piece[0]:
                parts.append(piece)
            else:
                continue
            self._kept = [one for one in self._kept if one is not piece]
        lo = parts[0][0]
        return lo, slab if len(parts) == 1 else torch.cat([p for _, p in parts], 1 + axis)

    def _keep(self, axis: int, lo: int, x: Tensor) -> None:
        """Hold on to the outer planes that unfinished planes of the scan still need."""
        hi = lo + x.shape[1 + axis]
        first, last = self.ranges[axis]
        needed = np.zeros(hi - lo, bool)
        for t in np.flatnonzero(self._planes.along(axis) & (last >= lo) & (first < hi)):
            needed[max(first[t] - lo, 0) : min(last[t] + 1, hi) - lo] = True
        for a, b in _runs(needed):
            self._kept.append((lo + a, x.narrow(1 + axis, a, b - a).clone()))

    def _portions(self, axis: int, run: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        if not len(run):
            return []
        start, stop = int(run[0]), int(run[-1]) + 1
        shape = self.wanted.shape
        plane = self.results.classes * math.prod(shape) // shape[axis]
        step = max(1, SLAB_BYTES // (4 * plane))
        return [(a, min(a + step, stop)) for a in range(start, stop, step)]

    def _finish(self, axis: int, start: int, stop: int, lo: int, x: Tensor) -> Finished:
        first, last = self.ranges[axis]
        a, b = int(first[start:stop].min()), int(last[start:stop].max()) + 1
        part = x.narrow(1 + axis, a - lo, b - a)
        if not self.exact:
            part = resample_axis(part, axis, self.weights[axis][start:stop, a:b])
            for other in range(3):
                if other != axis:
                    part = resample_axis(part, other, self.weights[other])
        return self.results.write(part, _planes_of(self.wanted, axis, start, stop))


def _needs(
    positions: npt.NDArray[np.float64], size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last source plane that each target plane is interpolated from."""
    low = np.clip(np.floor(positions), 0, size - 1).astype(np.int64)
    high = np.clip(np.ceil(positions), 0, size - 1).astype(np.int64)
    return low, high


def scan_slices(
    back: Reorientation, shape: tuple[int, int, int], box: list[tuple[int, int]]
) -> tuple[slice, slice, slice]:
    """Index, in ``back.apply(array)``, of what is ``box`` (ranges) in an array of `shape`."""
    ranges = []
    for source, flip in zip(back.permutation, back.flips, strict=True):
        a, b = box[source]
        n = shape[source]
        ranges.append(slice(n - b, n - a) if flip else slice(a, b))
    z, y, x = ranges
    return z, y, x


def box_around(target: Geometry, grid: Geometry) -> Box:
    """Return the grid's voxels that interpolation at the target's centres reads."""
    ranges = [_needs(p, n) for p, n in zip(axis_positions(grid, target), grid.shape, strict=True)]
    z, y, x = ((int(low.min()), int(high.max()) + 1) for low, high in ranges)
    return Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))


def to_scan_grid(
    logits: Tensor,
    source: Geometry,
    target: Geometry,
    reorientation: Reorientation,
    *,
    probabilities: bool = False,
    uncertainty: bool = False,
) -> ScanResults:
    """Bring logits (K, z, y, x) of a whole grid to the scan's at once."""
    results = ScanResults(
        logits.shape[0],
        source,
        target,
        reorientation,
        probabilities=probabilities,
        uncertainty=uncertainty,
    )
    box, sink = results.part()
    sink.push(0, 0, logits[(slice(None), *box.slices)])
    return results


def in_memory(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Allocate an array of zeros."""
    return np.zeros(shape, dtype)
