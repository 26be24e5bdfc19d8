"""Voxels that no network can read are refused before one tries."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..volumes.volume import Volume

__all__ = ["VoxelCheck", "check_kind", "check_voxels", "read_voxels"]


def check_kind(volume: Volume) -> None:
    """Raise InputError for colour pictures and voxels that are not real numbers."""
    if volume.metadata.get("rgb"):
        raise InputError(
            f"{volume.name} is a colour (RGB) picture; a scan with one value per voxel is needed: "
            "split or convert it first"
        )
    if volume.dtype.kind not in "iuf":
        raise InputError(
            f"{volume.name} has voxels of type {volume.dtype}; integers or floats are needed: "
            "convert it first"
        )


def read_voxels(volume: Volume) -> npt.NDArray[np.float32]:
    """Read the voxels as float32 (C, Z, Y, X), in native byte order."""
    with np.errstate(over="ignore"):
        array = np.asarray(volume.array).astype(np.float32, copy=False)
    return array if array.ndim == 4 else array[None]


class VoxelCheck:
    """Looks for voxels that no network can read, slab by slab.

    Parameters
    ----------
    name
        Of the scan, for messages.
    channels
        How many there are.
    """

    def __init__(self, name: str, channels: int) -> None:
        self.name = name
        self.lowest = np.full(channels, np.inf)
        self.highest = np.full(channels, -np.inf)

    def add(self, slab: npt.NDArray[np.float32]) -> None:
        """Take a slab (C, z, y, x); InputError if it holds NaN or infinity."""
        for index, channel in enumerate(slab):
            lowest, highest = float(channel.min()), float(channel.max())
            if not (np.isfinite(lowest) and np.isfinite(highest)):
                bad = int(channel.size - np.isfinite(channel).sum())
                raise InputError(
                    f"{self.name} holds {bad} voxels that are NaN, infinite or too large for "
                    "32-bit floats; replace them (numpy.nan_to_num) first"
                )
            self.lowest[index] = min(self.lowest[index], lowest)
            self.highest[index] = max(self.highest[index], highest)

    def finish(self) -> None:
        """Raise InputError if a channel is constant."""
        for index in np.flatnonzero(self.lowest == self.highest):
            many = len(self.lowest) > 1
            which = f"channel {index} of {self.name}" if many else self.name
            raise InputError(
                f"all voxels of {which} are {self.lowest[index]:g}, so there is nothing to "
                "segment; check that the right file and channel were chosen"
            )


def check_voxels(array: npt.NDArray[np.float32], name: str) -> None:
    """Raise InputError if a channel holds NaN or infinity, or is constant."""
    check = VoxelCheck(name, len(array))
    check.add(array)
    check.finish()
