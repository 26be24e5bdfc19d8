"""The Inspect tab: where the network looked, asked voxel by voxel."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtGui import QHideEvent, QKeySequence, QShortcut, QShowEvent
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget
from superqt import QCollapsible

from .inspect_asking import Asking
from .inspect_cursor import Cursor
from .inspect_maps import MapsSection
from .inspect_runs import Runs
from .layer_chooser import LayerChooser
from .segment_panel import SegmentPanel
from .status_bar import StatusBar
from .worker import JobRunner

__all__ = ["InspectPanel"]

_NOWHERE = "Move the mouse over the scan to read values there."


class InspectPanel(QWidget):
    """The tab's sections, one below the other.

    Attributes
    ----------
    runs
        What can be inspected.
    asking
        The probe.
    maps
        The list of maps.
    cursor
        What lies under the mouse.
    """

    failed = Signal(object)
    """`JobFailure`."""

    def __init__(
        self,
        viewer: Any,
        runner: JobRunner,
        chooser: LayerChooser,
        status: StatusBar,
        segment: SegmentPanel,
    ) -> None:
        super().__init__()
        self.runs = Runs(viewer, runner, chooser, status, segment)
        self.runs.failed.connect(self.failed)
        self.asking = Asking(self.runs)
        self.maps = MapsSection(viewer)
        self.cursor = Cursor(self.runs)
        self.here_label = QLabel(_NOWHERE)
        self.here_label.setWordWrap(True)
        self.here_label.setMinimumHeight(3 * self.fontMetrics().lineSpacing())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addWidget(self.asking.form)
        layout.addWidget(_fold("Maps", self.maps, self.here_label))
        layout.addStretch(1)
        shortcut = QShortcut(QKeySequence("Ctrl+Alt+P"), self)
        shortcut.activated.connect(self.asking.form.probe_button.toggle)
        self.cursor.moved.connect(self._on_moved)
        self.runs.changed.connect(self._on_runs)
        self.asking.answered.connect(self._on_answered)
        self._open = False
        self.start()

    def start(self) -> None:
        """Follow the viewer."""
        if not self._open:
            self._open = True
            self.asking.start()
            self.maps.start()

    def close_down(self) -> None:
        """Follow the viewer and its mouse no longer."""
        if not self._open:
            return
        self._open = False
        self.asking.close_down()
        self.maps.close_down()
        self.cursor.switch(False)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Follow the mouse while the tab is in view."""
        super().showEvent(event)
        self.cursor.switch(True)
        self._on_runs()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """Do no work that nobody sees."""
        self.cursor.switch(False)
        super().hideEvent(event)

    def _on_moved(self, world: Any, words: str) -> None:
        self.here_label.setText(words or _NOWHERE)
        self.maps.show_values(world)

    def _on_runs(self) -> None:
        self.maps.set_stale(self.runs.stale())

    def _on_answered(self, _: Any) -> None:
        self._on_runs()
        layer = self.asking.map_layer
        if layer is not None and layer is not self.maps.layer:
            self.maps.refresh()
            self.maps.choose(layer)


def _fold(title: str, *widgets: QWidget, is_open: bool = True) -> QCollapsible:
    fold = QCollapsible(title)
    inner = QWidget()
    layout = QVBoxLayout(inner)
    layout.setContentsMargins(4, 2, 0, 2)
    for widget in widgets:
        layout.addWidget(widget)
    fold.addWidget(inner)
    fold.setExpandedIcon("▾")
    fold.setCollapsedIcon("▸")
    fold.setDuration(0)
    fold.toggleButton().setStyleSheet(
        "QPushButton { text-align: left; font-weight: bold; background: transparent; "
        "border: none; padding: 4px 0px; }"
    )
    if is_open:
        fold.expand(animate=False)
    else:
        fold.collapse(animate=False)
    return fold
