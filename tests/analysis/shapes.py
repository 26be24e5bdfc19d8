"""Shapes whose measures are known, as voxels on any grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes.volume import Volume


def rotation(degrees: float, axis: Sequence[float] = (1, 2, 3)) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def oblique(spacing=(2.0, 1.0, 0.5), degrees=25.0, origin=(10.0, -20.0, 30.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def fill(affine: np.ndarray, shape, inside: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Voxels whose centre is inside: `inside` takes world points (..., 3)."""
    grid = Geometry(tuple(shape), affine, "mm")
    index = np.moveaxis(np.indices(shape), 0, -1)
    return inside(grid.to_world(index)).astype(np.uint8)


def middle(affine: np.ndarray, shape) -> np.ndarray:
    """World point of the grid's middle."""
    return Geometry(tuple(shape), affine, "mm").to_world((np.array(shape) - 1) / 2)


def mask(array: np.ndarray, affine=None, unit="mm", **kwargs) -> Volume:
    return Volume.from_array(
        array, affine=np.eye(4) if affine is None else affine, unit=unit, **kwargs
    )
