"""One level of an OME-Zarr, seen as (Z, Y, X) or (C, Z, Y, X) whatever its axes are."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from ...errors import (
    Attention3DError,
    InputError,
    TimePointNeeded,
    VolumeFormatError,
    first_line,
)
from .base import check_index, check_voxel_type
from .ome_zarr_parse import Multiscale

__all__ = ["StoredArray", "open_level"]

_MANY, _TOO_MANY = 1 << 14, 1 << 18
_LARGE_BLOCK, _MOST_MERGED = 1 << 26, 64
_LARGEST_CHUNK = 1 << 32
_SAFE_CHUNK = 1 << 28
_LARGE = 1 << 30
_MARKS = ("zarr.json", ".zarray", ".zattrs")
_RUNS_CODE = ("pickle",)
"""Codecs of zarr v2 that run what the file says."""


class StoredArray:
    """A zarr array with its axes in our order; voxels are read when it is sliced.

    Parameters
    ----------
    array
        zarr.Array.
    order
        Which of its axes are ours, in our order.
    fixed
        Index taken along each of the others.
    name
        Of the file, for messages.
    channels
        How many the file has, whether or not one was chosen.
    """

    def __init__(
        self, array: Any, order: Sequence[int], fixed: dict[int, int], name: str, channels: int
    ) -> None:
        self.channels = channels
        self._array = array
        self._order = tuple(order)
        self._fixed = dict(fixed)
        self._name = name
        self.shape = tuple(int(array.shape[a]) for a in order)
        self.chunks = tuple(int(array.chunks[a]) for a in order)
        self.ndim = len(self.shape)
        stored = np.dtype(array.dtype)
        self.dtype = np.dtype(np.uint8) if stored.kind == "b" else stored.newbyteorder("=")

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read; integers and slices with any step.

        Raises
        ------
        VolumeFormatError
            If a chunk is damaged.
        """
        entries = index if isinstance(index, tuple) else (index,)
        entries += (slice(None),) * (self.ndim - len(entries))
        source: list[Any] = [self._fixed.get(a, slice(None)) for a in range(self._array.ndim)]
        after: list[Any] = []
        for axis, entry, size in zip(self._order, entries, self.shape, strict=True):
            source[axis], then = _forwards(entry, size)
            after.append(then)
        try:
            _check_whole(self._array, source)
            block: npt.NDArray[Any] = np.asarray(self._array[tuple(source)])
        except Attention3DError:
            raise
        except Exception as error:
            raise VolumeFormatError(
                f"{self._name}: voxels can't be read ({first_line(error)}); a chunk is damaged or "
                "gone: copy the scan again"
            ) from error
        stored = sorted(self._order)
        block = block.transpose([stored.index(axis) for axis in self._order])
        block = block[tuple(after)]
        return block.astype(self.dtype, copy=False)

    def lazy(self) -> Any:
        """Return a dask array whose blocks are chunks, or a few where there are very many.

        Raises
        ------
        VolumeFormatError
            If there are too many chunks to handle.
        """
        import dask.array

        blocks = [min(c, n) for c, n in zip(self.chunks, self.shape, strict=True)]
        size = math.prod(blocks) * self.dtype.itemsize
        merged = 1
        # dask plans each block, and reads it whole even if one voxel is wanted
        while self._count(blocks) > _MANY and size < _LARGE_BLOCK and merged < _MOST_MERGED:
            axis = max(range(self.ndim), key=lambda a: -(-self.shape[a] // blocks[a]))
            blocks[axis] *= 2
            size, merged = size * 2, merged * 2
        if self._count(blocks) > _TOO_MANY:
            raise VolumeFormatError(
                f"{self._name}: its voxels {self.shape} lie in {self._count(self.chunks):,} chunks "
                f"of {self.chunks}; convert it with larger chunks"
            )
        nothing = np.empty((0,) * self.ndim, self.dtype)
        return dask.array.from_array(
            self, chunks=tuple(blocks), name=False, fancy=False, asarray=True, meta=nothing
        )

    def _count(self, blocks: Sequence[int]) -> int:
        return math.prod(-(-n // b) for n, b in zip(self.shape, blocks, strict=True))

    def whole(self) -> npt.NDArray[Any]:
        """Read all of it.

        Raises
        ------
        VolumeFormatError
            If it does not fit into the memory that is free.
        """
        wanted, free = self.size * self.dtype.itemsize, psutil.virtual_memory().available
        if wanted > free:
            raise VolumeFormatError(
                f"{self._name} has {wanted:,} bytes of voxels, {free:,} bytes of memory are free; "
                "read it lazily, or a channel of it"
            )
        return self[()]


def _forwards(entry: Any, size: int) -> tuple[slice, Any]:
    """Slice with a positive step to read, and what to do with the axis afterwards."""
    if not isinstance(entry, slice):
        at = range(size)[int(entry)]
        return slice(at, at + 1), 0
    taken = range(size)[entry]
    if len(taken) == 0:
        return slice(0, 0), slice(None)
    if taken.step > 0:
        return slice(taken[0], taken[-1] + 1, taken.step), slice(None)
    return slice(taken[-1], taken[0] + 1, -taken.step), slice(None, None, -1)


def _check_whole(array: Any, box: Sequence[slice | int]) -> None:
    """Raise EOFError if a chunk was cut short: Blosc itself reads on beyond its end.

    Parameters
    ----------
    array
        zarr.Array; one that is compressed otherwise, or in shards, is not looked at.
    box
        What will be read of it.
    """
    if array.shards is not None or "Blosc" not in {type(c).__name__[:5] for c in array.compressors}:
        return
    folder = Path(array.store.root) / array.path
    touched = []
    for part, size, step in zip(box, array.shape, array.chunks, strict=True):
        taken = range(size)[part] if isinstance(part, slice) else range(part, part + 1)
        touched.append(range(taken[0] // step, taken[-1] // step + 1) if len(taken) else range(0))
    for corner in itertools.product(*touched):
        with (
            suppress(FileNotFoundError),
            open(folder / array.metadata.encode_chunk_key(corner), "rb") as file,
        ):
            head = file.read(16)
            if (
                len(head) < 16
                or int.from_bytes(head[12:], "little") > os.fstat(file.fileno()).st_size
            ):
                raise EOFError(f"chunk {'.'.join(map(str, corner))} is cut short")


def open_level(
    folder: Path,
    image: Multiscale,
    index: int,
    name: str,
    *,
    channel: int | None = None,
    time: int | None = None,
) -> StoredArray:
    """Open a level; nothing but its description is read.

    Parameters
    ----------
    folder
        The group.
    index
        0 is the finest.
    channel, time
        As for `read_volume`.

    Raises
    ------
    VolumeFormatError
        If it is missing, or its description is damaged, absurd or unsafe.
    InputError
        If its voxels are not real numbers, or a channel or a time point has to be chosen
        or does not exist.
    """
    place = folder / image.levels[index].path
    array = _open(place, name)
    if array.ndim != len(image.axes):
        raise VolumeFormatError(
            f"{name}: level {image.levels[index].path} has {array.ndim} axes, its description "
            f"names {len(image.axes)}; correct or convert it"
        )
    if 0 in array.shape:
        raise InputError(f"{name} is empty: its shape is {array.shape}; check its source")
    if np.dtype(array.dtype).kind != "b":
        check_voxel_type(np.dtype(array.dtype), name)
    _check_size(array, place, name, ours=bool(image.ours))
    at = {letter: axis for axis, letter in enumerate(image.axes)}
    times = array.shape[at["t"]] if "t" in at else 1
    channels = array.shape[at["c"]] if "c" in at else 1
    if times > 1 and time is None:
        raise TimePointNeeded.of(name, times)
    fixed = {}
    chosen = check_index(time or 0, times, "time point", name)
    if "t" in at:
        fixed[at["t"]] = chosen
    if channel is not None:
        check_index(channel, channels, "channel", name)
    order = [at[a] for a in "zyx"]
    if "c" in at:
        if channel is None and channels > 1:
            order.insert(0, at["c"])
        else:
            fixed[at["c"]] = channel or 0
    return StoredArray(array, order, fixed, name, channels)


def _open(path: Path, name: str) -> Any:
    import zarr

    if (path / "zarr.json").is_file():
        return zarr.open_array(store=str(path), mode="r", zarr_format=3)
    if not (path / ".zarray").is_file():
        raise VolumeFormatError(
            f"{name}: the array {path.name} is missing (no zarr.json or .zarray in it); copy it "
            "again"
        )
    _refuse_code(path / ".zarray", name)
    return zarr.open_array(store=str(path), mode="r", zarr_format=2)


def _refuse_code(path: Path, name: str) -> None:
    """Raise VolumeFormatError if decoding the voxels would run what the file holds."""
    about = json.loads(path.read_text(encoding="utf-8"))
    codecs = [about.get("compressor"), *(about.get("filters") or [])]
    for codec in codecs:
        if isinstance(codec, dict) and str(codec.get("id")).lower() in _RUNS_CODE:
            raise VolumeFormatError(
                f"{name} stores its voxels as Python objects ({codec['id']}), which could run a "
                "program; get it in another form"
            )


def _check_size(array: Any, folder: Path, name: str, *, ours: bool) -> None:
    """Raise VolumeFormatError if what is described is absurd beside what is there."""
    itemsize = np.dtype(array.dtype).itemsize
    chunk = math.prod(int(c) for c in array.chunks) * itemsize
    whole = math.prod(int(n) for n in array.shape) * itemsize
    if chunk > max(_SAFE_CHUNK, min(8 * whole, _LARGEST_CHUNK)):
        raise VolumeFormatError(
            f"{name}: its chunks {tuple(array.chunks)} take {chunk:,} bytes each, its voxels "
            f"{tuple(array.shape)} take {whole:,}; convert it with chunks of a few megabytes"
        )
    # Chunks of nothing but the fill value need not be there; an empty mask has none.
    if whole > _LARGE and not ours and not any(one.name not in _MARKS for one in folder.iterdir()):
        raise VolumeFormatError(
            f"{name} has {whole:,} bytes of voxels by its description, but none of its chunks is "
            "there; copy it again"
        )
