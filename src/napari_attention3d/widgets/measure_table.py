"""A table of figures in the dock: sorted by a click on a heading, copied, saved."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QGuiApplication, QMouseEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from ..errors import Attention3DError

if TYPE_CHECKING:
    from ..analysis.table import Cell, Table

__all__ = ["FiguresTable", "cell_text"]

_ROW = Qt.ItemDataRole.UserRole
_POWER = re.compile(r"(?<=mm|um|el)[23]$")
_RAISED = {"2": "²", "3": "³"}
_WORDS = {"dice": "Dice", "iou": "IoU", "hd95": "HD95", "surface dice": "surface Dice"}


def cell_text(value: Cell) -> str:
    """A figure with as many digits as a person reads; "–" where there is none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name  # the tooltip and the file have all of it
    return f"{value:,}" if isinstance(value, int) else str(value)


class _Item(QTableWidgetItem):
    """A cell that is sorted by its value; empty ones come last, or first backwards."""

    def __init__(self, value: Cell, row: int) -> None:
        super().__init__(cell_text(value))
        self.value = value
        if isinstance(value, str):
            self.setToolTip(value)
        self.setData(_ROW, row)
        if not isinstance(value, str):
            self.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)

    def __lt__(self, other: QTableWidgetItem) -> bool:
        assert isinstance(other, _Item)
        a, b = self.value, other.value
        if a is None or b is None:
            return b is None and a is not None
        if isinstance(a, str) or isinstance(b, str):
            return str(a) < str(b)
        return a < b


class _View(QTableWidget):
    """Knows which row was the current one when the mouse went down."""

    pressed_from = -1

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Remember the row, then do as always."""
        self.pressed_from = self.currentRow()
        super().mousePressEvent(event)


class FiguresTable(QWidget):
    """Shows a `Table`; `row_chosen` gives the row's number in it, however it is sorted."""

    row_chosen = Signal(int)
    saved = Signal(str)
    failed = Signal(str)

    def __init__(self, hint: str = "") -> None:
        super().__init__()
        self.table: Table | None = None
        self.view = _View()
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.view.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.view.setWordWrap(True)
        self.view.setMinimumHeight(170)
        self.view.setToolTip(hint)
        header = self.view.verticalHeader()
        if header is not None:
            header.setVisible(False)
            header.setDefaultSectionSize(22)
        self.copy_button = QPushButton("Copy")
        self.copy_button.setToolTip("Copy the whole table, to paste it into a spreadsheet")
        self.save_button = QPushButton("Save table …")
        self.save_button.setToolTip("CSV, XLSX (with openpyxl) or JSON, with all columns")
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(self.copy_button)
        row.addWidget(self.save_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.view, 1)
        layout.addLayout(row)
        self.view.currentCellChanged.connect(self._on_current)
        self.view.cellClicked.connect(self._on_clicked)
        self.copy_button.clicked.connect(self.copy)
        self.save_button.clicked.connect(self._ask_and_save)
        self.clear()

    def clear(self) -> None:
        """Show nothing."""
        self.table = None
        self.view.clear()
        self.view.setRowCount(0)
        self.view.setColumnCount(0)
        for button in (self.copy_button, self.save_button):
            button.setEnabled(False)

    def show_table(self, table: Table, left_out: tuple[str, ...] = ()) -> None:
        """Show a table.

        Parameters
        ----------
        left_out
            Beginnings of headings that only files get.
        """
        self.clear()
        self.table = table
        shown = [
            i
            for i, c in enumerate(table.columns)
            if not c.heading.startswith(left_out)
            and (c.name != "name" or any(row[i] is not None for row in table.rows))
        ]
        self.view.blockSignals(True)
        self.view.setSortingEnabled(False)
        self.view.setColumnCount(len(shown))
        self.view.setRowCount(len(table.rows))
        for at, index in enumerate(shown):
            column = table.columns[index]
            words = _WORDS.get(column.name, column.name)
            if column.unit:
                words += f"\n{_POWER.sub(lambda found: _RAISED[found[0]], column.unit)}"
            heading = QTableWidgetItem(words)
            heading.setToolTip(f"{column.heading}: click to sort")
            self.view.setHorizontalHeaderItem(at, heading)
            for row, cells in enumerate(table.rows):
                self.view.setItem(row, at, _Item(cells[index], row))
        self.view.setSortingEnabled(True)
        header = self.view.horizontalHeader()
        if header is not None:
            header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.view.resizeColumnsToContents()
        self.view.setCurrentCell(-1, -1)
        self.view.blockSignals(False)
        for button in (self.copy_button, self.save_button):
            button.setEnabled(bool(table.rows))

    def text(self) -> str:
        """The whole table with tabs between its cells."""
        if self.table is None:
            return ""
        rows: list[list[Cell]] = [[c.heading for c in self.table.columns]]
        rows += [list(row) for row in self.table.rows]
        return "\n".join("\t".join("" if c is None else str(c) for c in row) for row in rows)

    def copy(self) -> None:
        """Put the whole table on the clipboard."""
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self.text())

    def save(self, path: str) -> None:
        """Write the whole table; tells the outcome by `saved` or `failed`."""
        if self.table is None:
            return
        try:
            self.saved.emit(str(self.table.write(Path(path))))
        except Attention3DError as error:
            self.failed.emit(str(error))

    def _ask_and_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the table", "measures.csv", "CSV (*.csv);;Excel (*.xlsx);;JSON (*.json)"
        )
        if path:
            self.save(path)

    def _on_current(self, row: int, column: int, before: int, _: int) -> None:
        if row != before:
            self._choose(row, column)

    def _on_clicked(self, row: int, column: int) -> None:
        if row == self.view.pressed_from:  # else it became the current one, and was told
            self._choose(row, column)

    def _choose(self, row: int, column: int) -> None:
        item = self.view.item(row, max(0, column))
        if item is not None:
            self.row_chosen.emit(int(item.data(_ROW)))
