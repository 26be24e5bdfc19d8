"""How maps look: which layers are maps, their range, and colours that begin at a threshold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .layers import KEY

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.utils import Colormap

__all__ = [
    "MapLayer",
    "base_colormap",
    "map_layers",
    "role_of",
    "sample",
    "set_threshold",
    "threshold_of",
    "thumbnail",
    "value_at",
]

_GROUPS = (
    ("attention:", "Where it looked"),
    ("asked", "Answers"),
    ("uncertainty", "How sure it is"),
    ("probability:", "How sure it is"),
    ("request:", "On request"),
    ("change", "What a change does"),
    ("moved:", "What painting moved"),
    ("feature", "Features"),
)
_PARTS = ("asked-outline", "asked-place", "asked-lines")
_FROM = re.compile(r"^(.*) from (\d+) %$")
_NUMBER = re.compile(r" \[\d+\]$")
"""What napari puts behind a name that is there already."""
_SAMPLE = 2**19
_LARGE = 2**24


@dataclass(frozen=True)
class MapLayer:
    """A layer that shows a map of ours."""

    layer: Image
    group: str
    title: str
    meaning: str


def role_of(layer: Layer) -> str:
    """What a layer of ours shows; "" for others."""
    entry = layer.metadata.get(KEY, {})
    return str(entry.get("role", "")) if isinstance(entry, dict) else ""


def map_layers(viewer: Any) -> list[MapLayer]:
    """Return the maps among the viewer's layers, by group, the uppermost first.

    Titles leave out scan and model, unless maps of several would have the same one.
    """
    from napari.layers import Image

    found: list[tuple[int, Image]] = []
    for layer in reversed(viewer.layers):
        role = role_of(layer)
        if not isinstance(layer, Image) or not role or role in _PARTS:
            continue
        for number, (head, _) in enumerate(_GROUPS):
            if role.startswith(head):
                found.append((number, layer))
                break
    order = {group: i for i, (_, group) in reversed(list(enumerate(_GROUPS)))}
    found.sort(key=lambda pair: order[_GROUPS[pair[0]][1]])
    titles = _titles([layer for _, layer in found])
    return [
        MapLayer(layer, _GROUPS[number][1], title, _meaning(layer))
        for (number, layer), title in zip(found, titles, strict=True)
    ]


def _titles(layers: list[Image]) -> list[str]:
    """Return a title for each that none of the others has."""
    titles = [_title(layer) for layer in layers]
    for part in ("model", "scan"):
        for title in _repeated(titles):
            same = [i for i, one in enumerate(titles) if one == title]
            parts = [_part_of_name(layers[i], part) for i in same]
            if len(set(parts)) > 1:
                for i, words in zip(same, parts, strict=True):
                    titles[i] = f"{title} · {words}" if words else title
    for title in _repeated(titles):
        same = [i for i, one in enumerate(titles) if one == title]
        for number, i in enumerate(same[1:], start=2):
            titles[i] = f"{title} ({number})"
    return titles


def _repeated(titles: list[str]) -> set[str]:
    return {title for title in titles if titles.count(title) > 1}


def _part_of_name(layer: Layer, part: str) -> str:
    """Model or scan of a map, as it notes them, or as its name "scan · model · title" says."""
    entry = layer.metadata.get(KEY, {})
    if entry.get(part):
        return str(entry[part])
    words = str(layer.name).split(" · ")
    if part == "model":
        return words[-2] if len(words) > 1 else ""
    return words[0] if len(words) > 2 else ""


def _title(layer: Layer) -> str:
    """Name without the scan's and the model's, which mostly are the same for all."""
    title = _NUMBER.sub("", str(layer.name.rsplit(" · ", 1)[-1]))
    for head in ("guided attention, ", "attention "):
        title = title.removeprefix(head)
    pin = layer.metadata.get(KEY, {}).get("pin")
    return (f"📌 {pin} " if pin else "") + title[:1].upper() + title[1:]


def _meaning(layer: Layer) -> str:
    entry = layer.metadata.get(KEY, {})
    about = entry.get("attention", {}) or entry.get("map", {})
    return str(about.get("meaning") or about.get("description") or "")


def sample(layer: Image) -> npt.NDArray[np.float32]:
    """Finite values of a map; of a large one every n-th voxel."""
    array = layer.data[0] if layer.multiscale else layer.data
    step = max(1, int(np.ceil((array.size / _SAMPLE) ** (1 / 3))))
    values = np.asarray(array[(..., *(slice(None, None, step),) * 3)], dtype=np.float32).ravel()
    return values[np.isfinite(values)]


def thumbnail(layer: Image, size: int) -> npt.NDArray[np.uint8]:
    """Return a small picture: the largest values through the first axis, in its colours.

    Returns
    -------
    ndarray
        (h, w, 4) uint8, at most `size` high and wide.
    """
    array = layer.data[-1] if layer.multiscale else layer.data
    array = array[(0,) * (array.ndim - 3)]
    step = max(1, array.size // _LARGE)
    flat = np.nan_to_num(np.asarray(array[::step], dtype=np.float32)).max(axis=0)
    lengths = np.asarray(flat.shape) * np.abs(np.asarray(layer.scale)[-2:])
    wanted = np.maximum(1, np.round(size * lengths / lengths.max())).astype(int)
    for axis, count in enumerate(wanted):
        # The largest value of each part: a single bright voxel must not get lost.
        first = (np.arange(count) * flat.shape[axis] / count).astype(int)
        flat = np.maximum.reduceat(flat, first, axis=axis)
    low, high = layer.contrast_limits
    shares = np.clip((flat - low) / (high - low), 0, 1)
    colours = np.asarray(layer.colormap.map(shares.ravel())).reshape(*shares.shape, 4)
    picture = np.round(255 * colours).astype(np.uint8)
    picture[..., 3] = 255
    return picture


def value_at(layer: Layer, world: npt.ArrayLike) -> float | None:
    """Value of the voxel at a place of the viewer's world; None outside the layer."""
    place = np.asarray(world, dtype=float)[-layer.ndim :]
    index = np.round(np.asarray(layer.world_to_data(place), dtype=float)).astype(int)
    array = layer.data[0] if layer.multiscale else layer.data
    if (index < 0).any() or (index >= np.asarray(array.shape)).any():
        return None
    return float(np.asarray(array[tuple(index)]))


