"""A scan's statistics, kept between runs so that a region costs no more than it must.

No Qt, no viewer, no torch; used on the worker's thread only.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..networks.norm import Calibration
    from ..volumes.volume import Volume

__all__ = ["KnownStatistics"]


class KnownStatistics:
    """What the last runs of one model measured, by scan."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[Any, Calibration]] = {}

    def keep(self, volume: Volume, channel: int | None, provenance: Mapping[str, Any]) -> None:
        """Remember what a run measured of a scan."""
        found, holder = provenance.get("calibration"), _holder(volume.array)
        if found and holder is not None:
            self._known[_key(volume, channel)] = holder, found

    def find(self, volume: Volume, channel: int | None) -> Calibration | None:
        """Return what was measured of the very same voxels; None if nothing was."""
        holder, found = self._known.get(_key(volume, channel), (None, None))
        if holder is None or holder() is None or holder() is not _owner(volume.array):
            return None  # another array lies where the former one was
        return found


def _owner(array: Any) -> Any:
    """The array whose memory a view shows."""
    while isinstance(array, np.ndarray) and isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _holder(array: Any) -> Any:
    """Gives the owner as long as it lives; None for voxels elsewhere, which may change."""
    if not isinstance(array, np.ndarray):
        return None
    try:
        return weakref.ref(_owner(array))
    except TypeError:
        return None


def _key(volume: Volume, channel: int | None) -> tuple[Any, ...]:
    array = volume.array
    where = getattr(array, "__array_interface__", {}).get("data")
    about = where, getattr(array, "strides", None), tuple(array.shape), str(array.dtype)
    return (*about, volume.geometry.affine.tobytes(), volume.geometry.unit, channel)
