"""NIfTI-1 and NIfTI-2, single files (.nii, .nii.gz).

The voxels are read here; nibabel parses and makes headers. nibabel is imported when a
file is touched, so that listing the formats costs nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ...errors import InputError, TimePointNeeded, VolumeFormatError
from ..atomic import atomic_path
from ..volume import Volume
from .about import describe, described
from .base import (
    Format,
    check_index,
    check_voxel_type,
    open_stream,
    raw_voxels,
    reading,
    same_grid,
    stem,
    storable,
)
from .nifti_form import Form, read_form, write_form

__all__ = ["NiftiFormat"]

_COMMENT = 6  # NIfTI's code for an extension that holds plain text
_OURS = "napari-attention3d"
_SECONDS = ("sec", "msec", "usec")
_LARGEST_SIDE = 32767  # NIfTI-1 counts voxels with 16 bits


class NiftiFormat(Format):
    """NIfTI-1 and NIfTI-2."""

    name: ClassVar[str] = "nifti"
    suffixes: ClassVar[tuple[str, ...]] = (".nii.gz", ".nii")
    writable: ClassVar[bool] = True

    def read(self, path: Path, *, channel: int | None, time: int | None, lazy: bool) -> Volume:
        """Read a file; see `napari_attention3d.volumes.read_volume`."""
        with reading(path, "NIfTI file") as odd:
            header = _read_header(path)
            plan = _plan(header, path, channel, time)
            check_voxel_type(header.get_data_dtype(), path.name)
            form = read_form(header, plan.shape, path.name)
            array = _read_voxels(path, header, plan, lazy)
            about = _our_extension(header)
        metadata: dict[str, Any] = {
            "format": "NIfTI-2" if header["sizeof_hdr"] == 540 else "NIfTI-1",
            "notes": [*form.notes, *plan.notes, *odd],
            "nifti": form.record(),
        }
        metadata |= described(about)
        names = tuple(str(n) for n in about.get("channel_names", ()))
        if plan.channel is not None:
            names = names[plan.channel : plan.channel + 1]
        return Volume(array, form.geometry, stem(path, self.suffixes), names, path, metadata)

    def write(self, path: Path, volume: Volume, *, like: Volume | None) -> None:
        """Write a file; see `napari_attention3d.volumes.write_volume`."""
        import nibabel

        array = storable(volume)
        if array.dtype == np.longdouble:
            array = array.astype(np.float64)
        form = _form_to_keep(volume, like)
        wide = max(array.shape) > _LARGEST_SIDE or (form is not None and form["version"] == 2)
        kind = nibabel.Nifti2Image if wide else nibabel.Nifti1Image
        image = kind(array.T, None, dtype=array.dtype)
        image.header.set_data_dtype(array.dtype)
        write_form(image.header, volume.geometry, form)
        about = describe(volume)
        if about:
            text = json.dumps({_OURS: about}, ensure_ascii=True).encode()
            image.header.extensions.append(nibabel.nifti1.Nifti1Extension(_COMMENT, text))
        with atomic_path(path) as temporary:
            image.to_filename(temporary)


def _form_to_keep(volume: Volume, like: Volume | None) -> dict[str, Any] | None:
    """The header fields of the scan that a volume was made from, if the grid is the same."""
    for one in (volume, like):
        record = one.metadata.get("nifti") if one is not None else None
        if record and same_grid(Form.recorded_geometry(record), volume.geometry):
            return dict(record)
    return None


def _our_extension(header: Any) -> dict[str, Any]:
    for extension in header.extensions:
        if extension.get_code() != _COMMENT:
            continue
        content = extension.get_content()
        text = content.decode(errors="replace") if isinstance(content, bytes) else str(content)
        text = text.rstrip("\0 ")
        if f'"{_OURS}"' in text:
            try:
                about = json.loads(text)[_OURS]
            except (ValueError, KeyError, TypeError):
                return {}  # someone else's text that happens to name us
            return about if isinstance(about, dict) else {}
    return {}


# ---- header


def _read_header(path: Path) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    with open_stream(path) as file:
        start = file.read(4)
    size = {int.from_bytes(start, "little"), int.from_bytes(start, "big")}
    if len(start) < 4 or not size & {348, 540}:
        raise VolumeFormatError(
            f"{path.name} is not a NIfTI file (its header has another size); check where it comes "
            "from"
        )
    with open_stream(path) as file:
        header = (Nifti2Header if 540 in size else Nifti1Header).from_fileobj(file)
    magic = bytes(header["magic"])[:3]
    if magic not in (b"n+1", b"n+2"):
        raise VolumeFormatError(
            f"{path.name} is only the header of a two-file or older format; convert it to a single "
            ".nii or .nii.gz file"
        )
    return header


# ---- axes


@dataclass(frozen=True)
class _Plan:
    """Which voxels to take. `shape` is (X, Y, Z); the file's further axes are (time, channel)."""

    shape: tuple[int, int, int]
    further: tuple[int, int]  # points in time, channels
    time: int
    channel: int | None  # None: all
    notes: list[str]


