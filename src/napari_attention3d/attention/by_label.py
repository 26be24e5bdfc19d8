"""How much of a map falls on each label."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..analysis.table import Cell, Column, Table
from ..errors import InputError
from ..volumes.volume import Volume

__all__ = ["attention_by_label"]

_VOXELS_AT_ONCE = 2**20


def attention_by_label(values: Volume, labels: Volume, names: Mapping[int, str]) -> Table:
    """Return a map's figures within each label.

    Every voxel of the mask takes the value of the map's voxel in which its centre lies, so
    a map's total is shared out among the labels and nothing is smoothed.

    Parameters
    ----------
    values
        (Z, Y, X), on any grid of the same world.
    labels
        (Z, Y, X) integers.
    names
        Of the labels, as far as they have any.

    Returns
    -------
    Table
        A row per label that is present, background included: voxels of the mask that the
        map reaches, volume, mean, largest value, share of the map's sum (%), and "times
        even": that share over the label's share of the volume (1: as much as anywhere).

    Raises
    ------
    InputError
        If the units of length differ, or the map does not reach the mask.
    """
    if values.geometry.unit != labels.geometry.unit:
        raise InputError(
            f"{values.name} is in {values.geometry.unit}, {labels.name} in "
            f"{labels.geometry.unit}: they can't be laid on each other"
        )
    count, total, top = _figures(values, labels)
    present = np.flatnonzero(count)
    if not present.size:
        raise InputError(f"{values.name} does not reach {labels.name}: nothing to count")
    unit = labels.geometry.unit
    volume = labels.geometry.voxel_volume
    everything, everywhere = float(total.sum()), float(count.sum())
    rows = []
    for label in present:
        share = float(total[label]) / everything if everything else 0.0
        name = names.get(int(label), "background" if label == 0 else None)
        row: tuple[Cell, ...] = (
            int(label),
            name,
            float(count[label]) * volume,
            float(total[label] / count[label]),
            float(top[label]),
            100 * share,
            share / (float(count[label]) / everywhere),
        )
        rows.append(row)
    columns = (
        Column("label"),
        Column("name"),
        Column("volume", "voxels" if unit == "pixel" else f"{unit}3"),
        Column("mean"),
        Column("max"),
        Column("share of map", "%"),
        Column("times even"),
    )
    note = (
        "Shares count where the map reaches; 'times even' is the share of the map's sum over the "
        "share of the volume."
    )
    return Table(columns, tuple(rows), (f"{values.name} within {labels.name}", note))


def _figures(
    values: Volume, labels: Volume
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Per label: voxels that the map reaches, sum of its values there, the largest."""
    to_map = np.linalg.inv(values.geometry.affine) @ labels.geometry.affine
    array = np.asarray(values.array, dtype=np.float32)
    size = np.array(array.shape)
    depth, height, width = labels.geometry.shape
    plane = np.indices((height, width)).reshape(2, -1)
    at_once = max(1, _VOXELS_AT_ONCE // plane.shape[1])
    parts = []
    for start in range(0, depth, at_once):
        stop = min(start + at_once, depth)
        mask = np.asarray(labels.array[start:stop])
        if mask.dtype.kind not in "ui":
            raise InputError(f"{labels.name} holds no whole numbers: choose a mask of labels")
        if mask.size and mask.min() < 0:
            raise InputError(f"{labels.name} has negative labels; labels start at 0")
        for z in range(start, stop):
            index = to_map[:3, 1:3] @ plane + (to_map[:3, 0] * z + to_map[:3, 3])[:, None]
            cell = np.floor(index + 0.5 + 1e-6).astype(np.int64)
            inside = ((cell >= 0) & (cell < size[:, None])).all(axis=0)
            here = array[tuple(cell[:, inside])]
            line = mask[z - start].ravel()[inside].astype(np.int64)
            finite = np.isfinite(here)
            parts.append(_of_plane(line[finite], here[finite]))
    most = max((len(p[0]) for p in parts), default=0)
    count = np.zeros(most, np.int64)
    total, top = np.zeros(most), np.full(most, -np.inf)
    for number, summed, largest in parts:
        count[: len(number)] += number
        total[: len(number)] += summed
        np.maximum(top[: len(number)], largest, out=top[: len(number)])
    return count, total, top


def _of_plane(
    label: npt.NDArray[np.int64], value: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    count = np.bincount(label).astype(np.int64)
    total = np.bincount(label, weights=value, minlength=len(count)).astype(np.float64)
    top = np.full(len(count), -np.inf)
    np.maximum.at(top, label, value)
    return count, total, top
