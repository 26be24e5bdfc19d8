"""FreeSurfer's MGH and MGZ files; read only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import InputError, VolumeFormatError
from ...geometry import Geometry
from ..volume import Volume
from .base import Format, check_index, open_stream, raw_voxels, reading, stem

__all__ = ["MgzFormat"]

_OFFSET = 284  # bytes of header before the voxels
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}


class MgzFormat(Format):
    """MGH and its compressed form MGZ."""

    name: ClassVar[str] = "mgz"
    suffixes: ClassVar[tuple[str, ...]] = (".mgz", ".mgh", ".mgh.gz")

    def read(self, path: Path, *, channel: int | None, time: int | None, lazy: bool) -> Volume:
        """Read a file; see `napari_attention3d.volumes.read_volume`."""
        with reading(path, "FreeSurfer file") as odd:
            header, notes = _read_header(path)
            x, y, z, frames = (int(s) for s in header["dims"])
            block = _frame(path, frames, channel, time)
            try:
                grid = Geometry.from_xyz((z, y, x), header.get_affine(), "mm", not notes)
            except InputError as error:
                raise VolumeFormatError(f"{path.name}: {error}") from error
            dtype = np.dtype(_TYPES[int(header["type"])])
            array = raw_voxels(path, (x, y, z, frames), dtype, _OFFSET, lazy=lazy, block=block)
        if array.shape[0] == 1:
            array = array[0]
        metadata = {"format": "MGH", "notes": [*notes, *odd]}
        return Volume(array, grid, stem(path, self.suffixes), (), path, metadata)


def _frame(path: Path, frames: int, channel: int | None, time: int | None) -> int | None:
    """Frame to read; None: all, as channels."""
    if time is not None and channel is not None and frames > 1:
        raise InputError(
            f"{path.name} has one axis of {frames} frames; choose by time or by channel, not both"
        )
    if time is not None and (time > 0 or channel is None):
        return check_index(time, frames, "time point", path.name)
    return None if channel is None else check_index(channel, frames, "channel", path.name)


def _read_header(path: Path) -> tuple[Any, list[str]]:
    """Header as nibabel parses it, and notes on what it lacks."""
    from nibabel.freesurfer.mghformat import MGHHeader

    with open_stream(path) as file:
        block = file.read(_OFFSET)
    if len(block) < _OFFSET or int.from_bytes(block[:4], "big") != 1:
        raise VolumeFormatError(
            f"{path.name} is not a FreeSurfer file, or cut short in its header; copy it again"
        )
    header = MGHHeader(block[: MGHHeader._hdrdtype.itemsize])
    dims = [int(s) for s in header["dims"]]
    if any(s <= 0 for s in dims):
        raise InputError(f"{path.name} is empty: its shape is {tuple(dims)}; check its source")
    if int(header["type"]) not in _TYPES:
        raise InputError(
            f"{path.name} has voxels of FreeSurfer's type {int(header['type'])}; integers or "
            "floats are needed: convert it with mri_convert -odt float"
        )
    if math.prod(dims) > 2**48:
        raise VolumeFormatError(f"{path.name} is damaged: its shape is {tuple(dims)}")
    oriented = int.from_bytes(block[28:30], "big") > 0  # goodRASFlag
    note = "the header does not say how the scan is oriented; FreeSurfer's coronal was assumed"
    return header, [] if oriented else [note]
