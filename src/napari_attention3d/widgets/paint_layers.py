"""Strokes on the attention: a Labels layer of its own with "look here" and "not here"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import Attention3DError, InputError
from .layers import KEY, LayerSource, layer_to_volume

if TYPE_CHECKING:
    from napari.layers import Labels

    from ..volumes.volume import Volume

__all__ = [
    "COLOURS",
    "NAMES",
    "attention_strokes",
    "find_strokes",
    "make_strokes",
    "painted_counts",
    "read_strokes",
    "write_strokes",
]

NAMES = ("not painted", "look here", "not here")
COLOURS: dict[int | None, str] = {1: "#56b4e9", 2: "#d55e00"}
"""Blue and orange-red: told apart by colour-blind people, too."""
_OF = "attention"


def find_strokes(viewer: Any, source: LayerSource) -> Labels | None:
    """Return the uppermost layer of strokes on a scan's attention, if there is one."""
    from napari.layers import Labels

    for layer in reversed(viewer.layers):
        entry = layer.metadata.get(KEY, {})
        if not isinstance(layer, Labels) or not isinstance(entry, dict):
            continue
        ours = entry.get("role") == "strokes" and entry.get("of") == _OF
        if ours and tuple(layer.data.shape) == tuple(source.shown.shape):
            return layer
    return None


def make_strokes(viewer: Any, source: LayerSource) -> Labels:
    """Add an empty layer of strokes above everything, on the scan's voxels."""
    from napari.layers import Labels
    from napari.utils.colormaps import DirectLabelColormap

    table: dict[int | None, str] = {0: "transparent", **COLOURS, None: "#ff00ff"}
    layer = Labels(
        np.zeros(source.shown.shape, np.uint8),
        **source.transform,
        name=f"{source.volume.name} · look here / not here",
        opacity=0.8,
        features={"index": list(range(len(NAMES))), "name": list(NAMES)},
        colormap=DirectLabelColormap(color_dict=table),
        metadata={KEY: {**source.record()[KEY], "role": "strokes", "of": _OF}},
    )
    layer.brush_size = max(2, min(12, round(min(sorted(layer.data.shape)[1:]) / 25)))
    layer.selected_label = 1
    viewer.layers.append(layer)
    return layer


def read_strokes(layer: Labels, source: LayerSource) -> Volume:
    """Return a copy of the strokes (Z, Y, X) on the scan's own grid.

    Raises
    ------
    InputError
        If the layer was moved away from the scan, or holds other labels than 1 and 2.
    """
    found = layer_to_volume(layer)
    if not found.shown.is_close(source.shown):
        raise InputError(f"{layer.name} was moved: it no longer lies on the scan's voxels")
    array = np.array(source.turn.inverse().apply(layer.data), dtype=np.uint8)
    highest = int(np.max(layer.data))
    if highest >= len(NAMES):
        raise InputError(
            f"{layer.name} holds the label {highest}: paint 1, look here, or 2, not here"
        )
    return source.volume.replace(array=array, channel_names=(), name="attention strokes")


def write_strokes(layer: Labels, source: LayerSource, volume: Volume) -> None:
    """Show strokes that were saved.

    Raises
    ------
    InputError
        If they are of another scan, or no strokes.
    """
    array: npt.NDArray[Any] = np.asarray(volume.channel(0).array)
    own, scan = volume.geometry, source.volume.geometry
    if array.shape != scan.shape or (own.unit == scan.unit and not own.is_close(scan)):
        raise InputError(
            f"{volume.name} does not lie on the scan's voxels: {array.shape} and {scan.shape}; "
            "open strokes that were painted on this scan"
        )
    if not set(np.unique(array).tolist()) <= {0, 1, 2}:
        raise InputError(f"{volume.name} holds no strokes: 1 is look here, 2 not here, 0 nothing")
    layer.data = np.ascontiguousarray(source.show(array.astype(np.uint8)))


def painted_counts(volume: Volume) -> tuple[int, int]:
    """Voxels painted "look here" and "not here"."""
    counts = np.bincount(np.asarray(volume.array).ravel(), minlength=3)
    return int(counts[1]), int(counts[2])


def attention_strokes(viewer: Any, source: LayerSource) -> npt.NDArray[np.uint8] | None:
    """Return visible strokes on a scan's attention (Z, Y, X), for a training; None: none."""
    layer = find_strokes(viewer, source)
    if layer is None or not layer.visible:
        return None
    try:
        volume = read_strokes(layer, source)
    except Attention3DError:
        return None
    return np.asarray(volume.array) if any(painted_counts(volume)) else None
