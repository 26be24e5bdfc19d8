"""The list of rounds with undo and redo, and the curves."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from .curves import CurvePlot

if TYPE_CHECKING:
    from ..correction.rounds import RoundRecord

__all__ = ["RoundsView"]

_HEADINGS = ("Round", "Strokes", "Held", "Changed", "Time")
_TIPS = (
    "Click a round to go back to it: mask and network together. Your strokes stay",
    "Strokes it learned from",
    "Share of strokes that it was not told and got right; from 12 strokes on",
    "Share of voxels that were certain before, are not painted, and changed",
    "Seconds",
)
_ROWS = 5
_KINDS = {"start": "start", "fast": "", "network": " net"}


class RoundsView(QWidget):
    """Rounds, the latest first; the current one is selected."""

    go_clicked = Signal(int)
    """Index of a round."""
    undo_clicked = Signal()
    redo_clicked = Signal()
    best_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.undo_button = QPushButton("Undo round")
        self.redo_button = QPushButton("Redo round")
        self.best_button = QPushButton("")
        self.best_button.setToolTip(
            "The latest round that did not look worse than the one before it: mask and network "
            "together (Ctrl+Alt+B)"
        )
        self.best_button.hide()
        self.table = QTableWidget(0, len(_HEADINGS))
        self.table.setHorizontalHeaderLabels(_HEADINGS)
        for column, tip in enumerate(_TIPS):
            self.table.horizontalHeaderItem(column).setToolTip(tip)
        self.table.verticalHeader().hide()
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.table.setShowGrid(False)
        self.table.setAccessibleName("Rounds")
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(30)
        self.score_plot = CurvePlot("round")
        self.score_plot.add_curve("held back", share=True)
        self.score_plot.add_curve("changed", share=True)
        self.loss_plot = CurvePlot("step")
        self.loss_plot.add_curve("loss")
        for plot, name in ((self.score_plot, "Scores by round"), (self.loss_plot, "Loss")):
            plot.setFixedHeight(120)
            plot.setAccessibleName(name)
            plot.hide()
        row = QHBoxLayout()
        row.addWidget(self.undo_button)
        row.addWidget(self.redo_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self.best_button)
        layout.addWidget(self.table)
        layout.addWidget(self.score_plot)
        self._indices: list[int] = []
        self.table.cellClicked.connect(self._on_clicked)
        self.undo_button.clicked.connect(self.undo_clicked)
        self.redo_button.clicked.connect(self.redo_clicked)
        self.best_button.clicked.connect(self.best_clicked)
        self.show_rounds([], 0)

    def show_rounds(self, records: Sequence[RoundRecord], current: int) -> None:
        """Fill table and scores.

        Parameters
        ----------
        records
            In order, round 0 first.
        current
            Index of the one that is shown.
        """
        self._indices = list(range(len(records)))[::-1]
        self.table.setRowCount(len(records))
        for row, index in enumerate(self._indices):
            for column, text in enumerate(_cells(records[index])):
                item = QTableWidgetItem(text)
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                item.setToolTip("\n".join(records[index].warnings) or _TIPS[0])
                if index > current:  # undone: it can be redone
                    item.setForeground(self.palette().mid())
                self.table.setItem(row, column, item)
        if records:
            self.table.selectRow(self._indices.index(current))
        rows = max(1, min(_ROWS, len(records)))
        height = self.table.verticalHeader().defaultSectionSize()
        self.table.setFixedHeight(rows * height + self.table.horizontalHeader().height() + 6)
        self._plot(records[: current + 1])

    def _plot(self, records: Sequence[RoundRecord]) -> None:
        self.score_plot.clear()
        for record in records:
            if record.score is not None:
                self.score_plot.append("held back", record.number, record.score)
            if record.drift is not None:
                self.score_plot.append("changed", record.number, record.drift)
        points = self.score_plot.points("held back") + self.score_plot.points("changed")
        self.score_plot.setVisible(bool(points))

    def begin_losses(self) -> None:
        """Empty the curve of the training."""
        self.loss_plot.clear()

    def add_loss(self, step: int, loss: float) -> None:
        """Add a step of the training."""
        self.loss_plot.append("loss", step, loss)
        self.loss_plot.show()

    def set_enabled(self, undo: bool, redo: bool, free: bool) -> None:
        """Enable what can be done."""
        self.undo_button.setEnabled(undo and free)
        self.redo_button.setEnabled(redo and free)
        self.table.setEnabled(free)
        why = "Wait until learning is done" if not free else ""
        self.undo_button.setToolTip(
            why
            or ("Mask and network as before this round (Ctrl+Alt+Z)" if undo else "No round yet")
        )
        self.redo_button.setToolTip(
            why or ("Take the undo back (Ctrl+Alt+Y)" if redo else "Nothing was undone")
        )

    def show_best(self, index: int | None, free: bool) -> None:
        """Offer to go back to a better round than the current one; None: it is the best."""
        self.best_button.setVisible(index is not None)
        self.best_button.setEnabled(free)
        place = f"round {index}" if index else "the start"
        self.best_button.setText(f"This round looks worse: back to the best, {place}")

    def _on_clicked(self, row: int, column: int) -> None:
        self.go_clicked.emit(self._indices[row])


def _cells(record: RoundRecord) -> tuple[str, ...]:
    mark = "⚠ " if record.lost or record.flipped else ""
    head = "start" if record.kind == "start" else f"{record.number}{_KINDS.get(record.kind, '')}"
    return (
        f"{mark}{head}",
        str(record.strokes) if record.strokes else "",
        "" if record.score is None else f"{record.score:.0%}",
        "" if record.drift is None else f"{record.drift:.1%}",
        "" if record.kind == "start" else f"{record.seconds:.1f} s",
    )