def _plan(header: Any, path: Path, channel: int | None, time: int | None) -> _Plan:
    shape = [int(s) for s in header.get_data_shape()]
    if any(s <= 0 for s in shape):
        raise InputError(f"{path.name} is empty: its shape is {tuple(shape)}; check its source")
    if len(shape) < 3:
        raise InputError(f"{path.name} is a 2D picture, shape {tuple(shape)}; a 3D scan is needed")
    while len(shape) < 5:
        shape.append(1)
    if any(s > 1 for s in shape[5:]):
        raise InputError(
            f"{path.name} has {len(shape)} axes, shape {tuple(shape)}; at most 5 (x, y, z, time, "
            "channel) are supported: split it first"
        )
    times, channels = shape[3], shape[4]
    notes: list[str] = []
    if times > 1 and channels == 1 and not _is_time(header, channel, time):
        times, channels = 1, times
        notes.append(f"4th axis read as {channels} channels")
    if times > 1 and time is None:
        hint = "" if channels > 1 else "; if they are channels, choose one with --channel"
        raise TimePointNeeded.of(path.name, times, hint=hint)
    chosen = check_index(time or 0, times, "time point", path.name)
    if channel is not None:
        check_index(channel, channels, "channel", path.name)
    x, y, z = shape[:3]
    return _Plan((x, y, z), (times, channels), chosen, channel, notes)


def _is_time(header: Any, channel: int | None, time: int | None) -> bool:
    """Whether the 4th axis is time: what the person asks for decides, then the header."""
    if time is not None:
        return True
    if channel is not None:
        return False
    try:
        return header.get_xyzt_units()[1] in _SECONDS
    except KeyError:
        return False


# ---- voxels


def _read_voxels(path: Path, header: Any, plan: _Plan, lazy: bool) -> npt.NDArray[Any]:
    """(Z, Y, X) or (C, Z, Y, X), scaled as the header says."""
    offset = header.get_data_offset() or header.single_vox_offset
    times, channels = plan.further
    block = None
    if channels == 1 or plan.channel is not None:
        block = (plan.channel or 0) * times + plan.time
    shape = (*plan.shape, times * channels)
    array = raw_voxels(path, shape, header.get_data_dtype(), offset, lazy=lazy, block=block)
    if block is None and times > 1:
        array = array[plan.time :: times]
    array = _scaled(array, header)
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    return array[0] if array.shape[0] == 1 else array


def _scaled(array: npt.NDArray[Any], header: Any) -> npt.NDArray[Any]:
    """Values by the header's slope and intercept; float32 where that is exact enough."""
    slope, inter = header.get_slope_inter()
    slope = 1.0 if slope is None or slope == 0 else float(slope)
    inter = 0.0 if inter is None else float(inter)
    if slope == 1.0 and inter == 0.0:
        return array
    narrow = array.dtype.itemsize <= 2 or array.dtype == np.float32
    result: npt.NDArray[Any] = array.astype(np.float32 if narrow else np.float64)
    np.multiply(result, slope, out=result)
    np.add(result, inter, out=result)
    return result
