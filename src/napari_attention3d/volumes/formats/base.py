"""What all formats share: the interface, checks, and reading raw voxels safely."""

from __future__ import annotations

import gzip
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ...errors import Attention3DError, InputError, VolumeFormatError, first_line
from ...geometry import Geometry
from ..volume import Volume

__all__ = [
    "Format",
    "check_index",
    "check_voxel_type",
    "is_gzip",
    "matched_suffix",
    "open_stream",
    "raw_voxels",
    "reading",
    "same_grid",
    "stem",
    "storable",
]

_GZIP_RATIO = 1040
"""Deflate never packs tighter than 1 : 1032."""
_CHUNK = 1 << 24
_LOGGERS = ("nibabel.global", "tifffile")
_MOST_NOTES = 4


class Format(ABC):
    """One file format.

    Attributes
    ----------
    name
        Unique, lower case.
    suffixes
        Lower case, with their dots.
    writable
        Whether `write` is supported.
    read_only
        Those of the suffixes that are read but not written.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    writable: ClassVar[bool] = False
    read_only: ClassVar[tuple[str, ...]] = ()

    def matches(self, path: Path) -> bool:
        """Whether the name is of this format (nothing is opened)."""
        return matched_suffix(path, self.suffixes) != ""

    def can_write(self, path: Path) -> bool:
        """Whether a file of this name can be written."""
        return self.writable and self.matches(path) and not matched_suffix(path, self.read_only)

    @abstractmethod
    def read(self, path: Path, *, channel: int | None, time: int | None, lazy: bool) -> Volume:
        """Read a file; see `napari_attention3d.volumes.read_volume`."""

    def write(self, path: Path, volume: Volume, *, like: Volume | None) -> None:
        """Write a file; see `napari_attention3d.volumes.write_volume`."""
        raise InputError(f"{self.name} files can be read but not written; choose another suffix")


def matched_suffix(path: Path, suffixes: Sequence[str]) -> str:
    """Longest of `suffixes` that the name ends with, in any case, or ""."""
    name = path.name.lower()
    fitting = [s for s in suffixes if name.endswith(s) and len(name) > len(s)]
    return max(fitting, key=len, default="")


def stem(path: Path, suffixes: Sequence[str]) -> str:
    """File name without its (double) suffix."""
    suffix = matched_suffix(path, suffixes)
    return path.name[: len(path.name) - len(suffix)] if suffix else path.stem


@contextmanager
def reading(path: Path, kind: str, *, folder: bool = False) -> Iterator[list[str]]:
    """Turn whatever goes wrong in reading a file into one line with the next step.

    Parameters
    ----------
    path
        The file; that it exists, is a file and is not empty is checked first.
    kind
        What it should be ("NIfTI file").
    folder
        Whether the format is a folder instead of a file.

    Yields
    ------
    list of str
        Fills with notes on what nibabel or tifffile found odd in the file; they would
        else print it.

    Raises
    ------
    VolumeFormatError
        For every failure that is not ours already.
    """
    _check_file(path, folder)
    try:
        with _heard() as notes:
            yield notes
    except Attention3DError:
        raise
    except PermissionError as error:
        raise VolumeFormatError(
            f"{path} can't be opened: no permission; change its rights or copy it"
        ) from error
    except MemoryError as error:
        raise VolumeFormatError(
            f"{path.name} does not fit into memory; crop it, or store it uncompressed"
        ) from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise VolumeFormatError(
            f"{path.name} is damaged or cut short ({first_line(error)}); copy it again"
        ) from error
    except Exception as error:
        raise VolumeFormatError(
            f"{path.name} is damaged or not a {kind} ({first_line(error)}); copy it again or "
            "convert it anew"
        ) from error


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect what the libraries log, the first few lines of it, instead of printing it."""
    notes: list[str] = []

    def hear(record: logging.LogRecord) -> bool:
        lines = record.getMessage().strip().splitlines()
        if lines and record.levelno >= logging.WARNING and len(notes) < _MOST_NOTES:
            notes.append(f"odd in the file: {lines[0][:160]}")
        return False

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(hear)
    try:
        yield notes
    finally:
        for logger in loggers:
            logger.removeFilter(hear)


def _check_file(path: Path, folder: bool) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise VolumeFormatError(f"{path} does not exist; check the name") from error
    except OSError as error:
        raise VolumeFormatError(
            f"{path} can't be opened ({error.strerror or error}); check the name and its rights"
        ) from error
    if folder:
        if not path.is_dir():
            raise VolumeFormatError(f"{path} is a file, a folder is expected; unpack it first")
        return
    if path.is_dir():
        raise VolumeFormatError(f"{path} is a folder; choose a file inside it")
    if size == 0:
        raise VolumeFormatError(f"{path.name} is empty (0 bytes); copy it again")


