"""Bring two masks onto one grid, or say why that can't be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..geometry import Geometry
from ..volumes.volume import Volume
from .masks import describe_grid_difference, in_unit_of, label_array, slabs

__all__ = ["Aligned", "align", "resample_labels"]

_Integers = npt.NDArray[np.integer[Any]]
_PARALLEL = 1e-6


@dataclass(frozen=True, eq=False)
class Aligned:
    """Two masks ``(Z, Y, X)`` on the second one's grid.

    Parameters
    ----------
    a, b
        The voxels.
    grid
        Of both, in the first one's unit.
    notes
        What was done, and what was lost by it.
    """

    a: _Integers
    b: _Integers
    grid: Geometry
    notes: tuple[str, ...] = ()


def align(a: Volume, b: Volume, *, resample: bool = False) -> Aligned:
    """Lay mask `a` on the grid of `b`.

    Axes that were stored permuted or flipped are turned, exactly. Any other difference is
    refused, or with `resample` bridged: each voxel of `b`'s grid gets the label of `a`'s
    voxel nearest to it in the world, 0 outside.

    Raises
    ------
    InputError
        If one of them is no mask, if the grids differ and `resample` is False, if only
        one of them is calibrated, or if they do not overlap.
    """
    b = in_unit_of(b, a.geometry)
    turned, reference = a.canonical(), b.canonical()
    difference = describe_grid_difference(turned.geometry, reference.geometry)
    if not difference:
        back = b.geometry.canonical_reorientation().inverse()
        first = label_array(a.replace(array=back.apply(turned.array), geometry=b.geometry))
        return Aligned(first, label_array(b), b.geometry, _shear_note(b.geometry))
    if not resample:
        raise InputError(
            f"{a.name} and {b.name} lie on different grids: {difference}; compare masks of the "
            "same scan on its own grid, or allow the first to be resampled (--resample)"
        )
    if a.geometry.unit != b.geometry.unit:
        raise InputError(
            f"{a.name} and {b.name} can't be laid on one grid: {difference}; "
            "both need a voxel size in mm or um"
        )
    array = label_array(a)
    lost, total = _outside(array, a.geometry, b.geometry)
    if total and lost == total:
        raise InputError(
            f"{a.name} and {b.name} do not overlap in the world; are they of the same scan?"
        )
    notes = [f"{a.name} was resampled onto the grid of {b.name} ({difference})"]
    if lost:
        notes.append(
            f"{lost} of the {total} labelled voxels of {a.name} ({lost / total:.1%}) lie outside "
            f"the grid of {b.name} and are not compared"
        )
    moved = resample_labels(array, a.geometry, b.geometry)
    return Aligned(moved, label_array(b), b.geometry, (*notes, *_shear_note(b.geometry)))


def resample_labels(array: _Integers, source: Geometry, target: Geometry) -> _Integers:
    """Labels at the target's voxel centres: those of the source's nearest voxels, 0 outside.

    Parameters
    ----------
    array
        ``(Z, Y, X)`` on `source`.
    source, target
        In the same unit.
    """
    transform = np.linalg.inv(source.affine) @ target.affine
    result = np.zeros(target.shape, dtype=array.dtype)
    for first, last in slabs(target.shape):
        index, inside = _nearest(transform, array.shape, first, last, target.shape)
        part = array[
            tuple(
                np.minimum(np.maximum(i, 0), n - 1) for i, n in zip(index, array.shape, strict=True)
            )
        ]
        result[first:last] = np.where(inside, part, 0)
    return result


def _nearest(
    transform: npt.NDArray[np.float64],
    shape: tuple[int, ...],
    first: int,
    last: int,
    target: tuple[int, int, int],
) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]:
    """Source indices of a slab of the target (arrays that broadcast), and which exist."""
    axes = np.ogrid[first:last, : target[1], : target[2]]
    matrix = transform[:3, :3]
    index = []
    inside = np.ones((), dtype=bool)
    for row, shift, size in zip(matrix, transform[:3, 3], shape, strict=True):
        where = shift
        for weight, axis in zip(row, axes, strict=True):
            if abs(weight) * max(target) > _PARALLEL:
                where = where + weight * axis
        nearest = np.floor(np.asarray(where) + 0.5 + _PARALLEL).astype(np.int64)
        inside = inside & (nearest >= 0) & (nearest < size)
        index.append(nearest)
    return index, inside


def _outside(array: _Integers, source: Geometry, target: Geometry) -> tuple[int, int]:
    """How many labelled voxels lie outside the target's grid, and how many there are."""
    transform = np.linalg.inv(target.affine) @ source.affine
    lost = total = 0
    for first, last in slabs(array.shape):
        _, inside = _nearest(transform, target.shape, first, last, source.shape)
        labelled = array[first:last] > 0
        total += int(labelled.sum())
        lost += int((labelled & ~inside).sum())
    return lost, total


def _shear_note(grid: Geometry) -> tuple[str, ...]:
    cosines = np.abs(grid.direction.T @ grid.direction - np.eye(3)).max()
    tilt = float(np.degrees(np.arcsin(min(1.0, cosines))))
    if tilt < 0.1:
        return ()
    return (
        f"the grid's axes are {90 - tilt:.1f} degrees apart instead of 90; surface distances "
        "are measured as if they were at right angles",
    )
