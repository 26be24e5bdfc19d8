"""Status line, progress, time left and Cancel: one for all tabs."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import time

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ..progress import Progress
from .notify import report_text

__all__ = ["StatusBar", "duration_text"]


def duration_text(seconds: float) -> str:
    """Return a duration as people say it: "8 s", "2 min 05 s", "1 h 10 min"."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class StatusBar(QWidget):
    """Says what goes on; keeps its height, so that nothing jumps."""

    cancel_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._started = 0.0
        self._first: tuple[float, int] | None = None
        self._details = ""
        self._report = ""
        self._dialog: QDialog | None = None
        self.label = QLabel("Ready")
        self.label.setWordWrap(True)
        self.label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.label.setMinimumHeight(3 * self.fontMetrics().lineSpacing())
        self.label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.time_label = QLabel("")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop after the tile at hand; results so far are dropped")
        self.details_button = QPushButton("Details")
        self.details_button.setToolTip("Show the technical description of the error")
        self.copy_button = QPushButton("Copy report")
        self.copy_button.setToolTip("Copy versions and details, for an issue or your records")
        row = QHBoxLayout()
        row.addWidget(self.time_label, 1)
        for button in (self.details_button, self.copy_button, self.cancel_button):
            row.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addWidget(self.label)
        layout.addWidget(self.bar)
        layout.addLayout(row)
        self.cancel_button.clicked.connect(self._on_cancel)
        self.details_button.clicked.connect(self._show_details)
        self.copy_button.clicked.connect(self._copy)
        self.idle("Ready")

    # ---- states

    def idle(self, text: str, report: str = "") -> None:
        """Nothing runs."""
        self._set(text, busy=False, report=report)

    def busy(self, text: str) -> None:
        """Something runs, its length not known yet."""
        self._started, self._first = time.monotonic(), None
        self._set(text, busy=True)
        self.bar.setRange(0, 0)

    def cancelling(self) -> None:
        """Show that Cancel was heard."""
        self.label.setText("Cancelling, after the tile at hand …")
        self.cancel_button.setEnabled(False)

    def error(self, summary: str, details: str) -> None:
        """Something went wrong; offers details and a report."""
        self._set(summary, busy=False, details=details, report=report_text(summary, details))
        self.label.setText(f"⚠ {summary}")

    def progress(self, step: Progress) -> None:
        """Show a step of a job and the time left."""
        self.label.setText(step.message or "Working …")
        if step.total <= 0:
            self.bar.setRange(0, 0)
            return
        # The bar would draw the whole window at once, canvas included; so Qt draws when it can.
        self.bar.setUpdatesEnabled(False)
        self.bar.setRange(0, 1000)
        self.bar.setValue(round(1000 * step.fraction))
        self.bar.setUpdatesEnabled(True)
        now = time.monotonic()
        if self._first is None or step.done < self._first[1]:
            self._first = (now, step.done)
            self.time_label.setText("")
            return
        since, base = self._first
        if step.done > base:
            left = (now - since) / (step.done - base) * (step.total - step.done)
            self.time_label.setText(
                f"about {duration_text(left)} left" if left >= 1 else "nearly done"
            )

    @property
    def text(self) -> str:
        """The line shown."""
        return str(self.label.text())

    # ---- inside

    def _set(self, text: str, *, busy: bool, details: str = "", report: str = "") -> None:
        self.label.setText(text)
        self._details, self._report = details, report
        self.time_label.setText("")
        self.bar.setRange(0, 1000)
        self.bar.setValue(0)
        self.bar.setEnabled(busy)
        self.cancel_button.setEnabled(busy)
        self.cancel_button.setVisible(busy or not report)
        self.details_button.setVisible(bool(details))
        self.copy_button.setVisible(bool(report))

    def _on_cancel(self) -> None:
        self.cancelling()
        self.cancel_clicked.emit()

    def _copy(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self._report)
        self.copy_button.setText("Copied")

    def _show_details(self) -> None:
        dialog = QDialog(self)
        dialog.setWindowTitle("Details of the error")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        text = QPlainTextEdit(self._details)
        text.setReadOnly(True)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(dialog.reject)
        layout = QVBoxLayout(dialog)
        layout.addWidget(text)
        layout.addWidget(buttons)
        dialog.resize(720, 420)
        dialog.open()