def base_colormap(layer: Image) -> Colormap:
    """Colours of a layer as they were without a threshold."""
    from napari.utils.colormaps import AVAILABLE_COLORMAPS, ensure_colormap

    match = _FROM.match(layer.colormap.name)
    if match and match[1] in AVAILABLE_COLORMAPS:
        return ensure_colormap(match[1])
    return layer.colormap


def threshold_of(layer: Image) -> float:
    """Value below which a map is hidden; the lower contrast limit if nothing is."""
    low, high = layer.contrast_limits
    match = _FROM.match(layer.colormap.name)
    share = int(match[2]) / 100 if match else 0.0
    return float(low + (high - low) * share)


def set_threshold(layer: Image, threshold: float) -> None:
    """Hide a map below a value; the colours above stay what they were.

    Contrast limits are left alone: the same colour is the same value before and after.
    """
    from napari.utils import Colormap

    low, high = layer.contrast_limits
    percent = round(100 * min(max((threshold - low) / (high - low), 0.0), 1.0))
    base = base_colormap(layer)
    if percent == 0:
        if layer.colormap.name != base.name:
            layer.colormap = base
        return
    # napari keeps every colormap by its name for ever: whole percents, so they are few.
    name = f"{base.name} from {percent} %"
    if layer.colormap.name == name:
        return
    places = np.linspace(0, 1, 401)
    colours = np.array(base.map(places), dtype=np.float32)
    colours[places < percent / 100 - 1e-6] = 0
    layer.colormap = Colormap(colours, name=name, controls=places)
