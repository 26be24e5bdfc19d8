"""A picture of the view for a paper: the canvas, colour bars with their ranges, a scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QBuffer, QIODevice, QRectF, Qt
from qtpy.QtGui import QColor, QFont, QFontMetricsF, QImage, QPainter, QPen

from ..errors import OutputError
from ..volumes.atomic import atomic_path
from .inspect_histogram import short_number
from .inspect_look import MapLayer
from .layers import KEY

if TYPE_CHECKING:
    from napari.layers import Labels

__all__ = ["canvas_picture", "compose", "png_bytes", "save_image", "snapshot"]

_SCALE = 2
"""Canvas pixels of the picture per pixel on screen: sharp in print."""
_BAR = (26.0, 190.0)
"""Width and height of a colour bar."""
_PAD = 18.0


@dataclass(frozen=True)
class _Key:
    """A colour in words."""

    name: str
    colour: QColor


def snapshot(viewer: Any, maps: Sequence[MapLayer], mask: Labels | None, caption: str) -> QImage:
    """Return the view with a colour bar for each map, the labels' colours and a scale bar.

    Parameters
    ----------
    viewer
        A real one, with a canvas.
    maps
        Those that are shown.
    mask
        Whose labels are named; only those in it.
    caption
        Below the picture.
    """
    return compose(canvas_picture(viewer), maps, _keys(mask), caption)


def canvas_picture(viewer: Any) -> npt.NDArray[np.uint8]:
    """Return the canvas (h, w, 4) uint8, with napari's scale bar in it."""
    bar, camera = viewer.canvas.overlays["scale_bar"], viewer.scene.camera
    before = bar.visible, bar.font_size, camera.zoom
    # napari gives more pixels to the canvas, not to what is in it.
    bar.visible, bar.font_size, camera.zoom = True, _SCALE * before[1], _SCALE * before[2]
    try:
        picture = viewer.screenshot(canvas_only=True, flash=False, scale=_SCALE)
    finally:
        bar.visible, bar.font_size, camera.zoom = before
    return np.ascontiguousarray(picture, dtype=np.uint8)


def compose(
    picture: npt.NDArray[np.uint8], maps: Sequence[MapLayer], keys: Sequence[_Key], caption: str
) -> QImage:
    """Lay colour bars and a caption around a picture of the canvas (h, w, 4)."""
    height, width = picture.shape[:2]
    canvas = QImage(picture.data, width, height, 4 * width, QImage.Format.Format_RGBA8888)
    font = QFont()
    font.setPixelSize(24)
    metrics = QFontMetricsF(font)
    line = metrics.height()
    side = _side_width(metrics, maps, keys)
    caption_height = 2 * line + _PAD if caption else 0.0
    needed = len(maps) * (_BAR[1] + 3.5 * line) + len(keys) * 1.25 * line + 2 * _PAD
    total = int(max(height, needed) + caption_height)
    image = QImage(int(width + side), total, QImage.Format.Format_RGB32)
    image.fill(QColor("white"))
    painter = QPainter(image)
    painter.setRenderHint(QPainter.RenderHint.TextAntialiasing)
    painter.setFont(font)
    painter.drawImage(0, 0, canvas)
    top = _PAD
    for entry in maps:
        _draw_bar(painter, QRectF(width + _PAD, top + 1.7 * line, *_BAR), entry, line)
        top += _BAR[1] + 3 * line
    for key in keys:
        _draw_key(painter, width + _PAD, top, key, line)
        top += 1.25 * line
    if caption:
        area = QRectF(_PAD, total - caption_height + _PAD / 2, image.width() - 2 * _PAD, 2 * line)
        painter.setPen(QColor("black"))
        painter.drawText(area, int(Qt.TextFlag.TextWordWrap), caption)
    painter.end()
    return image


def png_bytes(image: QImage) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    image.save(buffer, "PNG")
    return bytes(buffer.data().data())


def save_image(image: QImage, path: str | Path) -> Path:
    """Write a picture as PNG, atomically.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"can't write {path.name}: a snapshot is a .png file")
    with atomic_path(path) as temporary:
        temporary.write_bytes(png_bytes(image))
    return path


# ---- inside


def _side_width(metrics: QFontMetricsF, maps: Sequence[MapLayer], keys: Sequence[_Key]) -> float:
    words = [metrics.horizontalAdvance(entry.title) for entry in maps]
    words += [_BAR[0] + 8 + metrics.horizontalAdvance(key.name) for key in keys]
    for entry in maps:
        ends = [metrics.horizontalAdvance(short_number(v)) for v in entry.layer.contrast_limits]
        words.append(_BAR[0] + 12 + max(ends))
    return max(words) + 2 * _PAD if words else 0.0


def _draw_bar(painter: QPainter, area: QRectF, entry: MapLayer, line: float) -> None:
    layer = entry.layer
    painter.setPen(QColor("black"))
    above = QRectF(area.left(), area.top() - 1.7 * line, 2000, line)
    painter.drawText(above, Qt.AlignmentFlag.AlignLeft, entry.title)
    rows = int(area.height())
    colours = np.asarray(layer.colormap.map(np.linspace(1, 0, rows)))
    table = np.ones((rows, 1, 4), dtype=np.uint8)
    table[:, 0] = np.round(255 * colours)
    table[..., 3] = 255
    strip = QImage(table.data, 1, rows, 4, QImage.Format.Format_RGBA8888)
    painter.drawImage(area, strip)
    painter.setPen(QPen(QColor("black"), 1.5))
    painter.drawRect(area)
    low, high = layer.contrast_limits
    for share in (0.0, 0.5, 1.0):
        y = area.bottom() - share * area.height()
        painter.drawLine(int(area.right()), int(y), int(area.right() + 6), int(y))
        text = QRectF(area.right() + 10, y - line / 2, 2000, line)
        painter.drawText(text, Qt.AlignmentFlag.AlignVCenter, short_number(_at(low, high, share)))


def _at(low: float, high: float, share: float) -> float:
    return low + share * (high - low)


def _draw_key(painter: QPainter, x: float, y: float, key: _Key, line: float) -> None:
    box = QRectF(x, y + 0.15 * line, _BAR[0], 0.75 * line)
    painter.setPen(QPen(QColor("black"), 1))
    painter.setBrush(key.colour)
    painter.drawRect(box)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    text = QRectF(x + _BAR[0] + 8, y, 2000, line)
    painter.drawText(text, Qt.AlignmentFlag.AlignVCenter, key.name)


def _few(mask: Labels) -> npt.NDArray[Any]:
    """A mask's coarsest level; of one on the disk without levels only the slice in view."""
    data = mask.data[-1] if mask.multiscale else mask.data
    if not mask.multiscale and not isinstance(data, np.ndarray):
        return np.asarray(mask._slice.image.raw)
    return np.asarray(data)


def _keys(mask: Labels | None, most: int = 12) -> list[_Key]:
    """Names and colours of the labels that are in a mask."""
    if mask is None or not {"index", "name"} <= set(mask.features):
        return []
    present = set(np.unique(_few(mask)).tolist()) - {0}
    found = []
    for index, name in zip(mask.features["index"], mask.features["name"], strict=True):
        if int(index) in present:
            red, green, blue = (float(c) for c in np.asarray(mask.get_color(int(index)))[:3])
            found.append(_Key(str(name), QColor.fromRgbF(red, green, blue)))
    return found[:most] if mask.metadata.get(KEY) else []
