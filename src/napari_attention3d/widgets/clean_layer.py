"""A clean-up in a Labels layer: written as one step that can be taken back."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .layers import KEY
from .measure_tasks import Cleaned
from .results import LayerPlan

if TYPE_CHECKING:
    from napari.layers import Layer

    from .layers import LayerSource

__all__ = ["CleanUps", "preview_plan"]

_COLOURS = ["#000000", "#d55e00", "#009e73", "#cc79a7"]
_NAMES = ["as before", "removed", "added", "another class"]


def preview_plan(cleaned: Cleaned, source: LayerSource) -> LayerPlan:
    """A layer that shows what would change; where objects are numbered, the objects."""
    metadata = source.record()
    metadata[KEY]["role"] = "clean-up preview"
    keywords: dict[str, Any] = {
        **source.transform,
        "name": "clean-up preview",
        "opacity": 0.8,
        "metadata": metadata,
    }
    if cleaned.objects:
        return LayerPlan("preview", "objects", cleaned.after, keywords)
    before, after = cleaned.before, cleaned.after
    shown = np.zeros(before.shape, np.uint8)
    different = before != after
    shown[different & (after == 0)] = 1
    shown[different & (before == 0)] = 2
    shown[different & (before != 0) & (after != 0)] = 3
    keywords |= {"features": {"index": [0, 1, 2, 3], "name": _NAMES}, "colours": _COLOURS}
    return LayerPlan("preview", "labels", shown, keywords)


@dataclass
class _Step:
    layer: weakref.ref[Layer]
    box: tuple[slice, ...]
    old: npt.NDArray[Any]
    new: npt.NDArray[Any]
    dtype: np.dtype[Any]
    look: dict[str, Any]
    """metadata, features and colormap before."""


class CleanUps:
    """Applies clean-ups to layers and takes them back, the newest first."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def can_undo(self, layers: Any) -> bool:
        """Whether there is one to take back, of a layer that is still there."""
        self._steps = [s for s in self._steps if s.layer() is not None and s.layer() in layers]
        return bool(self._steps)

    def apply(self, layer: Layer, cleaned: Cleaned) -> int:
        """Write a result into its layer; returns how many voxels changed.

        Voxels that were painted since the clean-up began keep what was painted.

        Raises
        ------
        InputError
            If the layer's data can't be changed or are of another size now.
        """
        data = layer.data
        if not isinstance(data, np.ndarray) or data.shape != cleaned.before.shape:
            raise InputError(
                f"{layer.name!r} can't be changed in place (lazy, or of another size by now); "
                "clean its file on the command line: napari-attention3d clean"
            )
        different = (cleaned.before != cleaned.after) & (data == cleaned.before)
        look = {
            "metadata": dict(layer.metadata),
            "features": layer.features.copy(),
            "colormap": layer.colormap,
        }
        box = _box(different)
        old = data[box].copy()
        new = np.where(different[box], cleaned.after[box], old)
        self._steps.append(_Step(weakref.ref(layer), box, old, new, data.dtype, look))
        if new.size and not np.can_cast(np.min_scalar_type(int(new.max())), data.dtype):
            data = data.astype(np.min_scalar_type(int(new.max())))
            data[box] = new
            layer.data = data  # more objects than the type can number
        else:
            _write(layer, box, new)
        layer.metadata = _with_report(layer.metadata, cleaned.report)
        if cleaned.objects:
            _show_objects(layer)
        return int(different.sum())

    def undo(self) -> Layer | None:
        """Take back the newest; returns its layer."""
        while self._steps:
            step = self._steps.pop()
            layer = step.layer()
            if layer is None:
                continue
            data = layer.data
            old = np.where(data[step.box] == step.new, step.old, data[step.box])
            if data.dtype != step.dtype and _fits(data, step, old):
                data = data.astype(step.dtype)
                data[step.box] = old.astype(step.dtype)
                layer.data = data
            else:
                _write(layer, step.box, old)
            for name, value in step.look.items():
                setattr(layer, name, value)
            return layer
        return None


def _fits(data: npt.NDArray[Any], step: _Step, old: npt.NDArray[Any]) -> bool:
    highest = np.iinfo(step.dtype).max
    rest = data.copy()
    rest[step.box] = old
    return bool(rest.max(initial=0) <= highest)


def _box(different: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    box = []
    for axis in range(different.ndim):
        others = tuple(a for a in range(different.ndim) if a != axis)
        where = np.flatnonzero(different.any(axis=others))
        box.append(slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0))
    return tuple(box)


def _write(layer: Layer, box: tuple[slice, ...], values: npt.NDArray[Any]) -> None:
    """Write a block through the layer's own history, so that Ctrl+Z takes it back, too."""
    where = np.nonzero(layer.data[box] != values)
    if not len(where[0]):
        return
    indices = tuple(w + s.start for w, s in zip(where, box, strict=True))
    with layer.block_history():
        layer.data_setitem(indices, values[where])


def _with_report(metadata: dict[str, Any], report: list[dict[str, Any]]) -> dict[str, Any]:
    entry = dict(metadata.get(KEY) or {})
    provenance = dict(entry.get("provenance") or {})
    provenance["clean_up"] = [*provenance.get("clean_up", []), *report]
    return {**metadata, KEY: {**entry, "provenance": provenance}}


def _show_objects(layer: Layer) -> None:
    """Numbered objects have no class names, and a colour each."""
    from napari.utils.colormaps import label_colormap

    layer.features = {}
    layer.colormap = label_colormap()
