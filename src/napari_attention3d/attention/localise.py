"""Where a map lies: pointing game, and its share inside, near and outside each label."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..analysis.table import Cell, Column, Table
from ..errors import InputError
from ..volumes.volume import Volume

__all__ = ["attention_shares"]

_Array = npt.NDArray[np.float32]


def attention_shares(
    values: Volume, labels: Volume, names: Mapping[int, str], *, near: float | None = None
) -> Table:
    """Return how much of a map is inside, near and outside each label.

    A voxel of the mask takes the value of the map's voxel in which its centre lies.

    Parameters
    ----------
    values
        (Z, Y, X), 0 or more, on any grid of the same world.
    labels
        (Z, Y, X) integers.
    names
        Of the labels, as far as they have any.
    near
        "Near" reaches so far from a label, in the mask's unit; None: twice the largest
        edge of the map's voxels.

    Returns
    -------
    Table
        A row per label, and one for all of them together: volumes inside and near, shares
        of the map (%) inside, near and outside, and whether the map's largest value lies
        inside (pointing game; Zhang et al. 2018, arXiv:1608.00507) or near.

    Raises
    ------
    InputError
        If the units differ, the map does not reach the mask, it is negative somewhere or
        0 everywhere, or the mask is empty.
    """
    if values.geometry.unit != labels.geometry.unit:
        raise InputError(
            f"{values.name} is in {values.geometry.unit}, {labels.name} in "
            f"{labels.geometry.unit}: they can't be laid on each other"
        )
    mask = np.asarray(labels.array)
    if mask.dtype.kind not in "ui":
        raise InputError(f"{labels.name} holds no whole numbers: choose a mask of labels")
    present = [int(v) for v in np.unique(mask) if v > 0]
    if not present:
        raise InputError(f"{labels.name} holds no labels, only background")
    here, reached = _on_mask(values, labels)
    if here.min() < 0:
        raise InputError(f"{values.name} has negative values: shares mean nothing there")
    total = float(here.sum(dtype=np.float64))
    if not total > 0:
        raise InputError(f"{values.name} is 0 wherever it reaches the mask")
    distance = 2 * max(values.geometry.spacing) if near is None else near
    if distance < 0:
        raise InputError(f"near = {distance:g} is negative; give a distance of 0 or more")
    peak = np.unravel_index(int(here.argmax()), here.shape)
    rows: list[tuple[Cell, ...]] = []
    for label in [*present, None]:
        region = mask == label if label is not None else mask > 0
        name = names.get(label) if label is not None else "all labels"
        rows.append((label, name, *_row(region, here, reached, labels, distance, total, peak)))
    unit = labels.geometry.unit
    cubic = "voxels" if unit == "pixel" else f"{unit}3"
    length = "voxels" if unit == "pixel" else unit
    columns = (
        Column("label"),
        Column("name"),
        Column("inside", cubic),
        Column("near", cubic),
        Column("share inside", "%"),
        Column("share near", "%"),
        Column("share outside", "%"),
        Column("times even"),
        Column("largest value"),
    )
    notes = (
        f"{values.name}: where it lies",
        f"Near: up to {distance:g} {length} from the label. Times even: share inside over the "
        "label's share of the volume. Counted where the map reaches.",
    )
    return Table(columns, tuple(rows), notes)


def _row(
    region: npt.NDArray[np.bool_],
    here: _Array,
    reached: npt.NDArray[np.bool_],
    labels: Volume,
    distance: float,
    total: float,
    peak: tuple[np.intp, ...],
) -> tuple[Cell, ...]:
    # The distance is only needed in a box around the label.
    spacing = labels.geometry.spacing
    found = ndimage.find_objects(region.astype(np.uint8))[0]
    margin = [int(np.ceil(distance / s)) + 1 for s in spacing]
    box = tuple(
        slice(max(0, part.start - m), min(n, part.stop + m))
        for part, m, n in zip(found, margin, region.shape, strict=True)
    )
    inside = region[box]
    away = ndimage.distance_transform_edt(~inside, sampling=spacing)
    close = (away > 0) & (away <= distance)
    known, part = reached[box], here[box]
    count = int((inside & known).sum())
    share = float(part[inside].sum(dtype=np.float64)) / total
    beside = float(part[close].sum(dtype=np.float64)) / total
    at = tuple(int(p) - s.start for p, s in zip(peak, box, strict=True))
    in_box = all(0 <= p < n for p, n in zip(at, inside.shape, strict=True))
    pointing = "outside"
    if in_box:
        pointing = "inside" if inside[at] else ("near" if close[at] else "outside")
    voxel = labels.geometry.voxel_volume
    even = count / int(reached.sum())
    return (
        count * voxel,
        int((close & known).sum()) * voxel,
        100 * share,
        100 * beside,
        100 * max(0.0, 1 - share - beside),
        share / even if even else None,
        pointing,
    )


def _on_mask(values: Volume, labels: Volume) -> tuple[_Array, npt.NDArray[np.bool_]]:
    """Value of the map in each voxel of the mask (0 where it does not reach), and where it does."""
    to_map = np.linalg.inv(values.geometry.affine) @ labels.geometry.affine
    array = np.asarray(values.array, dtype=np.float32)
    size = np.array(array.shape)
    depth, height, width = labels.geometry.shape
    plane = np.indices((height, width)).reshape(2, -1)
    here = np.zeros((depth, height, width), np.float32)
    reached = np.zeros(here.shape, bool)
    for z in range(depth):
        index = to_map[:3, 1:3] @ plane + (to_map[:3, 0] * z + to_map[:3, 3])[:, None]
        cell = np.floor(index + 0.5 + 1e-6).astype(np.int64)
        inside = ((cell >= 0) & (cell < size[:, None])).all(axis=0)
        line = np.zeros(inside.size, np.float32)
        line[inside] = array[tuple(cell[:, inside])]
        finite = np.isfinite(line)
        here[z] = np.where(finite, line, 0).reshape(height, width)
        reached[z] = (inside & finite).reshape(height, width)
    if not reached.any():
        raise InputError(f"{values.name} does not reach {labels.name}: nothing to count")
    return here, reached
