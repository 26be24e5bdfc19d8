"""What an OME-Zarr group says of itself: axes, levels, voxel sizes, names (0.4 and 0.5)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import InputError, VolumeFormatError

__all__ = ["Level", "Multiscale", "parse_multiscale", "read_attributes"]

_LARGEST_JSON = 1 << 26
_VERSIONS = ("0.4", "0.5")
_MICROMETRES = {"picometer": 1e-6, "angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0}
_MILLIMETRES = {"millimeter": 1.0, "centimeter": 10.0, "decimeter": 100.0, "meter": 1e3}
_MILLIMETRES |= {"inch": 25.4}
_KINDS = {"time": "t", "channel": "c"}


@dataclass(frozen=True)
class Level:
    """One array of a pyramid.

    Parameters
    ----------
    path
        Within the group, "/" between its parts.
    spacing, origin
        (z, y, x) in the unit of `Multiscale`.
    """

    path: str
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]


@dataclass(frozen=True)
class Multiscale:
    """An image or a label map.

    Parameters
    ----------
    version
        "0.4" or "0.5".
    axes
        One letter of t, c, z, y, x for each axis of the arrays, in their order.
    unit
        "mm", "um" or "pixel".
    levels
        Finest first.
    channel_names
        One per channel, or empty.
    labels
        Whether the group calls itself a label map.
    classes
        Names and colours of label values 0, 1, 2, ... where it tells them.
    ours
        What this package wrote beside it.
    notes
        What was assumed.
    """

    version: str
    axes: str
    unit: str
    levels: tuple[Level, ...]
    channel_names: tuple[str, ...] = ()
    labels: bool = False
    classes: list[dict[str, str]] = field(default_factory=list)
    ours: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_attributes(folder: Path) -> tuple[dict[str, Any], int] | None:
    """Attributes of a zarr group and its zarr format (2 or 3); None if it is no zarr group.

    Raises
    ------
    VolumeFormatError
        If its JSON is damaged or absurdly long.
    """
    if (folder / "zarr.json").is_file():
        node = _json(folder / "zarr.json")
        if node.get("node_type") != "group":
            return None
        attributes = node.get("attributes", {})
        return (attributes if isinstance(attributes, dict) else {}), 3
    if (folder / ".zattrs").is_file() or (folder / ".zgroup").is_file():
        has = (folder / ".zattrs").is_file()
        return (_json(folder / ".zattrs") if has else {}), 2
    return None


def _json(path: Path) -> dict[str, Any]:
    shown = f"{path.parent.name}/{path.name}"
    if path.stat().st_size > _LARGEST_JSON:
        raise VolumeFormatError(f"{shown} is too long for a description; check its source")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise VolumeFormatError(f"{shown} is damaged ({error}); copy the scan again") from error
    if not isinstance(found, dict):
        raise VolumeFormatError(f"{shown} is damaged (it holds no object); copy the scan again")
    return found


def parse_multiscale(attributes: Mapping[str, Any], ours: str, name: str) -> Multiscale | None:
    """Understand a group's attributes; None if it holds no multiscale image.

    Parameters
    ----------
    attributes
        Of the group.
    ours
        Name of this package's own entry.
    name
        Of the file, for messages.

    Raises
    ------
    VolumeFormatError
        If the description is incomplete, contradicts itself or is of another version.
    """
    ome = attributes.get("ome")
    ome = ome if isinstance(ome, Mapping) and "multiscales" in ome else attributes
    images = ome.get("multiscales")
    if not isinstance(images, list) or not images or not isinstance(images[0], Mapping):
        return None
    image = images[0]
    notes = []
    if len(images) > 1:
        notes.append(f"the group holds {len(images)} images; the first was read")
    version = str(ome.get("version") or image.get("version") or "0.4")
    axes, units = _axes(image.get("axes"), version, name)
    levels = _levels(image, axes, name, notes)
    unit, factors = _unit([units[axes.index(a)] for a in "zyx"], notes)
    at = [axes.index(a) for a in "zyx"]
    own = attributes.get(ours)
    label = ome.get("image-label")
    return Multiscale(
        version,
        axes,
        unit,
        tuple(
            Level(path, _pick(scale, at, factors), _pick(shift, at, factors))
            for path, scale, shift in levels
        ),
        _channel_names(ome.get("omero")),
        isinstance(label, Mapping),
        _classes(label) if isinstance(label, Mapping) else [],
        own if isinstance(own, Mapping) else {},
        notes,
    )


# ---- axes


def _axes(entries: Any, version: str, name: str) -> tuple[str, list[str | None]]:
    """Letters and units of the axes."""
    if not isinstance(entries, list) or not all(_named(one) for one in entries):
        raise VolumeFormatError(
            f"{name} is OME-Zarr {version}, whose axes are not described as in "
            f"{' and '.join(_VERSIONS)}; convert it with a newer tool"
        )
    letters, units = [], []
    for one in entries:
        letter = _KINDS.get(str(one.get("type")), str(one["name"]).lower())
        if letter not in "tczyx" or len(letter) != 1 or letter in letters:
            raise InputError(
                f"{name} has axes {', '.join(str(e['name']) for e in entries)}; only time, "
                "channel, z, y and x, once each, are understood: split it first"
            )
        letters.append(letter)
        units.append(one.get("unit") if isinstance(one.get("unit"), str) else None)
    if not {"y", "x"} <= set(letters):
        raise InputError(f"{name} has axes {letters}; y and x are missing: it is no scan")
    if "z" not in letters:
        raise InputError(f"{name} is a 2D picture, a 3D scan is needed; save the whole stack")
    return "".join(letters), units


def _named(entry: Any) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("name"), str)


def _unit(units: Sequence[str | None], notes: list[str]) -> tuple[str, tuple[float, ...]]:
    """Our unit for the three axes, and the factor of each to it."""
    known = [u is not None and (u in _MICROMETRES or u in _MILLIMETRES) for u in units]
    if not all(known):
        odd = sorted({u for u, k in zip(units, known, strict=True) if u is not None and not k})
        why = f"its unit {odd[0]!r} is not supported" if odd else "it tells no unit of length"
        notes.append(f"{why}: voxel sizes were taken as numbers of pixels")
        return "pixel", (1.0, 1.0, 1.0)
    names = [str(u) for u in units]
    if all(u in _MICROMETRES for u in names):
        return "um", tuple(_MICROMETRES[u] for u in names)
    return "mm", tuple(
        _MILLIMETRES[u] if u in _MILLIMETRES else _MICROMETRES[u] / 1e3 for u in names
    )


def _pick(
    values: Sequence[float], at: Sequence[int], factors: Sequence[float]
) -> tuple[float, float, float]:
    z, y, x = (values[i] * f for i, f in zip(at, factors, strict=True))
    return z, y, x


# ---- levels


_Raw = tuple[str, list[float], list[float]]


def _levels(image: Mapping[str, Any], axes: str, name: str, notes: list[str]) -> list[_Raw]:
    """Path, scale and translation (one number per axis) of each level."""
    datasets = image.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        raise VolumeFormatError(f"{name} names no arrays (datasets); copy or convert it again")
    whole = image.get("coordinateTransformations")
    levels = []
    for entry in datasets:
        if not isinstance(entry, Mapping):
            raise VolumeFormatError(f"{name}: a level's description is damaged; copy it again")
        scale, shift = [1.0] * len(axes), [0.0] * len(axes)
        steps = entry.get("coordinateTransformations")
        if not steps and not whole and _NO_SIZE not in notes:
            notes.append(_NO_SIZE)
        for step in [*_listed(steps, name), *_listed(whole, name)]:
            _apply(step, scale, shift, name)
        if not all(math.isfinite(v) for v in (*scale, *shift)) or 0 in scale:
            raise VolumeFormatError(f"{name}: its scale {scale} is no voxel size; correct it")
        levels.append((_inside(entry.get("path"), name), scale, shift))
    return levels


_NO_SIZE = "it tells no voxel size (coordinateTransformations); taken as 1"


def _listed(steps: Any, name: str) -> list[Mapping[str, Any]]:
    if steps is None:
        return []
    if not isinstance(steps, list) or not all(isinstance(s, Mapping) for s in steps):
        raise VolumeFormatError(f"{name}: its coordinateTransformations are damaged; correct them")
    return steps


def _apply(step: Mapping[str, Any], scale: list[float], shift: list[float], name: str) -> None:
    """Put one more transformation after those that led to `scale` and `shift`; in place."""
    kind = step.get("type")
    if kind == "identity":
        return
    values = step.get(kind) if kind in ("scale", "translation") else None
    if (
        not isinstance(values, list)
        or len(values) != len(scale)
        or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    ):
        raise VolumeFormatError(
            f"{name}: a coordinate transformation of type {kind!r} can't be read; a scale or a "
            f"translation with {len(scale)} numbers is needed"
        )
    for axis, value in enumerate(values):
        if kind == "scale":
            scale[axis] *= value
            shift[axis] *= value
        else:
            shift[axis] += value


def _inside(path: Any, name: str) -> str:
    """Return the path of a level if it stays within its group."""
    text = path if isinstance(path, str) else ""
    parts = PurePosixPath(text).parts
    if not parts or text.startswith("/") or ".." in parts or "\\" in text or ":" in text:
        raise VolumeFormatError(
            f"{name}: the path {path!r} of a level leaves its folder or is empty; check its source"
        )
    return "/".join(parts)


# ---- names and colours


def _channel_names(omero: Any) -> tuple[str, ...]:
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(channels, list):
        return ()
    names = [one.get("label") if isinstance(one, Mapping) else None for one in channels]
    return tuple(str(n) for n in names) if all(isinstance(n, str) and n for n in names) else ()


def _classes(label: Mapping[str, Any]) -> list[dict[str, str]]:
    """Names and colours of values 0 to n, if all of them are told and n is moderate."""
    colours = {
        one["label-value"]: _hex(one.get("rgba"))
        for one in _entries(label.get("colors"))
        if _hex(one.get("rgba"))
    }
    names = {
        one["label-value"]: one["name"]
        for one in _entries(label.get("properties"))
        if isinstance(one.get("name"), str) and one["name"]
    }
    colours.setdefault(0, "#000000")
    names.setdefault(0, "background")
    count = len(names)
    if count < 2 or set(names) != set(range(count)) or not set(names) <= set(colours):
        return []
    return [{"name": names[v], "colour": colours[v]} for v in range(count)]


def _entries(found: Any) -> list[Mapping[str, Any]]:
    if not isinstance(found, list):
        return []
    return [
        one for one in found if isinstance(one, Mapping) and isinstance(one.get("label-value"), int)
    ]


def _hex(rgba: Any) -> str:
    try:
        return "#" + bytes(rgba[:3]).hex() if len(rgba) >= 3 else ""
    except (TypeError, ValueError):
        return ""
