"""A scan on the model's grid, read where it is needed: in memory, mapped, zarr or dask."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..geometry import Geometry, Reorientation
from .normalise import Scaling
from .resample import Resampler
from .sink import scan_slices
from .tiling import Box

__all__ = ["LazySource", "Source", "TensorSource", "as_source"]

_Key = tuple[int, int, tuple[tuple[int, int], ...]]
PLAIN_DEPTH = 16
"""Planes read at once from arrays that are not stored in chunks."""


class Source(Protocol):
    """What a network reads.

    Attributes
    ----------
    shape
        (C, z, y, x) of the whole grid.
    """

    shape: tuple[int, int, int, int]

    def held_bytes(self) -> int:
        """About how much of the scan is in memory during a run."""

    def read(self, box: Box) -> Tensor:
        """Return a part of the grid, float32 (C, z, y, x), normalised."""

    def ahead(self, *boxes: Box) -> None:
        """Tell which parts this thread will read next."""

    def close(self) -> None:
        """Let go of what was read ahead."""


class TensorSource:
    """A scan that is in memory already.

    Parameters
    ----------
    tensor
        float32 (C, z, y, x), normalised.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        c, z, y, x = tensor.shape
        self.shape = (c, z, y, x)

    def held_bytes(self) -> int:
        """All of it."""
        return self.tensor.numel() * self.tensor.element_size()

    def read(self, box: Box) -> Tensor:
        """Return a view."""
        return self.tensor[(slice(None), *box.slices)]

    def ahead(self, *boxes: Box) -> None:
        """It is there already."""

    def close(self) -> None:
        """Nothing was read ahead."""


def as_source(scan: Tensor | Source) -> Source:
    """Wrap a tensor."""
    return TensorSource(scan) if isinstance(scan, Tensor) else scan