def check_voxel_type(dtype: np.dtype[Any], name: str) -> None:
    """Raise InputError unless voxels are real numbers, one each.

    Parameters
    ----------
    dtype
        As stored in the file.
    name
        Of the file, for the message.
    """
    if dtype.names is not None:
        raise InputError(
            f"{name} is a colour (RGB) picture, a scan with one value per voxel is needed; "
            "convert it to grey values or split its channels first"
        )
    if dtype.kind == "c":
        raise InputError(
            f"{name} has complex voxels ({dtype}), real ones are needed; store its magnitude first"
        )
    if dtype.kind == "b":
        raise InputError(
            f"{name} has voxels of 1 bit ({dtype}), integers or floats are needed; convert it to "
            "8 bit first"
        )
    if dtype.kind not in "iuf":
        raise InputError(
            f"{name} has voxels of type {dtype}, integers or floats are needed; convert it first"
        )


def check_index(index: int, size: int, what: str, name: str) -> int:
    """Return `index` if it exists, else raise InputError naming the choice."""
    if not 0 <= index < size:
        have = f"only {what} 0" if size == 1 else f"{what}s 0 to {size - 1}"
        raise InputError(f"{name} has {have}; there is no {what} {index}")
    return index


# ---- raw voxels


def is_gzip(path: Path) -> bool:
    """Whether the file is compressed, whatever its name says."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_stream(path: Path) -> IO[bytes]:
    """Open for reading, through gzip where the content is compressed."""
    return gzip.open(path, "rb") if is_gzip(path) else open(path, "rb")  # type: ignore[return-value]


def raw_voxels(
    path: Path,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    offset: int,
    *,
    lazy: bool,
    block: int | None = None,
) -> npt.NDArray[Any]:
    """Voxels of a file whose first index runs fastest.

    Parameters
    ----------
    path
        Plain or compressed file.
    shape
        In the file's order, (X, Y, Z, blocks).
    dtype
        As stored; the result has native byte order.
    offset
        Bytes before the first voxel.
    lazy
        Map the file if it is neither compressed nor in foreign byte order.
    block
        Read only this one of the last axis; None reads all.

    Returns
    -------
    numpy.ndarray
        (blocks, Z, Y, X), C-contiguous.

    Raises
    ------
    VolumeFormatError
        If the file can't hold so many voxels; found before memory is taken.
    EOFError, OSError, zlib.error
        If a compressed file is damaged.
    """
    backwards = tuple(int(s) for s in reversed(shape))
    wanted = math.prod(backwards) * dtype.itemsize
    compressed = is_gzip(path)
    have = path.stat().st_size * (_GZIP_RATIO if compressed else 1) - offset
    if wanted > have:
        raise VolumeFormatError(
            f"{path.name} is cut short: its header speaks of {wanted:,} bytes of voxels "
            f"{tuple(shape)}, the file can hold {max(0, have):,} at most; copy it again"
        )
    if block is not None:
        wanted //= backwards[0]
        offset += wanted * block
        backwards = (1, *backwards[1:])
    if lazy and not compressed and dtype.isnative:
        return np.memmap(path, dtype, mode="r", offset=offset, shape=backwards)
    flat = np.empty(wanted, dtype=np.uint8)
    with open_stream(path) as file:
        _skip(file, offset)
        _fill(file, flat, path)
        while compressed and file.read(_CHUNK):
            pass  # to the end: only there gzip checks its sum
    array = flat.view(dtype).reshape(backwards)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array


def _skip(file: IO[bytes], offset: int) -> None:
    while offset > 0:
        step = len(file.read(min(offset, _CHUNK)))
        if step == 0:
            raise EOFError("the file ends before its voxels begin")
        offset -= step


def _fill(file: IO[bytes], flat: npt.NDArray[np.uint8], path: Path) -> None:
    view, at = memoryview(flat.data), 0
    while at < len(flat):
        got = file.readinto(view[at : at + _CHUNK])  # type: ignore[attr-defined]
        if not got:
            raise VolumeFormatError(
                f"{path.name} is cut short: {at:,} of {len(flat):,} bytes of voxels are there; "
                "copy it again"
            )
        at += got


# ---- writing


def storable(volume: Volume) -> npt.NDArray[Any]:
    """Return the voxels in native order and in a type that files hold.

    Labels (``metadata["kind"] == "labels"``), booleans and integers of 32 or 64 bits go
    into the smallest unsigned integer that holds them (signed if one is negative).

    Raises
    ------
    InputError
        If the voxels are not real numbers.
    """
    array = np.asarray(volume.array)
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    check_voxel_type(array.dtype, volume.name)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    labels = volume.metadata.get("kind") == "labels"
    if array.dtype.kind == "f":
        if not labels:
            return array.astype(np.float32) if array.dtype.itemsize == 2 else array
        whole = array.astype(np.int64)
        if not np.array_equal(whole, array):
            raise InputError(f"{volume.name}: labels are whole numbers, but some here are not")
        array = whole
    if labels or array.dtype.itemsize >= 4:
        low, high = int(array.min()), int(array.max())
        smallest = np.min_scalar_type(high)
        if low < 0:
            smallest = np.min_scalar_type(min(low, -high - 1))
        array = array.astype(smallest, copy=False)
    return array


def same_grid(a: Geometry, b: Geometry) -> bool:
    """Whether both are the same grid to far less than a voxel."""
    return a.is_close(b, 1e-4)
