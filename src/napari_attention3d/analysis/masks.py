"""Masks as whole numbers, piece by piece; where each label lies; how two grids differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from scipy import ndimage

from ..errors import InputError
from ..geometry import Geometry
from ..progress import Job, Progress
from ..volumes.volume import Volume

__all__ = [
    "CONNECTIVITIES",
    "Box",
    "MaskReader",
    "Region",
    "as_box",
    "class_names",
    "connect",
    "describe_grid_difference",
    "find_regions",
    "in_unit_of",
    "label_array",
    "neighbours",
    "regions_in",
    "slabs",
]

CONNECTIVITIES = (6, 18, 26)
"""Neighbours of a voxel: by its faces, by faces and edges, by faces, edges and corners."""

SLAB_VOXELS = 2**22
"""A large array is looked at in slabs of about this many voxels."""
_GRID_TOLERANCE = 0.01
"""Grids count as the same if their corners lie within this share of a voxel."""
_MOST_COUNTED = 2**16
_SHARE_OF_MEMORY = 0.25

Box = tuple[slice, slice, slice]
_Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Region:
    """Where a label lies.

    Parameters
    ----------
    value
        The label.
    voxels
        How many voxels have it.
    start, stop
        The smallest box of indices (z, y, x) around them; `stop` is the first one outside.
    """

    value: int
    voxels: int
    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def box(self) -> Box:
        """Slices of the array."""
        return as_box(self.start, self.stop)


def as_box(start: Sequence[int], stop: Sequence[int]) -> Box:
    """Slices from (z, y, x) to (z, y, x)."""
    z, y, x = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return z, y, x


class MaskReader:
    """Reads a mask box by box, as whole numbers.

    An array that takes less than a quarter of the free memory is read once; a larger one
    (a file on disk, an OME-Zarr) is read anew for each box.

    Parameters
    ----------
    volume
        One channel of whole numbers from 0 (background) up.

    Raises
    ------
    InputError
        If the volume has several channels or is of no type that holds whole numbers; on
        reading, if a value is not a whole number from 0 up.
    """

    def __init__(self, volume: Volume) -> None:
        if volume.n_channels != 1:
            raise InputError(
                f"{volume.name} has {volume.n_channels} channels; a mask has one value per voxel"
            )
        if volume.dtype != bool and volume.dtype.kind not in "iuf":
            raise InputError(f"{volume.name} holds {volume.dtype}; a mask holds whole numbers")
        self.name = volume.name
        self.shape = volume.geometry.shape
        array = volume.channel(0).array
        size = int(np.prod(self.shape)) * volume.dtype.itemsize
        free = _SHARE_OF_MEMORY * psutil.virtual_memory().available
        self._array = np.asarray(array) if size < free else array

    def read(self, box: Box | None = None) -> _Integers:
        """Voxels ``(z, y, x)`` of a box (default: all)."""
        array = self._array if box is None else self._array[box]
        return _whole_numbers(np.asarray(array), self.name)


def label_array(volume: Volume) -> _Integers:
    """Return a mask's voxels as whole numbers ``(Z, Y, X)``.

    Raises
    ------
    InputError
        If the volume has several channels, or a value is not a whole number from 0 up.
    """
    return MaskReader(volume).read()


def _whole_numbers(array: npt.NDArray[Any], name: str) -> _Integers:
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if not np.isfinite(array).all() or np.abs(array - whole).max() > 1e-3:
            raise InputError(
                f"{name} holds values that are not whole numbers; a mask is needed, "
                "not an image or a probability map"
            )
        array = whole.astype(np.int64)
    if array.dtype.kind == "i" and array.min() < 0:
        raise InputError(
            f"{name} holds the negative value {array.min()}; "
            "classes are whole numbers from 0 (background) up"
        )
    return array


def slabs(shape: Sequence[int], voxels: int | None = None) -> Iterator[tuple[int, int]]:
    """Ranges of planes (start, stop) along z, each of about `voxels` voxels, at least one."""
    planes = max(1, (voxels or SLAB_VOXELS) // max(1, int(shape[1]) * int(shape[2])))
    for start in range(0, int(shape[0]), planes):
        yield start, min(start + planes, int(shape[0]))


def find_regions(mask: MaskReader) -> Job[dict[int, Region]]:
    """Job: all labels but 0 with their voxels and boxes, in order of their values.

    The mask is looked at slab by slab, so one larger than memory will do.
    """
    found: dict[int, Region] = {}
    for first, last in slabs(mask.shape):
        yield Progress(first, mask.shape[0], "Looking for labels")
        _join(found, mask.read(as_box((first, 0, 0), (last, *mask.shape[1:]))), first)
    return dict(sorted(found.items()))


def regions_in(array: _Integers) -> dict[int, Region]:
    """All labels but 0 of an array ``(Z, Y, X)``, as `find_regions`."""
    found: dict[int, Region] = {}
    for first, last in slabs(array.shape):
        _join(found, array[first:last], first)
    return dict(sorted(found.items()))


def _join(found: dict[int, Region], part: _Integers, first: int) -> None:
    for region in _regions_of(part, first):
        found[region.value] = _joined(found.get(region.value), region)


def _regions_of(part: _Integers, first: int) -> Iterator[Region]:
    values: npt.NDArray[Any] | None = None
    if int(part.max()) > _MOST_COUNTED:  # numbered anew: tables would grow with the values
        values, inverse = np.unique(part, return_inverse=True)
        part = inverse.reshape(part.shape) + 1
    counts = np.bincount(part.ravel())
    for index, box in enumerate(ndimage.find_objects(part), start=1):
        value = index if values is None else int(values[index - 1])
        if box is None or value == 0:
            continue
        z, y, x = box
        start = (z.start + first, y.start, x.start)
        yield Region(value, int(counts[index]), start, (z.stop + first, y.stop, x.stop))


def _joined(a: Region | None, b: Region) -> Region:
    if a is None:
        return b
    z0, y0, x0 = (min(p, q) for p, q in zip(a.start, b.start, strict=True))
    z1, y1, x1 = (max(p, q) for p, q in zip(a.stop, b.stop, strict=True))
    return Region(a.value, a.voxels + b.voxels, (z0, y0, x0), (z1, y1, x1))


def neighbours(connectivity: int) -> npt.NDArray[np.bool_]:
    """Structuring element (3, 3, 3) of a connectivity, 6, 18 or 26.

    Raises
    ------
    InputError
        If it is another number.
    """
    if connectivity not in CONNECTIVITIES:
        raise InputError(f"connectivity {connectivity} is not one of 6, 18 and 26")
    steps = CONNECTIVITIES.index(connectivity) + 1
    return np.asarray(ndimage.generate_binary_structure(3, steps))


def connect(
    region: npt.NDArray[np.bool_], connectivity: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Connected components of a region, the largest first.

    Parameters
    ----------
    region
        ``(Z, Y, X)``.
    connectivity
        6, 18 or 26.

    Returns
    -------
    tuple
        ``(Z, Y, X)`` int32 with 1 for the largest component, 2 for the next, ... (equal
        ones in order of their first voxels), and the voxels of each.
    """
    parts, count = ndimage.label(region, neighbours(connectivity))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    rank = np.zeros(count + 1, dtype=np.int32)
    rank[order + 1] = np.arange(1, count + 1)
    return rank[parts], sizes[order]


