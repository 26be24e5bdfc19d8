"""A clean-up in a Labels layer: written as one step that can be taken back.

By our own button and by napari's Ctrl+Z alike: what the layer says of itself (provenance, names,
colours) follows what its voxels are.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .layers import KEY
from .measure_tasks import Cleaned

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["CleanUps"]

_LOOK = ("metadata", "features", "colormap")


@dataclass(eq=False)
class _Step:
    """A change of a layer: a clean-up, or one that was taken back by our button.

    Parameters
    ----------
    atom
        What napari's history holds of it; None: nothing.
    before, after
        How the layer looks (`_LOOK`) without and with it.
    of
        The clean-up that this step took back.
    """

    layer: weakref.ref[Layer]
    box: tuple[slice, ...]
    old: npt.NDArray[Any]
    new: npt.NDArray[Any]
    dtype: np.dtype[Any]
    before: dict[str, Any]
    after: dict[str, Any]
    atom: Any = None
    of: _Step | None = None
    there: bool = True

    def look(self) -> None:
        """Find out whether it is in the voxels; if napari forgot it, it is as it was."""
        layer = self.layer()
        if layer is None or self.atom is None:
            return
        if _holds(layer._undo_history, self.atom):
            self.there = True
        elif _holds(layer._redo_history, self.atom):
            self.there = False


class CleanUps:
    """Applies clean-ups to layers and takes them back, the newest first."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._busy = False

    def can_undo(self, layers: Any) -> bool:
        """Whether there is one to take back, of a layer that is still there."""
        self._steps = [s for s in self._steps if s.layer() is not None and s.layer() in layers]
        return self._newest() is not None

    def _newest(self) -> _Step | None:
        """The newest clean-up that the voxels still hold."""
        gone = {id(step.of) for step in self._steps if step.of is not None and step.there}
        left = [s for s in self._steps if s.of is None and s.there and id(s) not in gone]
        return left[-1] if left else None

    def apply(self, layer: Layer, cleaned: Cleaned) -> int:
        """Write a result into its layer; returns how many voxels changed.

        Voxels that were painted since the clean-up began keep what was painted.

        Raises
        ------
        InputError
            If the layer's data can't be changed or are of another size now.
        """
        data, box = layer.data, cleaned.box
        if not isinstance(data, np.ndarray) or data.shape != cleaned.shape:
            raise InputError(
                f"{layer.name!r} can't be changed in place (lazy, or of another size by now); "
                "clean its file on the command line: napari-attention3d clean"
            )
        different = (cleaned.before != cleaned.after) & (data[box] == cleaned.before)
        before = _look_of(layer)
        old = data[box].copy()
        new = np.where(different, cleaned.after, old)
        step = _Step(weakref.ref(layer), box, old, new, data.dtype, before, {})
        self._busy = True
        try:
            if not np.can_cast(np.min_scalar_type(cleaned.highest), data.dtype):
                data = data.astype(np.min_scalar_type(cleaned.highest))
                data[box] = new
                layer.data = data  # more objects than the type can number
            else:
                step.atom = _write(layer, box, new)
            layer.metadata = _with(layer.metadata, cleaned.provenance)
            if cleaned.objects:
                _show_objects(layer)
        finally:
            self._busy = False
        step.after = _look_of(layer)
        if not any(one.layer() is layer for one in self._steps):
            for event in (layer.events.set_data, layer.events.reload):
                event.connect(self._on_drawn)
        self._steps.append(step)
        return int(different.sum())

    def undo(self) -> Layer | None:
        """Take back the newest; returns its layer."""
        step = self._newest()
        layer = step.layer() if step is not None else None
        if step is None or layer is None:
            return None
        if step.atom is not None and _holds(list(layer._undo_history)[-1:], step.atom):
            layer.undo()  # nothing was painted since: as Ctrl+Z
            self._reconcile(layer)
            return layer
        data = layer.data
        old = np.where(data[step.box] == step.new, step.old, data[step.box])
        self._busy = True
        try:
            if data.dtype != step.dtype and _fits(data, step, old):
                data = data.astype(step.dtype)
                data[step.box] = old.astype(step.dtype)
                layer.data = data
                self._steps.remove(step)
            else:
                atom = _write(layer, step.box, old)
                back = _Step(step.layer, step.box, step.new, old, step.dtype, step.after,
                             step.before, atom, step)  # fmt: skip
                self._steps.append(back)
            _set_look(layer, step.before)
        finally:
            self._busy = False
        return layer

    def _on_drawn(self, event: Any) -> None:
        """After each drawing: napari tells no other way that Ctrl+Z was pressed."""
        layer = getattr(event, "source", None)
        if layer is not None and not self._busy:
            self._reconcile(layer)

    def _reconcile(self, layer: Layer) -> None:
        """Let the layer say what its voxels are, if napari's history was gone through."""
        steps = [step for step in self._steps if step.layer() is layer]
        before = [step.there for step in steps]
        for step in steps:
            step.look()
        if [step.there for step in steps] == before:
            return
        there = [step for step in steps if step.there]
        self._busy = True
        try:
            _set_look(layer, there[-1].after if there else steps[0].before)
        finally:
            self._busy = False


def _look_of(layer: Layer) -> dict[str, Any]:
    return {
        "metadata": dict(layer.metadata),
        "features": layer.features.copy(),
        "colormap": layer.colormap,
    }


def _set_look(layer: Layer, look: dict[str, Any]) -> None:
    for name in _LOOK:
        setattr(layer, name, look[name])


def _holds(history: Any, atom: Any) -> bool:
    return any(one is atom for item in history for one in item)


def _fits(data: npt.NDArray[Any], step: _Step, old: npt.NDArray[Any]) -> bool:
    """Whether the type of before holds the layer without the step; only after it was widened."""
    highest = np.iinfo(step.dtype).max
    rest = data.copy()
    rest[step.box] = old
    return bool(rest.max(initial=0) <= highest)


def _write(layer: Layer, box: tuple[slice, ...], values: npt.NDArray[Any]) -> Any:
    """Write a block through the layer's own history; returns what that holds of it."""
    where = np.nonzero(layer.data[box] != values)
    if not len(where[0]):
        return None
    indices = tuple(w + s.start for w, s in zip(where, box, strict=True))
    with layer.block_history():
        layer.data_setitem(indices, values[where])
    return layer._undo_history[-1][0]


def _with(metadata: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    entry = dict(metadata.get(KEY) or {})
    return {**metadata, KEY: {**entry, "provenance": provenance}}


def _show_objects(layer: Layer) -> None:
    """Numbered objects have no class names, and a colour each."""
    from napari.utils.colormaps import label_colormap

    layer.features = {}
    layer.colormap = label_colormap()
