"""How well two masks agree, class by class, and where they do not.

The metrics are MONAI's. Each class is cut to the box around it first, so that a scan of
any size needs memory for one class at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..progress import Job, Progress, finish
from ..provenance import made_with, origin
from ..volumes.volume import Volume
from .align import Aligned, align
from .masks import Region, as_box, class_names, describe_grid_difference, label_array, regions_in
from .table import Cell, Column, Table

__all__ = [
    "DISAGREEMENT",
    "Agreement",
    "Comparison",
    "agreement",
    "compare",
    "compare_labels",
    "describe_grid_difference",
    "dice_and_hd95",
    "label_array",
]

_MOST_CLASSES = 1000
DISAGREEMENT = ("agree", "only in the first", "only in the second", "different class")
"""What the values of a disagreement volume mean, from 0."""
_COLOURS = ("#000000", "#e69f00", "#56b4e9", "#cc79a7")

_Mask = npt.NDArray[np.bool_]
_Row = dict[str, float | None]


@dataclass(frozen=True)
class Agreement:
    """How well two regions agree; lengths in the spacing's unit, None where undefined.

    Surfaces are the voxels with a face neighbour outside the region, the places are their
    centres, and every one of them counts the same.

    Parameters
    ----------
    dice
        ``2 |A & B| / (|A| + |B|)``.
    iou
        ``|A & B| / |A | B|`` (Jaccard index).
    hd95
        The larger one of the two directed 95th percentiles of surface distances.
    average_surface_distance
        Mean of all surface distances of both directions (symmetric).
    surface_dice
        Share of both surfaces that lies within a tolerance of the other one (normalised
        surface distance; Nikolov et al. 2021).
    """

    dice: float | None = None
    iou: float | None = None
    hd95: float | None = None
    average_surface_distance: float | None = None
    surface_dice: float | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found.

    Parameters
    ----------
    figures
        JSON-compatible; see `compare_labels`.
    disagreement
        ``(Z, Y, X)`` uint8 on the second mask's grid: see `DISAGREEMENT`.
    names
        Of classes, as far as they are known.
    """

    figures: dict[str, Any]
    disagreement: Volume
    names: Mapping[int, str]

    def table(self) -> Table:
        """The figures as a table, a row per class."""
        unit, tolerance = self.figures["unit"], self.figures["tolerance"]
        units = {
            "hd95": unit,
            "average_surface_distance": unit,
            "surface_dice": f"at {tolerance:g} {unit}",
            "volume": f"{unit}3",
            "volume_truth": f"{unit}3",
            "volume_difference": f"{unit}3",
        }
        keys = [*(f.name for f in fields(Agreement)), *_VOLUMES]
        columns = [Column("class"), Column("name")]
        columns += [Column(key.replace("_", " "), units.get(key, "")) for key in keys]
        rows: list[tuple[Cell, ...]] = [
            (int(value), self.names.get(int(value)), *(row[key] for key in keys))
            for value, row in self.figures["classes"].items()
        ]
        made = self.disagreement.metadata["provenance"]
        return Table(tuple(columns), tuple(rows), tuple(self.figures["notes"]), made)


_VOLUMES = ("volume", "volume_truth", "volume_difference", "relative_volume_difference")


def compare(
    a: Volume,
    b: Volume,
    classes: Iterable[int] | None = None,
    *,
    tolerance: float | None = None,
    distances: bool = True,
    resample: bool = False,
) -> Job[Comparison]:
    """Job: compare a mask with the truth; parameters and errors as for `compare_labels`."""
    yield Progress(0, 0, "Reading")
    pair = align(a, b, resample=resample)
    grid = pair.grid
    limit = max(grid.spacing) if tolerance is None else float(tolerance)
    if not 0 <= limit < np.inf:
        raise InputError(f"a tolerance of {limit:g} {grid.unit} makes no sense; give 0 or more")
    in_a, in_b = regions_in(pair.a), regions_in(pair.b)
    wanted = _classes([*in_a, *in_b]) if classes is None else sorted({int(c) for c in classes})
    rows: dict[str, _Row] = {}
    for done, value in enumerate(v for v in wanted if v):
        yield Progress(done, len(wanted), f"Comparing class {value}")
        one, other = in_a.get(value), in_b.get(value)
        found = _agreement_of_class(pair, value, one, other, limit, distances)
        rows[str(value)] = {**asdict(found), **_volumes(one, other, grid.voxel_volume)}
    scored = [row["dice"] for row in rows.values() if row["dice"] is not None]
    figures = {
        "unit": grid.unit,
        "tolerance": limit,
        "classes": rows,
        "mean_dice": float(np.mean(scored)) if scored else None,
        "notes": list(pair.notes),
    }
    made = made_with(
        compared=[str(v.source or v.name) for v in (a, b)],
        masks=[origin(v) for v in (a, b)],
        settings={
            "tolerance": limit,
            "resample": resample,
            "classes": None if classes is None else wanted,
        },
    )
    return Comparison(figures, _disagreement(pair, a, b, made), class_names(a) | class_names(b))


