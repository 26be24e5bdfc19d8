"""Runs that were begun and stopped: go on with one, or discard it."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from ..training.runs import RunInfo

__all__ = ["UnfinishedRuns"]


class UnfinishedRuns(QWidget):
    """Hidden while there are none."""

    resume_clicked = Signal(object)
    """`RunInfo`."""
    discard_clicked = Signal(object)
    """`RunInfo`, after the person was asked."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.combo = QComboBox()
        self.combo.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.resume_button = QPushButton("Resume")
        self.resume_button.setToolTip("Go on where the training was stopped")
        self.discard_button = QPushButton("Discard")
        self.discard_button.setToolTip("Forget what is needed to go on; the model stays as it is")
        row = QHBoxLayout()
        row.addWidget(self.combo, 1)
        row.addWidget(self.resume_button)
        row.addWidget(self.discard_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.addWidget(QLabel("Stopped trainings"))
        layout.addLayout(row)
        self._runs: list[RunInfo] = []
        self.resume_button.clicked.connect(self._on_resume)
        self.discard_button.clicked.connect(self._on_discard)
        self.hide()

    def show_runs(self, runs: Sequence[RunInfo]) -> None:
        """Show these runs."""
        self._runs = list(runs)
        self.combo.clear()
        for run in runs:
            self.combo.addItem(f"{run.config.title}, {run.step} of {run.steps} steps")
        self.setVisible(bool(runs))

    @property
    def run(self) -> RunInfo | None:
        """The chosen one."""
        index = self.combo.currentIndex()
        return self._runs[index] if 0 <= index < len(self._runs) else None

    def _on_resume(self) -> None:
        if self.run is not None:
            self.resume_clicked.emit(self.run)

    def _on_discard(self) -> None:
        run = self.run
        if run is None:
            return
        answer = QMessageBox.question(
            self,
            "Discard the training?",
            f"“{run.config.title}” could not go on then. The model stays as it is.",
        )
        if answer == QMessageBox.StandardButton.Yes:
            self.discard_clicked.emit(run)
