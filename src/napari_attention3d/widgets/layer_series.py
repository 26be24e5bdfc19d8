"""Series in time as layers with a first axis "t"; a point in time is read as it is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..volumes import Volume, read_volume
from .layers import KEY, LayerData, volume_to_layer_data

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = [
    "is_time_series",
    "lead_in_view",
    "series_to_layer_data",
    "time_in_view",
    "time_of_result",
]

_HELD = 2
"""Points in time of a file that stay in memory: those looked at last."""


def series_to_layer_data(first: Volume, path: Path, times: int, kind: str) -> list[LayerData]:
    """Layers (T, Z, Y, X) that show a series: one per channel.

    Parameters
    ----------
    first
        Point 0 of it.
    path
        Its file.
    """
    import dask
    import dask.array as da

    @lru_cache(maxsize=_HELD)
    def point(time: int) -> list[LayerData]:
        volume = read_volume(path, time=time)
        return volume_to_layer_data(volume.replace(name=first.name), kind=kind)

    def voxels(time: int, index: int) -> Any:
        return np.asarray(point(time)[index][0])

    layers: list[LayerData] = []
    for index, (data, keywords, layer_type) in enumerate(volume_to_layer_data(first, kind=kind)):
        if isinstance(data, np.ndarray):
            later = dask.delayed(voxels, pure=False)
            points = [
                da.from_delayed(later(time, index), data.shape, data.dtype) for time in range(times)
            ]
        else:  # lazy already, chunk by chunk
            points = [
                volume_to_layer_data(read_volume(path, time=time), kind=kind)[index][0]
                for time in range(times)
            ]
        entry = {**keywords["metadata"][KEY], "times": times}
        four = {
            **keywords,
            "scale": (1.0, *keywords["scale"]),
            "translate": (0.0, *keywords["translate"]),
            "units": ("pixel", *keywords["units"]),
            "axis_labels": ("t", *keywords["axis_labels"]),
            "metadata": {KEY: entry},
        }
        layers.append((da.stack(points), four, layer_type))
    return layers


def is_time_series(layer: Layer) -> bool:
    """Whether the first of a layer's four axes is known to be time."""
    if layer.ndim != 4:
        return False
    entry = layer.metadata.get(KEY)
    told = isinstance(entry, Mapping) and "times" in entry
    return told or str(layer.axis_labels[0]).lower() in ("t", "time")


def lead_in_view(viewer: Any, layer: Layer, *, one_channel: bool) -> int | None:
    """Which of the first axis to take for a model; None: all, as channels.

    Parameters
    ----------
    one_channel
        Whether the model takes one.
    """
    if layer.ndim == 4 and (one_channel or is_time_series(layer)):
        return time_in_view(viewer, layer)
    return None


def time_of_result(layer: Layer) -> int | None:
    """The point in time that a result of ours was made of, if it says so."""
    entry = layer.metadata.get(KEY)
    provenance = entry.get("provenance") if isinstance(entry, Mapping) else None
    source = provenance.get("source") if isinstance(provenance, Mapping) else None
    time = source.get("time") if isinstance(source, Mapping) else None
    return time if isinstance(time, int) else None


def time_in_view(viewer: Any, layer: Layer) -> int:
    """Index along the first axis of a 4D layer that the viewer shows; 0 for others."""
    if layer.ndim < 4:
        return 0
    point = np.asarray(viewer.dims.point, dtype=float)[-layer.ndim :]
    at = round(float(np.asarray(layer.world_to_data(point), dtype=float)[0]))
    data = layer.data[0] if layer.multiscale else layer.data
    return min(max(at, 0), int(data.shape[0]) - 1)
