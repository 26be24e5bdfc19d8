"""Hiding parts of a scan: what takes their place, and which a map marks most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from ..errors import InputError
from ..inference.tiling import Box
from ..volumes.volume import Volume
from .replay import Replay

__all__ = ["Fill", "blocks_mask", "fill_in", "values_in_blocks"]

Fill = Literal["blur", "noise"]

_Array = npt.NDArray[np.float32]


def fill_in(x: _Array, fill: Fill, sigma: float, seed: int = 0) -> _Array:
    """Return what blocks are replaced by.

    Parameters
    ----------
    x
        (C, z, y, x) float32, normalised.
    fill
        See `FaithfulnessOptions`.
    sigma
        Voxels.
    seed
        Of the noise.

    Raises
    ------
    InputError
        If the filling is not known.
    """
    if fill not in get_args(Fill):
        raise InputError(f"filling {fill!r} is not known; use {' or '.join(get_args(Fill))}")
    mean = np.stack([ndimage.gaussian_filter(c, sigma, mode="nearest") for c in x])
    if fill == "blur":
        return mean.astype(np.float32)
    square = np.stack([ndimage.gaussian_filter(c * c, sigma, mode="nearest") for c in x])
    spread = np.sqrt(np.clip(square - mean * mean, 0, None))
    noise = np.random.default_rng(seed).standard_normal(x.shape)
    filled: _Array = (mean + spread * noise).astype(np.float32)
    return filled


def values_in_blocks(values: Volume, replay: Replay, box: Box, block: int) -> _Array:
    """Return the mean of a map in each block of a box.

    Parameters
    ----------
    values
        (Z, Y, X) anywhere in the scan's world; where it does not reach, it counts as its
        smallest value.
    replay
        The run.
    box
        On the model's grid.
    block
        Voxels.

    Raises
    ------
    InputError
        If it is in another unit of length, or does not reach the box.
    """
    place = replay.geometry_of(box)
    if values.geometry.unit != place.unit:
        raise InputError(
            f"{values.name} is in {values.geometry.unit}, the scan in {place.unit}: they can't be "
            "laid on each other"
        )
    to_map = np.linalg.inv(values.geometry.affine) @ place.affine
    array = np.asarray(values.array, dtype=np.float32)
    lowest = float(np.nanmin(array))
    sampled = ndimage.affine_transform(
        np.nan_to_num(array, nan=lowest),
        to_map[:3, :3],
        to_map[:3, 3],
        output_shape=box.shape,
        order=1,
        mode="grid-constant",
        cval=np.nan,
    )
    if not np.isfinite(sampled).any():
        raise InputError(f"{values.name} does not reach the place that is tested")
    return _block_means(np.nan_to_num(sampled, nan=lowest).astype(np.float32), block)


def blocks_mask(
    blocks: npt.NDArray[np.int64], grid: Sequence[int], shape: Sequence[int], block: int
) -> Tensor:
    """Return (z, y, x), True in the voxels of some blocks.

    Parameters
    ----------
    blocks
        Their numbers.
    grid
        How many there are along each axis.
    shape
        Voxels along each axis.
    block
        Edge, in voxels.
    """
    chosen = np.zeros(int(np.prod(grid)), bool)
    chosen[blocks] = True
    array = chosen.reshape(tuple(grid))
    for axis, size in enumerate(shape):
        array = np.repeat(array, block, axis=axis).take(range(size), axis=axis)
    return torch.from_numpy(np.ascontiguousarray(array))


def _block_means(array: _Array, block: int) -> _Array:
    for axis, size in enumerate(array.shape):
        starts = np.arange(0, size, block)
        counts = np.diff(np.append(starts, size)).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
        array = (np.add.reduceat(array, starts, axis=axis) / counts).astype(np.float32)
    return array
