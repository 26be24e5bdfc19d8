"""The combo box of scans, shared by all tabs."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QSizePolicy, QWidget

from .layers import KEY

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["LayerChooser"]


_WATCHED = ("data", "scale", "translate", "rotate", "shear", "affine", "units")


class LayerChooser(QComboBox):
    """Choose an image layer; follows the viewer's list and remembers objects, not names.

    Attention maps and other results of ours are left out.
    """

    layer_changed = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layers: list[Layer] = []
        self._current: Layer | None = None
        self._attached = False
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumContentsLength(12)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setToolTip("The scan to work on. Results are laid exactly on it.")
        self.activated.connect(self._on_activated)
        self.attach()

    def attach(self) -> None:
        """Follow the viewer's layers."""
        if self._attached:
            return
        events = self._viewer.layers.events
        events.inserted.connect(self._on_inserted)
        for event in (events.removed, events.reordered, events.renamed):
            event.connect(self._on_list_changed)
        self._attached = True
        self.refresh()

    def detach(self) -> None:
        """Stop following, forget all layers."""
        if not self._attached:
            return
        events = self._viewer.layers.events
        events.inserted.disconnect(self._on_inserted)
        for event in (events.removed, events.reordered, events.renamed):
            event.disconnect(self._on_list_changed)
        self._attached = False
        self._watch(None)
        self._layers = []

    @property
    def layer(self) -> Layer | None:
        """The chosen layer, or None if there is none."""
        return self._current

    def choose(self, layer: Layer) -> None:
        """Choose a layer of the list."""
        if layer is not self._current and any(layer is one for one in self._layers):
            self._watch(layer)
            self.refresh()
            self.layer_changed.emit()

    def refresh(self) -> None:
        """Bring the entries in line with the viewer."""
        self._layers = [one for one in reversed(self._viewer.layers) if _is_scan(one)]
        before = self._current
        if not any(before is one for one in self._layers):
            self._watch(self._layers[0] if self._layers else None)
        self.blockSignals(True)
        self.clear()
        for one in self._layers:
            self.addItem(one.name)
        if self._current is None:
            self.addItem("no scan open")
        else:
            self.setCurrentIndex([one is self._current for one in self._layers].index(True))
        self.setEnabled(self._current is not None)
        self.blockSignals(False)
        if self._current is not before:
            self.layer_changed.emit()

    def _watch(self, layer: Layer | None) -> None:
        """Make `layer` the current one; changes of its data or place count as a change."""
        for one, change in ((self._current, "disconnect"), (layer, "connect")):
            if one is None:
                continue
            for name in _WATCHED:
                getattr(getattr(one.events, name), change)(self._on_layer_changed)
        self._current = layer

    def _on_layer_changed(self, event: Any = None) -> None:
        self.layer_changed.emit()

    def _on_activated(self, index: int) -> None:
        if 0 <= index < len(self._layers):
            self.choose(self._layers[index])

    def _on_inserted(self, event: Any) -> None:
        self.refresh()
        if _is_scan(event.value):
            self.choose(event.value)

    def _on_list_changed(self, event: Any = None) -> None:
        self.refresh()


def _is_scan(layer: Layer) -> bool:
    from napari.layers import Image

    if not isinstance(layer, Image):
        return False
    entry = layer.metadata.get(KEY, {})
    return not (isinstance(entry, dict) and entry.get("role"))
