"""NRRD and MetaImage (MHA), through SimpleITK: the files of 3D Slicer and ITK.

Their world is Left, Posterior, Superior in mm; ours (z, y, x) towards Superior, Anterior,
Right. What they have no field for (unit, names, provenance) lies as JSON in their headers.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ...errors import InputError, VolumeFormatError
from ...geometry import Geometry
from ..atomic import atomic_path
from ..volume import Volume
from .about import describe, described
from .base import (
    Format,
    check_index,
    check_voxel_type,
    reading,
    stem,
    storable,
)

__all__ = ["MetaImageFormat", "NrrdFormat"]

_KEY = "napari-attention3d"
_PART = 3000
"""MetaImage's reader fails on longer lines."""
_FIELD = 1000
"""Bytes of a field in a NRRD header; its reader crashes on about 1,200."""
_AXES = {b"%d" % n for n in range(1, 11)}
"""Numbers of axes that MetaImage's reader has room for."""
_LONGEST = 2**26
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_RIGHT_ANGLE = 1e-4


class _ItkFormat(Format):
    """What both have in common."""

    writable: ClassVar[bool] = True
    kind: ClassVar[str]

    def read(self, path: Path, *, channel: int | None, time: int | None, lazy: bool) -> Volume:
        """Read a file; see `napari_attention3d.volumes.read_volume`."""
        sitk = _simpleitk()
        with reading(path, self.kind) as odd:
            self.check(path)
            image = sitk.ReadImage(str(path))
            dimension = image.GetDimension()
            if dimension not in (3, 4):
                raise InputError(f"{path.name} has {dimension} axes; a 3D scan is needed")
            about = _about(image)
            array, notes = _voxels(sitk, image, path.name, channel, time)
            geometry = _geometry(image, about, array.shape[-3:])
        metadata: dict[str, Any] = {"format": self.kind, "notes": [*notes, *odd]}
        metadata |= described(about)
        if any(key.startswith("Segment0_") for key in image.GetMetaDataKeys()):
            metadata["kind"] = "labels"  # 3D Slicer's .seg.nrrd
        names = tuple(str(n) for n in about.get("channel_names", ()))
        if channel is not None and len(names) > 1:
            names = names[channel : channel + 1]
        return Volume(array, geometry, stem(path, self.suffixes), names, path, metadata)

    def write(self, path: Path, volume: Volume, *, like: Volume | None) -> None:
        """Write a file, compressed; see `napari_attention3d.volumes.write_volume`."""
        sitk = _simpleitk()
        array = storable(volume)
        if array.dtype == np.longdouble:
            array = array.astype(np.float64)
        vector = array.ndim == 4
        image = sitk.GetImageFromArray(np.moveaxis(array, 0, -1) if vector else array, vector)
        grid = volume.geometry
        _place(image, grid, volume.name)
        about = {**describe(volume), "unit": grid.unit, "anatomical": grid.anatomical}
        for key, text in self.header(json.dumps(about, ensure_ascii=True)).items():
            image.SetMetaData(key, text)
        with atomic_path(path) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=True)

    def check(self, path: Path) -> None:
        """Refuse what SimpleITK would not survive."""

    def header(self, text: str) -> dict[str, str]:
        """Keys and values that hold our JSON."""
        return {_KEY: text}


class NrrdFormat(_ItkFormat):
    """NRRD (.nrrd; .nhdr with its data beside it is read only)."""

    name: ClassVar[str] = "nrrd"
    kind: ClassVar[str] = "NRRD file"
    suffixes: ClassVar[tuple[str, ...]] = (".nrrd", ".nhdr")
    read_only: ClassVar[tuple[str, ...]] = (".nhdr",)

    def check(self, path: Path) -> None:
        """Refuse long lines that it can't parse: its message about them overruns a buffer."""
        with path.open("rb") as file:
            while line := file.readline(_LONGEST):
                text = line.strip()
                if not text:
                    return  # the voxels follow
                comment = text.startswith(b"#") or b":=" in text[:_FIELD]
                if len(line) > _FIELD and not comment:
                    raise VolumeFormatError(
                        f"{path.name} is damaged (a line of its header has more than {_FIELD} "
                        "characters); copy it again"
                    )


