"""Results that are larger than memory: written to OME-Zarr as they become final."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from ..geometry import Geometry
from ..volumes.formats.ome_zarr_group import enclosing_zarr
from ..volumes.formats.ome_zarr_write import StreamedZarr, streamed

__all__ = ["RowBuffer", "ZarrStore"]

_Ranges = list[tuple[int, int]]

MOST_BUFFERED = 2**27
"""Bytes of a row of chunks that may wait in memory until it is complete."""


class RowBuffer:
    """Writes a stored array in whole rows of chunks, though it is given thinner slabs.

    Only what was given is written, the last word counts, and nothing that waits is written
    over what came after it: a run may go on in columns, or begin anew, at any time.

    Parameters
    ----------
    array
        (Z, Y, X) or (C, Z, Y, X) with `chunks`.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape, self.dtype, self.ndim = tuple(array.shape), array.dtype, array.ndim
        self._rows: list[_Row] = []

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def __setitem__(self, index: tuple[slice, ...], value: npt.NDArray[Any]) -> None:
        ranges = [
            (s.start or 0, n if s.stop is None else s.stop)
            for s, n in zip(index, self.shape, strict=True)
        ]
        thin = self._thin_axis(ranges)
        if thin is None:
            self._settle(ranges)
            self.array[index] = value
            return
        (lo, hi), depth = ranges[thin], int(self.array.chunks[thin])
        for number in range(lo // depth, -(-hi // depth)):
            whole, mine = list(ranges), list(ranges)
            whole[thin] = number * depth, min((number + 1) * depth, self.shape[thin])
            mine[thin] = max(lo, whole[thin][0]), min(hi, whole[thin][1])
            part = [slice(None)] * self.ndim
            part[thin] = slice(mine[thin][0] - lo, mine[thin][1] - lo)
            self._add(thin, whole, mine, value[tuple(part)])

    def flush(self) -> None:
        """Write what waits."""
        self._settle([(0, n) for n in self.shape])

    def _thin_axis(self, ranges: _Ranges) -> int | None:
        """Return the axis that cuts through chunks; None if none does or rows are too large."""
        lead = self.ndim - 3
        cut = [
            axis
            for axis in range(lead, self.ndim)
            if ranges[axis][0] % self.array.chunks[axis]
            or (ranges[axis][1] % self.array.chunks[axis] and ranges[axis][1] < self.shape[axis])
        ]
        if len(cut) != 1:
            return None
        size = self.dtype.itemsize * self.array.chunks[cut[0]]
        size *= math.prod(b - a for axis, (a, b) in enumerate(ranges) if axis != cut[0])
        return cut[0] if size <= MOST_BUFFERED else None

    def _add(self, axis: int, whole: _Ranges, mine: _Ranges, value: npt.NDArray[Any]) -> None:
        row = next((r for r in self._rows if (r.axis, r.ranges) == (axis, whole)), None)
        self._settle(mine, but=row)
        if row is None:
            row = _Row(axis, whole, self.dtype)
            self._rows.append(row)
        row.put(mine[axis], value)
        if row.given.all():
            self._write(row)

    def _settle(self, ranges: _Ranges, but: _Row | None = None) -> None:
        """Write the waiting rows that share a voxel with a part of the array."""
        for row in list(self._rows):
            pairs = zip(row.ranges, ranges, strict=True)
            if row is not but and all(a < d and c < b for (a, b), (c, d) in pairs):
                self._write(row)

    def _write(self, row: _Row) -> None:
        self._rows.remove(row)
        for where, value in row.parts():
            self.array[where] = value


class _Row:
    """Planes of one row of chunks, within some range of the other axes, that wait."""

    def __init__(self, axis: int, ranges: _Ranges, dtype: np.dtype[Any]) -> None:
        self.axis, self.ranges = axis, ranges
        self.values = np.empty([b - a for a, b in ranges], dtype)
        self.given = np.zeros(self.values.shape[axis], bool)

    def put(self, planes: tuple[int, int], value: npt.NDArray[Any]) -> None:
        """Take planes, counted from the array's first."""
        begin = self.ranges[self.axis][0]
        where = [slice(None)] * self.values.ndim
        where[self.axis] = slice(planes[0] - begin, planes[1] - begin)
        self.values[tuple(where)] = value
        self.given[where[self.axis]] = True

    def parts(self) -> list[tuple[tuple[slice, ...], npt.NDArray[Any]]]:
        """Return what was given: where in the array, and the values."""
        found = []
        edges = np.flatnonzero(np.diff(self.given.astype(np.int8), prepend=0, append=0))
        for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            inside = [slice(None)] * self.values.ndim
            inside[self.axis] = slice(a, b)
            where = [slice(*r) for r in self.ranges]
            first = self.ranges[self.axis][0]
            where[self.axis] = slice(first + a, first + b)
            found.append((tuple(where), self.values[tuple(inside)]))
        return found


class ZarrStore:
    """Where a run puts its results, on disk; a context manager.

    Results with a path are complete OME-Zarr folders when the block ends, and not there if
    it raises; the others (attention maps) lie in a temporary folder until then.

    Parameters
    ----------
    paths
        By name ("labels", "probabilities", "uncertainty"): the folders to write.
    geometry
        The grid of the results.
    name
        Of the scan.
    classes
        Names of the probabilities' channels.
    version
        Of OME-Zarr: see `streamed`.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        geometry: Geometry,
        name: str,
        classes: Sequence[str] = (),
        version: str | None = None,
    ) -> None:
        self.paths, self.geometry, self.name = dict(paths), geometry, name
        self.classes = tuple(classes)
        self.version = version
        self._stack = ExitStack()
        self._writers: dict[str, StreamedZarr] = {}
        self._buffers: list[RowBuffer] = []
        self._temporary: Path | None = None

    def __enter__(self) -> ZarrStore:
        self._stack.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            for buffer in self._buffers:
                buffer.flush()
        self._buffers.clear()
        self._stack.__exit__(kind, error, trace)

    def allocate(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Make an array: see `Allocate`."""
        if name in self.paths:
            writer = self._stack.enter_context(
                streamed(
                    self.paths[name],
                    shape,
                    dtype,
                    self.geometry,
                    name=f"{self.name} {name}",
                    kind="labels" if name == "labels" else "image",
                    channel_names=self.classes if len(shape) == 4 else (),
                    version=self.version,
                )
            )
            self._writers[name] = writer
            array = writer.array
        else:
            chunks = tuple(min(64, n) for n in shape)
            folder = self._folder() / name
            array = zarr.create_array(str(folder), shape=shape, dtype=dtype, chunks=chunks)
        self._buffers.append(RowBuffer(array))
        return self._buffers[-1]

    def flush(self) -> None:
        """Write what waits in memory, so that the arrays can be read."""
        for buffer in self._buffers:
            buffer.flush()

    def describe(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Set a result's provenance and classes, known when the run is over."""
        self._writers[name].metadata.update(metadata)

    def _folder(self) -> Path:
        if self._temporary is None:
            first = next(iter(self.paths.values()), None)
            beside = (enclosing_zarr(first) or first).parent if first is not None else None
            made = tempfile.TemporaryDirectory(prefix=".attention3d-", dir=beside)
            self._temporary = Path(self._stack.enter_context(made))
        return self._temporary
