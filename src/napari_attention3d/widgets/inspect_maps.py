"""All maps of a scan in one list: shown or not, range, value under the mouse, threshold."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QDir, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap, QShowEvent
from qtpy.QtWidgets import (
    QFormLayout,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QSlider,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from .inspect_histogram import Histogram, short_number
from .inspect_look import (
    MapLayer,
    base_colormap,
    map_layers,
    role_of,
    sample,
    set_threshold,
    threshold_of,
    thumbnail,
    value_at,
)
from .inspect_words import trust_words

if TYPE_CHECKING:
    from napari.layers import Image, Layer

__all__ = ["MapsSection"]

_LAYER = Qt.ItemDataRole.UserRole
_THUMBNAIL = QSize(26, 26)
_LATER = 80
"""Milliseconds after a change before the list is made anew, so that many count as one."""
_WATCHED = ("visible", "name", "opacity", "contrast_limits", "colormap", "data")


class MapsSection(QWidget):
    """The list and the controls of the map chosen in it; follows the viewer's layers."""

    chosen = Signal()
    """Another map was chosen, or there is none."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self._entries: list[MapLayer] = []
        self._watching: list[Layer] = []
        self._stale_of: Callable[[Layer], str] = lambda layer: ""
        self._reasons: dict[int, str] = {}
        self._chosen: Image | None = None
        self._filling = False
        self._build()
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_LATER)
        self._later.timeout.connect(self.refresh)
        self._look = QTimer(self)
        self._look.setSingleShot(True)
        self._look.setInterval(_LATER)
        self._look.timeout.connect(self._show_looks)

    # ---- what there is

    @property
    def layer(self) -> Image | None:
        """The chosen map."""
        return self._chosen if self._chosen in self.viewer.layers else None

    @property
    def entries(self) -> list[MapLayer]:
        """All maps, as listed."""
        return list(self._entries)

    @property
    def shown(self) -> list[MapLayer]:
        """Those that are visible."""
        return [entry for entry in self._entries if entry.layer.visible]

    def choose(self, layer: Image) -> None:
        """Choose a map of the list."""
        for item in self._items():
            if item.data(0, _LAYER) is layer:
                self.tree.setCurrentItem(item)

    def set_stale(self, why: Callable[[Layer], str] | str) -> None:
        """Let a function say of each map why it is out of date, "" if it is not.

        Words in place of a function hold for all maps but answers.
        """
        if isinstance(why, str):
            words = why
            self._stale_of = lambda layer: "" if role_of(layer).startswith("asked") else words
        else:
            self._stale_of = why
        self.look_for_stale()

    def look_for_stale(self) -> None:
        """Mark maps that are out of date by now, and those that are no longer."""
        if {id(e.layer): self._stale_of(e.layer) for e in self._entries} != self._reasons:
            self._show_looks()

    def look_soon(self) -> None:
        """Bring the list's words and pictures in line with the layers, once all is done."""
        self._look.start()

    def start(self) -> None:
        """Follow the viewer."""
        events = self.viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._on_layers)
        self.viewer.events.theme.connect(self._style)
        self._style()
        self.refresh()

    def close_down(self) -> None:
        """Follow the viewer no longer."""
        events = self.viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.disconnect(self._on_layers)
        self.viewer.events.theme.disconnect(self._style)
        self._watch([])
        self._later.stop()
        self._look.stop()

    def show_values(self, world: Any) -> None:
        """Show each visible map's value at a place of the viewer's world; None: none."""
        for item in self._items():
            layer = item.data(0, _LAYER)
            value = value_at(layer, world) if world is not None and layer.visible else None
            item.setText(2, "" if value is None else short_number(value))

    # ---- the list

    def refresh(self) -> None:
        """Bring the list in line with the viewer."""
        self._later.stop()
        self._entries = map_layers(self.viewer)
        self._watch([entry.layer for entry in self._entries])
        before = self.layer
        self._filling = True
        self.tree.clear()
        self._reasons.clear()
        groups: dict[str, QTreeWidgetItem] = {}
        current = None
        for entry in self._entries:
            if entry.group not in groups:
                groups[entry.group] = self._add_group(entry.group)
            item = QTreeWidgetItem(groups[entry.group])
            item.setData(0, _LAYER, entry.layer)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            self._fill(item, entry)
            if entry.layer is before or (current is None and entry.layer.visible):
                current = item
        self.tree.expandAll()
        self._fit_height()
        self._filling = False
        if current is not None:
            self.tree.setCurrentItem(current)
        self._on_current()
        self.hint.setVisible(not self._entries)

    def _add_group(self, title: str) -> QTreeWidgetItem:
        group = QTreeWidgetItem(self.tree, [title])
        font = group.font(0)
        font.setBold(True)
        group.setFont(0, font)
        group.setFirstColumnSpanned(True)
        group.setFlags(Qt.ItemFlag.ItemIsEnabled)
        return group

    def _fill(self, item: QTreeWidgetItem, entry: MapLayer) -> None:
        layer = entry.layer
        stale = self._reasons[id(layer)] = self._stale_of(layer)
        item.setText(0, f"⚠ {entry.title}" if stale else entry.title)
        low, high = layer.contrast_limits
        item.setText(1, f"{short_number(low)} – {short_number(high)}")
        state = Qt.CheckState.Checked if layer.visible else Qt.CheckState.Unchecked
        item.setCheckState(0, state)
        item.setIcon(0, _icon(layer))
        tip = "\n".join(filter(None, (layer.name, entry.meaning, trust_words(role_of(layer)))))
        item.setToolTip(0, f"Out of date: {stale}\n{tip}" if stale else tip)
        item.setToolTip(1, "What its colours span, the same in every slice")
        for column in (1, 2):
            item.setTextAlignment(
                column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            )

    def _items(self) -> list[QTreeWidgetItem]:
        found = []
        for i in range(self.tree.topLevelItemCount()):
            group = self.tree.topLevelItem(i)
            if group is not None:
                found += [group.child(j) for j in range(group.childCount())]
        return [item for item in found if item is not None]

    def _fit_height(self) -> None:
        """As high as its rows, up to a point, so that the dock shows no empty list."""
        rows = len(self._entries)
        groups = self.tree.topLevelItemCount()
        line = self.fontMetrics().height() + 6
        wanted = rows * (_THUMBNAIL.height() + 4) + (groups + 1) * line + 8
        self.tree.setFixedHeight(min(max(wanted, 60), 260))

    # ---- the viewer's side

    def _watch(self, layers: list[Layer]) -> None:
        for layer, change in [(one, "disconnect") for one in self._watching] + [
            (one, "connect") for one in layers
        ]:
            for name in _WATCHED:
                getattr(getattr(layer.events, name), change)(self._on_look)
        self._watching = layers

    def _on_layers(self, event: Any = None) -> None:
        self._later.start()

    def _on_look(self, event: Any = None) -> None:
        self.look_soon()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Catch up with what changed while the tab was not in view."""
        super().showEvent(event)
        self.refresh()

    def _show_looks(self) -> None:
        """Visibility, names, ranges and pictures anew, without making the list anew."""
        entries = {id(entry.layer): entry for entry in map_layers(self.viewer)}
        items = self._items()
        if [id(item.data(0, _LAYER)) for item in items] != list(entries):
            self.refresh()
            return
        self._filling = True
        for item in items:
            self._fill(item, entries[id(item.data(0, _LAYER))])
        self._filling = False
        self._show_controls()

    # ---- the person's side

    def _on_checked(self, item: QTreeWidgetItem, column: int) -> None:
        layer = item.data(0, _LAYER)
        if self._filling or column != 0 or layer is None:
            return
        on = item.checkState(0) == Qt.CheckState.Checked
        if layer.visible != on:
            layer.visible = on

    def _on_current(self, *_: object) -> None:
        if self._filling:
            return
        item = self.tree.currentItem()
        layer = item.data(0, _LAYER) if item is not None else None
        changed = layer is not self._chosen
        self._chosen = layer
        self._show_controls()
        if changed:
            self.chosen.emit()

    def _show_controls(self) -> None:
        layer = self.layer
        for widget in (self.opacity_slider, self.histogram):
            widget.setEnabled(layer is not None)
        if layer is None:
            self.histogram.clear()
            return
        self.opacity_slider.blockSignals(True)
        self.opacity_slider.setValue(round(100 * layer.opacity))
        self.opacity_slider.blockSignals(False)
        if not self.isVisible():
            return  # counting voxels for nobody
        low, high = layer.contrast_limits
        self.histogram.show_map(
            sample(layer), (low, high), base_colormap(layer), threshold_of(layer)
        )

    def _on_opacity(self, value: int) -> None:
        if self.layer is not None:
            self.layer.opacity = value / 100

    def _on_threshold(self, value: float) -> None:
        if self.layer is not None:
            set_threshold(self.layer, value)

    def _style(self, event: Any = None) -> None:
        """Draw eyes, as napari's own list of layers does."""
        theme = self.viewer.theme
        eyes = "".join(
            f"QTreeView::indicator:{state} {{ image: url(theme_{theme}:/{icon}.svg); }}"
            for state, icon in (("checked", "visibility"), ("unchecked", "visibility_off"))
        )
        size = "QTreeView::indicator { width: 14px; height: 14px; }"
        has_icons = bool(QDir.searchPaths(f"theme_{theme}"))
        self.tree.setStyleSheet(size + eyes if has_icons else "")

    # ---- building

    def _build(self) -> None:
        self.tree = QTreeWidget()
        self.tree.setColumnCount(3)
        self.tree.setHeaderLabels(["Map", "Range", "Here"])
        self.tree.setRootIsDecorated(False)
        self.tree.setIndentation(0)
        self.tree.setIconSize(_THUMBNAIL)
        self.tree.setAccessibleName("Maps of the scan")
        header = self.tree.header()
        assert header is not None
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column, width in ((1, 84), (2, 48)):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed)
            header.resizeSection(column, width)
        self.hint = QLabel("No map yet: press Run in the Segment tab, or ask a voxel.")
        self.hint.setWordWrap(True)
        self.opacity_slider = QSlider(Qt.Orientation.Horizontal)
        self.opacity_slider.setRange(0, 100)
        self.opacity_slider.setToolTip("How strongly the chosen map lies on the scan")
        self.opacity_slider.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.histogram = Histogram()
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        label = QLabel("Opacity")
        label.setBuddy(self.opacity_slider)
        form.addRow(label, self.opacity_slider)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.tree)
        layout.addWidget(self.hint)
        layout.addLayout(form)
        layout.addWidget(self.histogram)
        self.tree.itemChanged.connect(self._on_checked)
        self.tree.currentItemChanged.connect(self._on_current)
        self.opacity_slider.valueChanged.connect(self._on_opacity)
        self.histogram.threshold_changed.connect(self._on_threshold)


def _icon(layer: Image) -> QIcon:
    picture = np.ascontiguousarray(thumbnail(layer, _THUMBNAIL.width()))
    height, width = picture.shape[:2]
    image = QImage(picture.data, width, height, 4 * width, QImage.Format.Format_RGBA8888)
    return QIcon(QPixmap.fromImage(image.copy()))
