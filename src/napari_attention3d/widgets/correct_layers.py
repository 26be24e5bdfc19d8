"""A session's two layers: the mask, and above it the strokes that the person paints."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject, Signal

from ..correction.merge import box_at
from .layers import KEY, LayerSource
from .results import LayerPlan, make_layer

if TYPE_CHECKING:
    from napari.layers import Labels

__all__ = ["CorrectionLayers", "shown_index"]

Array = npt.NDArray[Any]
_PLACE = ("scale", "translate", "rotate", "shear", "affine")
_SLOW = 0.5  # s
BACKGROUND_COLOUR = "#f5f5f5"
"""Of strokes that say "background"."""


class CorrectionLayers(QObject):
    """Makes the layers, follows them, and makes them again if they are deleted.

    Arrays that go in and out lie on the scan's own grid; the layers show them turned.

    Parameters
    ----------
    viewer
        The viewer.
    source
        The scan.
    classes, colours
        Of the classes, background first.
    marker
        Value of "painted as background".
    """

    painted = Signal(object)
    """Box of slices on the scan's grid that a movement of the brush changed."""
    class_chosen = Signal(int)
    """Label that the brush paints now."""
    removed = Signal(str)
    """"mask" or "strokes": the person deleted it."""

    def __init__(
        self,
        viewer: Any,
        source: LayerSource,
        classes: Sequence[str],
        colours: Sequence[str],
        marker: int,
    ) -> None:
        super().__init__()
        self._viewer, self._source = viewer, source
        self._classes, self._colours, self._marker = tuple(classes), tuple(colours), marker
        self.mask: Labels | None = None
        self.strokes: Labels | None = None
        self._history = (0, 0)
        self._refreshed = 0.0
        viewer.layers.events.removed.connect(self._on_removed)

    # ---- making them

    def ensure(self, labels: Callable[[], Array], corrections: Callable[[], Array]) -> list[str]:
        """Make the layers that are missing or can't be used, from what the session holds.

        Parameters
        ----------
        labels, corrections
            Give the arrays; asked only if they are needed.

        Returns
        -------
        list of str
            What was repaired, in words; empty if all was well.
        """
        notes = []
        for name, give in (("mask", labels), ("strokes", corrections)):
            layer = getattr(self, name)
            problem = self._problem(layer, name)
            if problem is None:
                notes += self._put_back(layer, name)
                continue
            self._let_go(layer)
            setattr(self, name, self._make(name, give()))
            if name == "strokes":
                self.activate()
            if problem:
                notes.append(problem)
        return notes

    def _problem(self, layer: Labels | None, name: str) -> str | None:
        """Why a layer must be made anew; "" if it never was made; None if it is well."""
        if layer is None:
            return ""
        if layer not in self._viewer.layers:
            return f"the {name} layer was deleted; it is made again, nothing is lost"
        wanted = self._source.turn.apply_shape(self._source.volume.geometry.shape)
        if tuple(layer.data.shape) != tuple(wanted) or not isinstance(layer.data, np.ndarray):
            return (
                f"the {name} layer was replaced by data of the shape {tuple(layer.data.shape)}, "
                f"the scan has {tuple(wanted)}; a new {name} layer is made, nothing is lost"
            )
        return None

    def _put_back(self, layer: Labels, name: str) -> list[str]:
        wanted = self._source.transform
        now = {key: np.asarray(_place(layer, key)) for key in _PLACE}
        if all(np.allclose(now[key], np.asarray(wanted[key])) for key in _PLACE):
            return []
        for key in _PLACE:
            setattr(layer, key, wanted[key])
        return [f"the {name} layer was moved; it lies on the scan again"]

    def _make(self, name: str, array: Array) -> Labels:
        make = self._mask_layer if name == "mask" else self._strokes_layer
        layer = make(self._source.show(array.copy()))
        layers, other = self._viewer.layers, self.strokes
        if name == "mask" and other is not None and other in layers:
            layers.insert(layers.index(other), layer)
        else:
            layers.append(layer)
        if name == "strokes":
            layer.events.paint.connect(self._on_paint)
            layer.events.selected_label.connect(self._on_selected)
            self._history = _history(layer)
        return layer

    def _mask_layer(self, shown: Array) -> Labels:
        name = f"{self._source.volume.name} · corrected mask"
        keywords = {
            **self._source.transform,
            "name": name,
            "opacity": 0.5,
            "features": {"index": list(range(len(self._classes))), "name": list(self._classes)},
            "colours": list(self._colours),
            "metadata": self._metadata("labels"),
        }
        return make_layer(LayerPlan("labels", "labels", shown, keywords))

    def _strokes_layer(self, shown: Array) -> Labels:
        from napari.layers import Labels
        from napari.utils.colormaps import DirectLabelColormap

        table: dict[int | None, str] = dict(enumerate(self._colours))
        table |= {0: "transparent", self._marker: BACKGROUND_COLOUR, None: "#ff00ff"}
        layer = Labels(
            shown,
            **self._source.transform,
            name=f"{self._source.volume.name} · strokes",
            opacity=1.0,
            features={
                "index": [*range(len(self._classes)), self._marker],
                "name": ["not painted", *self._classes[1:], f"{self._classes[0]} (painted)"],
            },
            colormap=DirectLabelColormap(color_dict=table),
            metadata=self._metadata("strokes"),
        )
        layer.brush_size = max(1, min(10, round(min(sorted(shown.shape)[1:]) / 40)))
        layer.selected_label = 1
        return layer

    def _metadata(self, role: str) -> dict[str, Any]:
        return {KEY: {**self._source.record()[KEY], "role": role, "corrected": True}}

    def tell(self, provenance: dict[str, Any]) -> None:
        """Let both layers say how what they hold was made."""
        for layer in (self.mask, self.strokes):
            if layer is not None and layer in self._viewer.layers:
                entry = {**layer.metadata.get(KEY, {}), "provenance": provenance}
                layer.metadata = {**layer.metadata, KEY: entry}

    def activate(self) -> None:
        """Make the strokes the active layer, with the brush."""
        if self.strokes is not None and self.strokes in self._viewer.layers:
            self._viewer.layers.selection.active = self.strokes
            if str(self.strokes.mode) in ("pan_zoom", "transform"):
                self.strokes.mode = "paint"

    def choose(self, value: int) -> None:
        """Paint with a label from now on; 0 erases strokes."""
        layer = self.strokes
        if layer is None or layer not in self._viewer.layers:
            return
        self._viewer.layers.selection.active = layer
        if value == 0:
            layer.mode = "erase"
            return
        layer.selected_label = value
        if str(layer.mode) in ("pan_zoom", "transform", "erase", "pick"):
            layer.mode = "paint"

    def close(self, *, keep_strokes: bool = True) -> None:
        """Follow the layers no longer."""
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        strokes = self.strokes
        for layer in (self.mask, self.strokes):
            self._let_go(layer)
        self.mask = self.strokes = None
        if not keep_strokes and strokes is not None and strokes in self._viewer.layers:
            self._viewer.layers.remove(strokes)

    def _let_go(self, layer: Labels | None) -> None:
        strokes: Any = self.strokes
        if layer is None or layer is not strokes:
            return
        events = strokes.events
        events.paint.disconnect(self._on_paint)
        events.selected_label.disconnect(self._on_selected)

    # ---- reading and writing

    def read(self, name: str) -> Array | None:
        """Array of "mask" or "strokes" on the scan's grid, not copied; None if it is not there."""
        layer = getattr(self, name)
        if self._problem(layer, name) is not None:
            return None
        return np.asarray(self._source.turn.inverse().apply(layer.data))

    def write(
        self, name: str, array: Array, start: Sequence[int] = (0, 0, 0), *, part: bool = False
    ) -> bool:
        """Put an array (z, y, x) into "mask" or "strokes" from a voxel of the scan on.

        Parameters
        ----------
        name
            "mask" or "strokes".
        array, start
            What, and where.
        part
            Whether more is to come: a 3D view, which takes the whole layer anew, then
            shows this at most twice a second.

        Returns
        -------
        bool
            Whether the layer is there.
        """
        target = self.read(name)
        if target is None:
            return False
        target[box_at(start, array.shape)] = array
        self._written(name, part)
        return True

    def write_voxels(self, name: str, voxels: Array, values: Array) -> bool:
        """Put values (N,) at voxels (N, 3) of the scan; see `write`."""
        target = self.read(name)
        if target is None:
            return False
        target[tuple(voxels.T)] = values
        self._written(name, part=False)
        return True

    def _written(self, name: str, part: bool) -> None:
        layer = getattr(self, name)
        layer._reset_history()  # napari's undo would bring back voxels of an older round
        if name == "strokes":
            self._history = _history(layer)
        now = time.monotonic()
        if part and self._viewer.dims.ndisplay == 3 and now - self._refreshed < _SLOW:
            return
        self._refreshed = now
        layer.refresh(extent=False, thumbnail=False, highlight=False)

    def history_moved(self) -> bool:
        """Whether strokes were painted, undone or redone since this was last asked."""
        if self.strokes is None:
            return False
        before, self._history = self._history, _history(self.strokes)
        return before != self._history

    # ---- what the person does

    def _on_paint(self, event: Any) -> None:
        if self.strokes is None or not event.value:
            return
        self._history = _history(self.strokes)
        self.painted.emit(self._own_box(_box_of(event.value)))

    def _own_box(self, box: tuple[slice, ...]) -> tuple[slice, ...]:
        turn, shown = self._source.turn, self.strokes.data.shape if self.strokes else ()
        own = [slice(0, 0)] * 3
        for axis, part in enumerate(box):
            if turn.flips[axis]:
                part = slice(shown[axis] - part.stop, shown[axis] - part.start)
            own[turn.permutation[axis]] = part
        return tuple(own)

    def _on_selected(self, event: Any = None) -> None:
        if self.strokes is not None:
            self.class_chosen.emit(int(self.strokes.selected_label))

    def _on_removed(self, event: Any) -> None:
        for name in ("mask", "strokes"):
            if event.value is getattr(self, name) and event.value is not None:
                self.removed.emit(name)


def shown_index(source: LayerSource, voxel: Sequence[float]) -> tuple[float, float, float]:
    """Index in the shown array of a voxel (z, y, x) of the scan's own grid."""
    turn = source.turn.index_affine(source.volume.geometry.shape)
    z, y, x = (np.linalg.inv(turn) @ [*voxel, 1.0])[:3]
    return float(z), float(y), float(x)


def _history(layer: Labels) -> tuple[int, int]:
    """How many steps napari could undo and redo; undoing emits no event of its own."""
    return len(layer._undo_history), len(layer._redo_history)


def _place(layer: Labels, key: str) -> Any:
    value = getattr(layer, key)
    return value.affine_matrix if key == "affine" else value


def _box_of(atoms: Sequence[Any]) -> tuple[slice, ...]:
    """Box of the shown array that a paint event changed."""
    lows, highs = [], []
    for atom in atoms:
        if hasattr(atom, "slice_key"):
            lows.append([part.start for part in atom.slice_key])
            highs.append([part.stop for part in atom.slice_key])
        else:
            lows.append([int(np.min(x)) for x in atom[0]])
            highs.append([int(np.max(x)) + 1 for x in atom[0]])
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
