"""The only place where napari layers and volumes are turned into one another.

napari slices along array axes and can't show a scan whose axes are permuted, flipped
or tilted truly. Such a scan is *shown* in the canonical orientation (axes growing
towards Superior, Anterior, Right) with its spacing and position but no rotation. The
true geometry travels in ``layer.metadata[KEY]``; whatever is made from the layer is
turned back to the scan's own grid before it is computed on or saved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..geometry import Geometry, Reorientation
from ..volumes.volume import Volume
from .layer_classes import class_keywords
from .layer_transform import (
    layer_matrix,
    lead_meaning,
    meta_matrix,
    spatial_transform,
    unit_factors,
)

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = [
    "KEY",
    "LayerSource",
    "geometry_from_dict",
    "geometry_to_dict",
    "guess_kind",
    "layer_to_volume",
    "meta_to_source",
    "source_for_array",
    "volume_to_layer_data",
]

KEY = "napari-attention3d"
"""Our entry in ``layer.metadata``."""

_KEPT = ("provenance", "notes", "nifti", "channel")
"""What a volume knows of how its layer was read or made."""

LayerData = tuple[Any, dict[str, Any], str]


@dataclass(frozen=True, eq=False)
class LayerSource:
    """A layer, read: its volume and how to show other things beside it.

    Parameters
    ----------
    volume
        On the scan's own grid, with its true geometry.
    turn
        From the volume's array to the array that the layer shows.
    shown
        Geometry of the shown array in the viewer's world.
    transform
        The layer's own ``scale``, ``translate``, ``rotate``, ``shear``, ``affine``,
        ``units`` and ``axis_labels``, for results to copy.
    origin
        The very array that the layer held when it was read; None if unknown.
    lead
        Index along the first axis of a 4D layer, if one was taken.
    """

    volume: Volume
    turn: Reorientation
    shown: Geometry
    transform: dict[str, Any] = field(default_factory=dict)
    origin: Any = None
    lead: int | None = None

    def record(self, provenance: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what goes into a result's ``layer.metadata`` (JSON-compatible)."""
        entry: dict[str, Any] = {
            "geometry": geometry_to_dict(self.volume.geometry),
            "shown": geometry_to_dict(self.shown),
        }
        if "nifti" in self.volume.metadata:
            entry["nifti"] = self.volume.metadata["nifti"]
        if provenance is not None:
            entry["provenance"] = dict(provenance)
        return {KEY: entry}

    def show(self, array: Any) -> Any:
        """Turn an array on the scan's own grid (..., Z, Y, X) as the layer shows it."""
        return self.turn.apply(array)

    def place(self, volume: Volume) -> tuple[Any, dict[str, Any]]:
        """Return array and layer keywords that lay another grid (a coarse map) on the scan.

        Parameters
        ----------
        volume
            (Z, Y, X), its geometry in the same true world as the scan's.
        """
        scan = self.volume.geometry.reorient(self.turn)
        other = volume.geometry
        if other.unit != scan.unit and "pixel" not in (other.unit, scan.unit):
            other = other.with_unit(scan.unit)
        grid = Geometry(other.shape, np.linalg.inv(scan.affine) @ other.affine)
        turn = grid.canonical_reorientation()
        grid = grid.reorient(turn)
        keywords = dict(self.transform)
        if grid.is_axis_aligned:
            linear = self._layer_linear()
            keywords["scale"] = np.asarray(keywords["scale"]) * grid.spacing
            keywords["translate"] = np.asarray(keywords["translate"]) + linear @ grid.origin
        else:
            for name in ("scale", "translate", "rotate", "shear"):
                keywords.pop(name, None)
            keywords["affine"] = self._shown_raw() @ grid.affine
        return turn.apply(volume.array), keywords

    def _shown_raw(self) -> npt.NDArray[np.float64]:
        """(4, 4) shown index to world in the layer's own units (not converted to mm or um)."""
        factors, _ = unit_factors(self.transform["units"])
        return np.asarray(np.diag([*(1 / f for f in factors), 1.0]) @ self.shown.affine)

    def _layer_linear(self) -> npt.NDArray[np.float64]:
        """(3, 3) matrix of scale, shear and rotate alone, before ``affine``."""
        affine = np.asarray(self.transform["affine"], dtype=float)
        return np.asarray(np.linalg.solve(affine[:3, :3], self._shown_raw()[:3, :3]))


def geometry_to_dict(geometry: Geometry) -> dict[str, Any]:
    """JSON-compatible form of a geometry."""
    return {
        "shape": list(geometry.shape),
        "affine": geometry.affine.tolist(),
        "unit": geometry.unit,
        "anatomical": geometry.anatomical,
    }