class MetaImageFormat(_ItkFormat):
    """MetaImage (.mha; .mhd with its data beside it is read only)."""

    name: ClassVar[str] = "metaimage"
    kind: ClassVar[str] = "MetaImage file"
    suffixes: ClassVar[tuple[str, ...]] = (".mha", ".mhd")
    read_only: ClassVar[tuple[str, ...]] = (".mhd",)

    def check(self, path: Path) -> None:
        """Refuse odd numbers of axes, by which it reads memory that is not its own."""
        with path.open("rb") as file:
            while line := file.readline(_LONGEST):
                field = re.match(rb"\s*(\w+)\s*[=:]\s*(.*)", line)
                key, value = (field[1], field[2].strip()) if field else (b"", b"")
                if key == b"NDims" and value not in _AXES:
                    text = value[:20].decode("latin-1")
                    raise VolumeFormatError(
                        f"{path.name} is damaged (its header says {text!r} axes); copy it again"
                    )
                if key == b"ElementDataFile":
                    return  # the voxels follow

    def header(self, text: str) -> dict[str, str]:
        """In parts: its reader fails on long lines."""
        packed = base64.b64encode(zlib.compress(text.encode())).decode()
        parts = [packed[at : at + _PART] for at in range(0, len(packed), _PART)]
        return {f"{_KEY}-{number}": part for number, part in enumerate(parts)}


def _simpleitk() -> Any:
    if find_spec("SimpleITK") is None:
        raise InputError(
            "NRRD and MetaImage need SimpleITK, which is not installed: "
            'pip install "napari-attention3d[itk]"'
        )
    import SimpleITK

    SimpleITK.ProcessObject_GlobalWarningDisplayOff()
    return SimpleITK


# ---- reading


def _about(image: Any) -> dict[str, Any]:
    keys = set(image.GetMetaDataKeys())
    try:
        if _KEY in keys:
            about = json.loads(image.GetMetaData(_KEY))
        elif f"{_KEY}-0" in keys:
            parts, number = [], 0
            while f"{_KEY}-{number}" in keys:
                parts.append(image.GetMetaData(f"{_KEY}-{number}"))
                number += 1
            about = json.loads(zlib.decompress(base64.b64decode("".join(parts))))
        else:
            return {}
    except (ValueError, zlib.error):
        return {}  # someone else's text under our name
    return about if isinstance(about, dict) else {}


def _voxels(
    sitk: Any, image: Any, name: str, channel: int | None, time: int | None
) -> tuple[npt.NDArray[Any], list[str]]:
    """(Z, Y, X) or (C, Z, Y, X); components of a voxel, or a fourth axis, are channels or time."""
    array = sitk.GetArrayFromImage(image)
    notes: list[str] = []
    check_voxel_type(array.dtype, name)
    components = image.GetNumberOfComponentsPerPixel()
    if components > 1:
        if array.ndim == 5:
            raise InputError(f"{name} has time points of several channels; split it first")
        array = np.moveaxis(array, -1, 0)
    elif array.ndim == 3:
        array = array[None]
    elif time is None and channel is None:
        notes.append(f"4th axis read as {len(array)} channels")
    if time is not None:
        check_index(time, 1 if components > 1 else len(array), "time point", name)
        if components == 1:
            array = array[time : time + 1]
    if channel is not None:
        array = array[check_index(channel, len(array), "channel", name)][None]
    array = array[0] if len(array) == 1 else array
    return np.ascontiguousarray(array), notes


def _geometry(image: Any, about: dict[str, Any], shape: tuple[int, ...]) -> Geometry:
    n = image.GetDimension()
    direction = np.asarray(image.GetDirection(), dtype=float).reshape(n, n)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(image.GetSpacing()[:3], dtype=float)
    affine[:3, 3] = image.GetOrigin()[:3]
    unit = about.get("unit")
    if unit not in ("um", "pixel", "mm"):
        unit = "mm"
    anatomical = bool(about.get("anatomical", True))
    if anatomical:
        affine = _LPS @ affine
    if unit == "um":
        affine = np.diag([1e3, 1e3, 1e3, 1.0]) @ affine
    return Geometry.from_xyz(shape, affine, unit, anatomical)


# ---- writing


def _place(image: Any, grid: Geometry, name: str) -> None:
    """Set origin, spacing and direction; lengths in mm, as all readers of these files take them."""
    direction = grid.direction
    if np.abs(direction.T @ direction - np.eye(3)).max() > _RIGHT_ANGLE:
        raise InputError(
            f"{name}: its axes are not at right angles, which NRRD and MetaImage can't hold; "
            "write it as .nii.gz"
        )
    affine = grid.affine_xyz
    if grid.anatomical:
        affine = _LPS @ affine
    if grid.unit == "um":
        affine = np.diag([1e-3, 1e-3, 1e-3, 1.0]) @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
