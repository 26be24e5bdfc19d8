"""How well two masks agree: Dice and Hausdorff distance, class by class.

The metrics are MONAI's. Each class is cut to the box around it first, so that a scan of
any size needs memory for one class at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..geometry import Geometry
from ..volumes.volume import Volume

__all__ = ["compare_labels", "describe_grid_difference", "dice_and_hd95", "label_array"]

_GRID_TOLERANCE = 0.01
"""Grids count as the same if their corners lie within this share of a voxel."""
_MOST_CLASSES = 1000


def compare_labels(
    a: Volume, b: Volume, classes: Iterable[int] | None = None, *, distances: bool = True
) -> dict[str, Any]:
    """Compare a mask with the truth.

    Both are brought to the world's canonical orientation first, so masks of the same
    grid that were stored with permuted or flipped axes compare rightly.

    Parameters
    ----------
    a, b
        Masks ``(Z, Y, X)`` of whole numbers on the same grid; `b` is the truth.
    classes
        Values to compare. Default: 1 to the largest value found in either.
    distances
        False leaves out the Hausdorff distances (they are None), which is quicker.

    Returns
    -------
    dict
        ``{"unit": "mm", "classes": {"1": {"dice": 0.9, "hd95": 1.2}, ...},
        "mean_dice": 0.9}``, JSON-compatible. ``hd95`` is the larger of the two directed
        95th percentiles of surface distances, in `unit`. A class that is in neither mask
        has None for both and is left out of the mean; one that is in a single mask has
        Dice 0 and hd95 None. Background (0) is not compared.

    Raises
    ------
    InputError
        If a mask has channels or values other than whole numbers from 0 up, or the
        grids differ; the message says how.
    """
    b = _in_unit_of(b, a.geometry)
    a, b = a.canonical(), b.canonical()
    difference = describe_grid_difference(a.geometry, b.geometry)
    if difference:
        raise InputError(
            f"{a.name} and {b.name} lie on different grids: {difference}; "
            "compare masks of the same scan, on its own grid"
        )
    mask, truth = label_array(a), label_array(b)
    wanted = _classes(mask, truth) if classes is None else sorted({int(c) for c in classes} - {0})
    rows: dict[str, dict[str, float | None]] = {}
    for value in wanted:
        dice, hd95 = dice_and_hd95(
            mask == value, truth == value, a.geometry.spacing, distance=distances
        )
        rows[str(value)] = {"dice": dice, "hd95": hd95}
    scored = [row["dice"] for row in rows.values() if row["dice"] is not None]
    return {
        "unit": a.geometry.unit,
        "classes": rows,
        "mean_dice": float(np.mean(scored)) if scored else None,
    }


def dice_and_hd95(
    mask: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.bool_],
    spacing: Sequence[float],
    *,
    distance: bool = True,
) -> tuple[float | None, float | None]:
    """Dice and 95th percentile Hausdorff distance of two regions ``(Z, Y, X)``.

    Parameters
    ----------
    mask, truth
        Of the same shape.
    spacing
        Voxel size (z, y, x); the distance is in its unit.
    distance
        Whether to measure the distance.

    Returns
    -------
    tuple
        ``(None, None)`` if both are empty, ``(0.0, None)`` if one is.
    """
    box = _box(mask | truth)
    if box is None:
        return None, None
    mask, truth = mask[box], truth[box]
    if not mask.any() or not truth.any():
        return 0.0, None
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance

    one = torch.from_numpy(np.ascontiguousarray(mask))[None, None]
    other = torch.from_numpy(np.ascontiguousarray(truth))[None, None]
    dice = float(compute_dice(one, other, include_background=True))
    if not distance:
        return dice, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's notes on its own future
        hd95 = float(
            compute_hausdorff_distance(
                one, other, include_background=True, percentile=95, spacing=list(spacing)
            )
        )
    return dice, hd95


def label_array(volume: Volume) -> npt.NDArray[np.integer[Any]]:
    """Return a mask's voxels as whole numbers ``(Z, Y, X)``.

    Raises
    ------
    InputError
        If the volume has several channels, or a value is not a whole number from 0 up.
    """
    if volume.n_channels != 1:
        raise InputError(
            f"{volume.name} has {volume.n_channels} channels; a mask has one value per voxel"
        )
    array = np.asarray(volume.channel(0).array)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{volume.name} holds {array.dtype}; a mask holds whole numbers")
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if not np.isfinite(array).all() or np.abs(array - whole).max() > 1e-3:
            raise InputError(
                f"{volume.name} holds values that are not whole numbers; a mask is needed, "
                "not an image or a probability map"
            )
        array = whole.astype(np.int64)
    if array.min() < 0:
        raise InputError(
            f"{volume.name} holds the negative value {array.min()}; "
            "classes are whole numbers from 0 (background) up"
        )
    return np.asarray(array)


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


def _in_unit_of(volume: Volume, grid: Geometry) -> Volume:
    if volume.geometry.unit != grid.unit and "pixel" not in (volume.geometry.unit, grid.unit):
        return volume.replace(geometry=volume.geometry.with_unit(grid.unit))
    return volume


def _classes(*masks: npt.NDArray[Any]) -> list[int]:
    largest = max(int(mask.max()) for mask in masks)
    if largest <= _MOST_CLASSES:
        return list(range(1, largest + 1))
    found = sorted(set().union(*(np.unique(mask).tolist() for mask in masks)) - {0})
    return [int(value) for value in found]


def _box(region: npt.NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """Smallest box that holds the region, or None if it is empty."""
    box = []
    for axis in range(region.ndim):
        others = tuple(i for i in range(region.ndim) if i != axis)
        hits = np.flatnonzero(region.any(axis=others))
        if not hits.size:
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)