def class_names(volume: Volume) -> dict[int, str]:
    """Names of the labels by value, where the volume says them; 0 is left out."""
    classes = volume.metadata.get("classes") or ()
    return {value: str(c["name"]) for value, c in enumerate(classes) if value and "name" in c}


def in_unit_of(volume: Volume, grid: Geometry) -> Volume:
    """Return the volume with its lengths in the grid's unit, if both units are lengths."""
    if volume.geometry.unit != grid.unit and "pixel" not in (volume.geometry.unit, grid.unit):
        return volume.replace(geometry=volume.geometry.with_unit(grid.unit))
    return volume


def describe_grid_difference(a: Geometry, b: Geometry) -> str:
    """Say in words how two grids differ; empty if they are the same."""
    if a.is_close(b, _GRID_TOLERANCE):
        return ""
    if a.shape != b.shape:
        return f"shapes (Z, Y, X) {a.shape} and {b.shape}"
    if a.unit != b.unit:
        return f"units {a.unit} and {b.unit}"
    if not np.allclose(a.spacing, b.spacing, rtol=1e-3):
        return f"spacings {_figures(a.spacing)} and {_figures(b.spacing)} {a.unit}"
    if not np.allclose(a.direction, b.direction, atol=1e-3):
        return f"orientations (affines point {_angle(a, b):.3g} degrees apart)"
    return f"origins {_figures(a.origin)} and {_figures(b.origin)} {a.unit}"


def _figures(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"


def _angle(a: Geometry, b: Geometry) -> float:
    cosines = np.clip((a.direction * b.direction).sum(axis=0), -1, 1)
    return float(np.degrees(np.arccos(cosines)).max())
