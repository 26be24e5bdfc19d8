"""How often each value occurs in a map, in its own colours, with a threshold to drag."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPalette, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

if TYPE_CHECKING:
    from napari.utils import Colormap

__all__ = ["Histogram", "short_number"]

_BINS = 64
_MARGIN = 6


def short_number(value: float) -> str:
    """Return a number in at most about six characters."""
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:.3g}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


class Histogram(QWidget):
    """Bars of log counts over the contrast limits of a map."""

    threshold_changed = Signal(float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._counts: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._colours: list[QColor] = []
        self._low, self._high, self._threshold = 0.0, 1.0, 0.0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumHeight(92)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Histogram of the chosen map")
        self.setToolTip(
            "How many voxels have each value (logarithmic). Click or drag to hide the map below "
            "a value; arrow keys move it by a hundredth"
        )

    # ---- values

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Voxels per bar; empty if no map is shown."""
        return self._counts

    @property
    def threshold(self) -> float:
        """Below it the map is hidden."""
        return self._threshold

    def show_map(
        self,
        values: npt.NDArray[np.float32],
        limits: tuple[float, float],
        colormap: Colormap,
        threshold: float,
    ) -> None:
        """Show the values of a map; those beyond the limits go into the outermost bars."""
        self._low, self._high = limits
        clipped = np.clip(values, self._low, self._high)
        self._counts, _ = np.histogram(clipped, _BINS, (self._low, self._high))
        places = (np.arange(_BINS) + 0.5) / _BINS
        table = np.asarray(colormap.map(places))
        self._colours = [QColor.fromRgbF(*(float(c) for c in row[:3])) for row in table]
        self._threshold = threshold
        self.update()

    def clear(self) -> None:
        """Show nothing."""
        self._counts = np.zeros(0, dtype=np.int64)
        self.update()

    def sizeHint(self) -> QSize:
        """Return a size that fits the dock."""
        return QSize(300, 92)

    # ---- mouse and keys

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Take the value under the mouse as threshold."""
        if event is not None and event.button() == Qt.MouseButton.LeftButton:
            self._move_to(event.position().x())

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Drag the threshold."""
        if event is not None and event.buttons() & Qt.MouseButton.LeftButton:
            self._move_to(event.position().x())

    def mouseDoubleClickEvent(self, event: QMouseEvent | None) -> None:
        """Show the whole map again."""
        self._set(self._low)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Arrow keys move the threshold by a hundredth."""
        steps = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}
        if event is None:
            return
        step = steps.get(Qt.Key(event.key()))
        if step is None:
            super().keyPressEvent(event)
            return
        self._set(self._threshold + step * (self._high - self._low) / 100)

    def _move_to(self, x: float) -> None:
        area = self._area()
        self._set(self._low + (x - area.left()) / area.width() * (self._high - self._low))

    def _set(self, value: float) -> None:
        if self._counts.size == 0:
            return
        self._threshold = min(max(value, self._low), self._high)
        self.update()
        self.threshold_changed.emit(self._threshold)

    # ---- painting

    def _area(self) -> QRectF:
        text = self.fontMetrics().height() + 4
        return QRectF(_MARGIN, 4, self.width() - 2 * _MARGIN, self.height() - text - 6)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw bars, threshold and the ends of the range."""
        painter = QPainter(self)
        ink = self.palette().color(QPalette.ColorRole.WindowText)
        faint = QColor(ink)
        faint.setAlpha(60)
        area = self._area()
        painter.setPen(QPen(faint, 1))
        painter.setBrush(QColor(0, 0, 0, 70))
        painter.drawRect(area)
        if self._counts.size == 0:
            painter.setPen(ink)
            painter.drawText(area, Qt.AlignmentFlag.AlignCenter, "Choose a map above")
            painter.end()
            return
        self._draw_bars(painter, area, faint)
        self._draw_text(painter, area, ink)
        painter.end()

    def _draw_bars(self, painter: QPainter, area: QRectF, faint: QColor) -> None:
        height = np.log1p(self._counts)
        height = height / (height.max() or 1.0)
        width = area.width() / _BINS
        share = (self._threshold - self._low) / (self._high - self._low)
        painter.setPen(Qt.PenStyle.NoPen)
        for number, (part, colour) in enumerate(zip(height, self._colours, strict=True)):
            if part <= 0:
                continue
            hidden = (number + 0.5) / _BINS < share
            # The darkest colours of a map can't be seen on a dark panel.
            painter.setBrush(faint if hidden else colour.lighter(115 if number else 100))
            size = float(part) * (area.height() - 2)
            painter.drawRect(
                QRectF(area.left() + number * width, area.bottom() - size, width + 0.4, size)
            )

    def _draw_text(self, painter: QPainter, area: QRectF, ink: QColor) -> None:
        share = (self._threshold - self._low) / (self._high - self._low)
        x = area.left() + share * area.width()
        painter.setPen(QPen(ink, 2))
        painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
        below = QRectF(area.left(), area.bottom() + 3, area.width(), self.fontMetrics().height())
        painter.setPen(ink)
        left, right = Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight
        painter.drawText(below, left, short_number(self._low))
        painter.drawText(below, right, short_number(self._high))
        words = f"hidden below {short_number(self._threshold)}" if share > 0 else "all shown"
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, words)