def geometry_from_dict(entry: Mapping[str, Any]) -> Geometry:
    """Undo `geometry_to_dict`.

    Raises
    ------
    InputError
        If the entry is not one.
    """
    try:
        z, y, x = (int(s) for s in entry["shape"])
        affine = np.asarray(entry["affine"], dtype=float)
        return Geometry((z, y, x), affine, str(entry["unit"]), bool(entry["anatomical"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the layer's stored geometry is damaged ({error}); open the scan again"
        ) from error


# ---- volume to layer


def volume_to_layer_data(
    volume: Volume, *, kind: str | None = None, coarser: Sequence[Any] = ()
) -> list[LayerData]:
    """Layers that show a volume: one per channel.

    Parameters
    ----------
    volume
        (Z, Y, X) or (C, Z, Y, X).
    kind
        "image" or "labels"; None: what the volume's metadata says, else `guess_kind`.
    coarser
        Smaller versions of its array, largest first: the layers are multiscale then.

    Returns
    -------
    list of (array, keywords, layer type)
        As napari's readers return them. Lazy arrays stay lazy.
    """
    kind = kind or str(volume.metadata.get("kind") or guess_kind(volume))
    turn = volume.geometry.canonical_reorientation()
    shown = volume.geometry.deobliqued()
    provenance = volume.metadata.get("provenance")
    entry: dict[str, Any] = {
        "geometry": geometry_to_dict(volume.geometry),
        "shown": geometry_to_dict(shown),
    }
    if provenance:
        entry["provenance"] = provenance
    if volume.source is not None:
        entry["source"] = str(volume.source)
    if volume.notes:
        entry["notes"] = list(volume.notes)
    if "nifti" in volume.metadata:
        entry["nifti"] = volume.metadata["nifti"]
    result: list[LayerData] = []
    for index in range(volume.n_channels):
        levels = [
            turn.apply(_showable(level[index] if level.ndim == 4 else level))
            for level in (volume.array, *coarser)
        ]
        keywords: dict[str, Any] = {
            "name": _channel_title(volume, index),
            "scale": shown.spacing,
            "translate": shown.origin,
            "units": (shown.unit,) * 3,
            "axis_labels": ("z", "y", "x"),
            "metadata": {KEY: dict(entry)},
        }
        if volume.n_channels > 1:  # the file has more than the layer shows
            keywords["metadata"][KEY]["channel"] = index
        if coarser:
            keywords["multiscale"] = True
        if kind == "labels":
            levels = [_as_labels(level) for level in levels]
            keywords |= class_keywords(volume.metadata.get("classes") or ())
            result.append((levels if coarser else levels[0], keywords, "labels"))
            continue
        keywords["contrast_limits"] = contrast_limits(levels[-1])
        if volume.n_channels > 1:
            keywords["colormap"] = _CHANNEL_COLOURS[index % len(_CHANNEL_COLOURS)]
            keywords["blending"] = "additive"
        result.append((levels if coarser else levels[0], keywords, "image"))
    return result


def guess_kind(volume: Volume) -> str:
    """Tell "labels" from "image" for a file that does not say: by name and type together."""
    named = _LABEL_NAME.search(volume.name) is not None
    whole = volume.array.dtype.kind in "iu" and volume.array.ndim == 3
    return "labels" if named and whole else "image"


_LABEL_NAME = re.compile(
    r"(^|[^a-z])(labels?|seg|segmentation|masks?|instances)([^a-z]|$)", re.IGNORECASE
)

_CHANNEL_COLOURS = ("gray", "green", "magenta", "cyan", "yellow", "red", "blue")


_LARGE = 1 << 26
"""Voxels of a lazy array that are not all read to find contrast limits."""


def _channel_title(volume: Volume, index: int) -> str:
    if volume.n_channels == 1:
        return volume.name
    names = volume.channel_names
    return f"{volume.name} · {names[index] if index < len(names) else f'channel {index + 1}'}"


def _showable(array: Any) -> Any:
    """Array that napari can slice: numpy and dask as they are, others read."""
    if isinstance(array, np.ndarray) or type(array).__module__.startswith("dask."):
        return array
    return np.asarray(array)


def _as_labels(array: Any) -> Any:
    return array if array.dtype.kind in "iu" else np.asarray(array).astype(np.int32)


def contrast_limits(array: Any) -> tuple[float, float]:
    """Limits between the 0.5th and 99.8th percentile of a thin sample of the voxels."""
    if not isinstance(array, np.ndarray) and array.size > _LARGE:
        array = array[array.shape[0] // 2][None]  # a sample of all would read all chunks
    steps = tuple(slice(None, None, max(1, size // 48)) for size in array.shape)
    sample = np.asarray(array[steps])
    if sample.dtype.kind == "c":
        sample = np.abs(sample)
    sample = sample[np.isfinite(sample)].astype(np.float64)
    if sample.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.8)))
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    return (low, high) if high > low else (low, low + 1.0)


# ---- layer to volume


def layer_to_volume(layer: Layer, *, leading: int | None = None) -> LayerSource:
    """Read a layer: its voxels (not copied), true geometry and transform.

    Parameters
    ----------
    layer
        An Image or Labels layer of any origin.
    leading
        Index along the first axis of a 4D layer (the point in view); None keeps all,
        as channels.

    Raises
    ------
    InputError
        If the layer is 2D, RGB, of more than 4 axes, or empty.
    """
    if getattr(layer, "rgb", False):
        raise InputError(
            f"{layer.name!r} is an RGB picture, a 3D scan of intensities is needed; "
            "split it with right-click > Split RGB and choose one channel"
        )
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    meta = {
        "name": layer.name,
        "scale": np.asarray(layer.scale),
        "translate": np.asarray(layer.translate),
        "rotate": np.asarray(layer.rotate),
        "shear": np.asarray(layer.shear),
        "affine": np.asarray(layer.affine.affine_matrix),
        "units": tuple(layer.units),
        "axis_labels": tuple(layer.axis_labels),
        "metadata": layer.metadata,
    }
    found = meta_to_source(data, meta, leading=leading, matrix=layer_matrix(layer))
    return replace(found, origin=data, lead=leading if layer.ndim == 4 else None)


def meta_to_source(
    data: Any,
    meta: Mapping[str, Any],
    *,
    leading: int | None = None,
    matrix: npt.NDArray[np.float64] | None = None,
) -> LayerSource:
    """Read what napari hands to a writer; see `layer_to_volume` for the errors.

    Parameters
    ----------
    data
        The shown array.
    meta
        Layer attributes: name, scale, translate, rotate, shear, affine, units, metadata.
    matrix
        (n + 1, n + 1) index to world of the whole layer, where it is known.
    """
    name = str(meta.get("name", "layer"))
    if not hasattr(data, "transpose"):  # a zarr array, opened by the person
        import dask.array

        data = dask.array.from_array(data, name=False)
    ndim = int(data.ndim)
    if ndim < 3:
        raise InputError(
            f"{name!r} is a 2D layer, a 3D scan is needed; open the whole stack, or merge "
            "its slices with right-click > Merge to Stack"
        )
    if ndim > 4:
        raise InputError(
            f"{name!r} has {ndim} axes, at most 4 (channel or time, z, y, x) are supported; "
            "split it with right-click > Split Stack"
        )
    if matrix is None:
        matrix = meta_matrix(meta, ndim)
    taken: dict[str, int] = {}
    if leading is not None and ndim == 4:
        data = data[leading]
        taken = {lead_meaning(meta): leading}
    transform = spatial_transform(meta, ndim)
    factors, unit = unit_factors(transform["units"])
    affine = np.eye(4)
    affine[:3, :3] = matrix[ndim - 3 : ndim, ndim - 3 : ndim] * np.asarray(factors)[:, None]
    affine[:3, 3] = matrix[ndim - 3 : ndim, -1] * factors
    z, y, x = data.shape[-3:]
    shown = Geometry((z, y, x), affine, unit)
    true, turn = _recorded(meta.get("metadata") or {}, shown)
    array = turn.inverse().apply(data)
    entry = (meta.get("metadata") or {}).get(KEY, {})
    volume = Volume(
        array,
        true,
        name,
        source=Path(entry["source"]) if "source" in entry else None,
        metadata={k: entry[k] for k in _KEPT if k in entry} | taken,
    )
    return LayerSource(volume, turn, shown, transform)


def source_for_array(data: Any, like: LayerSource) -> LayerSource:
    """Read an array that lies on the same shown grid as another layer."""
    array = like.turn.inverse().apply(data)
    return LayerSource(like.volume.replace(array=array), like.turn, like.shown, like.transform)


def _recorded(metadata: Mapping[str, Any], shown: Geometry) -> tuple[Geometry, Reorientation]:
    """Return the true geometry and turn, if what we recorded still describes what is shown."""
    entry = metadata.get(KEY)
    if not isinstance(entry, Mapping) or "geometry" not in entry or "shown" not in entry:
        return shown, Reorientation()
    then = geometry_from_dict(entry["shown"])
    if not then.is_close(shown):
        return shown, Reorientation()  # the person moved or rescaled it: believe the layer
    true = geometry_from_dict(entry["geometry"])
    return true, true.canonical_reorientation()
