"""Where voxels lie in the world: spacing, orientation, affine, units.

Conventions, used in the whole package:

* An array's spatial axes are ``(Z, Y, X)``; an *index* is ``(z, y, x)`` and index
  ``(0, 0, 0)`` is the **centre** of the first voxel.
* *World* coordinates are ``(z, y, x)`` too. For anatomical scans they grow towards
  Superior, Anterior and Right (NIfTI's RAS+, reversed).
* `Geometry.affine` takes homogeneous index coordinates to homogeneous world
  coordinates, both in ``(z, y, x)`` order.

A NIfTI affine (``(i, j, k)`` to ``(x, y, z)``) becomes ours, and back, by reversing
rows and columns: see `Geometry.from_xyz` and `Geometry.affine_xyz`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

__all__ = ["AXES", "UNITS", "Geometry", "Reorientation"]

AXES = ("z", "y", "x")
UNITS = ("mm", "um", "pixel")
"""Units of length that a Geometry can have; "pixel" means not calibrated."""

_REVERSE = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
_POSITIVE = ("S", "A", "R")
_NEGATIVE = ("I", "P", "L")


@dataclass(frozen=True)
class Reorientation:
    """An exact permutation and flip of the three spatial axes.

    Parameters
    ----------
    permutation
        Axis ``k`` of the result is axis ``permutation[k]`` of the source.
    flips
        Whether axis ``k`` of the *result* runs backwards.
    """

    permutation: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    @property
    def is_identity(self) -> bool:
        """True if nothing moves."""
        return self.permutation == (0, 1, 2) and not any(self.flips)

    def apply(self, array: Any) -> Any:
        """Reorient the last three axes; a view for numpy, lazy for dask."""
        lead = array.ndim - 3
        axes = (*range(lead), *(lead + p for p in self.permutation))
        moved = array.transpose(axes)
        index = (slice(None),) * lead + tuple(
            slice(None, None, -1) if flip else slice(None) for flip in self.flips
        )
        return moved[index]

    def inverse(self) -> Reorientation:
        """Return the reorientation that undoes this one."""
        permutation = [0, 0, 0]
        flips = [False, False, False]
        for k, source in enumerate(self.permutation):
            permutation[source] = k
            flips[source] = self.flips[k]
        return Reorientation(
            (permutation[0], permutation[1], permutation[2]), (flips[0], flips[1], flips[2])
        )

    def apply_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the shape after `apply`."""
        a, b, c = (int(shape[p]) for p in self.permutation)
        return a, b, c

    def index_affine(self, shape: Sequence[int]) -> npt.NDArray[np.float64]:
        """Affine from index in the result to index in the source of `shape` (Z, Y, X)."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for k, source in enumerate(self.permutation):
            matrix[source, k] = -1 if self.flips[k] else 1
            if self.flips[k]:
                matrix[source, 3] = shape[source] - 1
        return matrix


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a volume in the world.

    Parameters
    ----------
    shape
        Voxels along (Z, Y, X).
    affine
        (4, 4), index (z, y, x) to world (z, y, x), in `unit`.
    unit
        "mm", "um" or "pixel" (not calibrated).
    anatomical
        True if world axes are Superior, Anterior, Right; False for microscopy and
        arrays without such meaning.

    Raises
    ------
    InputError
        If the affine is not 4 x 4, not finite or singular, or the unit is unknown.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    unit: str = "pixel"
    anatomical: bool = False

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise InputError(f"affine has shape {affine.shape}, expected (4, 4)")
        if not np.isfinite(affine).all():
            raise InputError("affine holds NaN or infinity; set the voxel spacing by hand")
        if not np.allclose(affine[3], (0, 0, 0, 1)):
            raise InputError(f"affine's last row is {affine[3].tolist()}, expected [0, 0, 0, 1]")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if (spacing <= 0).any() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
            raise InputError(
                f"affine is singular (spacing {spacing.tolist()}); set the voxel spacing by hand"
            )
        if self.unit not in UNITS:
            raise InputError(f"unit {self.unit!r} is not known; use one of {', '.join(UNITS)}")
        if len(self.shape) != 3:
            raise InputError(f"shape {tuple(self.shape)} is not (Z, Y, X)")
        affine.setflags(write=False)
        z, y, x = (int(s) for s in self.shape)
        object.__setattr__(self, "shape", (z, y, x))
        object.__setattr__(self, "affine", affine)

    # ---- making one

    @classmethod
    def from_spacing(
        cls,
        shape: Sequence[int],
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        origin: Sequence[float] = (0.0, 0.0, 0.0),
        unit: str = "pixel",
        anatomical: bool = False,
    ) -> Geometry:
        """Axis-aligned grid with `spacing` and first voxel's centre at `origin` (z, y, x)."""
        affine = np.diag([*(float(s) for s in spacing), 1.0])
        affine[:3, 3] = origin
        z, y, x = shape
        return cls((z, y, x), affine, unit, anatomical)

    @classmethod
    def from_xyz(
        cls,
        shape_zyx: Sequence[int],
        affine_xyz: npt.ArrayLike,
        unit: str = "mm",
        anatomical: bool = True,
    ) -> Geometry:
        """From a NIfTI-style affine, (i, j, k) to (x, y, z), of the array *before* transposing."""
        z, y, x = shape_zyx
        affine = _REVERSE @ np.asarray(affine_xyz, dtype=float) @ _REVERSE
        return cls((z, y, x), affine, unit, anatomical)

    # ---- reading it

    @property
    def affine_xyz(self) -> npt.NDArray[np.float64]:
        """NIfTI-style affine, (i, j, k) = (x, y, z) index to (x, y, z) world."""
        return np.asarray(_REVERSE @ self.affine @ _REVERSE)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along the array's (Z, Y, X) axes, in `unit`."""
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def origin(self) -> tuple[float, float, float]:
        """World position (z, y, x) of the first voxel's centre."""
        z, y, x = self.affine[:3, 3]
        return float(z), float(y), float(x)

    @property
    def direction(self) -> npt.NDArray[np.float64]:
        """(3, 3) unit columns: where each array axis points in the world."""
        return np.asarray(self.affine[:3, :3] / np.asarray(self.spacing))

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in `unit` cubed."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def orientation(self) -> str:
        """Anatomical direction each array axis (Z, Y, X) grows towards, e.g. "SAR"."""
        canonical = self.canonical_reorientation()
        letters = [""] * 3
        for world, source in enumerate(canonical.permutation):
            letters[source] = (_NEGATIVE if canonical.flips[world] else _POSITIVE)[world]
        return "".join(letters)

    @property
    def obliquity(self) -> float:
        """Largest angle, in degrees, between an array axis and the nearest world axis."""
        cosines = np.abs(self.direction).max(axis=0)
        return float(np.degrees(np.arccos(np.clip(cosines, -1, 1)).max()))

    @property
    def is_axis_aligned(self) -> bool:
        """True if each array axis runs along its own world axis, forwards (no flip, no tilt)."""
        off = self.affine[:3, :3] - np.diag(np.diag(self.affine[:3, :3]))
        scale = max(self.spacing)
        return bool(np.abs(off).max() < 1e-6 * scale and (np.diag(self.affine)[:3] > 0).all())

    def to_world(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """World coordinates of indices (..., 3)."""
        points = np.asarray(index, dtype=float)
        return np.asarray(points @ self.affine[:3, :3].T + self.affine[:3, 3])

    def to_index(self, world: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Fractional indices of world coordinates (..., 3)."""
        points = np.asarray(world, dtype=float) - self.affine[:3, 3]
        return np.asarray(np.linalg.solve(self.affine[:3, :3], points[..., None])[..., 0])

    def is_close(self, other: Geometry, tolerance: float = 1e-3) -> bool:
        """Whether both are the same grid, corners within `tolerance` of a voxel."""
        if self.shape != other.shape or self.unit != other.unit:
            return False
        corners = np.array(np.meshgrid(*[(0, s - 1) for s in self.shape])).reshape(3, -1).T
        apart = np.abs(self.to_world(corners) - other.to_world(corners)).max()
        return bool(apart <= tolerance * min(self.spacing))

    # ---- deriving others

    def canonical_reorientation(self) -> Reorientation:
        """Permutation and flips that bring the array closest to the world's axes.

        The array axis that runs closest along a world axis is settled first, then the
        next of those that are left: the same choice as nibabel's, at any tilt.
        """
        # Shear is taken out first: the nearest rotation (polar decomposition).
        left, _, right = np.linalg.svd(self.direction)
        # In (x, y, z) order, so that exact ties fall as they do for NIfTI's axes.
        rotation = (left @ right)[::-1, ::-1]
        permutation, flips = [0, 0, 0], [False, False, False]
        free = np.abs(rotation)
        for axis in np.argsort(-free.max(axis=0), kind="stable"):
            world = int(free[:, axis].argmax())
            free[world] = -1
            permutation[2 - world] = 2 - int(axis)
            flips[2 - world] = bool(rotation[world, axis] < 0)
        a, b, c = permutation
        f0, f1, f2 = flips
        return Reorientation((a, b, c), (f0, f1, f2))

    def reorient(self, reorientation: Reorientation) -> Geometry:
        """Geometry of ``reorientation.apply(array)``."""
        return replace(
            self,
            shape=reorientation.apply_shape(self.shape),
            affine=self.affine @ reorientation.index_affine(self.shape),
        )

    def canonical(self) -> Geometry:
        """Geometry after `canonical_reorientation` (still oblique if this one is)."""
        return self.reorient(self.canonical_reorientation())

    def deobliqued(self) -> Geometry:
        """Canonical grid with its spacing and origin but no rotation, for display.

        A viewer that slices along array axes shows this truly; the true affine is
        kept with the layer and goes into what is saved.
        """
        grid = self.canonical()
        return Geometry.from_spacing(
            grid.shape, grid.spacing, grid.origin, self.unit, self.anatomical
        )

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Geometry:
        """Geometry of ``array[start : start + shape]``."""
        shift = np.eye(4)
        shift[:3, 3] = start
        z, y, x = shape
        return replace(self, shape=(z, y, x), affine=self.affine @ shift)

    def strided(
        self, shape: Sequence[int], stride: Sequence[float], offset: Sequence[float]
    ) -> Geometry:
        """Grid of a coarser map whose voxel ``j`` is centred on index ``stride * j + offset``."""
        step = np.diag([*(float(s) for s in stride), 1.0])
        step[:3, 3] = offset
        z, y, x = shape
        return replace(self, shape=(z, y, x), affine=self.affine @ step)

    def resampled(self, spacing: Sequence[float]) -> Geometry:
        """Grid over the same box (voxel edges kept) with about the given `spacing`.

        The spacing is adapted so that a whole number of voxels fills the box exactly.
        """
        shape = [
            max(1, round(n * old / new))
            for n, old, new in zip(self.shape, self.spacing, spacing, strict=True)
        ]
        stride = [n / m for n, m in zip(self.shape, shape, strict=True)]
        return self.strided(shape, stride, [(s - 1) / 2 for s in stride])

    def with_unit(self, unit: str) -> Geometry:
        """Return the same grid with lengths expressed in `unit` (mm and um only)."""
        if unit == self.unit:
            return self
        factors = {("mm", "um"): 1e3, ("um", "mm"): 1e-3}
        factor = factors.get((self.unit, unit))
        if factor is None:
            raise InputError(f"lengths in {self.unit!r} can't be expressed in {unit!r}")
        scale = np.diag([factor, factor, factor, 1.0])
        return replace(self, affine=scale @ self.affine, unit=unit)
