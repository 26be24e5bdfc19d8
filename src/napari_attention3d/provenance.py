"""What results say of themselves: with what, when and from what they were made.

Segmentations tell more (`session`); this is what everything else has: maps, comparisons,
corrected masks, tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from . import __version__

if TYPE_CHECKING:
    from .volumes.volume import Volume

__all__ = ["SOFTWARE", "edit_note", "fingerprint", "made_with", "origin", "was_edited"]

SOFTWARE = {"napari-attention3d": __version__}

_SLAB = 2**24
"""Voxels that are looked at together."""
_TOLD = ("model", "options", "source", "clean_up", "corrections", "asked")


def made_with(**about: Any) -> dict[str, Any]:
    """Provenance with this program's version, the time, and what else is told."""
    return {
        "software": dict(SOFTWARE),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **about,
    }


def origin(volume: Volume) -> dict[str, Any]:
    """Which volume something was made from, and in short how that was made, if it says so."""
    path = volume.source
    about: dict[str, Any] = {
        "name": volume.name,
        "path": None if path is None else str(path.resolve()),
        "shape": [int(n) for n in volume.array.shape],
    }
    told = volume.metadata.get("provenance")
    if isinstance(told, Mapping):
        about |= {"made": {key: told[key] for key in _TOLD if told.get(key)}}
    return about


def fingerprint(labels: Any) -> str:
    """Checksum of a mask's voxels, whatever the type that they are stored in.

    Parameters
    ----------
    labels
        ``(Z, Y, X)`` whole numbers, on the scan's own grid; read slab by slab.
    """
    planes = max(1, _SLAB // max(1, int(np.prod(labels.shape[1:]))))
    found = 0
    for first in range(0, labels.shape[0], planes):
        slab = np.asarray(labels[first : first + planes])
        found = crc32(np.ascontiguousarray(slab, dtype="<u4").data, found)
    return f"{found:08x}"


def was_edited(mask: Volume) -> bool:
    """Whether voxels of a mask are others than when it was made: painted, or changed elsewhere.

    False also where that is not known.
    """
    told = mask.metadata.get("provenance")
    if not isinstance(told, Mapping):
        return False
    then = told.get("fingerprint")
    return bool(told.get("edited")) or (bool(then) and then != fingerprint(mask.array))


def edit_note(mask: Volume) -> str:
    """Words for figures within a mask that is not as it was made; "" if it is, or not known."""
    if not was_edited(mask):
        return ""
    return (
        f"{mask.name} was changed by hand since a model made it: the figures are of the mask as "
        "it is now, the map is of the scan as the model saw it."
    )
