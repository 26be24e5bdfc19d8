"""What volumes say of themselves and file headers have no field for, as JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from ...errors import InputError
from ..volume import Volume

__all__ = ["describe", "described", "is_class"]


def describe(volume: Volume) -> dict[str, Any]:
    """What file headers have no field for: channel names, kind, provenance, classes.

    Raises
    ------
    InputError
        If the provenance can't be stored as JSON.
    """
    about: dict[str, Any] = {}
    if volume.channel_names:
        about["channel_names"] = list(volume.channel_names)
    for key in ("kind", "provenance", "classes"):
        if volume.metadata.get(key):
            about[key] = volume.metadata[key]
    try:
        json.dumps(about)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{volume.name}: its provenance can't be stored as JSON ({error}); keep plain values "
            "there"
        ) from error
    return about


def described(about: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a volume from what `describe` put into its header; strange values are left."""
    found: dict[str, Any] = {k: about[k] for k in ("kind", "provenance") if k in about}
    classes = about.get("classes")
    if isinstance(classes, list) and classes and all(map(is_class, classes)):
        found["classes"] = classes
    return found


def is_class(entry: Any) -> bool:
    """Whether it is a class as volumes tell them: a name and a colour "#rrggbb"."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and re.fullmatch(r"#[0-9a-fA-F]{6}", str(entry.get("colour"))) is not None
    )
