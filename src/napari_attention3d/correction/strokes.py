"""Strokes in the order in which they were painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..errors import InputError
from .encoding import (
    background_value,
    check_corrections,
    check_values,
    class_type,
    empty_corrections,
)
from .merge import differing

__all__ = ["Painted", "Stroke", "Strokes", "checked_stroke", "split_strokes", "thinned"]

HELD_BACK = 5
"""Every fifth stroke is kept back for scoring."""
MOST_PER_STROKE = 1000
"""Voxels of one stroke that a forest learns from."""


@dataclass(frozen=True)
class Stroke:
    """What one movement of the brush (or the eraser) changed.

    Attributes
    ----------
    voxels
        (N, 3) int32.
    values
        (N,) as in the corrections; 0: erased.
    """

    voxels: npt.NDArray[np.int32]
    values: npt.NDArray[Any]


@dataclass(frozen=True)
class Painted:
    """Painted voxels as a learner wants them.

    Attributes
    ----------
    voxels, values
        (N, 3) and classes (N,), 0 for background.
    strokes
        (N,) which stroke each belongs to.
    """

    voxels: npt.NDArray[np.intp]
    values: npt.NDArray[np.intp]
    strokes: npt.NDArray[np.intp]

    def pick(self, chosen: npt.NDArray[np.bool_]) -> Painted:
        """Some of the voxels."""
        return Painted(self.voxels[chosen], self.values[chosen], self.strokes[chosen])

    @property
    def count(self) -> int:
        """Strokes that still have voxels."""
        return len(np.unique(self.strokes))

    @property
    def held_back(self) -> npt.NDArray[np.bool_]:
        """Voxels (N,) of every fifth stroke, if each class has another stroke to learn from."""
        held = self.strokes % HELD_BACK == HELD_BACK - 1
        lonely = set(np.unique(self.values[held])) - set(np.unique(self.values[~held]))
        return np.asarray(held & ~np.isin(self.values, list(lonely)))


def thinned(painted: Painted, seed: int = 0) -> Painted:
    """Leave at most 1000 voxels of each stroke: a filled region must not outvote the rest."""
    _, place, counts = np.unique(painted.strokes, return_inverse=True, return_counts=True)
    if not len(counts) or counts.max() <= MOST_PER_STROKE:
        return painted
    share = np.minimum(1.0, MOST_PER_STROKE / counts)[place]
    chosen = np.random.default_rng(seed).random(len(share)) < share
    chosen[
        np.unique(painted.strokes * (1 + painted.values.max()) + painted.values, return_index=True)[
            1
        ]
    ] = True
    return painted.pick(chosen)


def split_strokes(whole: Stroke) -> list[Stroke]:
    """Parts of a stroke that touch (by corners too) and have one value, in the array's order.

    For corrections of unknown history, as a file holds them.
    """
    if not len(whole.voxels):
        return []
    low = whole.voxels.min(0)
    values = np.zeros(whole.voxels.max(0) - low + 1, np.int32)
    values[tuple((whole.voxels - low).T)] = whole.values.astype(np.int32) + 1
    found: list[tuple[list[int], Stroke]] = []
    for value in np.unique(whole.values):
        parts, _ = ndimage.label(values == int(value) + 1, np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            start = low + [s.start for s in box]
            voxels = (np.argwhere(parts[box] == number) + start).astype(np.int32)
            part = Stroke(voxels, np.full(len(voxels), value, whole.values.dtype))
            found.append((voxels[0].tolist(), part))
    return [stroke for _, stroke in sorted(found, key=lambda item: item[0])]


def checked_stroke(
    shape: Sequence[int], classes: int, voxels: npt.NDArray[Any], values: npt.NDArray[Any] | int
) -> Stroke:
    """See `Strokes.checked`."""
    dtype = class_type(classes)
    voxels = np.asarray(voxels, dtype=np.int64).reshape(-1, 3)
    numbers = np.broadcast_to(np.asarray(values, dtype=np.int64), (len(voxels),))
    outside = (voxels < 0).any(axis=1) | (voxels >= np.array(shape)).any(axis=1)
    if outside.any():
        raise InputError(
            f"a stroke leaves the scan: voxel {tuple(voxels[outside][0].tolist())} is outside "
            f"{shape}; paint on a layer made for this scan"
        )
    marker = background_value(dtype)
    odd = (numbers < 0) | ((numbers >= classes) & (numbers != marker))
    if odd.any():
        raise InputError(
            f"a stroke has the label {int(numbers[odd][0])}, but the classes are 1 to "
            f"{classes - 1} ({marker} is background); choose one of them"
        )
    return Stroke(voxels.astype(np.int32), numbers.astype(dtype))


@dataclass
class Strokes:
    """All strokes on one scan, and the corrections they add up to.

    Parameters
    ----------
    shape
        The scan's (Z, Y, X).
    classes
        Names, background first.
    """

    shape: tuple[int, int, int]
    classes: Sequence[str]
    items: list[Stroke] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.corrections = empty_corrections(self.shape, len(self.classes))
        self._owner = np.zeros(self.shape, np.int32)
        items, self.items = self.items, []
        for stroke in items:
            self.add(stroke)

    def __len__(self) -> int:
        return len(self.items)

    def difference(self, corrections: npt.NDArray[Any]) -> Stroke | None:
        """What a corrections layer has that is not in here yet; None if it is the same.

        Raises
        ------
        InputError
            If its shape, type or a value is wrong.
        """
        marker = background_value(corrections.dtype)
        own = background_value(self.corrections.dtype)
        if marker != own or tuple(corrections.shape) != self.shape:
            check_corrections(corrections, self.shape, self.classes)
            corrections = np.where(corrections == marker, own, corrections)
        voxels = differing(self.corrections, corrections).astype(np.int32)
        if not len(voxels):
            return None
        values = corrections[tuple(voxels.T)].astype(self.corrections.dtype)
        check_values(values, self.classes)  # where nothing differs they are known to be right
        return Stroke(voxels, values)

    def checked(self, voxels: npt.NDArray[Any], values: npt.NDArray[Any] | int) -> Stroke:
        """Build a stroke from voxels (N, 3) and values as in the corrections (0: erase).

        Raises
        ------
        InputError
            If a voxel is outside the scan, or a value is no class.
        """
        return checked_stroke(self.shape, len(self.classes), voxels, values)

    def add(self, stroke: Stroke) -> None:
        """Paint; a later stroke wins."""
        where = tuple(stroke.voxels.T)
        self.items.append(stroke)
        self.corrections[where] = stroke.values
        self._owner[where] = len(self.items)

    def counts(self) -> dict[int, int]:
        """How many strokes of each value (as in the corrections) still have voxels."""
        found: dict[int, int] = {}
        for number, stroke in enumerate(self.items, start=1):
            left = stroke.values[self._owner[tuple(stroke.voxels.T)] == number]
            for value in np.unique(left[left != 0]).tolist():
                found[value] = found.get(value, 0) + 1
        return found

    def painted(self) -> Painted:
        """Return what is painted now."""
        voxels = np.argwhere(self.corrections)
        where = tuple(voxels.T)
        values = self.corrections[where].astype(np.intp)
        values[values == background_value(self.corrections.dtype)] = 0
        return Painted(voxels, values, self._owner[where].astype(np.intp) - 1)