class LazySource:
    """A scan that is turned, resampled and normalised part by part as it is read.

    Chunks are read whole, row by row along the axis that boxes cut most, and kept while
    boxes need them; a thread reads those of the next box while the network computes.
    Several threads may read, each in its own order.

    Parameters
    ----------
    array
        (C, Z, Y, X) or (Z, Y, X), the scan's own grid; anything that slices.
    turned
        The scan's grid after `reorientation`.
    reorientation
        Axes as the model wants them.
    grid
        The model's grid.
    scaling
        Applied to what was read; None: raw intensities.
    """

    def __init__(
        self,
        array: Any,
        turned: Geometry,
        reorientation: Reorientation,
        grid: Geometry,
        scaling: Scaling | None = None,
    ) -> None:
        self.array, self.reorientation, self.scaling = array, reorientation, scaling or Scaling()
        self.back = reorientation.inverse()
        self.turned = turned
        self.resampler = Resampler(turned, grid)
        channels = int(array.shape[0]) if array.ndim == 4 else 1
        self.shape = (channels, *grid.shape)
        self._rows: dict[_Key, Future[npt.NDArray[Any]]] = {}
        # By thread that reads: rows of its box, and rows that it will read next.
        self._current: dict[int, set[_Key]] = {}
        self._ahead: dict[int, set[_Key]] = {}
        self._reader: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def held_bytes(self) -> int:
        """Rows of chunks of a part and of the next one, and a part on its way."""
        shape = self.array.shape
        axis = max(range(3), key=lambda a: shape[-3 + a])
        depth = min(_depth(self.array, axis), shape[-3 + axis])
        plane = int(np.prod(shape, dtype=np.int64)) // shape[-3 + axis]
        rows = 3 * depth * self.array.dtype.itemsize
        return int(plane * (rows + 2 * PLAIN_DEPTH * 4))

    def read(self, box: Box) -> Tensor:
        """Read the scan's voxels around the box, turn, resample and normalise them."""
        ranges = list(zip(box.start, box.stop, strict=True))
        x = self.resampler.apply(torch.from_numpy(self.raw(box)), ranges)
        return self.scaling.apply(x)

    def raw(self, box: Box) -> npt.NDArray[np.float32]:
        """Return the scan's own voxels that a box of the model's grid is made of, turned."""
        with np.errstate(over="ignore"):
            voxels = self._stored(self._window(box)).astype(np.float32)
        voxels = voxels if voxels.ndim == 4 else voxels[None]
        return np.ascontiguousarray(self.reorientation.apply(voxels))

    def ahead(self, *boxes: Box) -> None:
        """Begin to read what `read` will be asked for next by this thread."""
        wanted = [self._keys(self._window(box)) for box in boxes]
        with self._lock:
            self._ahead[threading.get_ident()] = {key for *_, keys in wanted for key in keys}
            self._drop()
            for axis, depth, keys in wanted:
                for key in keys:
                    self._start(key, axis, depth)

    def close(self) -> None:
        """End the reading thread."""
        with self._lock:
            reader, self._reader = self._reader, None
            for kept in (self._rows, self._current, self._ahead):
                kept.clear()
        if reader is not None:
            reader.shutdown(wait=True, cancel_futures=True)

    # ---- rows of chunks

    def _window(self, box: Box) -> tuple[slice, slice, slice]:
        """Index in the scan's array of what a box of the model's grid is made of."""
        window = [
            self.resampler.window(axis, a, b)
            for axis, (a, b) in enumerate(zip(box.start, box.stop, strict=True))
        ]
        return scan_slices(self.back, self.turned.shape, window)

    def _keys(self, where: tuple[slice, slice, slice]) -> tuple[int, int, list[_Key]]:
        """Rows of chunks, along the axis that is cut most, which cover a part of the array."""
        size = self.array.shape[-3:]
        axis = min(range(3), key=lambda a: (where[a].stop - where[a].start) / size[a])
        depth = _depth(self.array, axis)
        across = tuple((s.start, s.stop) for a, s in enumerate(where) if a != axis)
        rows = range(where[axis].start // depth, -(-where[axis].stop // depth))
        return axis, depth, [(axis, row, across) for row in rows]

    def _stored(self, where: tuple[slice, slice, slice]) -> npt.NDArray[Any]:
        axis, depth, keys = self._keys(where)
        with self._lock:
            self._current[threading.get_ident()] = set(keys)
            self._drop()
            reading = [self._start(key, axis, depth) for key in keys]
        try:
            rows = [one.result() for one in reading]
        except BaseException:
            with self._lock:  # whoever tries again must read again
                for key in keys:
                    self._rows.pop(key, None)
            raise
        dim = rows[0].ndim - 3 + axis
        joined = rows[0] if len(rows) == 1 else np.concatenate(rows, axis=dim)
        first = keys[0][1] * depth
        cut = [slice(None)] * joined.ndim
        cut[dim] = slice(where[axis].start - first, where[axis].stop - first)
        return joined[tuple(cut)]

    def _drop(self) -> None:
        """Let go of rows that no thread needs; under the lock."""
        needed = set().union(*self._current.values(), *self._ahead.values())
        for key in self._rows.keys() - needed:
            del self._rows[key]

    def _start(self, key: _Key, axis: int, depth: int) -> Future[npt.NDArray[Any]]:
        """Return a row that is read already, or begin to; under the lock."""
        if key not in self._rows:
            if self._reader is None:
                self._reader = ThreadPoolExecutor(1, thread_name_prefix="attention3d-read")
            ranges = [slice(a, b) for a, b in key[2]]
            ranges.insert(axis, slice(key[1] * depth, (key[1] + 1) * depth))
            index = (slice(None),) * (self.array.ndim - 3) + tuple(ranges)
            self._rows[key] = self._reader.submit(lambda: np.asarray(self.array[index]))
        return self._rows[key]


def _depth(array: Any, axis: int) -> int:
    """Planes along an axis that are stored together."""
    chunks = getattr(array, "chunks", None)
    if not chunks:
        return PLAIN_DEPTH
    size = chunks[-3 + axis]
    return int(size[0] if isinstance(size, tuple) else size)
