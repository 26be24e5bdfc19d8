"""Curves and bars drawn from SVG: in the panel, as files and for the report."""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QByteArray
from qtpy.QtGui import QImage, QPainter, QPaintEvent, QResizeEvent
from qtpy.QtSvg import QSvgRenderer
from qtpy.QtWidgets import QSizePolicy, QWidget

from ..errors import OutputError
from .inspect_snapshot import png_bytes, save_image

if TYPE_CHECKING:
    from ..analysis.table import Table
    from ..attention.faithfulness import Faithfulness

__all__ = [
    "SvgView",
    "curves_image",
    "curves_png",
    "draw_svg",
    "save_curves",
    "save_drawing",
    "shares_png",
]

_SCALE = 2
"""Pixels per unit of the drawing."""


def curves_image(results: Sequence[Faithfulness]) -> QImage:
    """Draw a row per map: deletion left, insertion right."""
    from ..attention.curves_svg import curves_svg

    return draw_svg(curves_svg(results))


def draw_svg(text: str) -> QImage:
    """Draw an SVG picture."""
    renderer = QSvgRenderer(QByteArray(text.encode("utf-8")))
    image = QImage(renderer.defaultSize() * _SCALE, QImage.Format.Format_RGB32)
    image.fill(0xFFFFFFFF)
    painter = QPainter(image)
    renderer.render(painter)
    painter.end()
    return image


class SvgView(QWidget):
    """Shows an SVG picture as wide as the dock lets it be."""

    def __init__(self) -> None:
        super().__init__()
        self.renderer = QSvgRenderer()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def show_svg(self, text: str) -> None:
        """Show a picture."""
        self.renderer.load(QByteArray(text.encode("utf-8")))
        self._fit()
        self.update()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Keep the proportions."""
        super().resizeEvent(event)
        self._fit()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the picture."""
        painter = QPainter(self)
        self.renderer.render(painter)
        painter.end()

    def _fit(self) -> None:
        size = self.renderer.defaultSize()
        if size.width() > 0:
            self.setFixedHeight(max(1, round(self.width() * size.height() / size.width())))


def curves_png(results: Sequence[Faithfulness]) -> bytes:
    """Return `curves_image` as the bytes of a PNG file."""
    return png_bytes(curves_image(results))


def save_curves(path: str | Path, results: Sequence[Faithfulness]) -> Path:
    """Write curves as .png or .svg.

    Raises
    ------
    OutputError
        If the name ends otherwise, or the file can't be written.
    """
    from ..attention.curves_svg import curves_svg

    return save_drawing(path, curves_svg(results))


def save_drawing(path: str | Path, text: str) -> Path:
    """Write an SVG picture as .png or .svg.

    Raises
    ------
    OutputError
        If the name ends otherwise, or the file can't be written.
    """
    from ..attention.svg import write_svg

    path = Path(path)
    if path.suffix.lower() == ".svg":
        return write_svg(path, text)
    if path.suffix.lower() != ".png":
        raise OutputError(f"can't draw into {path.name}: use .png or .svg")
    return save_image(draw_svg(text), path)


def shares_png(table: Table) -> bytes:
    """Return the shares of `attention_shares` as bars, as the bytes of a PNG file."""
    from ..attention.shares_svg import shares_svg

    return png_bytes(draw_svg(shares_svg(table)))
