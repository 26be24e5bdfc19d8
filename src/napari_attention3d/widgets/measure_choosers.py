"""Combo boxes and lists of layers that follow the viewer; they know objects, not names."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QListWidget, QListWidgetItem, QSizePolicy

from .layers import KEY

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["ImageList", "LabelsChooser", "LayerList", "role_of"]


def role_of(layer: Layer) -> str:
    """What a result of ours is ("labels", "attention:NAME", ...); "" for other layers."""
    entry = layer.metadata.get(KEY, {})
    return str(entry.get("role", "")) if isinstance(entry, dict) else ""


class LayerList:
    """Calls `refresh` whenever the viewer's list changes, while attached."""

    def __init__(self, viewer: Any, refresh: Callable[[], None]) -> None:
        self._viewer, self._refresh, self._attached = viewer, refresh, False

    def attach(self) -> None:
        """Follow the viewer."""
        if self._attached:
            return
        self._attached = True
        for event in self._events():
            event.connect(self._on_change)
        self._refresh()

    def detach(self) -> None:
        """Follow it no longer."""
        if not self._attached:
            return
        self._attached = False
        for event in self._events():
            event.disconnect(self._on_change)

    def _events(self) -> tuple[Any, ...]:
        events = self._viewer.layers.events
        return events.inserted, events.removed, events.reordered, events.renamed

    def _on_change(self, event: Any = None) -> None:
        self._refresh()


class LabelsChooser(QComboBox):
    """Choose a Labels layer.

    Parameters
    ----------
    viewer
        The viewer.
    empty
        What to show where there is none.
    offer
        Whether a layer may be chosen.
    """

    layer_changed = Signal()

    def __init__(self, viewer: Any, empty: str, offer: Callable[[Layer], bool]) -> None:
        super().__init__()
        self._viewer, self._empty, self._offer = viewer, empty, offer
        self._layers: list[Layer] = []
        self._current: Callable[[], Layer | None] = lambda: None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumContentsLength(12)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.activated.connect(self._on_activated)
        self.follow = LayerList(viewer, self.refresh)
        self.follow.attach()

    @property
    def layer(self) -> Layer | None:
        """The chosen layer, if it is still in the viewer."""
        layer = self._current()
        return layer if layer is not None and layer in self._viewer.layers else None

    def choose(self, layer: Layer) -> None:
        """Choose a layer."""
        self._current = weakref.ref(layer)
        self.refresh()
        self.layer_changed.emit()

    def refresh(self) -> None:
        """Bring the entries in line with the viewer; a new top layer is not chosen by itself."""
        from napari.layers import Labels

        before = self.layer
        self._layers = [
            one
            for one in reversed(self._viewer.layers)
            if isinstance(one, Labels) and self._offer(one)
        ]
        now = before if any(before is one for one in self._layers) else None
        if now is None and self._layers:
            now = self._layers[0]
        self._current = weakref.ref(now) if now is not None else lambda: None
        self.blockSignals(True)
        self.clear()
        for number, one in enumerate(self._layers):
            self.addItem(one.name)
            self.setItemData(number, one.name, Qt.ItemDataRole.ToolTipRole)
        if now is None:
            self.addItem(self._empty)
        else:
            self.setCurrentIndex([one is now for one in self._layers].index(True))
        self.setEnabled(now is not None)
        self.blockSignals(False)
        if now is not before:
            self.layer_changed.emit()

    def _on_activated(self, index: int) -> None:
        if 0 <= index < len(self._layers) and self._layers[index] is not self.layer:
            self.choose(self._layers[index])


class ImageList(QListWidget):
    """Tick Image layers, scans and attention maps; scans are ticked at first."""

    _MOST_ROWS = 4

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._layers: list[Layer] = []
        self._ticks: weakref.WeakKeyDictionary[Layer, bool] = weakref.WeakKeyDictionary()
        self.setToolTip("Also measure what these show inside each label")
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.itemChanged.connect(self._on_ticked)
        self.follow = LayerList(viewer, self.refresh)
        self.follow.attach()

    @property
    def ticked(self) -> list[Layer]:
        """Layers to be measured, from top to bottom."""
        return [one for one in self._layers if self._ticks.get(one, False)]

    def refresh(self) -> None:
        """Bring the entries in line with the viewer."""
        from napari.layers import Image

        self._layers = [
            one
            for one in reversed(self._viewer.layers)
            if isinstance(one, Image) and one.ndim >= 3 and not getattr(one, "rgb", False)
        ]
        self.blockSignals(True)
        self.clear()
        for layer in self._layers:
            ticked = self._ticks.setdefault(layer, role_of(layer) == "")
            item = QListWidgetItem(layer.name)
            item.setToolTip(layer.name)
            item.setCheckState(Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)
            self.addItem(item)
        self.blockSignals(False)
        self.ensurePolished()
        rows = max(1, min(self._MOST_ROWS, len(self._layers)))
        self.setFixedHeight(rows * max(20, self.sizeHintForRow(0)) + 10)

    def _on_ticked(self, item: QListWidgetItem) -> None:
        row = self.row(item)
        if 0 <= row < len(self._layers):
            self._ticks[self._layers[row]] = item.checkState() == Qt.CheckState.Checked
