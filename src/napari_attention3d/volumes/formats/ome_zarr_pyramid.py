"""Coarser copies of a zarr array, made piece by piece in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["fill_level", "halve", "level_factors", "pieces"]

_COARSEST = 64
"""An axis of this many voxels or fewer is not halved any more."""


def level_factors(shape: Sequence[int]) -> list[tuple[int, int, int]]:
    """How many voxels (z, y, x) one voxel of each level spans; the first level is (1, 1, 1).

    Parameters
    ----------
    shape
        (Z, Y, X) of the finest level. An axis is halved, rounding up, as long as it has
        more than 64 voxels.
    """
    z, y, x = (int(s) for s in shape)
    factors = [(1, 1, 1)]
    while True:
        last = factors[-1]
        size = [-(-n // f) for n, f in zip((z, y, x), last, strict=True)]
        a, b, c = (f * (2 if n > _COARSEST else 1) for f, n in zip(last, size, strict=True))
        if (a, b, c) == last:
            return factors
        factors.append((a, b, c))


def pieces(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Boxes of the size of a chunk that together cover an array, last axis fastest."""
    starts = (range(0, size, step) for size, step in zip(shape, chunks, strict=True))
    for corner in itertools.product(*starts):
        yield tuple(
            slice(at, min(at + step, size))
            for at, step, size in zip(corner, chunks, shape, strict=True)
        )


def fill_level(coarse: Any, fine: Any, halved: Sequence[bool], *, labels: bool) -> Iterator[None]:
    """Write a level from the next finer one, a chunk per step.

    Parameters
    ----------
    coarse, fine
        zarr arrays (Z, Y, X) or (C, Z, Y, X).
    halved
        Which of their axes are.
    labels
        Keep the most frequent label instead of the mean.
    """
    for box in pieces(coarse.shape, coarse.chunks):
        source = tuple(
            slice(2 * part.start, min(2 * part.stop, size)) if two else part
            for part, two, size in zip(box, halved, fine.shape, strict=True)
        )
        coarse[box] = halve(np.asarray(fine[source]), halved, labels=labels)
        yield


def halve(block: npt.NDArray[Any], halved: Sequence[bool], *, labels: bool) -> npt.NDArray[Any]:
    """Merge pairs of neighbours along some axes; an odd last one is merged with itself.

    Parameters
    ----------
    block
        Any number of axes.
    halved
        Which of them to halve.
    labels
        Give the most frequent of the merged voxels (of equally frequent ones a foreground
        label before background); never a label that was not there. Else their mean,
        rounded for integers.

    Returns
    -------
    numpy.ndarray
        Of the same type.
    """
    odd = [(0, size % 2 if two else 0) for size, two in zip(block.shape, halved, strict=True)]
    padded = np.pad(block, odd, mode="edge")
    parts = [
        padded[
            tuple(
                slice(start, None, 2) if two else slice(None)
                for start, two in zip(corner, halved, strict=True)
            )
        ]
        for corner in itertools.product(*((0, 1) if two else (0,) for two in halved))
    ]
    return _most_frequent(parts) if labels else _mean(parts, block.dtype)


def _mean(parts: Sequence[npt.NDArray[Any]], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    wide = np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64
    total: npt.NDArray[Any] = parts[0].astype(wide)
    for part in parts[1:]:
        np.add(total, part, out=total)
    np.divide(total, len(parts), out=total)
    if dtype.kind != "f":
        np.rint(total, out=total)
    return total.astype(dtype)


def _most_frequent(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    highest = max(part.max(initial=0) for part in parts)
    if min(part.min(initial=0) for part in parts) >= 0 and _are_two(parts, highest):
        # One label and background, as most masks: counted, in a third of the time.
        votes = np.zeros(parts[0].shape, np.uint8)
        for part in parts:
            votes += part != 0
        chosen: npt.NDArray[Any] = (2 * votes >= len(parts)).astype(parts[0].dtype)
        chosen *= highest
        return chosen
    result: npt.NDArray[Any] = parts[0].copy()
    mixed = np.zeros(result.shape, bool)
    for part in parts[1:]:
        mixed |= part != result
    few = [part[mixed] for part in parts]  # borders: the rest is of one label
    best, most = few[0], np.zeros(few[0].shape, np.int8)
    for candidate in few:
        votes = (candidate != 0).astype(np.int8)
        for one in few:
            votes += 2 * (one == candidate).astype(np.int8)
        best = np.where(votes > most, candidate, best)
        most = np.maximum(votes, most)
    result[mixed] = best
    return result


def _are_two(parts: Sequence[npt.NDArray[Any]], label: Any) -> bool:
    return label == 1 or all(bool(((part == 0) | (part == label)).all()) for part in parts)
