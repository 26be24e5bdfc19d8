"""Deletion and insertion curves as files: SVG, or drawn as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QByteArray
from qtpy.QtGui import QImage, QPainter
from qtpy.QtSvg import QSvgRenderer

from ..errors import OutputError
from .inspect_snapshot import png_bytes, save_image

if TYPE_CHECKING:
    from ..attention.faithfulness import Faithfulness

__all__ = ["curves_image", "curves_png", "save_curves"]

_SCALE = 2
"""Pixels per unit of the drawing."""


def curves_image(results: Sequence[Faithfulness]) -> QImage:
    """Draw a row per map: deletion left, insertion right."""
    from ..attention.curves_svg import curves_svg

    renderer = QSvgRenderer(QByteArray(curves_svg(results).encode("utf-8")))
    image = QImage(renderer.defaultSize() * _SCALE, QImage.Format.Format_RGB32)
    image.fill(0xFFFFFFFF)
    painter = QPainter(image)
    renderer.render(painter)
    painter.end()
    return image


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
    from ..attention.curves_svg import write_curves

    path = Path(path)
    if path.suffix.lower() == ".svg":
        return write_curves(path, results)
    if path.suffix.lower() != ".png":
        raise OutputError(f"can't draw curves into {path.name}: use .png or .svg")
    return save_image(curves_image(results), path)
