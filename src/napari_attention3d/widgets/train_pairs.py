"""Which open layers are trained on: a row for each Labels layer, with the scan it belongs to."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from ..errors import InputError
from .layer_series import is_time_series, time_of_result
from .layers import layer_to_volume, source_for_array
from .measure_choosers import LayerList, role_of

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from ..volumes import Volume

__all__ = ["PairsList", "class_names_of", "read_pair"]

_NONE = "Open a scan and a Labels layer with its true labels (or paint some)"


class _Row(QWidget):
    """A Labels layer, whether it is ticked, and its scan."""

    edited = Signal()

    def __init__(self, labels: Labels, images: list[Image]) -> None:
        super().__init__()
        self.labels, self._images = weakref.ref(labels), [weakref.ref(one) for one in images]
        self.box, self.combo = QCheckBox(labels.name), QComboBox()
        self.box.setToolTip(f"Train on the labels of “{labels.name}”")
        self.box.setEnabled(bool(images))
        self.combo.setToolTip("The scan that these labels belong to")
        self.combo.setAccessibleName(f"Scan of {labels.name}")
        for image in images:
            self.combo.addItem(f"on {image.name}")
        if not images:
            self.combo.addItem("no scan open")
            self.combo.setEnabled(False)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.box, self.combo):
            widget.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            layout.addWidget(widget, 1)
        self.box.toggled.connect(self._on_edited)
        self.combo.activated.connect(self._on_edited)

    def _on_edited(self, *_: object) -> None:
        self.edited.emit()

    @property
    def image(self) -> Image | None:
        """The chosen scan."""
        index = self.combo.currentIndex()
        return self._images[index]() if 0 <= index < len(self._images) else None

    def choose(self, image: Image | None) -> None:
        """Choose a scan."""
        for index, one in enumerate(self._images):
            if image is not None and one() is image:
                self.combo.setCurrentIndex(index)


class PairsList(QWidget):
    """A tick for each Labels layer and a choice of its scan; follows the viewer."""

    changed = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._ticks: weakref.WeakKeyDictionary[Labels, bool] = weakref.WeakKeyDictionary()
        self._scans: weakref.WeakKeyDictionary[Labels, Any] = weakref.WeakKeyDictionary()
        self._rows: list[_Row] = []
        self._watched: weakref.WeakSet[Labels] = weakref.WeakSet()
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._note = QLabel(_NONE)
        self._note.setWordWrap(True)
        self._column.addWidget(self._note)
        self.follow = LayerList(viewer, self.refresh)
        self.follow.attach()

    @property
    def pairs(self) -> list[tuple[Image, Labels]]:
        """Ticked Labels layers, each with its scan."""
        found = []
        for row in self._rows:
            labels, image = row.labels(), row.image
            if row.box.isChecked() and labels is not None and image is not None:
                found.append((image, labels))
        return found

    def tick(self, labels: Labels, on: bool = True) -> None:
        """Tick a layer, as a click does."""
        for row in self._rows:
            if row.labels() is labels:
                row.box.setChecked(on)

    def stop(self) -> None:
        """Follow the viewer and its layers no longer."""
        self.follow.detach()
        for labels in list(self._watched):
            for event in (labels.events.data, labels.events.paint):
                event.disconnect(self._on_painted)
        self._watched.clear()

    def refresh(self) -> None:
        """Bring the rows in line with the viewer."""
        from napari.layers import Image, Labels

        images = [
            one
            for one in self._viewer.layers
            if isinstance(one, Image) and not role_of(one) and one.ndim >= 3
        ]
        masks = [one for one in self._viewer.layers if isinstance(one, Labels) and one.ndim == 3]
        for row in self._rows:
            self._column.removeWidget(row)
            row.hide()
            row.deleteLater()
        self._rows = []
        for labels in masks:
            self._watch(labels)
            self._add_row(labels, images)
        self._note.setVisible(not masks)
        self.changed.emit()

    def _watch(self, labels: Labels) -> None:
        """Edits change the plan: another class, the first stroke."""
        if labels not in self._watched:
            self._watched.add(labels)
            for event in (labels.events.data, labels.events.paint):
                event.connect(self._on_painted)

    def _on_painted(self, event: Any = None) -> None:
        self.changed.emit()

    def _add_row(self, labels: Labels, images: list[Image]) -> None:
        row = _Row(labels, images)
        # A result of a model is no truth, unless the person says so.
        row.box.setChecked(self._ticks.get(labels, not role_of(labels)) and bool(images))
        known = self._scans.get(labels)
        chosen = known() if known is not None else None
        row.choose(chosen if any(chosen is one for one in images) else _best_match(labels, images))
        row.edited.connect(self._on_edited)
        self._column.addWidget(row)
        self._rows.append(row)

    def _on_edited(self) -> None:
        for row in self._rows:
            labels, image = row.labels(), row.image
            if labels is not None and image is not None:
                self._ticks[labels] = row.box.isChecked()
                self._scans[labels] = weakref.ref(image)
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
    lead = time_of_result(labels) if is_time_series(image) else None
    if is_time_series(image) and lead is None:
        raise InputError(
            f"“{image.name}” is a series in time, and “{labels.name}” does not say which point of "
            "it it belongs to; right-click > Split Stack, and choose that point as the scan"
        )
    scan, mask = layer_to_volume(image, leading=lead), layer_to_volume(labels)
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
