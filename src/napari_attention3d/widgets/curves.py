"""A small plot of curves that grow while one looks at them (loss, Dice)."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["CurvePlot", "nice_ticks"]

PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7")
"""Colours that colour-blind people tell apart (Okabe and Ito), in the order of the curves."""
_GAP = 6


@dataclass
class _Curve:
    colour: QColor
    share: bool
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)


class CurvePlot(QWidget):
    """Curves over one x axis; values go left, shares (0 to 1) right.

    Parameters
    ----------
    x_label
        What x counts ("step", "round").
    """

    def __init__(self, x_label: str = "step", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.x_label = x_label
        self._curves: dict[str, _Curve] = {}
        self.setMinimumSize(200, 110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Curves")

    def add_curve(self, name: str, *, share: bool = False, colour: str | None = None) -> None:
        """Announce a curve; one of the same name is emptied.

        Parameters
        ----------
        name
            Shown in the legend with the last value.
        share
            Whether values lie in 0 to 1 (Dice): axis on the right, a dot at each value.
        colour
            "#rrggbb"; default: the next of a colour-blind-safe palette.
        """
        number = len(self._curves) - (name in self._curves)
        chosen = QColor(colour or PALETTE[number % len(PALETTE)])
        self._curves[name] = _Curve(chosen, share)
        self.update()

    def append(self, name: str, x: float, y: float) -> None:
        """Add a point; values that are not finite are left out.

        Raises
        ------
        KeyError
            If there is no such curve.
        """
        curve = self._curves[name]
        if math.isfinite(x) and math.isfinite(y):
            curve.x.append(float(x))
            curve.y.append(float(y))
            self.update()

    def clear(self) -> None:
        """Empty all curves."""
        for curve in self._curves.values():
            curve.x.clear()
            curve.y.clear()
        self.update()

    def points(self, name: str) -> list[tuple[float, float]]:
        """Return the points of a curve."""
        curve = self._curves[name]
        return list(zip(curve.x, curve.y, strict=True))

    def sizeHint(self) -> QSize:
        """Return a size that fits the dock."""
        return QSize(320, 150)

    # ---- painting

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw frame, ticks, curves and legend."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(QPalette.ColorRole.WindowText)
        faint = QColor(ink)
        faint.setAlpha(60)
        area, limits = self._area(), self._limits()
        painter.setPen(QPen(faint, 1))
        painter.drawRect(area)
        if limits is None:
            painter.setPen(ink)
            painter.drawText(area, Qt.AlignmentFlag.AlignCenter, "Curves appear here")
            return
        self._draw_axes(painter, area, limits, ink, faint)
        painter.setClipRect(area.adjusted(-3, -3, 3, 3))
        for curve in self._curves.values():
            self._draw_curve(painter, area, limits, curve)
        painter.setClipping(False)
        self._draw_legend(painter, area, ink)
        painter.end()

    def _area(self) -> QRectF:
        metrics = self.fontMetrics()
        left = metrics.horizontalAdvance("0.0000") + _GAP
        shares = any(curve.share for curve in self._curves.values())
        right = metrics.horizontalAdvance("0.0") + _GAP if shares else _GAP
        line = metrics.height()
        return QRectF(
            left, line + _GAP, self.width() - left - right, self.height() - 2 * (line + _GAP)
        )

    def _limits(self) -> tuple[float, float, float, float] | None:
        """Ends of x, then of the values; None if nothing is there yet."""
        xs = [x for c in self._curves.values() for x in (c.x[:1] + c.x[-1:])]
        if not xs:
            return None
        values = [y for c in self._curves.values() if not c.share for y in c.y]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if len(values) > 20:  # a few wild first steps must not flatten the rest
            high = min(high, float(np.quantile(values, 0.98)) * 1.1)
        if low >= 0 and low < 0.5 * high:
            low = 0.0
        if high - low < 1e-9:
            high = low + 1.0
        high += 0.05 * (high - low)
        first, last = min(xs), max(xs)
        return first, last if last > first else first + 1.0, low, high

    def _place(
        self, area: QRectF, limits: tuple[float, float, float, float], share: bool
    ) -> tuple[float, float, float, float]:
        """Scale and offset of x and of y, to pixels."""
        x0, x1, low, high = (*limits[:2], 0.0, 1.0) if share else limits
        sx, sy = area.width() / (x1 - x0), -area.height() / (high - low)
        return sx, area.left() - sx * x0, sy, area.bottom() - sy * low

    def _draw_axes(
        self,
        painter: QPainter,
        area: QRectF,
        limits: tuple[float, float, float, float],
        ink: QColor,
        faint: QColor,
    ) -> None:
        line = self.fontMetrics().height()
        sx, ox, sy, oy = self._place(area, limits, False)
        right, middle = Qt.AlignmentFlag.AlignRight, Qt.AlignmentFlag.AlignVCenter
        if any(not c.share and c.x for c in self._curves.values()):
            for value in nice_ticks(*limits[2:], most=4):
                y = sy * value + oy
                painter.setPen(faint)
                painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
                painter.setPen(ink)
                box = QRectF(0, y - line / 2, area.left() - 4, line)
                painter.drawText(box, right | middle, f"{value:g}")
        painter.setPen(ink)
        if any(curve.share for curve in self._curves.values()):
            for value in (0.0, 0.5, 1.0):
                y = area.bottom() - area.height() * value
                box = QRectF(area.right() + 3, y - line / 2, self.width() - area.right() - 3, line)
                painter.drawText(box, middle, f"{value:g}")
        for value in nice_ticks(*limits[:2], most=4):
            box = QRectF(sx * value + ox - 40, area.bottom() + 2, 80, line)
            if box.left() >= area.left() - 40 and box.right() <= area.right() - 10:
                painter.drawText(box, Qt.AlignmentFlag.AlignHCenter, f"{value:g}")
        box = QRectF(area.left(), area.bottom() + 2, area.width(), line)
        painter.drawText(box, right, self.x_label)

    def _draw_curve(
        self,
        painter: QPainter,
        area: QRectF,
        limits: tuple[float, float, float, float],
        curve: _Curve,
    ) -> None:
        if not curve.x:
            return
        sx, ox, sy, oy = self._place(area, limits, curve.share)
        xs, ys = _thinned(curve.x, curve.y, max(2, int(area.width())))
        points = [QPointF(sx * x + ox, sy * y + oy) for x, y in zip(xs, ys, strict=True)]
        painter.setPen(QPen(curve.colour, 1.6))
        painter.drawPolyline(QPolygonF(points))
        if curve.share or len(points) == 1:
            painter.setBrush(curve.colour)
            for point in points:
                painter.drawEllipse(point, 2.2, 2.2)
            painter.setBrush(Qt.BrushStyle.NoBrush)

    def _draw_legend(self, painter: QPainter, area: QRectF, ink: QColor) -> None:
        metrics = self.fontMetrics()
        x, middle = area.left(), metrics.height() / 2
        for name, curve in self._curves.items():
            if not curve.y:
                continue
            painter.setPen(QPen(curve.colour, 3))
            painter.drawLine(QPointF(x, middle), QPointF(x + 12, middle))
            text = f"{name} {curve.y[-1]:.3g}"
            painter.setPen(ink)
            painter.drawText(QPointF(x + 16, metrics.ascent()), text)
            x += 16 + metrics.horizontalAdvance(text) + 14


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], at most `most`.

    Raises
    ------
    ValueError
        If high is not above low.
    """
    if not high > low:
        raise ValueError(f"no ticks between {low} and {high}")
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    # A step of raw or more gives at most `most` intervals; one more where both ends are hit.
    for step in (power * m for m in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [n * step for n in range(first, last + 1)]
    return [low]


def _thinned(x: list[float], y: list[float], most: int) -> tuple[list[float], list[float]]:
    """Means over neighbouring points, so that there are no more than `most`."""
    if len(x) <= most:
        return x, y
    parts = np.array_split(np.stack([x, y]), most, axis=1)
    means = np.stack([part.mean(1) for part in parts])
    return means[:, 0].tolist(), means[:, 1].tolist()
