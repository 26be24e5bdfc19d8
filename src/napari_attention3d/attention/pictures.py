"""Slices of a scan with maps and mask on them, as pictures; no window is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..geometry import Geometry
from ..volumes.volume import Volume

__all__ = ["Overlay", "png", "slice_picture"]

Colours = Callable[[npt.NDArray[Any]], npt.NDArray[np.floating]]
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Overlay:
    """A map to lay on the scan.

    Attributes
    ----------
    volume
        (Z, Y, X) in the scan's world.
    limits
        Values of the first and the last colour.
    colours
        (N,) shares of the range to (N, 4) RGBA, 0 to 1.
    opacity
        Factor of its colours, which are added to the scan's.
    """

    volume: Volume
    limits: tuple[float, float]
    colours: Colours
    opacity: float = 0.8


def slice_picture(
    scan: Volume,
    limits: tuple[float, float],
    axis: int,
    index: int,
    overlays: Sequence[Overlay] = (),
    mask: tuple[Volume, Colours] | None = None,
    *,
    pixels: int = 320,
    brightness: float = 0.7,
) -> Picture:
    """Draw a slice of a scan in grey, with maps added and outlines of labels.

    Parameters
    ----------
    scan
        (Z, Y, X), or (C, Z, Y, X): the first channel is drawn.
    limits
        Intensities drawn black and white.
    axis, index
        The slice of the scan's array.
    overlays
        Maps.
    mask
        (Z, Y, X) integers, and labels (N,) to RGBA.
    pixels
        Length of the longer side.
    brightness
        Of the scan.

    Returns
    -------
    ndarray
        (h, w, 3) uint8 with square pixels; rows run along the first remaining axis.
    """
    places, shape = _places(scan.geometry, axis, index, pixels)
    array = scan.array[0] if scan.array.ndim == 4 else scan.array
    low, high = limits
    grey = (_read(array, scan.geometry, places, 1) - low) / ((high - low) or 1.0)
    picture = np.repeat(brightness * np.clip(np.nan_to_num(grey), 0, 1)[:, None], 3, axis=1)
    for overlay in overlays:
        values = _read(overlay.volume.array, overlay.volume.geometry, places, 1)
        first, last = overlay.limits
        share = np.clip((np.nan_to_num(values, nan=first) - first) / ((last - first) or 1.0), 0, 1)
        colours = np.asarray(overlay.colours(share))
        picture += overlay.opacity * colours[:, 3:4] * colours[:, :3]
    picture = np.clip(picture, 0, 1).reshape(*shape, 3)
    if mask is not None:
        volume, palette = mask
        labels = _read(volume.array, volume.geometry, places, 0).reshape(shape)
        _outline(picture, np.nan_to_num(labels).astype(np.int64), palette)
    drawn: Picture = np.round(255 * picture).astype(np.uint8)
    return drawn


def png(picture: Picture) -> bytes:
    """Return a picture (h, w, 3 or 4) uint8 as the bytes of a PNG file."""
    buffer = BytesIO()
    iio.imwrite(buffer, picture, extension=".png")
    return buffer.getvalue()


def _places(
    geometry: Geometry, axis: int, index: int, pixels: int
) -> tuple[npt.NDArray[np.float64], tuple[int, int]]:
    """World coordinates (n, 3) of the centres of a slice's square pixels, and their rows."""
    rows, columns = (a for a in range(3) if a != axis)
    lengths = [geometry.shape[a] * geometry.spacing[a] for a in (rows, columns)]
    step = max(lengths) / pixels
    shape = (max(1, round(lengths[0] / step)), max(1, round(lengths[1] / step)))
    place = np.empty((*shape, 3))
    place[..., axis] = index
    for a, count, along in ((rows, shape[0], 0), (columns, shape[1], 1)):
        line = (np.arange(count) + 0.5) / count * geometry.shape[a] - 0.5
        place[..., a] = np.expand_dims(line, 1 - along)
    return geometry.to_world(place.reshape(-1, 3)), shape


def _read(
    array: Any,
    geometry: Geometry,
    places: npt.NDArray[np.float64],
    order: int,
) -> npt.NDArray[np.float32]:
    """Values at places of the world, NaN outside the grid; only that part of a lazy array."""
    where = geometry.to_index(places)
    size = np.array(geometry.shape)
    inside = ((where >= -0.5 - 1e-6) & (where <= size - 0.5 + 1e-6)).all(axis=1)
    result = np.full(len(places), np.nan, dtype=np.float32)
    if inside.any():
        where = np.clip(where[inside], 0, size - 1)
        low = np.floor(where.min(axis=0)).astype(int)
        high = np.ceil(where.max(axis=0)).astype(int) + 1
        part = np.asarray(array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
        result[inside] = ndimage.map_coordinates(
            part.astype(np.float32), (where - low).T, order=order
        )
    return result


def _outline(
    picture: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], palette: Colours
) -> None:
    """Paint the inner border of every label."""
    inner = ndimage.grey_erosion(labels, size=3) != ndimage.grey_dilation(labels, size=3)
    edge = inner & (labels > 0)
    if edge.any():
        picture[edge] = np.asarray(palette(labels[edge]))[:, :3]
