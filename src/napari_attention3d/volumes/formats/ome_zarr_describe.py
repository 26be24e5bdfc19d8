"""OME-Zarr's JSON for a volume of ours (https://ngff.openmicroscopy.org/0.5/ and /0.4/).

NGFF knows scale and translation only. The scale is the voxel size along the array's own
axes and the translation the world position of the first voxel's centre, so other tools
show an oblique or flipped scan with its true sizes but without its directions. Our own
entry beside it, "napari-attention3d", keeps the whole affine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...geometry import Geometry

__all__ = ["OURS", "image_attributes"]

OURS = "napari-attention3d"
"""Name of our entry in a group's attributes."""

_LONG = {"mm": "millimeter", "um": "micrometer"}
_COLOURS = ("FFFFFF", "00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")


def image_attributes(
    geometry: Geometry,
    factors: Sequence[tuple[int, int, int]],
    about: Mapping[str, Any],
    *,
    name: str,
    channels: int | None,
    windows: Sequence[tuple[float, float]] = (),
    version: str = "0.5",
) -> dict[str, Any]:
    """Attributes of an image's or a label map's group.

    Parameters
    ----------
    geometry
        Of the finest level.
    factors
        Voxels (z, y, x) that one voxel of each level spans.
    about
        What NGFF has no field for: "kind", "channel_names", "provenance", "classes", ...
    name
        Of the volume.
    channels
        How many; None for (Z, Y, X).
    windows
        Darkest and brightest value per channel, for images.
    version
        "0.4" or "0.5".
    """
    labels = about.get("kind") == "labels"
    image: dict[str, Any] = {
        "name": name,
        "axes": _axes(geometry.unit, channels is not None),
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": _transformations(geometry, factor, channels),
            }
            for level, factor in enumerate(factors)
        ],
        "type": "mode" if labels else "mean",
    }
    # 0.4 tells its version in each part, 0.5 once for all.
    each = {"version": version} if version == "0.4" else {}
    ome: dict[str, Any] = {"multiscales": [{**each, **image}]}
    if labels:
        ome["image-label"] = {**each, **_image_label(about.get("classes") or ())}
    else:
        unnamed = [name] if channels is None else [f"channel {i + 1}" for i in range(channels)]
        names = list(about.get("channel_names") or unnamed)
        ome["omero"] = {**each, "channels": _omero_channels(names, windows)}
    place = {
        "shape": list(geometry.shape),
        "affine": geometry.affine.tolist(),
        "unit": geometry.unit,
        "anatomical": geometry.anatomical,
    }
    ours = {OURS: {"geometry": place, **about}}
    return {**ome, **ours} if each else {"ome": {"version": version, **ome}, **ours}


def _axes(unit: str, channels: bool) -> list[dict[str, str]]:
    space = [{"name": axis, "type": "space"} for axis in "zyx"]
    if unit in _LONG:
        space = [{**axis, "unit": _LONG[unit]} for axis in space]
    return [{"name": "c", "type": "channel"}, *space] if channels else space


def _transformations(
    geometry: Geometry, factor: Sequence[int], channels: int | None
) -> list[dict[str, Any]]:
    lead = channels is not None
    scale = [s * f for s, f in zip(geometry.spacing, factor, strict=True)]
    # The centre of a coarse voxel's f fine ones lies (f - 1) / 2 voxels from their first.
    shift = [
        o + s * (f - 1) / 2
        for o, s, f in zip(geometry.origin, geometry.spacing, factor, strict=True)
    ]
    return [
        {"type": "scale", "scale": [1.0] * lead + scale},
        {"type": "translation", "translation": [0.0] * lead + shift},
    ]


def _image_label(classes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Colours and names; a class's value is its place in the list."""
    colours, properties = [], []
    for value, one in enumerate(classes):
        properties.append({"label-value": value, "name": str(one.get("name", value))})
        text = str(one.get("colour", "")).lstrip("#")
        try:
            rgb = list(bytes.fromhex(text))
        except ValueError:
            continue
        if len(rgb) == 3:
            colours.append({"label-value": value, "rgba": [*rgb, 255 if value else 0]})
    entry: dict[str, Any] = {"colors": colours or [{"label-value": 0, "rgba": [0, 0, 0, 0]}]}
    if properties:
        entry["properties"] = properties
    return entry


def _omero_channels(
    names: Sequence[str], windows: Sequence[tuple[float, float]]
) -> list[dict[str, Any]]:
    channels = []
    for index, name in enumerate(names):
        low, high = windows[index] if index < len(windows) else (0.0, 1.0)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            low, high = (low, low + 1.0) if math.isfinite(low) else (0.0, 1.0)
        channels.append(
            {
                "label": name,
                "color": _COLOURS[index % len(_COLOURS)],
                "active": True,
                "window": {"min": low, "max": high, "start": low, "end": high},
            }
        )
    return channels
