"""What lies under the mouse: place, scan, label, probabilities."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from ..errors import Attention3DError
from .inspect_histogram import short_number
from .inspect_look import role_of, value_at
from .inspect_runs import Runs
from .probe import Place, voxel_to_shown, voxel_under

if TYPE_CHECKING:
    from napari.layers import Labels

__all__ = ["Cursor", "class_name", "words_at"]

_REST = 30
"""Milliseconds between two readings."""


class Cursor(QObject):
    """Reads the viewer's layers where the mouse is, at most every few milliseconds."""

    moved = Signal(object, str)
    """Place in the viewer's world or None, and what is there in words."""

    def __init__(self, runs: Runs) -> None:
        super().__init__()
        self.runs = runs
        self._callback: Any = None
        self._event: Any = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REST)
        self._timer.timeout.connect(self.read)

    def switch(self, on: bool) -> None:
        """Begin to follow the mouse, or stop."""
        callbacks = self.runs.viewer.mouse_move_callbacks
        if on and self._callback is None:
            self._callback = self._on_move  # napari finds it again by identity
            callbacks.append(self._callback)
        elif not on and self._callback is not None:
            if self._callback in callbacks:
                callbacks.remove(self._callback)
            self._callback = None

    def _on_move(self, viewer: Any, event: Any) -> None:
        self._event = Place(event)
        if not self._timer.isActive():
            self._timer.start()

    def read(self) -> None:
        """Read where the mouse was last."""
        event, self._event = self._event, None
        layer = self.runs.chooser.layer
        if event is None or layer is None or self._callback is None:
            return
        try:
            source = self.runs.source()
        except Attention3DError:
            return
        voxel = voxel_under(layer, source, event, self.runs.mask_layer())
        if voxel is None:
            self.moved.emit(None, "")
            return
        world = layer.data_to_world(_lead(layer, event) + tuple(voxel_to_shown(source, voxel)))
        self.moved.emit(np.asarray(world), words_at(self.runs, voxel, world))


def words_at(runs: Runs, voxel: tuple[float, float, float], world: Any) -> str:
    """Tell place, intensity, label and probabilities at a voxel of the chosen scan."""
    layer = runs.chooser.layer
    assert layer is not None
    source = runs.source()
    geometry = source.volume.geometry
    place = ", ".join(f"{v:.1f}" for v in geometry.to_world(voxel))
    unit = "" if geometry.unit == "pixel" else f" {geometry.unit}"
    index = ", ".join(f"{round(v)}" for v in voxel)
    lines = [f"z, y, x: {place}{unit} (voxel {index})"]
    intensity = value_at(layer, world)
    parts = [] if intensity is None else [f"scan {short_number(intensity)}"]
    mask = runs.mask_layer()
    if mask is not None:
        value = value_at(mask, world)
        if value is not None:
            parts.append(class_name(mask, int(value)))
    lines.append(" · ".join(parts))
    chances = _probabilities(runs, voxel, world)
    if chances:
        lines.append(chances)
    return "\n".join(line for line in lines if line)


def class_name(mask: Labels, value: int) -> str:
    """Name of a label, as its layer knows it."""
    features = mask.features
    if "index" in features and "name" in features:
        found = features.loc[features["index"] == value, "name"]
        if len(found):
            return str(found.iloc[0])
    return "background" if value == 0 else f"label {value}"


def _probabilities(runs: Runs, voxel: tuple[float, float, float], world: Any) -> str:
    """Of the classes, the largest first: from layers, or from a tile that was looked at."""
    found = []
    for layer in runs.viewer.layers:
        if role_of(layer).startswith("probability:"):
            value = value_at(layer, world)
            if value is not None:
                found.append((value, layer.name.rsplit("probability of ", 1)[-1]))
    end = ""
    record = runs.known()
    if not found and record is not None:
        found = [(v, name) for name, v in runs.desk.probabilities(record, voxel).items()]
        end = " (in this tile)"
        if not found:
            return "Classes: click here with the probe, or run with “Probabilities”"
    found.sort(reverse=True)
    return ", ".join(f"{name} {value:.2f}" for value, name in found[:3]) + end if found else ""


def _lead(layer: Any, event: Any) -> tuple[float, ...]:
    """Leading index of a 4D layer at an event."""
    at = np.asarray(layer.world_to_data(event.position), dtype=float)
    return tuple(float(v) for v in at[: layer.ndim - 3])
