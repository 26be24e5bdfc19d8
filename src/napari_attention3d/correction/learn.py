"""A round: learn from all strokes in seconds, and predict the whole scan."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..progress import Job, Progress
from .encoding import class_type
from .fast_head import FastHead, Scorer
from .grid import WorkGrid
from .strokes import Painted

__all__ = ["Learned", "NetworkState", "Patch", "Previous", "judge", "learn_job"]

PRIOR = 0.5
"""How much of a model's probabilities the first round keeps."""
NEW = 2
"""How many times a new stroke counts as much as an earlier one, see `_memory`."""
ENOUGH_STROKES = 12
"""Strokes from which on every fifth one is held back for the score."""
TOLERANCE = 0.02
DRIFT = 0.25
CONFIDENT = 0.9
PATCH_VOXELS = 2**20
"""Of the scan in a part of the mask that is given out at once."""

Merge = Callable[[npt.NDArray[Any], tuple[int, int, int]], npt.NDArray[Any]]
"""Puts strokes and approvals over labels that start at a voxel (z, y, x)."""


@dataclass(frozen=True)
class Patch:
    """A part of the new mask, to be shown at once.

    Attributes
    ----------
    start
        Its first voxel (z, y, x) of the scan.
    labels
        (z, y, x).
    final
        False for a quick look that the round's end replaces.
    """

    start: tuple[int, int, int]
    labels: npt.NDArray[Any]
    final: bool


@dataclass(frozen=True)
class Previous:
    """What an earlier round leaves to the next.

    Attributes
    ----------
    probabilities
        (K, z, y, x) on the work grid, before smoothing.
    strokes
        How many it had learned from.
    scorer
        Tells how well it does on strokes that it did not see; None below 12 strokes.
    """

    probabilities: npt.NDArray[np.float32]
    strokes: int
    scorer: Scorer | None = None


@dataclass(frozen=True)
class NetworkState:
    """A network that was trained in a round.

    Attributes
    ----------
    weights
        By name, arrays on the CPU.
    probabilities
        (K, Z, Y, X) float16, what it says about the scan.
    """

    weights: dict[str, npt.NDArray[Any]]
    probabilities: npt.NDArray[np.float16]


@dataclass
class Learned:
    """Result of a round.

    Attributes
    ----------
    labels
        (Z, Y, X) on the scan's grid, before strokes and approvals are merged in.
    state
        For the next round.
    shown
        (K, z, y, x) smoothed probabilities on the work grid.
    strokes
        How many it learned from.
    seconds
        Wall time.
    score, before
        Accuracy on held-back strokes of this and the previous round; None below 12 strokes.
    drift
        Share of confident, unpainted voxels whose class changed; None in the first round.
    lost
        Whether this round looks worse than the one before.
    warnings
        In words.
    kind
        "fast", or "network" if one was trained.
    network
        What was trained; None: the network is as before.
    losses
        Of the network's training, step by step.
    reason
        Why the training stopped: "plateau", "time" or "steps".
    movements
        Of brush and eraser, up to which it learned; see `Strokes.items`.
    """

    labels: npt.NDArray[Any]
    state: Previous
    shown: npt.NDArray[np.float32]
    strokes: int
    seconds: float
    score: float | None = None
    before: float | None = None
    drift: float | None = None
    lost: bool = False
    warnings: list[str] = field(default_factory=list)
    kind: str = "fast"
    network: NetworkState | None = None
    losses: list[float] = field(default_factory=list)
    reason: str = ""
    movements: int = 0


