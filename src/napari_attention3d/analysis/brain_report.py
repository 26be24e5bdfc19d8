"""How well a brain mask agrees with tissue maps that were made independently of it.

Used by the demo: the MNI152 template comes with grey and white matter probability maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..volumes.volume import Volume
from .compare import compare_labels, describe_grid_difference, label_array

__all__ = ["TISSUES", "brain_report", "otsu_tissues", "tissue_truth", "to_tissues"]

TISSUES = ("background", "csf", "grey_matter", "white_matter")
"""Tissues by label value."""

_TISSUE_OF = {
    "background": 0,
    "csf": 1,
    "ventricles": 1,
    "cortical grey matter": 2,
    "deep grey matter": 2,
    "cerebellar grey matter": 2,
    "cerebral white matter": 3,
    "cerebellar white matter": 3,
}
_BRAINSTEM = "brainstem"
_RULE = (
    "voxels that the model labels brainstem are compared neither in the mask nor in the maps: "
    "the maps call most of the brainstem grey matter"
)
_PLAUSIBLE_BRAINSTEM = 0.03
"""A brainstem is 1.5 to 2 % of a brain; more than this means that errors hide in it."""

_Labels = npt.NDArray[np.uint8]


def brain_report(
    labels: Volume, class_names: Sequence[str], *, scan: Volume, grey: Volume, white: Volume
) -> dict[str, Any]:
    """Score a brain mask against grey and white matter maps.

    Parameters
    ----------
    labels
        The mask ``(Z, Y, X)``.
    class_names
        Of its values, from 0; known names are background, CSF, ventricles, cortical, deep
        and cerebellar grey matter, cerebral and cerebellar white matter, brainstem.
    scan
        The skull-stripped scan (0 outside the brain), on the same grid.
    grey, white
        Tissue probabilities, 0 to 1 or 0 to 255, on the same grid.

    Returns
    -------
    dict
        JSON-compatible: ``dice`` by tissue, ``brainstem`` (the rule, and which share of
        each tissue of the maps it leaves out), ``dice_nothing_left_out``, ``otsu_dice``
        (thresholds alone, on the same voxels), ``volumes_ml`` by class name,
        ``grey_to_white`` volume ratios and ``confusion`` (voxels; a row for each tissue of
        the maps, a column for each class).

    Raises
    ------
    InputError
        If the grids differ or a class name is not known.
    """
    for other in (scan, grey, white):
        difference = describe_grid_difference(labels.geometry, other.geometry)
        if difference:
            raise InputError(f"{labels.name} and {other.name} lie on different grids: {difference}")
    mask = label_array(labels)
    truth = tissue_truth(scan, grey, white)
    tissues, brainstem = to_tissues(mask, class_names)
    otsu = otsu_tissues(np.asarray(scan.channel(0).array), truth)
    kept = ~brainstem
    return {
        "dice": _dice(labels, tissues * kept, truth * kept),
        "brainstem": _left_out(brainstem, truth),
        "dice_nothing_left_out": _dice(labels, tissues, truth),
        "otsu_dice": _dice(labels, otsu * kept, truth * kept),
        "volumes_ml": _volumes(labels, mask, class_names),
        "grey_to_white": {
            "mask": _ratio(tissues * kept),
            "maps": _ratio(truth * kept),
        },
        "confusion": _confusion(mask, truth, class_names),
    }


def tissue_truth(scan: Volume, grey: Volume, white: Volume) -> _Labels:
    """Tissue labels `TISSUES` from probability maps.

    The most probable of grey, white and the rest (CSF) where the scan is above 0,
    background elsewhere.
    """
    g, w = _probability(grey), _probability(white)
    stacked = np.stack([1 - g - w, g, w])
    inside = np.asarray(scan.channel(0).array) > 0
    return np.where(inside, stacked.argmax(axis=0) + 1, 0).astype(np.uint8)


def to_tissues(
    mask: npt.NDArray[np.integer[Any]], class_names: Sequence[str]
) -> tuple[_Labels, npt.NDArray[np.bool_]]:
    """Merge the model's classes into `TISSUES`, by name.

    Returns
    -------
    tuple
        Tissue labels (brainstem is 0 there) and where the brainstem is.

    Raises
    ------
    InputError
        If a name is not known, or the mask holds a value without a name.
    """
    table = np.zeros(len(class_names), dtype=np.uint8)
    stem = np.zeros(len(class_names), dtype=bool)
    for value, name in enumerate(class_names):
        key = name.lower()
        if key == _BRAINSTEM:
            stem[value] = True
        elif key in _TISSUE_OF:
            table[value] = _TISSUE_OF[key]
        else:
            known = ", ".join([*_TISSUE_OF, _BRAINSTEM])
            raise InputError(f"class {name!r} is no known brain tissue ({known})")
    if int(mask.max()) >= len(class_names):
        raise InputError(f"the mask holds {mask.max()}, but there are {len(class_names)} classes")
    return table[mask], stem[mask]


def otsu_tissues(image: npt.NDArray[Any], truth: _Labels) -> _Labels:
    """Tissues by thresholds alone: multi-Otsu levels, each given the tissue it fits best.

    The assignment looks at the truth, so this is what thresholds can reach at most.
    """
    from scipy.optimize import linear_sum_assignment
    from skimage.filters import threshold_multiotsu

    count = len(TISSUES)
    levels = np.digitize(image, threshold_multiotsu(image, classes=count))
    table = np.bincount((truth * count + levels).ravel(), minlength=count * count)
    table = table.reshape(count, count)
    sizes = table.sum(1, keepdims=True) + table.sum(0, keepdims=True)
    dice = 2 * table / np.maximum(sizes, 1)
    rows, columns = linear_sum_assignment(dice, maximize=True)
    tissue_of_level = np.zeros(count, dtype=np.uint8)
    tissue_of_level[columns] = rows
    return np.asarray(tissue_of_level[levels])


def _probability(volume: Volume) -> npt.NDArray[np.float32]:
    array = np.asarray(volume.channel(0).array, dtype=np.float32)
    return array / np.float32(255 if array.max() > 1.5 else 1)


def _dice(like: Volume, mask: _Labels, truth: _Labels) -> dict[str, float | None]:
    grid = like.geometry
    result = compare_labels(
        Volume(mask, grid, "mask"), Volume(truth, grid, "maps"), (1, 2, 3), distances=False
    )
    return {TISSUES[int(k)]: _rounded(row["dice"]) for k, row in result["classes"].items()}


def _left_out(brainstem: npt.NDArray[np.bool_], truth: _Labels) -> dict[str, Any]:
    inside = truth > 0
    share = float((brainstem & inside).sum() / max(1, inside.sum()))
    shares = {
        name: _rounded(float(brainstem[truth == value].mean()) if (truth == value).any() else 0.0)
        for value, name in enumerate(TISSUES)
        if value
    }
    return {
        "rule": _RULE,
        "fraction_of_brain": _rounded(share),
        "plausible": share <= _PLAUSIBLE_BRAINSTEM,
        "fraction_of_tissue": shares,
    }


def _volumes(
    labels: Volume, mask: npt.NDArray[np.integer[Any]], class_names: Sequence[str]
) -> dict[str, float]:
    voxel_ml = labels.geometry.with_unit("mm").voxel_volume / 1000
    counts = np.bincount(mask.ravel(), minlength=len(class_names))
    return {
        name: round(float(counts[value]) * voxel_ml, 2)
        for value, name in enumerate(class_names)
        if value
    }


def _ratio(tissues: _Labels) -> float | None:
    white = int((tissues == 3).sum())
    return round(int((tissues == 2).sum()) / white, 3) if white else None


def _confusion(
    mask: npt.NDArray[np.integer[Any]], truth: _Labels, class_names: Sequence[str]
) -> dict[str, Any]:
    columns = len(class_names)
    index = truth.astype(np.int64) * columns + mask
    table = np.bincount(index.ravel(), minlength=len(TISSUES) * columns)
    return {
        "rows_maps": list(TISSUES),
        "columns_mask": list(class_names),
        "voxels": table.reshape(len(TISSUES), columns).tolist(),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
