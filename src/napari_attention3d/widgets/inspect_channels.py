"""The channel bench: a matrix to click, feature maps, and channels to switch off."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QRectF, QSize, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QFocusEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
)
from qtpy.QtWidgets import QComboBox, QPushButton, QSizePolicy, QToolTip, QWidget

from . import inspect_jobs
from .inspect_look import role_of
from .inspect_runs import Runs
from .inspect_section import Section, outline_mask, show_map
from .inspect_switches import effect_words, show_change

if TYPE_CHECKING:
    from ..attention.switches import Effect
    from .inspect_tasks import RunRecord

__all__ = ["ChannelSection", "MatrixView"]


_STEPS = {
    Qt.Key.Key_Up: (-1, 0),
    Qt.Key.Key_Down: (1, 0),
    Qt.Key.Key_Left: (0, -1),
    Qt.Key.Key_Right: (0, 1),
}
_CHOOSE = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space)


class MatrixView(QWidget):
    """A matrix as a picture; a click names its cell."""

    clicked = Signal(int, int)
    """Row and column."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix: npt.NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self.cell: tuple[int, int] | None = None
        self._image = QImage()
        self.setMouseTracking(True)
        self.setMinimumHeight(220)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Channel attention matrix")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setToolTip("Click a cell, or choose one with the arrow keys and press Enter")
        self.at: tuple[int, int] | None = None

    def sizeHint(self) -> QSize:
        """As large as the dock lets it be."""
        return QSize(240, 240)

    def show_matrix(self, matrix: npt.NDArray[np.float32]) -> None:
        """Show (C, C) values from 0 to their largest."""
        from napari.utils.colormaps import ensure_colormap

        self.matrix, self.cell, self.at = matrix, None, None
        top = float(matrix.max()) or 1.0
        colours = np.asarray(ensure_colormap("viridis").map((matrix / top).ravel()))
        picture = np.round(255 * colours).astype(np.uint8).reshape(*matrix.shape, 4)
        picture = np.ascontiguousarray(picture)
        rows, columns = matrix.shape
        image = QImage(picture.data, columns, rows, 4 * columns, QImage.Format.Format_RGBA8888)
        self._image = image.copy()
        self.update()

    def choose(self, row: int, column: int) -> None:
        """Choose a cell, as a click does."""
        rows, columns = self.matrix.shape
        if 0 <= row < rows and 0 <= column < columns:
            self.cell = self.at = row, column
            self.update()
            self.clicked.emit(row, column)

    def _area(self) -> QRectF:
        edge = min(self.width(), self.height()) - 2
        return QRectF((self.width() - edge) / 2, 1, edge, edge)

    def cell_at(self, x: float, y: float) -> tuple[int, int] | None:
        """Row and column under a place of the widget."""
        area = self._area()
        rows, columns = self.matrix.shape
        if not rows or not area.contains(x, y):
            return None
        row = min(int((y - area.top()) / area.height() * rows), rows - 1)
        return row, min(int((x - area.left()) / area.width() * columns), columns - 1)

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Choose the cell under the mouse."""
        if event is not None:
            cell = self.cell_at(event.position().x(), event.position().y())
            if cell is not None:
                self.choose(*cell)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Go to another cell with the arrow keys; choose it with Enter or the space bar."""
        if event is None or not self.matrix.size:
            return
        key = Qt.Key(event.key())
        if key in _STEPS:
            rows, columns = self.matrix.shape
            i, j = self.at or (0, 0)
            if self.at is not None:
                i, j = i + _STEPS[key][0], j + _STEPS[key][1]
            self.at = min(max(i, 0), rows - 1), min(max(j, 0), columns - 1)
            self.setAccessibleDescription(self._words(*self.at))
            self.setStatusTip(self._words(*self.at))
            self.update()
        elif key in _CHOOSE and self.at is not None:
            self.choose(*self.at)
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: QFocusEvent | None) -> None:
        """Show where the arrow keys begin."""
        super().focusInEvent(event)
        if self.at is None and self.matrix.size:
            self.at = 0, 0
        self.update()

    def focusOutEvent(self, event: QFocusEvent | None) -> None:
        """Show the chosen cell only."""
        super().focusOutEvent(event)
        self.update()

    def _words(self, row: int, column: int) -> str:
        value = self.matrix[row, column]
        return f"channel {row + 1} gathers {value:.3f} from channel {column + 1}"

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Tell the value under the mouse."""
        if event is None:
            return
        cell = self.cell_at(event.position().x(), event.position().y())
        if cell is not None:
            QToolTip.showText(event.globalPosition().toPoint(), self._words(*cell), self)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the picture and a frame around the chosen cell."""
        if self._image.isNull():
            return
        painter = QPainter(self)
        area = self._area()
        painter.drawImage(area, self._image)
        rows, columns = self.matrix.shape
        width, height = area.width() / columns, area.height() / rows
        painter.setBrush(Qt.BrushStyle.NoBrush)
        at = self.at if self.hasFocus() else None
        for cell, colour in ((self.cell, "#ff3b30"), (at, "#ffffff")):
            if cell is None:
                continue
            i, j = cell
            style = Qt.PenStyle.SolidLine if cell is self.cell else Qt.PenStyle.DotLine
            painter.setPen(QPen(QColor(colour), 2, style))
            painter.drawRect(
                QRectF(area.left() + j * width, area.top() + i * height, width, height)
            )
        painter.end()