def compare_labels(
    a: Volume,
    b: Volume,
    classes: Iterable[int] | None = None,
    *,
    tolerance: float | None = None,
    distances: bool = True,
    resample: bool = False,
) -> dict[str, Any]:
    """Compare a mask with the truth.

    Masks of the same grid that were stored with permuted or flipped axes compare rightly.

    Parameters
    ----------
    a, b
        Masks ``(Z, Y, X)`` of whole numbers; `b` is the truth, on whose grid they are
        compared.
    classes
        Values to compare. Default: 1 to the largest value found in either.
    tolerance
        Of the surface Dice, in the unit of `a`. Default: the longest side of a voxel.
    distances
        False leaves out the surface distances (they are None), which is quicker.
    resample
        Whether `a`, if it lies on another grid, is resampled (nearest neighbour, through
        both affines) instead of refused; ``notes`` says so.

    Returns
    -------
    dict
        JSON-compatible: ``unit``, ``tolerance``, ``mean_dice``, ``notes`` and
        ``classes``: by value the fields of `Agreement`, and ``volume``,
        ``volume_truth``, ``volume_difference`` (mask minus truth, in the unit cubed) and
        ``relative_volume_difference`` (of the truth). What is not defined is None: all
        but the volumes of a class that is in neither mask (it is left out of the mean),
        and the distances of one that is in a single mask (its Dice, IoU and surface Dice
        are 0). Background (0) is not compared.

    Raises
    ------
    InputError
        If a mask has channels or values other than whole numbers from 0 up, or the
        grids differ and may not be resampled; the message says how.
    """
    job = compare(a, b, classes, tolerance=tolerance, distances=distances, resample=resample)
    return finish(job).figures


def agreement(
    a: _Mask,
    b: _Mask,
    spacing: Sequence[float],
    *,
    tolerance: float = 1.0,
    distances: bool = True,
) -> Agreement:
    """Compare two regions ``(Z, Y, X)`` of the same shape.

    Parameters
    ----------
    a, b
        The regions.
    spacing
        Voxel size (z, y, x); lengths are in its unit.
    tolerance
        Of the surface Dice.
    distances
        Whether to measure surface distances.
    """
    some = a.any(), b.any()
    if not any(some):
        return Agreement()
    if not all(some):
        return Agreement(dice=0.0, iou=0.0, surface_dice=0.0 if distances else None)
    import torch
    from monai.metrics import compute_dice, compute_iou
    from monai.metrics.utils import get_edge_surface_distance

    one, other = (torch.from_numpy(np.ascontiguousarray(m)) for m in (a, b))
    dice = float(compute_dice(one[None, None], other[None, None], include_background=True))
    iou = float(compute_iou(one[None, None], other[None, None], include_background=True))
    if not distances:
        return Agreement(dice, iou)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's notes on its own future
        _, apart, _ = get_edge_surface_distance(
            one, other, spacing=[float(s) for s in spacing], symmetric=True
        )
    there, back = (np.asarray(part) for part in apart)
    both = np.concatenate([there, back])
    return Agreement(
        dice,
        iou,
        hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        average_surface_distance=float(both.mean(dtype=np.float64)),
        # distances are float32: one that equals the tolerance must count
        surface_dice=float((both <= tolerance * (1 + 1e-5)).mean()),
    )


def dice_and_hd95(
    mask: _Mask, truth: _Mask, spacing: Sequence[float], *, distance: bool = True
) -> tuple[float | None, float | None]:
    """Dice and 95th percentile Hausdorff distance of two regions: see `agreement`."""
    found = agreement(mask, truth, spacing, distances=distance)
    return found.dice, found.hd95


def _agreement_of_class(
    pair: Aligned,
    value: int,
    in_a: Region | None,
    in_b: Region | None,
    tolerance: float,
    distances: bool,
) -> Agreement:
    there = [region for region in (in_a, in_b) if region is not None]
    if not there:
        return Agreement()
    start = np.min([region.start for region in there], axis=0).tolist()
    stop = np.max([region.stop for region in there], axis=0).tolist()
    box = as_box(start, stop)
    a, b = pair.a[box] == value, pair.b[box] == value
    return agreement(a, b, pair.grid.spacing, tolerance=tolerance, distances=distances)


def _volumes(in_a: Region | None, in_b: Region | None, voxel_volume: float) -> _Row:
    voxels, truth = (0 if region is None else region.voxels for region in (in_a, in_b))
    return {
        "volume": voxels * voxel_volume,
        "volume_truth": truth * voxel_volume,
        "volume_difference": (voxels - truth) * voxel_volume,
        "relative_volume_difference": (voxels - truth) / truth if truth else None,
    }


def _disagreement(pair: Aligned, a: Volume, b: Volume, made: dict[str, Any]) -> Volume:
    result = np.zeros(pair.a.shape, dtype=np.uint8)
    different = pair.a != pair.b
    result[different & (pair.b == 0)] = 1
    result[different & (pair.a == 0)] = 2
    result[different & (pair.a != 0) & (pair.b != 0)] = 3
    classes = [{"name": n, "colour": c} for n, c in zip(DISAGREEMENT, _COLOURS, strict=True)]
    about: dict[str, Any] = {
        "kind": "labels",
        "classes": classes,
        "provenance": made,
    }
    if "nifti" in b.metadata:
        about["nifti"] = b.metadata["nifti"]
    return Volume(result, pair.grid, f"{a.name} against {b.name}", metadata=about)


def _classes(found: list[int]) -> list[int]:
    largest = max(found, default=0)
    return list(range(1, largest + 1)) if largest <= _MOST_CLASSES else sorted(set(found))
