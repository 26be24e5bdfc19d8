"""A volume: an array, where it lies, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..geometry import Geometry

__all__ = ["Volume"]


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """An array on a grid in the world.

    Parameters
    ----------
    array
        ``(C, Z, Y, X)`` for images, ``(Z, Y, X)`` for labels and single maps. numpy,
        memmap, dask or zarr: anything with ``shape``, ``dtype``, ``ndim`` and slicing.
        Axes are in the *file's own* order of voxels (NIfTI's ``(i, j, k)`` reversed);
        nothing is flipped on reading.
    geometry
        The grid of the spatial axes.
    name
        What to call it (file name without suffixes).
    channel_names
        One per channel, or empty.
    source
        The file it came from, if any.
    metadata
        Format, notes for the user (list under "notes"), provenance (under "provenance").
    """

    array: Any
    geometry: Geometry
    name: str = "volume"
    channel_names: tuple[str, ...] = ()
    source: Path | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4):
            raise InputError(
                f"{self.name}: a volume has 3 axes (Z, Y, X) or 4 (C, Z, Y, X), "
                f"not {self.array.ndim} (shape {tuple(self.array.shape)})"
            )
        if tuple(self.array.shape[-3:]) != self.geometry.shape:
            raise InputError(
                f"{self.name}: array {tuple(self.array.shape)} does not lie on the grid "
                f"{self.geometry.shape}"
            )
        if 0 in self.array.shape:
            raise InputError(f"{self.name}: the volume is empty (shape {tuple(self.array.shape)})")

    def __repr__(self) -> str:
        grid = self.geometry
        shape = " x ".join(map(str, self.array.shape))
        spacing = " x ".join(f"{s:.4g}" for s in grid.spacing)
        return f"Volume({self.name!r}, {shape} {self.array.dtype}, {spacing} {grid.unit})"

    @classmethod
    def from_array(
        cls,
        array: Any,
        *,
        spacing: Sequence[float] | None = None,
        affine: npt.ArrayLike | None = None,
        unit: str | None = None,
        name: str = "volume",
        anatomical: bool = False,
        **kwargs: Any,
    ) -> Volume:
        """Build a volume in memory.

        Parameters
        ----------
        array
            (Z, Y, X) or (C, Z, Y, X).
        spacing
            Voxel size (z, y, x); 1 if neither it nor `affine` is given.
        affine
            (4, 4) index (z, y, x) to world (z, y, x); excludes `spacing`.
        unit
            "mm", "um" or "pixel"; default "mm" if spacing or affine is given.

        Raises
        ------
        InputError
            If both spacing and affine are given, or the array is not 3D or 4D.
        """
        if spacing is not None and affine is not None:
            raise InputError("give spacing or affine, not both: the affine holds the spacing")
        if array.ndim not in (3, 4):
            raise InputError(f"{name}: expected 3 or 4 axes, got shape {tuple(array.shape)}")
        z, y, x = array.shape[-3:]
        if unit is None:
            unit = "pixel" if spacing is None and affine is None else "mm"
        if affine is not None:
            grid = Geometry((z, y, x), np.asarray(affine, dtype=float), unit, anatomical)
        else:
            grid = Geometry.from_spacing(
                (z, y, x), spacing or (1.0, 1.0, 1.0), unit=unit, anatomical=anatomical
            )
        return cls(array, grid, name, **kwargs)

    @property
    def n_channels(self) -> int:
        """Channels; 1 for a (Z, Y, X) array."""
        return int(self.array.shape[0]) if self.array.ndim == 4 else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def notes(self) -> list[str]:
        """What a reader wants the person to know (which form was used, ...)."""
        return list(self.metadata.get("notes", []))

    def channel(self, index: int) -> Volume:
        """Return one channel as a (Z, Y, X) volume.

        Raises
        ------
        InputError
            If there is no such channel.
        """
        if not 0 <= index < self.n_channels:
            raise InputError(
                f"{self.name} has channels 0 to {self.n_channels - 1}; there is no channel {index}"
            )
        array = self.array[index] if self.array.ndim == 4 else self.array
        names = self.channel_names[index : index + 1]
        return replace(self, array=array, channel_names=names)

    def canonical(self) -> Volume:
        """Return the volume with its axes permuted and flipped closest to the world's."""
        turn = self.geometry.canonical_reorientation()
        return replace(self, array=turn.apply(self.array), geometry=self.geometry.reorient(turn))

    def replace(self, **changes: Any) -> Volume:
        """Return a copy with some fields changed."""
        return replace(self, **changes)
