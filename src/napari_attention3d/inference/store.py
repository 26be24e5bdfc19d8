"""Results that are larger than memory: written to OME-Zarr as they become final."""

from __future__ import annotations

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
from ..volumes.formats.ome_zarr_write import StreamedZarr, streamed

__all__ = ["RowBuffer", "ZarrStore"]

MOST_BUFFERED = 2**27
"""Bytes of a row of chunks that may wait in memory until it is complete."""


class RowBuffer:
    """Writes a stored array in whole rows of chunks, though it is given thinner slabs.

    Parameters
    ----------
    array
        (Z, Y, X) or (C, Z, Y, X) with `chunks`. Each voxel is written once.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape, self.dtype, self.ndim = tuple(array.shape), array.dtype, array.ndim
        self._rows: dict[tuple[int, int], tuple[npt.NDArray[Any], int]] = {}

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def __setitem__(self, index: tuple[slice, ...], value: npt.NDArray[Any]) -> None:
        ranges = [
            (s.start or 0, n if s.stop is None else s.stop)
            for s, n in zip(index, self.shape, strict=True)
        ]
        thin = self._thin_axis(ranges)
        if thin is None:
            self.array[index] = value
            return
        (lo, hi), depth = ranges[thin], int(self.array.chunks[thin])
        for number in range(lo // depth, -(-hi // depth)):
            first, last = number * depth, min((number + 1) * depth, self.shape[thin])
            a, b = max(lo, first), min(hi, last)
            part = [slice(None)] * self.ndim
            part[thin] = slice(a - lo, b - lo)
            self._add(thin, number, first, last, ranges, (a, b), value[tuple(part)])

    def flush(self) -> None:
        """Write the rows that are not complete."""
        for axis, number in list(self._rows):
            self._write(axis, number)

    def _thin_axis(self, ranges: list[tuple[int, int]]) -> int | None:
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
        size *= int(np.prod([n for a, n in enumerate(self.shape) if a != cut[0]]))
        return cut[0] if size <= MOST_BUFFERED else None

    def _add(
        self,
        axis: int,
        number: int,
        first: int,
        last: int,
        ranges: list[tuple[int, int]],
        span: tuple[int, int],
        value: npt.NDArray[Any],
    ) -> None:
        key = axis, number
        if key not in self._rows:
            shape = list(self.shape)
            shape[axis] = last - first
            self._rows[key] = np.zeros(shape, self.dtype), int(np.prod(shape))
        row, missing = self._rows[key]
        where = [slice(a, b) for a, b in ranges]
        where[axis] = slice(span[0] - first, span[1] - first)
        row[tuple(where)] = value
        missing -= value.size
        self._rows[key] = row, missing
        if missing == 0:
            self._write(axis, number)

    def _write(self, axis: int, number: int) -> None:
        row, _ = self._rows.pop((axis, number))
        depth = int(self.array.chunks[axis])
        where = [slice(None)] * self.ndim
        where[axis] = slice(number * depth, number * depth + row.shape[axis])
        self.array[tuple(where)] = row


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
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        geometry: Geometry,
        name: str,
        classes: Sequence[str] = (),
    ) -> None:
        self.paths, self.geometry, self.name = dict(paths), geometry, name
        self.classes = tuple(classes)
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
            beside = next(iter(self.paths.values())).parent if self.paths else None
            made = tempfile.TemporaryDirectory(prefix=".attention3d-", dir=beside)
            self._temporary = Path(self._stack.enter_context(made))
        return self._temporary
