"""How large a TIFF file's voxels are: ImageJ, OME and plain resolution tags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

__all__ = ["Scale", "length_unit", "ome_pixels", "read_scale"]

_MICRON = {"um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometers": 1.0}
_MICRON |= {"micrometre": 1.0, "micrometres": 1.0, "nm": 1e-3, "nanometer": 1e-3}
_MICRON |= {"nanometers": 1e-3, "nanometre": 1e-3, "å": 1e-4, "angstrom": 1e-4, "pm": 1e-6}
_MILLI = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "cm": 10.0}
_MILLI |= {"centimeter": 10.0, "centimetre": 10.0, "m": 1e3, "meter": 1e3, "metre": 1e3}
_MILLI |= {"inch": 25.4, "inches": 25.4, "in": 25.4}
_PER_INCH, _PER_CM = 2, 3  # TIFF's codes of ResolutionUnit
_PRINT = (72, 96, 100, 120, 150, 200, 240, 300, 600, 1200)
"""Dots per inch that programs write without meaning a size."""


@dataclass(frozen=True)
class Scale:
    """Size of a voxel.

    Parameters
    ----------
    spacing
        (z, y, x) in `unit`.
    unit
        "mm", "um" or "pixel".
    knows_z
        Whether the file tells the distance of slices.
    notes
        What was assumed.
    """

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = "pixel"
    knows_z: bool = False
    notes: list[str] = field(default_factory=list)


def length_unit(text: str) -> tuple[str, float] | None:
    """Our unit and a factor to it for a unit as programs write it; None if it is no length."""
    plain = text.replace("\\u00B5", "u").replace("\\u00b5", "u")
    plain = plain.replace("\u00b5", "u").replace("\u03bc", "u").strip().strip("\0").lower()
    if plain in _MICRON:
        return "um", _MICRON[plain]
    return ("mm", _MILLI[plain]) if plain in _MILLI else None


def read_scale(file: Any, pixels: Mapping[str, Any] | None) -> Scale:
    """Find the voxel size.

    Parameters
    ----------
    file
        tifffile's open file.
    pixels
        Attributes of OME's Pixels element, None for other files.
    """
    if pixels is not None:
        return _from_ome(pixels)
    if file.is_imagej:
        return _from_imagej(file.imagej_metadata or {}, _per_pixel(file))
    return _from_tags(file)


def ome_pixels(xml: str) -> tuple[dict[str, str], tuple[str, ...], str]:
    """Attributes of the first Pixels element, its channels' names, the image's description."""
    root = ElementTree.fromstring(xml)
    image = next((e for e in root.iter() if _local(e) == "Image"), root)
    pixels = next((e for e in image.iter() if _local(e) == "Pixels"), None)
    about = next((e.text or "" for e in image if _local(e) == "Description"), "")
    if pixels is None:
        return {}, (), about
    names = [e.get("Name", "") for e in pixels if _local(e) == "Channel"]
    return dict(pixels.attrib), tuple(names) if all(names) else (), about


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _from_ome(pixels: Mapping[str, Any]) -> Scale:
    """OME: each axis may have its own unit; micrometres if none is named."""
    found: dict[str, tuple[str, float]] = {}
    notes = []
    for axis in "ZYX":
        size = _positive(pixels.get(f"PhysicalSize{axis}"))
        if size is None:
            continue
        unit = length_unit(str(pixels.get(f"PhysicalSize{axis}Unit", "um")))
        if unit is None:
            notes.append(f"the size along {axis.lower()} has no unit of length and was ignored")
            continue
        found[axis] = (unit[0], unit[1] * size)
    return _combine(found, notes)


def _from_imagej(meta: Mapping[str, Any], per_pixel: tuple[float | None, float | None]) -> Scale:
    unit = length_unit(str(meta.get("unit", "")))
    deep = length_unit(str(meta["zunit"])) if "zunit" in meta else unit
    y, x = per_pixel
    z = _positive(abs(meta["spacing"])) if _is_number(meta.get("spacing")) else None
    if unit is None:
        return Scale((z or 1.0, y or 1.0, x or 1.0), "pixel", z is not None, [])
    found = {}
    if y is not None and x is not None:
        found = {"Y": (unit[0], unit[1] * y), "X": (unit[0], unit[1] * x)}
    if z is not None and deep is not None:
        found["Z"] = (deep[0], deep[1] * z)
    return _combine(found, [])


def _from_tags(file: Any) -> Scale:
    code = file.pages[0].tags.get("ResolutionUnit")
    factor = {_PER_INCH: 25.4, _PER_CM: 10.0}.get(int(code.value) if code is not None else 1)
    y, x = _per_pixel(file)
    if factor is None or y is None or x is None:
        return Scale()
    dots = 25.4 / (factor * x)  # per inch
    if any(math.isclose(dots, usual, rel_tol=2e-3) for usual in _PRINT):
        note = f"the resolution of {dots:.0f} dots per inch is one for printing and was ignored"
        return Scale(notes=[note])
    return _combine({"Y": ("mm", factor * y), "X": ("mm", factor * x)}, [])


def _combine(found: Mapping[str, tuple[str, float]], notes: list[str]) -> Scale:
    """One unit for all axes; unknown axes take a known one's size, with a note."""
    if "X" not in found and "Y" not in found:
        if found:
            notes.append("only the distance of slices is known, not the size of pixels; ignored")
        return Scale(notes=notes)
    unit = "um" if all(u == "um" for u, _ in found.values()) else "mm"
    sizes = {a: s * (1e-3 if u == "um" and unit == "mm" else 1.0) for a, (u, s) in found.items()}
    x = sizes.get("X", sizes.get("Y", 1.0))
    y = sizes.get("Y", x)
    if "Z" not in sizes:
        notes.append("the file does not tell the distance of its slices; taken as the pixel size")
    return Scale((sizes.get("Z", x), y, x), unit, "Z" in sizes, notes)


def _per_pixel(file: Any) -> tuple[float | None, float | None]:
    """Size of a pixel (y, x) in the file's unit of resolution."""
    tags = file.pages[0].tags
    result: list[float | None] = []
    for name in ("YResolution", "XResolution"):
        tag = tags.get(name)
        value = tag.value if tag is not None else None
        if not isinstance(value, tuple) or len(value) != 2 or not value[0] or not value[1]:
            result.append(None)
        else:
            result.append(_positive(value[1] / value[0]))
    return result[0], result[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