def learn_job(
    head: FastHead,
    grid: WorkGrid,
    painted: Painted,
    previous: Previous | None = None,
    *,
    detail: npt.NDArray[Any] | None = None,
    focus: Sequence[float] | None = None,
    axis: int = 0,
    region: Sequence[Sequence[int]] | None = None,
    merge: Merge | None = None,
    compare: Previous | None = None,
    check: Callable[[Learned], None] | None = None,
    erased: bool = False,
) -> Job[Learned]:
    """Learn from all strokes and predict everything, the viewed plane first.

    Parameters
    ----------
    head
        On the work grid; not changed.
    grid
        Between it and the scan.
    painted
        On the scan's grid.
    previous
        Of the round before; a part of its probabilities is kept, so that one round's
        strokes can't overturn all that the earlier ones taught.
    detail
        (K, Z, Y, X) a model's probabilities on the scan's own grid. On a coarser work grid
        only what the head changes about them is interpolated.
    focus
        Voxel (z, y, x) of the scan that is looked at; None: the middle.
    axis
        Across which it is looked at: 0, 1, 2 where planes of one z, y, x are shown. Slabs
        across it come in the order of their distance from the voxel.
    region
        Index ranges ((z0, z1), (y0, y1), (x0, x1)) of the scan to predict; elsewhere the
        round before (or the model) holds. None, or nothing to hold: everything.
    merge
        Puts strokes and approvals over labels that start at a voxel.
    compare
        What to measure against, where it is not `previous`.
    check
        Judges the result further, before any final part of its mask is given out; if it
        is lost then, none is.
    erased
        Whether strokes that `previous` learned from are gone: nothing of it is kept then,
        since what they taught can't be told from the rest.

    Yields
    ------
    Progress
        ``partial`` is a `Patch`, or None: a quick look at the viewed slab, and, once the
        scan's edges were followed, all of the mask slab by slab.

    Raises
    ------
    InputError
        If nothing is painted, or only one class.
    """
    begin = time.perf_counter()
    if not len(painted.voxels):
        raise InputError("nothing is painted yet; paint a stroke where the mask is wrong")
    yield Progress(0, 0, f"Learning from {painted.count} strokes")
    placed = replace(painted, voxels=grid.blocks_of(painted.voxels))
    forest = head.fit(placed)
    start, memory = head.prior, PRIOR
    if previous is not None and not erased:
        start, memory = previous.probabilities, _memory(previous.strokes, painted.count)
    raw = np.zeros((head.classes, *grid.work_shape), np.float32) if start is None else start.copy()
    box = _box(grid, region if start is not None else None)
    finish = _Finisher(head, grid, detail, axis)
    viewed = grid.shape[axis] / 2 if focus is None else float(focus[axis])
    planes, done = box[axis].stop - box[axis].start, 0
    for first, slab in head.probabilities(forest, int(viewed // grid.factors[axis]), box, axis):
        last = first + slab.shape[1 + axis]
        part = list(box)
        part[axis] = slice(first, last)
        where = (slice(None), *part)
        if start is not None:
            slab = memory * start[where] + (1 - memory) * slab
        raw[where] = slab
        quick = None
        if not done:
            quick = finish.patch(raw, first * grid.factors[axis], last * grid.factors[axis], merge)
        done += last - first
        yield Progress(done, planes, "Predicting", quick)
    shown = head.smooth(raw, placed.voxels, placed.values)
    yield Progress(planes, planes, "Following the edges")
    labels = np.empty(grid.shape, finish.dtype)
    result = Learned(labels, Previous(raw, painted.count), shown, painted.count, 0.0)
    before = compare or previous
    if erased and before is not None and before.scorer is None:
        before = None  # that much changes is what the person asked for
    judge(result, head, placed, before)
    if check is not None:
        check(result)
    hidden = check is not None and result.lost
    for number, (first, last) in enumerate(finish.slabs(viewed), start=1):
        patch = finish.patch(shown, first, last, out=labels)
        yield Progress(
            min(grid.shape[axis], number * (last - first)),
            grid.shape[axis],
            "Writing the mask",
            None if hidden else patch,
        )
    result.seconds = time.perf_counter() - begin
    return result


def _memory(before: int, now: int) -> float:
    """How much of the previous round's probabilities stays, where strokes were added."""
    return before / (before + NEW * max(1, now - before))


def _box(grid: WorkGrid, region: Sequence[Sequence[int]] | None) -> tuple[slice, slice, slice]:
    """Blocks that hold a region of the scan."""
    whole = [(0, n) for n in grid.shape]
    z, y, x = (
        slice(int(a) // f, -(-int(b) // f))
        for (a, b), f in zip(region or whole, grid.factors, strict=True)
    )
    return z, y, x


class _Finisher:
    """From probabilities on the work grid to labels on the scan's, slab by slab along an axis."""

    def __init__(
        self, head: FastHead, grid: WorkGrid, detail: npt.NDArray[Any] | None, axis: int
    ) -> None:
        self.head, self.grid, self.axis = head, grid, axis
        self.detail = detail if grid.is_coarser else None
        self.dtype = class_type(head.classes)
        self.plane = math.prod(grid.shape) // grid.shape[axis]

    def slabs(self, viewed: float) -> list[tuple[int, int]]:
        """First and last plane (exclusive) of all slabs, those near the viewed plane first."""
        length = self.grid.shape[self.axis]
        step = max(1, PATCH_VOXELS // self.plane)
        starts = range(0, length, step)
        near = sorted(starts, key=lambda at: abs(at + (step - 1) / 2 - viewed))
        return [(first, min(length, first + step)) for first in near]

    def patch(
        self,
        probabilities: npt.NDArray[np.float32],
        first: int,
        last: int,
        merge: Merge | None = None,
        out: npt.NDArray[Any] | None = None,
    ) -> Patch:
        """Labels of the scan's planes ``first`` to ``last``.

        Parameters
        ----------
        probabilities
            (K, z, y, x) on the work grid.
        first, last
            Along the axis.
        merge
            See `learn_job`; given for a quick look.
        out
            (Z, Y, X) to write the labels into; the patch shows its part.
        """
        last = min(last, self.grid.shape[self.axis])
        shape = list(self.grid.shape)
        shape[self.axis] = last - first
        labels = np.empty(shape, self.dtype) if out is None else out[self._planes(first, last)]
        step = max(1, 2**24 // max(1, self.plane * len(probabilities)))
        for low in range(first, last, step):
            high = min(last, low + step)
            labels[self._planes(low - first, high - first)] = self._part(probabilities, low, high)
        start = [0, 0, 0]
        start[self.axis] = first
        place = (start[0], start[1], start[2])
        if merge is not None:
            labels = merge(labels, place)
        return Patch(place, labels, final=out is not None)

    def _planes(self, first: int, last: int) -> tuple[slice, ...]:
        return (slice(None),) * self.axis + (slice(first, last),)

    def _part(self, probabilities: npt.NDArray[np.float32], first: int, last: int) -> Any:
        axis = self.axis
        if self.detail is None or self.head.prior is None:
            return self.grid.expand(probabilities, first, last, axis).argmax(0)
        low, high = self.grid.blocks_between(first, last, axis)
        blocks = (slice(None), *self._planes(low, high))
        change = np.log(probabilities[blocks] + 0.01) - np.log(self.head.prior[blocks] + 0.01)
        detail = np.asarray(self.detail[(slice(None), *self._planes(first, last))], np.float32)
        return (np.log(detail + 0.01) + self.grid.expand(change, first, last, axis, low)).argmax(0)


def judge(
    result: Learned,
    head: FastHead,
    painted: Painted,
    previous: Previous | None,
) -> None:
    """Score a result on held-back strokes; without a score to compare, by how much else moved.

    Parameters
    ----------
    result
        Gets its scores and warnings.
    head
        That made it.
    painted
        On the work grid.
    previous
        To compare with.
    """
    raw = result.state.probabilities
    before = previous.probabilities if previous is not None else head.prior
    held = painted.held_back
    if painted.count >= ENOUGH_STROKES and held.any() and len(np.unique(painted.values)) > 1:
        scorer = head.scorer(painted, held)
        result.score = scorer.accuracy(painted.pick(held))
        result.state = Previous(raw, painted.count, scorer)
        if previous is not None and previous.scorer is not None:
            result.before = previous.scorer.accuracy(painted.pick(held))
            result.lost = result.score < result.before - TOLERANCE
    if before is not None:
        sure = before.max(0) > CONFIDENT
        sure[tuple(painted.voxels.T)] = False
        moved = (before.argmax(0) != raw.argmax(0)) & sure
        result.drift = float(moved.sum() / max(1, int(sure.sum())))
        if result.before is None:  # nothing to compare a score with
            result.lost = result.drift > DRIFT
    if result.lost and result.before is not None:
        result.warnings.append(
            f"on held-back strokes this round is right for {result.score:.0%}, the one before "
            f"for {result.before:.0%}; look at the mask, or undo the round"
        )
    elif result.lost:
        result.warnings.append(
            f"this round changed {result.drift:.0%} of the voxels that were certain before; "
            "look at the mask, or undo the round"
        )