def _part_title(bench: inspect_jobs.Bench) -> str:
    specs = bench.replay.model.network.map_specs
    part = bench.found.part
    return specs[part].title.removeprefix("guided attention, ") if part in specs else part


class ChannelSection(Section):
    """Controller of the bench."""

    changed = Signal(object)
    """`Effect` of a channel that was switched off, after it is shown."""

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs)
        self.bench: inspect_jobs.Bench | None = None
        self._of: RunRecord | None = None
        self.part_combo = QComboBox()
        self.part_combo.setEnabled(False)
        self.button = QPushButton("Look into the channels")
        self.button.setToolTip("Of the tile in view: one pass of the network")
        self.matrix = MatrixView()
        self.matrix.setVisible(False)
        self.result_label = self.words(
            "Guided models mix their channels by how alike they are. Each cell: what the row's "
            "channel gathers from the column's."
        )
        self.off_button = QPushButton("Switch the channel off: what changes?")
        self.off_button.setVisible(False)
        for widget in (
            self.part_combo,
            self.button,
            self.matrix,
            self.result_label,
            self.off_button,
        ):
            self.column.addWidget(widget)
        self.button.clicked.connect(self.start)
        self.matrix.clicked.connect(self._on_cell)
        self.off_button.clicked.connect(self.switch_off)
        runs.changed.connect(self._forget)

    def _forget(self) -> None:
        if self.runs.known() is self._of:
            return
        self._of = self.bench = None
        self.part_combo.clear()
        self.part_combo.setEnabled(False)
        self.matrix.setVisible(False)
        self.off_button.setVisible(False)

    def start(self) -> None:
        """List scales and steps first, then show the matrix of the one that is chosen."""
        record = self.record()
        if record is None:
            return
        if self._of is not record:
            opening = partial(inspect_jobs.parts_job, self.runs.desk, record)
            self.ask(opening, "open the run", "Opening the run …", partial(self._list, record))
            return
        part = self.part_combo.currentData()
        if part is None:
            self.runs.status.idle("This model has no channel attention; guided models do")
            return
        job = partial(inspect_jobs.bench_job, self.runs.desk, record, part, self.voxel(record))
        self.ask(job, "look into channels", "Looking into the channels …", self._show)

    def _list(self, record: RunRecord, found: Any) -> None:
        _, channels, titles = found
        self._of = record
        self.part_combo.clear()
        for name in channels:
            title = titles.get(name, name).removeprefix("guided attention, ").capitalize()
            self.part_combo.addItem(title, name)
        self.part_combo.setEnabled(bool(channels))
        self.start()

    def _show(self, bench: inspect_jobs.Bench) -> None:
        self.bench = bench
        self.matrix.show_matrix(bench.found.matrix)
        self.matrix.setVisible(True)
        gamma = bench.found.gamma
        weight = "" if gamma is None else f"; what is gathered counts {gamma:.3f} times"
        self.result_label.setText(
            f"{bench.found.channels} channels{weight}. Click a cell for its column's feature map."
        )
        self.runs.status.idle("Click a cell of the matrix")

    def _on_cell(self, row: int, column: int) -> None:
        bench = self.bench
        if bench is None or self._of is None:
            return
        outline_mask(self.runs)
        self._drop_features()
        volume = bench.found.feature(bench.replay, column)
        low, high = (float(v) for v in np.percentile(volume.array, (0.5, 99.5)))
        show_map(
            self.runs.viewer,
            self._of,
            volume,
            "feature",
            f"{bench.replay.model.card.name} · channel {column + 1} of {_part_title(bench)}",
            colormap="inferno",
            blending="additive",
            interpolation2d="linear",
            opacity=0.7,
            contrast_limits=(low, high if high > low else low + 1),
        )
        value = bench.found.matrix[row, column]
        self.result_label.setText(
            f"Channel {row + 1} gathers {value:.3f} from channel {column + 1}, which is shown"
        )
        self.off_button.setText(f"Switch channel {column + 1} off: what changes?")
        self.off_button.setVisible(True)

    def _drop_features(self) -> None:
        """Take the feature map away that was shown before: one at a time."""
        for layer in [one for one in self.runs.viewer.layers if role_of(one) == "feature"]:
            self.runs.viewer.layers.remove(layer)

    def switch_off(self) -> None:
        """Compute the mask of the matrix's tile without the chosen channel."""
        record = self.record()
        if record is None or self.bench is None or self.matrix.cell is None:
            return
        from ..attention.switches import Change

        part, channel = self.bench.found.part, self.matrix.cell[1]
        change = Change(part, "channel-off", channel=channel)
        # In the tile that the matrix is of, wherever the view is by now.
        job = partial(inspect_jobs.effect_job, self.runs.desk, record, [change], self.bench.box)
        words = "Computing the mask without the channel …"
        self.ask(job, "switch a channel off", words, partial(self._effect, record))

    def _effect(self, record: RunRecord, effect: Effect) -> None:
        show_change(self.runs, record, effect)
        self.result_label.setText(effect_words(effect))
        self.runs.status.idle("Compared")
        self.changed.emit(effect)
