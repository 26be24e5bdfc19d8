"""TIFF stacks: ImageJ, OME and plain; tifffile does the bytes.

ImageJ's and OME's headers hold voxel sizes but no directions. What they can't hold (an
oblique affine, a channel's name, provenance) goes as JSON into ImageJ's Info, OME's
Description or the plain description, and is believed on reading as long as shape and
voxel size still agree with it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ...errors import InputError, TimePointNeeded, VolumeFormatError
from ...geometry import Geometry
from ..atomic import atomic_path
from ..volume import Volume
from .about import describe, described
from .base import (
    Format,
    check_index,
    check_voxel_type,
    matched_suffix,
    reading,
    stem,
    storable,
)
from .tiff_scale import Scale, ome_pixels, read_scale

__all__ = ["TiffFormat"]

_OURS = "napari-attention3d"
_RGB, _YCBCR = 2, 6  # TIFF's codes of PhotometricInterpretation
_IMAGEJ_TYPES = ("uint8", "uint16", "int16", "float32")
_OME_TYPES = (*_IMAGEJ_TYPES, "int8", "int32", "uint32", "float64")
_IMAGEJ_LIMIT = 2**32 - 2**25  # bytes; beyond that only BigTIFF
_MAX_RATIO = 1 << 16  # no compression of scans comes near it
_MM = {"mm": 1.0, "um": 1e-3}


class TiffFormat(Format):
    """TIFF stacks."""

    name: ClassVar[str] = "tiff"
    suffixes: ClassVar[tuple[str, ...]] = (".ome.tiff", ".ome.tif", ".tiff", ".tif")
    writable: ClassVar[bool] = True

    def read(self, path: Path, *, channel: int | None, time: int | None, lazy: bool) -> Volume:
        """Read a file; see `napari_attention3d.volumes.read_volume`."""
        import tifffile

        with reading(path, "TIFF file") as odd, tifffile.TiffFile(path) as file:
            series = file.series[0]
            _check_whole(file, series, path)
            check_voxel_type(series.dtype, path.name)
            layout = _layout(series, path.name, channel, time)
            if len(file.series) > 1:
                layout.notes.append(f"the file holds {len(file.series)} stacks; the first was read")
            array = _voxels(path, file, series, layout, lazy)
            pixels, names, about = _described(file)
            scale = read_scale(file, pixels)
        grid, notes = _grid(array.shape[-3:], scale, about)
        names = tuple(str(n) for n in about.get("channel_names", names))
        if len(names) != layout.channels:
            names = ()
        if layout.channel is not None:
            names = names[layout.channel : layout.channel + 1]
        metadata: dict[str, Any] = {
            "format": f"TIFF ({series.kind})",
            "notes": [*layout.notes, *notes, *odd],
        }
        metadata |= described(about)
        return Volume(array, grid, stem(path, self.suffixes), names, path, metadata)

    def write(self, path: Path, volume: Volume, *, like: Volume | None) -> None:
        """Write a file; see `napari_attention3d.volumes.write_volume`."""
        import tifffile

        array = storable(volume)
        if array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        about = _about(volume)
        if matched_suffix(path, (".ome.tif", ".ome.tiff")):
            array, options = _as_ome(array, volume, about)
        elif array.dtype.name in _IMAGEJ_TYPES and array.nbytes < _IMAGEJ_LIMIT:
            array, options = _as_imagej(array, volume, about)
        else:
            array, options = _as_plain(array, volume, about)
        with atomic_path(path) as temporary:
            tifffile.imwrite(temporary, array, photometric="minisblack", **options)


# ---- reading: is it all there


def _check_whole(file: Any, series: Any, path: Path) -> None:
    """Raise VolumeFormatError if the file is cut short or claims more than it can hold."""
    size = path.stat().st_size
    wanted = math.prod(series.shape) * series.dtype.itemsize
    short = f"{path.name} is cut short or damaged: "
    if wanted > size * _MAX_RATIO:
        raise VolumeFormatError(
            f"{short}its header speaks of {wanted:,} bytes of voxels, the file has {size:,} bytes; "
            "copy it again"
        )
    if series.dataoffset is not None:
        ends = [series.dataoffset + wanted]
    else:
        ends = [
            offset + count
            for page in series.pages
            if page is not None
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
        ]
    if max(ends, default=size + 1) > size:
        raise VolumeFormatError(
            f"{short}its voxels reach beyond its end ({size:,} bytes); copy it again"
        )
    if (file.is_shaped and series.kind != "shaped") or (file.is_ome and series.kind != "ome"):
        raise VolumeFormatError(f"{short}its pages are not those that its header names")
    if _next_page(file) != 0:
        raise VolumeFormatError(f"{short}only {len(file.pages)} pages are there; copy it again")
    if file.is_ome:
        pixels = ome_pixels(file.ome_metadata)[0]
        told = math.prod(int(pixels.get(f"Size{axis}", 1)) for axis in "XYZCT")
        if math.prod(series.shape) < told:
            raise VolumeFormatError(
                f"{short}it holds {math.prod(series.shape):,} of {told:,} voxels; copy it again"
            )
    if file.is_imagej:
        told = int((file.imagej_metadata or {}).get("images", 1))
        samples = series.shape[-1] if series.axes.endswith("S") else 1
        held = math.prod(series.shape[:-2]) // samples if samples == 1 else told
        if series.kind == "imagej" and held < told:
            raise VolumeFormatError(f"{short}{held} of {told} pages are there; copy it again")


def _next_page(file: Any) -> int:
    """Where the last page that was found says that another one begins; 0: nowhere."""
    tiff, handle = file.tiff, file.filehandle
    offset = file.pages[-1].offset
    handle.seek(offset)
    (tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
    handle.seek(offset + tiff.tagnosize + tags * tiff.tagsize)
    (following,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
    return int(following)


# ---- reading: axes


@dataclass(frozen=True)
class _Layout:
    """Which axis of the stored array is what (None: it has no such axis) and what to take."""

    z: int
    t: int | None
    c: int | None
    time: int
    channel: int | None
    channels: int
    notes: list[str] = field(default_factory=list)


def _layout(series: Any, name: str, channel: int | None, time: int | None) -> _Layout:
    axes, shape = list(series.axes), series.shape
    if 0 in shape:
        raise InputError(f"{name} is empty: its shape is {tuple(shape)}; check its source")
    if "S" in axes and shape[axes.index("S")] > 1:
        if series.keyframe.photometric in (_RGB, _YCBCR):
            raise InputError(
                f"{name} is a colour (RGB) picture, a scan with one value per voxel is needed; "
                "split its channels first (in ImageJ: Image > Color > Split Channels)"
            )
        if "C" not in axes:
            axes[axes.index("S")] = "C"
    notes = _name_unknown(axes, shape, time)
    where = {a: i for i, a in enumerate(axes) if shape[i] > 1 or a in "YX"}
    times = shape[where["T"]] if "T" in where else 1
    channels = shape[where["C"]] if "C" in where else 1
    strange = set(where) - set("TZCYX")
    if strange:
        raise InputError(
            f"{name} has axes {series.axes} of sizes {tuple(shape)}; only time, channel, z, y and "
            "x are understood: split it first"
        )
    if "Z" not in where:
        _refuse_flat(name, times, channels)
    if times > 1 and time is None:
        raise TimePointNeeded.of(name, times)
    chosen = check_index(time or 0, times, "time point", name)
    if channel is not None:
        check_index(channel, channels, "channel", name)
    return _Layout(where["Z"], where.get("T"), where.get("C"), chosen, channel, channels, notes)


def _refuse_flat(name: str, times: int, channels: int) -> None:
    if times > 1:
        raise InputError(
            f"{name} is a series of {times} 2D pictures in time, a 3D scan is needed; if they are "
            "slices, say so in ImageJ (Image > Properties: exchange slices and frames)"
        )
    if channels > 1:
        raise InputError(
            f"{name} is a 2D picture with {channels} channels, a 3D scan is needed; if they are "
            "slices, say so in ImageJ (Image > Properties: exchange slices and channels)"
        )
    raise InputError(f"{name} is a 2D picture, a 3D scan is needed; save the whole stack")


def _name_unknown(axes: list[str], shape: tuple[int, ...], time: int | None) -> list[str]:
    """Give axes that the file does not name (tifffile's Q and I) a meaning, in place."""
    unknown = [i for i, a in enumerate(axes) if a in "QI" and shape[i] > 1]
    notes = []
    if unknown and "Z" not in axes:
        axes[unknown.pop()] = "Z"
        notes.append("the file does not name its axes; its pages were taken as slices (z)")
    if unknown:
        meaning = "T" if time is not None else "C"
        if meaning not in axes:
            axes[unknown.pop()] = meaning
            word = "points in time" if meaning == "T" else "channels"
            notes.append(f"an axis without name was taken as {word}")
    return notes


def _voxels(path: Path, file: Any, series: Any, layout: _Layout, lazy: bool) -> npt.NDArray[Any]:
    """(Z, Y, X) or (C, Z, Y, X), native byte order; mapped where the file allows."""
    dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
    if lazy and series.dataoffset is not None and dtype.isnative:
        stored = np.memmap(path, dtype, "r", offset=series.dataoffset, shape=series.shape)
    else:
        stored = series.asarray()
        stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    index: list[Any] = [0] * stored.ndim  # axes of size 1 go
    index[layout.z] = index[series.axes.index("Y")] = index[series.axes.index("X")] = slice(None)
    if layout.t is not None:
        index[layout.t] = layout.time
    keep = layout.c is not None and layout.channel is None
    if layout.c is not None:
        index[layout.c] = slice(None) if keep else layout.channel
    array: npt.NDArray[Any] = stored[tuple(index)]
    whole = [layout.z, series.axes.index("Y"), series.axes.index("X")]
    if keep and layout.c is not None:
        whole.insert(0, layout.c)
    array = array.transpose([sorted(whole).index(axis) for axis in whole])
    if not isinstance(array, np.memmap) and array.nbytes < stored.nbytes:
        array = array.copy()  # lets go of what was not asked for
    return array


# ---- reading: where it lies


def _described(file: Any) -> tuple[dict[str, str] | None, tuple[str, ...], dict[str, Any]]:
    """OME's Pixels attributes, channel names, and our own JSON where the file has it."""
    if file.is_ome and file.ome_metadata:
        pixels, names, text = ome_pixels(file.ome_metadata)
        return pixels, names, _our_json(text)
    if file.is_imagej:
        return None, (), _our_json((file.imagej_metadata or {}).get("Info", ""))
    if file.is_shaped and file.shaped_metadata:
        about = file.shaped_metadata[0].get(_OURS, {})
        return None, (), about if isinstance(about, dict) else {}
    return None, (), {}


def _our_json(text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or f'"{_OURS}"' not in text:
        return {}
    try:
        about = json.loads(text)[_OURS]
    except (ValueError, KeyError, TypeError):
        return {}  # someone else's text that happens to name us
    return about if isinstance(about, dict) else {}


def _grid(
    shape: tuple[int, ...], scale: Scale, about: Mapping[str, Any]
) -> tuple[Geometry, list[str]]:
    told = Geometry.from_spacing(shape, scale.spacing, unit=scale.unit)
    notes = [*scale.notes]
    if "geometry" in about:
        kept = _kept_geometry(about["geometry"])
        if kept is not None and _agrees(kept, told, scale):
            return kept, []
        notes.append("the file was changed after it was saved: its position was not restored")
    elif scale.unit == "pixel":
        notes.append("the file tells no voxel size in a unit of length")
    return told, notes


def _kept_geometry(entry: Any) -> Geometry | None:
    try:
        z, y, x = (int(s) for s in entry["shape"])
        affine = np.asarray(entry["affine"], dtype=float)
        return Geometry((z, y, x), affine, str(entry["unit"]), bool(entry["anatomical"]))
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _agrees(kept: Geometry, told: Geometry, scale: Scale) -> bool:
    """Whether what we once stored still fits what the file's own fields say."""
    if kept.shape != told.shape:
        return False
    if scale.unit in _MM and kept.unit in _MM:
        told = told.with_unit(kept.unit)
    axes = slice(0 if scale.knows_z else 1, 3)
    return bool(np.allclose(kept.spacing[axes], told.spacing[axes], rtol=1e-3))


# ---- writing


def _about(volume: Volume) -> dict[str, Any]:
    """What TIFF has no field for."""
    grid = volume.geometry
    place = {
        "shape": list(grid.shape),
        "affine": grid.affine.tolist(),
        "unit": grid.unit,
        "anatomical": grid.anatomical,
    }
    return {"geometry": place, **describe(volume)}


_Written = tuple[npt.NDArray[Any], dict[str, Any]]


def _as_imagej(array: npt.NDArray[Any], volume: Volume, about: Mapping[str, Any]) -> _Written:
    z, y, x = volume.geometry.spacing
    meta: dict[str, Any] = {
        "axes": "ZYX",
        "spacing": z,
        "unit": volume.geometry.unit,
        "Info": json.dumps({_OURS: about}),
    }
    if array.ndim == 4:
        array = array.transpose(1, 0, 2, 3)  # ImageJ's order
        meta |= {"axes": "ZCYX", "mode": "composite"}
    return array, {"imagej": True, "resolution": (1 / x, 1 / y), "metadata": meta}


def _as_ome(array: npt.NDArray[Any], volume: Volume, about: Mapping[str, Any]) -> _Written:
    if array.dtype.name not in _OME_TYPES:
        raise InputError(
            f"OME-TIFF can't hold voxels of type {array.dtype}; save as .tif or .nii.gz instead"
        )
    meta: dict[str, Any] = {
        "axes": "CZYX"[4 - array.ndim :],
        "Description": json.dumps({_OURS: about}),
    }
    if volume.geometry.unit in _MM:
        unit = {"mm": "mm", "um": "µm"}[volume.geometry.unit]
        for axis, size in zip("ZYX", volume.geometry.spacing, strict=True):
            meta |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    if volume.channel_names and array.ndim == 4:
        meta["Channel"] = {"Name": list(volume.channel_names)}
    return array, {"ome": True, "metadata": meta}


def _as_plain(array: npt.NDArray[Any], volume: Volume, about: Mapping[str, Any]) -> _Written:
    """For what ImageJ can't open: wide integers, double precision, more than 4 GB."""
    options: dict[str, Any] = {"metadata": {"axes": "CZYX"[4 - array.ndim :], _OURS: dict(about)}}
    if volume.geometry.unit in _MM:
        _, y, x = (s * _MM[volume.geometry.unit] / 10 for s in volume.geometry.spacing)  # cm
        options |= {"resolution": (1 / x, 1 / y), "resolutionunit": "CENTIMETER"}
    return array, options
