"""The dock: one scan, tabs, one status line."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import (
    QFormLayout,
    QLabel,
    QScrollArea,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from .batch_panel import BatchPanel
from .correct_panel import CorrectPanel
from .drawing import draw_safely
from .inspect_panel import InspectPanel
from .layer_chooser import LayerChooser
from .measure_panel import MeasurePanel
from .segment_panel import SegmentPanel
from .status_bar import StatusBar
from .train_panel import TrainPanel
from .worker import JobRunner

if TYPE_CHECKING:
    import napari

    from ..correction.rounds import RoundRecord
    from .layers import LayerSource

__all__ = ["Attention3DWidget"]


class Attention3DWidget(QWidget):
    """The plugin's one dock widget.

    Parameters
    ----------
    napari_viewer
        The viewer; a `napari.components.ViewerModel` does, too.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        draw_safely(napari_viewer)
        self.setObjectName("attention3d")
        self.setMinimumWidth(350)
        self.runner = JobRunner()
        self.runner.end_with(self)
        self.chooser = LayerChooser(napari_viewer)
        self.status = StatusBar()
        self.segment = SegmentPanel(napari_viewer, self.runner, self.chooser, self.status)
        self.tabs = QTabWidget()
        self.tabs.setUsesScrollButtons(False)
        self.tabs.addTab(_scrolling(self.segment), "Segment")
        self.correct = CorrectPanel(
            napari_viewer, self.runner, self.chooser, self.status, self.segment.shelf
        )
        self.correct.model_saved.connect(self.segment.start)
        self.tabs.addTab(_scrolling(self.correct), "Correct")
        self.inspect = InspectPanel(
            napari_viewer, self.runner, self.chooser, self.status, self.segment
        )
        self.inspect.model_saved.connect(self._use_model)
        self.inspect.correction = self._correction
        self.tabs.addTab(_scrolling(self.inspect), "Inspect")
        self.measure = MeasurePanel(napari_viewer, self.runner, self.chooser, self.status)
        self.tabs.addTab(_scrolling(self.measure), "Measure")
        self.train = TrainPanel(napari_viewer, self.runner, self.chooser, self.status)
        self.train.trained.connect(self.segment.start)
        self.tabs.addTab(_scrolling(self.train), "Train")
        self.batch = BatchPanel(napari_viewer, self.runner, self.chooser, self.status, self.segment)
        self.tabs.addTab(_scrolling(self.batch), "Batch")
        head = QFormLayout()
        head.setContentsMargins(0, 0, 0, 0)
        label = QLabel("Scan")
        label.setBuddy(self.chooser)
        head.addRow(label, self.chooser)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addLayout(head)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(self.status)
        self._open = True

    def _correction(self) -> tuple[LayerSource, RoundRecord] | None:
        """The scan that is being corrected, and the round that is shown."""
        link = self.correct.link
        if link is None or not link.session.rounds:
            return None
        return link.source, link.session.rounds[link.session.current].record

    def _use_model(self, path: Path) -> None:
        """Choose a model that was just saved for the next run."""
        self.segment.form.add_model_file(str(path))
        self.segment.start()

    def event(self, event: QEvent | None) -> bool:
        """Stop work when the dock is taken out of the window; start again when it comes back."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parent() is None:
                self.close_down()
            else:
                self._reopen()
        return bool(super().event(event))

    def close_down(self) -> None:
        """Cancel what runs, let the thread end, follow the viewer no longer."""
        if not getattr(self, "_open", False):
            return
        self._open = False
        self.correct.close_down()
        self.inspect.close_down()
        self.measure.close_down()
        self.train.close_down()
        self.batch.close_down()
        self.runner.stop()
        self.chooser.detach()

    def _reopen(self) -> None:
        if getattr(self, "_open", True):
            return
        self._open = True
        self.chooser.attach()
        self.segment.start()
        self.correct.start()
        self.inspect.start()
        self.measure.start()
        self.train.start()
        self.batch.start()


def _scrolling(panel: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(panel)
    return area
