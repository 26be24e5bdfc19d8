"""DICOM series of slices (and multi-frame files), through pydicom; read only.

A folder is a scan if it holds the slices of one series. Slices are sorted by where they lie
and not by name; a gap, a turn or a shift between them is refused, never papered over.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ...errors import InputError, TimePointNeeded, VolumeFormatError
from ...geometry import Geometry
from ..volume import Volume
from .base import Format, check_index, matched_suffix, reading
from .dicom_slices import Slice, check_stack, slices_of, stack_affine

__all__ = ["DicomFormat", "is_series_folder", "read_series", "series_of"]

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LOOKS = 50
"""Files of a folder that are looked at to tell whether it is a series."""


class DicomFormat(Format):
    """A folder with one series, or any file of a series."""

    name: ClassVar[str] = "dicom"
    suffixes: ClassVar[tuple[str, ...]] = (".dcm",)

    def matches(self, path: Path) -> bool:
        """Whether it is a .dcm file or a folder of DICOM files (a few bytes are read)."""
        return matched_suffix(path, self.suffixes) != "" or is_series_folder(path)

    def read(self, path: Path, *, channel: int | None, time: int | None, lazy: bool) -> Volume:
        """Read a series; see `napari_attention3d.volumes.read_volume`."""
        _pydicom()
        with reading(path, "DICOM series", folder=os.path.isdir(path)) as odd:
            files, name = _files_of_series(path)
            slices = [one for file in files for one in slices_of(file)]
            rows = check_stack(slices, path.name)
            if len(rows[0]) > 1 and time is None:
                what = "images at each place (time points, echoes)"
                raise TimePointNeeded.of(path.name, len(rows[0]), what)
            chosen = check_index(time or 0, len(rows[0]), "time point", path.name)
            if channel is not None:
                check_index(channel, 1, "channel", path.name)
            stack = [row[chosen] for row in rows]
            affine, notes = stack_affine(stack, path.name)
            array = _voxels(stack, path.name)
        geometry = Geometry.from_xyz(array.shape, _LPS @ affine, "mm", True)
        metadata = {"format": "DICOM", "notes": [*notes, *odd]}
        return Volume(array, geometry, name, (), path, metadata)


def read_series(path: Path) -> tuple[list[Slice], Geometry, str]:
    """Slices of a series in the order of its volume's planes, its grid, and what to call it.

    Raises
    ------
    InputError, VolumeFormatError
        As `read_volume` does; also if it has several images at each place.
    """
    _pydicom()
    with reading(path, "DICOM series", folder=os.path.isdir(path)):
        files, name = _files_of_series(path)
        rows = check_stack([one for file in files for one in slices_of(file)], path.name)
        if len(rows[0]) > 1:
            raise InputError(f"{path.name} has {len(rows[0])} images at each place, not one")
        stack = [row[0] for row in rows]
        affine, _ = stack_affine(stack, path.name)
        rows_columns = int(stack[0].data.Rows), int(stack[0].data.Columns)
    grid = Geometry.from_xyz((len(stack), *rows_columns), _LPS @ affine, "mm", True)
    return stack, grid, name


def is_series_folder(path: Path) -> bool:
    """Whether a folder holds a DICOM file among its first few."""
    try:
        if not os.path.isdir(path) or path.suffix.lower() == ".zarr":
            return False
        files = (one for one in sorted(path.iterdir()) if one.is_file())
        return any(_is_dicom(file) for _, file in zip(range(_LOOKS), files, strict=False))
    except OSError:  # a folder that can't be looked into is not known to be one
        return False


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def _pydicom() -> Any:
    if find_spec("pydicom") is None:
        raise InputError(
            'DICOM needs pydicom, which is not installed: pip install "napari-attention3d[dicom]"'
        )
    import pydicom

    return pydicom


def series_of(path: Path) -> str:
    """Unique identifier of the series that a file belongs to."""
    tags = ["SeriesInstanceUID"]
    header = _pydicom().dcmread(path, stop_before_pixels=True, specific_tags=tags)
    return str(header.SeriesInstanceUID)


def _files_of_series(path: Path) -> tuple[list[Path], str]:
    """All files of the series in the folder, and what to call it."""
    folder = path if path.is_dir() else path.parent
    found: dict[str, list[Path]] = {}
    words: dict[str, str] = {}
    for file in sorted(folder.iterdir()):
        if not file.is_file() or not _is_dicom(file):
            continue
        header = _pydicom().dcmread(file, stop_before_pixels=True)
        if "Rows" not in header or "SeriesInstanceUID" not in header:
            continue  # a DICOMDIR, a report
        uid = str(header.SeriesInstanceUID)
        found.setdefault(uid, []).append(file)
        words.setdefault(uid, str(header.get("SeriesDescription", "") or ""))
    if path.is_dir():
        wanted = next(iter(found), "")
        if len(found) > 1:
            each = "; ".join(
                f"{words[uid] or 'no description'}: {len(files)} files, such as {files[0].name}"
                for uid, files in list(found.items())[:6]
            )
            raise InputError(
                f"{path} holds {len(found)} series; choose one by one of its files ({each})"
            )
    else:
        wanted = series_of(path)
    if wanted not in found:
        raise VolumeFormatError(f"{path} holds no DICOM image; check where it comes from")
    return found[wanted], folder.name if path.is_dir() else f"{folder.name} {words[wanted]}".strip()


def _voxels(stack: list[Slice], name: str) -> npt.NDArray[Any]:
    """(Z, Y, X) in the modality's unit (HU for CT): slope and intercept are applied."""
    whole = all(one.slope == 1 and float(one.intercept).is_integer() for one in stack)
    first = stack[0].pixels()
    array = np.empty((len(stack), *first.shape), dtype=np.int32 if whole else np.float32)
    for number, one in enumerate(stack):
        pixels = one.pixels() if number else first
        if pixels.shape != first.shape:
            raise InputError(
                f"{name}: its slices are of {first.shape} and {pixels.shape} pixels; "
                "they are not one scan"
            )
        if whole:
            array[number] = pixels.astype(np.int64) + int(one.intercept)
        else:
            array[number] = pixels * np.float64(one.slope) + one.intercept
    if not whole:
        return array
    low, high = int(array.min()), int(array.max())
    for kind in (np.uint8, np.int16, np.uint16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    return array
