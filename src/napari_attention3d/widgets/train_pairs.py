"""Which open layers are trained on: a row for each Labels layer, with the scan it belongs to."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QGridLayout, QLabel, QSizePolicy, QWidget

from ..errors import InputError
from .layers import layer_to_volume, source_for_array
from .measure_choosers import LayerList, role_of

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from ..volumes import Volume

__all__ = ["PairsList", "class_names_of", "read_pair"]

_NONE = "Open a scan and a Labels layer with its true labels (or paint some)"


class PairsList(QWidget):
    """A tick for each Labels layer and a choice of its scan; follows the viewer."""

    changed = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._ticks: weakref.WeakKeyDictionary[Labels, bool] = weakref.WeakKeyDictionary()
        self._scans: weakref.WeakKeyDictionary[Labels, Any] = weakref.WeakKeyDictionary()
        self._rows: list[tuple[Labels, QCheckBox, QComboBox, list[Image]]] = []
        self._watched: weakref.WeakSet[Any] = weakref.WeakSet()
        self.grid = QGridLayout(self)
        self.grid.setContentsMargins(0, 0, 0, 0)
        self.grid.setColumnStretch(0, 1)
        self.grid.setColumnStretch(1, 1)
        self.follow = LayerList(viewer, self.refresh)
        self.follow.attach()

    @property
    def pairs(self) -> list[tuple[Image, Labels]]:
        """Ticked Labels layers, each with its scan."""
        found = []
        for labels, box, combo, images in self._rows:
            if box.isChecked() and 0 <= combo.currentIndex() < len(images):
                found.append((images[combo.currentIndex()], labels))
        return found

    def tick(self, labels: Labels, on: bool = True) -> None:
        """Tick a layer, as a click does."""
        for one, box, _, _ in self._rows:
            if one is labels:
                box.setChecked(on)

    def refresh(self) -> None:
        """Bring the rows in line with the viewer."""
        from napari.layers import Image, Labels

        images = [
            one
            for one in self._viewer.layers
            if isinstance(one, Image) and not role_of(one) and one.ndim >= 3
        ]
        masks = [one for one in self._viewer.layers if isinstance(one, Labels) and one.ndim == 3]
        self._empty_grid()
        for number, labels in enumerate(masks):
            self._watch(labels)
            self._add_row(number, labels, images)
        if not self._rows:
            note = QLabel(_NONE)
            note.setWordWrap(True)
            self.grid.addWidget(note, 0, 0, 1, 2)
        self.changed.emit()

    def _empty_grid(self) -> None:
        self._rows = []
        while (item := self.grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.hide()
                widget.deleteLater()

    def _watch(self, labels: Labels) -> None:
        """Edits change the plan: another class, the first stroke."""
        if labels not in self._watched:
            self._watched.add(labels)
            labels.events.data.connect(self._on_edited)
            labels.events.paint.connect(self._on_edited)

    def _on_edited(self, event: Any = None) -> None:
        self.changed.emit()

    def _add_row(self, number: int, labels: Labels, images: list[Image]) -> None:
        box, combo = QCheckBox(labels.name), QComboBox()
        box.setToolTip(f"Train on the labels of “{labels.name}”")
        # A result of a model is no truth, unless the person says so.
        box.setChecked(self._ticks.get(labels, not role_of(labels)) and bool(images))
        box.setEnabled(bool(images))
        box.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        combo.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        combo.setToolTip("The scan that these labels belong to")
        combo.setAccessibleName(f"Scan of {labels.name}")
        for image in images:
            combo.addItem(f"on {image.name}")
        if not images:
            combo.addItem("no scan open")
            combo.setEnabled(False)
        known = self._scans.get(labels)
        chosen = known() if known is not None else None
        if not any(chosen is one for one in images):
            chosen = _best_match(labels, images)
        if chosen is not None:
            combo.setCurrentIndex([one is chosen for one in images].index(True))
        row = (labels, box, combo, images)
        box.toggled.connect(lambda *_: self._on_changed(row))
        combo.activated.connect(lambda *_: self._on_changed(row))
        self.grid.addWidget(box, number, 0)
        self.grid.addWidget(combo, number, 1)
        self._rows.append(row)

    def _on_changed(self, row: tuple[Labels, QCheckBox, QComboBox, list[Image]]) -> None:
        labels, box, combo, images = row
        self._ticks[labels] = box.isChecked()
        if images:
            self._scans[labels] = weakref.ref(images[combo.currentIndex()])
        self.changed.emit()


def _best_match(labels: Labels, images: list[Image]) -> Image | None:
    """The scan of the same size with the most similar name; the last one opened of several."""
    if not images:
        return None
    words = set(re.split(r"[^a-z0-9]+", labels.name.lower()))

    def worth(number: int) -> tuple[bool, int, int]:
        image = images[number]
        common = words & set(re.split(r"[^a-z0-9]+", image.name.lower()))
        return _size(image) == _size(labels), len(common), number

    return images[max(range(len(images)), key=worth)]


def _size(layer: Any) -> tuple[int, ...]:
    data = layer.data[0] if layer.multiscale else layer.data
    return tuple(data.shape[-3:])


def read_pair(image: Image, labels: Labels) -> tuple[Volume, Volume]:
    """Return scan and labels, on the scan's own grid.

    Raises
    ------
    InputError
        If they do not lie on one grid and do not know where they lie.
    """
    scan, mask = layer_to_volume(image), layer_to_volume(labels)
    if mask.shown.shape == scan.shown.shape:
        if not mask.shown.is_close(scan.shown) and mask.volume.geometry.unit != "pixel":
            raise InputError(
                f"“{labels.name}” lies elsewhere than “{image.name}” (scale or translate); choose "
                "the scan that it belongs to"
            )
        # Drawn on what is shown, which may be turned against the file.
        shown = labels.data[0] if labels.multiscale else labels.data
        return scan.volume, source_for_array(shown, scan).volume
    if mask.volume.geometry.anatomical and scan.volume.geometry.anatomical:
        return scan.volume, mask.volume
    sizes = [" x ".join(map(str, one.shown.shape)) for one in (mask, scan)]
    raise InputError(
        f"“{labels.name}” has {sizes[0]} voxels, “{image.name}” {sizes[1]}; they must be the "
        "same. Choose the scan that it belongs to"
    )


def class_names_of(labels: Labels) -> dict[int, str]:
    """Names by label value, where the layer's features tell them."""
    features = labels.features
    if not {"index", "name"} <= set(features):
        return {}
    pairs = zip(features["index"], features["name"], strict=True)
    return {int(value): str(name) for value, name in pairs if isinstance(name, str) and name}
