"""Reading the transform that napari keeps with a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = [
    "layer_matrix",
    "lead_meaning",
    "meta_matrix",
    "place_layer",
    "spatial_transform",
    "unit_factors",
]

_LENGTHS_MM = {
    "millimeter": 1.0,
    "micrometer": 1e-3,
    "micron": 1e-3,
    "nanometer": 1e-6,
    "centimeter": 10.0,
    "meter": 1e3,
    "angstrom": 1e-7,
}
_SHORT = {
    "mm": "millimeter",
    "um": "micrometer",
    "µm": "micrometer",
    "nm": "nanometer",
    "cm": "centimeter",
    "m": "meter",
}


def layer_matrix(layer: Layer) -> npt.NDArray[np.float64]:
    """(n + 1, n + 1) index to world of a layer."""
    n = int(layer.ndim)
    origin = np.asarray(layer.data_to_world((0,) * n), dtype=float)
    matrix = np.eye(n + 1)
    for axis, unit_vector in enumerate(np.eye(n)):
        matrix[:n, axis] = np.asarray(layer.data_to_world(unit_vector)) - origin
    matrix[:n, n] = origin
    return matrix


def lead_meaning(meta: Mapping[str, Any]) -> str:
    """What the first axis of a 4D layer is, "channel" if its label says so, else "time".

    A file that has no such axis is refused when it is read by a recipe that asks for one.
    """
    first = str((tuple(meta.get("axis_labels") or ()) or ("",))[0]).lower()
    return "channel" if first in ("c", "channel", "channels") else "time"


def meta_matrix(meta: Mapping[str, Any], ndim: int) -> npt.NDArray[np.float64]:
    """Index to world from layer attributes, as napari composes them."""
    from napari.utils.transforms import Affine

    transform = Affine(
        scale=meta.get("scale", np.ones(ndim)),
        translate=meta.get("translate", np.zeros(ndim)),
        rotate=meta.get("rotate"),
        shear=meta.get("shear"),
        ndim=ndim,
    )
    outer = _outer_affine(meta, ndim)
    return np.asarray(outer @ np.asarray(transform.affine_matrix))


def _outer_affine(meta: Mapping[str, Any], ndim: int) -> npt.NDArray[np.float64]:
    affine = meta.get("affine")
    if affine is None:
        return np.eye(ndim + 1)
    return np.asarray(getattr(affine, "affine_matrix", affine), dtype=float)


def spatial_transform(meta: Mapping[str, Any], ndim: int) -> dict[str, Any]:
    """Return the last three axes of a layer's transform attributes."""
    affine = _outer_affine(meta, ndim)
    keep = [*range(ndim - 3, ndim), ndim]
    rotate = np.asarray(meta.get("rotate", np.eye(ndim)), dtype=float)
    shear = np.atleast_1d(np.asarray(meta.get("shear", np.zeros(0)), dtype=float))
    return {
        "scale": np.asarray(meta.get("scale", np.ones(ndim)), dtype=float)[-3:],
        "translate": np.asarray(meta.get("translate", np.zeros(ndim)), dtype=float)[-3:],
        "rotate": rotate[-3:, -3:] if rotate.ndim == 2 else rotate,
        "shear": _last_shear(shear, ndim),
        "affine": affine[np.ix_(keep, keep)],
        "units": tuple(meta.get("units") or ("pixel",) * ndim)[-3:],
        "axis_labels": tuple(meta.get("axis_labels") or ("z", "y", "x"))[-3:],
    }


def _last_shear(shear: npt.NDArray[np.float64], ndim: int) -> npt.NDArray[np.float64]:
    """Shear of the last three axes: napari keeps the upper triangle as a vector."""
    if shear.ndim == 2:
        return shear[-3:, -3:]
    if ndim == 3 or shear.size != ndim * (ndim - 1) // 2:
        return shear if shear.size == 3 else np.zeros(3)
    full = np.eye(ndim)
    full[np.triu_indices(ndim, 1)] = shear
    return full[-3:, -3:][np.triu_indices(3, 1)]


def unit_factors(units: Any) -> tuple[tuple[float, float, float], str]:
    """Factors that bring each world axis to one of our units, and that unit."""
    names = [str(unit) for unit in tuple(units)[-3:]]
    long = [_SHORT.get(n, n) for n in names]
    if not all(n in _LENGTHS_MM for n in long):
        return (1.0, 1.0, 1.0), "pixel"
    unit = "um" if all(_LENGTHS_MM[n] <= 1e-3 for n in long) else "mm"
    per_mm = 1e3 if unit == "um" else 1.0
    a, b, c = (_LENGTHS_MM[n] * per_mm for n in long)
    return (a, b, c), unit


def place_layer(layer: Layer, place: Mapping[str, Any]) -> None:
    """Lay a layer elsewhere; what stays is not set again, as each setting draws anew."""
    for key, value in place.items():
        now = getattr(layer, key)
        if key == "affine":
            now = now.affine_matrix
        try:
            same = bool(np.allclose(np.asarray(now, float), np.asarray(value, float)))
        except (TypeError, ValueError):
            same = tuple(now) == tuple(value)
        if not same:
            setattr(layer, key, value)
