"""The Inspect tab: where the network looked, asked voxel by voxel."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QVBoxLayout, QWidget

from .inspect_asking import Asking
from .inspect_runs import Runs
from .layer_chooser import LayerChooser
from .segment_panel import SegmentPanel
from .status_bar import StatusBar
from .worker import JobRunner

__all__ = ["InspectPanel"]


class InspectPanel(QWidget):
    """The tab's sections, one below the other.

    Attributes
    ----------
    runs
        What can be inspected.
    asking
        The probe.
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
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addWidget(self.asking.form)
        layout.addStretch(1)
        shortcut = QShortcut(QKeySequence("Ctrl+Alt+P"), self)
        shortcut.activated.connect(self.asking.form.probe_button.toggle)

    def close_down(self) -> None:
        """Stop listening to the mouse."""
        self.asking.close_down()
