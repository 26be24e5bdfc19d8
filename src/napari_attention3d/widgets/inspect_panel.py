"""The Inspect tab: where the network looked, asked voxel by voxel."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QHideEvent, QKeySequence, QShortcut, QShowEvent
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget
from superqt import QCollapsible

from ..errors import Attention3DError
from .inspect_asking import Asking
from .inspect_channels import ChannelSection
from .inspect_cursor import Cursor
from .inspect_curves import curves_png, shares_png
from .inspect_maps import MapsSection
from .inspect_numbers import NumbersSection
from .inspect_report import gather, subtitle
from .inspect_requests import RequestSection
from .inspect_runs import Runs
from .inspect_section import fit_dock
from .inspect_snapshot import png_bytes, save_image, snapshot
from .inspect_switches import SwitchSection
from .inspect_trust import TrustSection
from .inspect_view import ViewRow
from .layer_chooser import LayerChooser
from .paint_section import PaintSection
from .segment_panel import SegmentPanel
from .status_bar import StatusBar
from .worker import JobRunner

if TYPE_CHECKING:
    from ..correction.rounds import RoundRecord
    from .inspect_tasks import RunRecord
    from .layers import LayerSource

__all__ = ["InspectPanel"]

_NOWHERE = "Move the mouse over the scan to read values there."
_STALE = 2000
"""Milliseconds between two looks for maps that are out of date, while the tab is in view."""


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
    view
        How the view shows them.
    cursor
        What lies under the mouse.
    correction
        Gives the scan that is being corrected and the round that is shown; None: no session.
    requests, numbers, trust, switches, channels, paint
        Maps on request, figures per label, tests of maps, forced attention, channels, strokes
        on the attention.
    """

    failed = Signal(object)
    """`JobFailure`."""
    model_saved = Signal(object)
    """Path of a model whose attention was painted, and accepted."""

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
        self.runs.corrected = self._corrected
        self.correction: Callable[[], tuple[LayerSource, RoundRecord] | None] = lambda: None
        self._corrected_runs: weakref.WeakKeyDictionary[RunRecord, str] = (
            weakref.WeakKeyDictionary()
        )
        self.asking = Asking(self.runs)
        self.maps = MapsSection(viewer)
        self.view = ViewRow(self.runs, self.maps)
        self.cursor = Cursor(self.runs)
        self.numbers = NumbersSection(self.runs, self.maps)
        self.requests = RequestSection(self.runs)
        self.switches = SwitchSection(self.runs)
        self.channels = ChannelSection(self.runs)
        self.trust = TrustSection(self.runs, self.maps)
        self.paint = PaintSection(self.runs)
        self.paint.accepted.connect(self.model_saved)
        self.paint.painting.connect(lambda: self.view.dark_box.setChecked(True))
        self.here_label = QLabel(_NOWHERE)
        self.here_label.setWordWrap(True)
        self.here_label.setMinimumHeight(3 * self.fontMetrics().lineSpacing())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addWidget(self.asking.form)
        layout.addWidget(_fold("Maps", self.maps, self.view, self.here_label))
        for title, section in (
            ("More maps", self.requests),
            ("Per label", self.numbers),
            ("Is it faithful?", self.trust),
            ("What if …", self.switches),
            ("Channels", self.channels),
            ("Paint the attention", self.paint),
        ):
            fit_dock(section)
            layout.addWidget(_fold(title, section, is_open=False))
        layout.addLayout(self._take_away())
        layout.addStretch(1)
        shortcut = QShortcut(QKeySequence("Ctrl+Alt+P"), self)
        shortcut.activated.connect(self.asking.form.probe_button.toggle)
        self.cursor.moved.connect(self._on_moved)
        self.runs.changed.connect(self._on_runs)
        self.asking.answered.connect(self._on_answered)
        self.requests.shown.connect(self._on_map)
        self.paint.moved.connect(self._on_moved_attention)
        self._open = False
        self.maps.set_stale(self.runs.stale_of)
        # Nobody tells that a model's file was replaced, or a layer's array.
        self._stale_timer = QTimer(self)
        self._stale_timer.setInterval(_STALE)
        self._stale_timer.timeout.connect(self._on_runs)
        self.start()

    def start(self) -> None:
        """Follow the viewer."""
        if not self._open:
            self._open = True
            self.asking.start()
            self.maps.start()
            self.view.start()

    def close_down(self) -> None:
        """Follow the viewer and its mouse no longer."""
        if not self._open:
            return
        self._open = False
        self.asking.close_down()
        self.maps.close_down()
        self.view.close_down()
        self.cursor.switch(False)
        self._stale_timer.stop()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Follow the mouse while the tab is in view."""
        super().showEvent(event)
        self.cursor.switch(True)
        self._stale_timer.start()
        self._on_runs()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """Do no work that nobody sees."""
        self.cursor.switch(False)
        self._stale_timer.stop()
        super().hideEvent(event)

    # ---- to take away

    def _take_away(self) -> QHBoxLayout:
        self.snapshot_button = QPushButton("Snapshot …")
        self.snapshot_button.setToolTip(
            "Save the view as PNG, with colour bars, names of the labels and a scale bar"
        )
        self.report_button = QPushButton("Report …")
        self.report_button.setToolTip(
            "Save one HTML file with pictures, figures and how the mask was made"
        )
        self.snapshot_button.clicked.connect(self._ask_and_snap)
        self.report_button.clicked.connect(self._ask_and_report)
        row = QHBoxLayout()
        row.addWidget(self.snapshot_button)
        row.addWidget(self.report_button)
        return row

    def _ask_and_snap(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the view", "view.png", "PNG (*.png)")
        if path:
            self.save_snapshot(path)

    def _ask_and_report(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the report", "attention-report.html", "HTML (*.html)"
        )
        if path:
            self.save_report(path)

    def save_snapshot(self, path: str) -> None:
        """Write the view as PNG."""
        try:
            saved = save_image(self._picture(), path)
        except Attention3DError as error:
            self.runs.status.idle(str(error))
            return
        self.runs.status.idle(f"Saved {saved}")

    def save_report(self, path: str) -> None:
        """Write the report as HTML."""
        from ..attention.report import write_report

        tables = [
            *self.numbers.tables.values(),
            *self.switches.tables,
            *self.paint.tables,
            *self.trust.tables,
        ]
        try:
            view = png_bytes(self._picture()) if hasattr(self.runs.viewer, "window") else None
            curves = curves_png(self.trust.present) if self.trust.present else None
            shares = self.numbers.tables.get("shares")
            bars = None if shares is None else shares_png(shares)
            title, sections = gather(
                self.runs, self.maps.shown, self.asking.present, tables, view, curves, bars
            )
            saved = write_report(path, title, sections, subtitle=subtitle())
        except Attention3DError as error:
            self.runs.status.idle(str(error))
            return
        self.runs.status.idle(f"Saved {saved}")

    def _picture(self) -> Any:
        layer = self.runs.chooser.layer
        place = ", ".join(f"{v:.1f}" for v in self.runs.viewer.dims.point[-3:])
        caption = "" if layer is None else f"{layer.name}, at z, y, x = {place}"
        return snapshot(self.runs.viewer, self.maps.shown, self.runs.mask_layer(), caption)

    # ---- what happens

    def _on_moved(self, world: Any, words: str) -> None:
        self.here_label.setText(words or _NOWHERE)
        self.maps.show_values(world)

    def _corrected(self, record: RunRecord) -> str:
        """Say whether a run's mask was corrected since; remembered once the session is closed."""
        now = self.correction()
        if now is not None and now[0].origin is record.source.origin is not None:
            number, kind = now[1].number, now[1].kind
            what = "the network was trained" if kind == "network" else "the mask was corrected"
            words = f"{what} since the run (Correct tab, round {number})" if number else ""
            self._corrected_runs[record] = words
        return self._corrected_runs.get(record, "")

    def _on_runs(self) -> None:
        self.maps.look_for_stale()

    def _on_map(self, layer: Any) -> None:
        self.maps.refresh()
        self.maps.choose(layer)

    def _on_moved_attention(self, _: Any) -> None:
        self.maps.refresh()
        moved = [entry for entry in self.maps.shown if entry.group == "What painting moved"]
        if moved:
            self.maps.choose(moved[0].layer)

    def _on_answered(self, _: Any) -> None:
        self.maps.look_soon()
        layer = self.asking.map_layer
        if layer is not None and layer is not self.maps.layer:
            self.maps.refresh()
            self.maps.choose(layer)


def _fold(title: str, *widgets: QWidget, is_open: bool = True) -> QCollapsible:
    fold = QCollapsible(title)
    inner = QWidget()
    layout = QVBoxLayout(inner)
    layout.setContentsMargins(2, 0, 0, 2)
    for widget in widgets:
        layout.addWidget(widget)
    fold.addWidget(inner)
    for one in (fold, fold.content()):
        one.layout().setContentsMargins(0, 0, 0, 0)
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
