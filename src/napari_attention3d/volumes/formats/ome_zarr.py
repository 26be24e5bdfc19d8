"""OME-Zarr: 0.4 (zarr v2) and 0.5 (zarr v3), read and written.

A folder ``scan.ome.zarr``, or the path of a group inside (``scan.ome.zarr/labels/cells``).
NGFF has no rotations and flips; the whole affine is kept in an entry of our own and
believed on reading as long as shape, voxel size and position still agree with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import Attention3DError, InputError, VolumeFormatError
from ...geometry import Geometry
from ..volume import Volume
from .about import is_class
from .base import Format, check_voxel_type, matched_suffix, reading, same_grid, stem
from .ome_zarr_array import open_level
from .ome_zarr_describe import OURS
from .ome_zarr_parse import Multiscale, parse_multiscale, read_attributes
from .ome_zarr_pyramid import pieces
from .ome_zarr_write import default_chunks, streamed

__all__ = ["OmeZarrFormat", "coarser_levels", "label_groups"]

_KIND = "readable OME-Zarr"
_MM = ("mm", "um")
_KEPT = ("provenance", "kind", "classes", "nifti")


class OmeZarrFormat(Format):
    """OME-Zarr 0.4 and 0.5."""

    name: ClassVar[str] = "ome-zarr"
    suffixes: ClassVar[tuple[str, ...]] = (".ome.zarr", ".zarr")
    writable: ClassVar[bool] = True

    def matches(self, path: Path) -> bool:
        """Whether the name is of such a folder or of something inside it."""
        return any(matched_suffix(one, self.suffixes) for one in (path, *path.parents))

    def read(self, path: Path, *, channel: int | None, time: int | None, lazy: bool) -> Volume:
        """Read the finest level; see `napari_attention3d.volumes.read_volume`.

        Lazy arrays are dask arrays whose blocks are the file's chunks.
        """
        with reading(path, _KIND, folder=True):
            folder, image, notes = _find(path)
            stored = open_level(folder, image, 0, path.name, channel=channel, time=time)
            grid, more = _grid(stored.shape[-3:], image)
            array = stored.lazy() if lazy else stored.whole()
        about = _plausible(image.ours)
        names = tuple(about.get("channel_names", () if image.ours else image.channel_names))
        if len(names) != stored.channels:
            names = ()
        if channel is not None:
            names = names[channel : channel + 1]
        metadata: dict[str, Any] = {
            "format": f"OME-Zarr {image.version}",
            "notes": [*notes, *image.notes, *more],
        }
        if image.labels or folder.parent.name == "labels":
            metadata["kind"] = "labels"
        if image.classes:
            metadata["classes"] = image.classes
        metadata |= {key: about[key] for key in _KEPT if about.get(key)}
        return Volume(array, grid, _name(path, self.suffixes), names, path, metadata)

    def write(
        self, path: Path, volume: Volume, *, like: Volume | None, version: str | None = None
    ) -> None:
        """Write a folder; see `napari_attention3d.volumes.write_volume`.

        Lazy volumes are copied piece by piece.
        """
        shape = tuple(int(n) for n in volume.array.shape)
        z, y, x = default_chunks(shape)
        boxes = list(pieces(shape, (*(1,) * (len(shape) - 3), z, 4 * y, 4 * x)))
        dtype = _stored_type(volume, boxes)
        metadata = dict(volume.metadata)
        if like is not None and same_grid(like.geometry, volume.geometry):
            metadata.setdefault("nifti", like.metadata.get("nifti"))
        named = len(volume.channel_names) == volume.n_channels
        with streamed(
            path,
            shape,
            dtype,
            volume.geometry,
            name=volume.name,
            kind="labels" if metadata.get("kind") == "labels" else "image",
            channel_names=volume.channel_names if named else (),
            metadata=metadata,
            version=version,
        ) as out:
            for box in boxes:
                out.array[box] = np.asarray(volume.array[box]).astype(dtype, copy=False)


def coarser_levels(path: str | Path) -> list[Any]:
    """Levels of an OME-Zarr beside the finest, as lazy arrays of the same axes, finer first.

    Levels that can't be read, or are not smaller than the one before, are left out.

    Raises
    ------
    VolumeFormatError, InputError
        If `read_volume` would.
    """
    path = Path(path)
    with reading(path, _KIND, folder=True):
        folder, image, _ = _find(path)
        finest = last = open_level(folder, image, 0, path.name)
    levels: list[Any] = []
    for index in range(1, len(image.levels)):
        with suppress(Attention3DError), reading(path, _KIND, folder=True):
            level = open_level(folder, image, index, path.name)
            if level.size < last.size and level.shape[:-3] == finest.shape[:-3]:
                levels.append(level.lazy())
                last = level
    return levels


def label_groups(path: str | Path) -> list[Path]:
    """Label maps that belong to the image in an OME-Zarr folder, if any."""
    folder = Path(path) / "labels"
    try:
        found = read_attributes(folder)
    except (VolumeFormatError, OSError):
        return []
    ome = found[0].get("ome", found[0]) if found is not None else {}
    names = ome.get("labels") if isinstance(ome, Mapping) else None
    if not isinstance(names, list):
        return []
    plain = [n for n in names if isinstance(n, str) and n and n != ".." and Path(n).name == n]
    return [folder / name for name in plain if (folder / name).is_dir()]


# ---- reading


def _find(path: Path) -> tuple[Path, Multiscale, list[str]]:
    """The group that holds the image, what it says, and what to note."""
    found = read_attributes(path)
    if found is None:
        raise VolumeFormatError(
            f"{path.name} is no group of OME-Zarr (its zarr.json or .zattrs is missing); choose "
            "the folder that holds it"
        )
    attributes = found[0]
    image = parse_multiscale(attributes, OURS, path.name)
    if image is not None:
        return path, image, []
    ome = attributes.get("ome")
    for words in (attributes, ome if isinstance(ome, Mapping) else {}):
        if "plate" in words or "well" in words:
            raise InputError(
                f"{path.name} is a plate of many images; choose one of them, such as "
                f"{path.name}/A/1/0"
            )
    inside = _images_inside(path)
    if len(inside) == 1:
        image = parse_multiscale((read_attributes(inside[0]) or ({}, 0))[0], OURS, path.name)
        if image is not None:
            return inside[0], image, [f"the image {inside[0].relative_to(path)} inside was read"]
    if inside:
        some = ", ".join(f"{path.name}/{one.relative_to(path)}" for one in inside[:4])
        raise InputError(f"{path.name} holds {len(inside)} images; choose one, such as {some}")
    raise VolumeFormatError(
        f"{path.name} is a zarr without OME-Zarr's description of an image (multiscales); write "
        "it with a tool for OME-Zarr 0.4 or 0.5"
    )


def _images_inside(folder: Path) -> list[Path]:
    """Groups one step (or, in ``labels``, two) further in that hold an image."""
    found = []
    for child in sorted(p for p in folder.iterdir() if p.is_dir())[:1000]:
        if child.name == "labels":
            found += label_groups(folder)
            continue
        inner = read_attributes(child)
        if inner is not None and parse_multiscale(inner[0], OURS, child.name) is not None:
            found.append(child)
    return found


def _name(path: Path, suffixes: tuple[str, ...]) -> str:
    """Stem of the folder, and what was chosen inside it."""
    if matched_suffix(path, suffixes):
        return stem(path, suffixes)
    root = next(one for one in path.parents if matched_suffix(one, suffixes))
    return f"{stem(root, suffixes)} {path.name}"


def _grid(shape: Sequence[int], image: Multiscale) -> tuple[Geometry, list[str]]:
    level = image.levels[0]
    affine = np.diag([*level.spacing, 1.0])
    affine[:3, 3] = level.origin
    z, y, x = shape
    told = Geometry((z, y, x), affine, image.unit)
    if "geometry" not in image.ours:
        return told, []
    kept = _kept_geometry(image.ours["geometry"])
    if kept is not None and _agrees(kept, told):
        return kept, []
    return told, ["the file was changed after it was saved: its directions were not restored"]


def _kept_geometry(entry: Any) -> Geometry | None:
    try:
        z, y, x = (int(s) for s in entry["shape"])
        affine = np.asarray(entry["affine"], dtype=float)
        return Geometry((z, y, x), affine, str(entry["unit"]), bool(entry["anatomical"]))
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _plausible(ours: Mapping[str, Any]) -> dict[str, Any]:
    """Those of our entries that are of the form in which we write them."""
    forms: dict[str, Callable[[Any], bool]] = {
        "kind": lambda v: v in ("image", "labels"),
        "provenance": lambda v: isinstance(v, dict),
        "nifti": lambda v: isinstance(v, dict),
        "channel_names": lambda v: isinstance(v, list) and all(isinstance(n, str) for n in v),
        "classes": lambda v: isinstance(v, list) and all(is_class(one) for one in v),
    }
    return {key: ours[key] for key, fits in forms.items() if key in ours and fits(ours[key])}


def _agrees(kept: Geometry, told: Geometry) -> bool:
    if kept.shape != told.shape:
        return False
    if kept.unit in _MM and told.unit in _MM:
        told = told.with_unit(kept.unit)
    near = 1e-3 * min(kept.spacing)
    return (
        kept.unit == told.unit
        and bool(np.allclose(kept.spacing, told.spacing, rtol=1e-3))
        and bool(np.allclose(kept.origin, told.origin, rtol=1e-6, atol=near))
    )


# ---- writing


def _stored_type(volume: Volume, boxes: list[tuple[slice, ...]]) -> np.dtype[Any]:
    """Type to store: as in other formats, the smallest that holds labels and wide integers."""
    dtype = volume.dtype
    labels = volume.metadata.get("kind") == "labels"
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    check_voxel_type(dtype, volume.name)
    if dtype.kind == "f" and not labels:
        return np.dtype({2: np.float32, 4: np.float32}.get(dtype.itemsize, np.float64))
    if not labels and dtype.itemsize < 4:
        return dtype.newbyteorder("=")
    low, high = 0, 0
    for box in boxes:
        block = np.asarray(volume.array[box])
        if dtype.kind == "f" and not np.array_equal(block, np.rint(block)):
            raise InputError(f"{volume.name}: labels are whole numbers, but some here are not")
        low, high = min(low, int(block.min())), max(high, int(block.max()))
    return np.min_scalar_type(high if low == 0 else min(low, -high - 1))
