"""The part of a scan that the canvas shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .layers import LayerSource

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["focus_in_view", "place_in_view", "region_in_view"]

Region = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def region_in_view(viewer: Any, layer: Layer, source: LayerSource, depth: float) -> Region | None:
    """Index ranges (z, y, x) in the volume's own array of what the 2D canvas shows.

    Parameters
    ----------
    depth
        How far the region reaches through the slice, in voxels of the layer.

    Returns
    -------
    region or None
        None if the whole scan is in view, or the view is 3D or shows nothing of it.
    """
    if viewer.dims.ndisplay != 2:
        return None
    shape = source.shown.shape
    low, high = (np.asarray(row, dtype=int)[-3:] for row in layer.corner_pixels)
    displayed = {axis - (viewer.dims.ndim - 3) for axis in viewer.dims.displayed}
    point = np.asarray(layer.world_to_data(viewer.dims.point), dtype=float)[-3:]
    ranges: list[tuple[int, int]] = []
    for axis, size in enumerate(shape):
        if axis in displayed:
            first, last = int(low[axis]), int(high[axis]) + 1
        else:
            first = round(point[axis] - depth / 2)
            last = round(point[axis] + depth / 2) + 1
        first, last = max(0, min(first, size)), max(0, min(last, size))
        ranges.append((first, last))
    if any(last <= first for first, last in ranges):
        return None
    if all(r == (0, n) for r, n in zip(ranges, shape, strict=True)):
        return None
    return _to_source(ranges, source)


def _to_source(ranges: list[tuple[int, int]], source: LayerSource) -> Region:
    turn, shown = source.turn, source.shown.shape
    own: list[tuple[int, int]] = [(0, 0)] * 3
    for axis, (first, last) in enumerate(ranges):
        if turn.flips[axis]:
            first, last = shown[axis] - last, shown[axis] - first
        own[turn.permutation[axis]] = (first, last)
    return own[0], own[1], own[2]


def focus_in_view(viewer: Any, layer: Layer, source: LayerSource) -> tuple[float, ...] | None:
    """Voxel (z, y, x) of the volume's own array in the middle of the 2D canvas.

    None in 3D, and where the middle lies outside the scan.
    """
    if viewer.dims.ndisplay != 2:
        return None
    low, high = (np.asarray(row, dtype=float)[-3:] for row in layer.corner_pixels)
    displayed = {axis - (viewer.dims.ndim - 3) for axis in viewer.dims.displayed}
    point = np.asarray(layer.world_to_data(viewer.dims.point), dtype=float)[-3:]
    own = [0.0, 0.0, 0.0]
    for axis, size in enumerate(source.shown.shape):
        at = (low[axis] + high[axis]) / 2 if axis in displayed else point[axis]
        if not 0 <= at <= size - 1:
            return None
        flip = source.turn.flips[axis]
        own[source.turn.permutation[axis]] = size - 1 - at if flip else float(at)
    return tuple(own)


def place_in_view(viewer: Any, layer: Layer, source: LayerSource) -> tuple[float, ...]:
    """Voxel in the middle of the 2D canvas; in 3D, or outside the scan, that of the sliders."""
    found = focus_in_view(viewer, layer, source)
    if found is not None:
        return found
    from .probe import shown_to_voxel

    point = np.asarray(layer.world_to_data(viewer.dims.point), dtype=float)[-3:]
    size = np.array(source.shown.shape)
    return shown_to_voxel(source, np.clip(point, 0, size - 1))
