"""A round: learn from all strokes in seconds, and predict the whole scan."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..progress import Job, Progress
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


@dataclass(frozen=True)
class Patch:
    """A part of the new mask, to be shown at once.

    Attributes
    ----------
    first
        Its first plane (z).
    labels
        (z, Y, X).
    final
        False for a quick look that the round's end replaces.
    """

    first: int
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


def learn_job(
    head: FastHead,
    grid: WorkGrid,
    painted: Painted,
    previous: Previous | None = None,
    *,
    detail: npt.NDArray[Any] | None = None,
    focus: int = 0,
    region: Sequence[Sequence[int]] | None = None,
    merge: Callable[[npt.NDArray[Any], int], npt.NDArray[Any]] | None = None,
    compare: Previous | None = None,
) -> Job[Learned]:
    """Learn from all strokes and predict everything, the viewed planes first.

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
        Plane of the scan that is looked at.
    region
        Index ranges ((z0, z1), (y0, y1), (x0, x1)) of the scan to predict; elsewhere the
        round before (or the model) holds. None, or nothing to hold: everything.
    merge
        Puts strokes and approvals over the labels of a slab that starts at a plane.
    compare
        What to measure against, where it is not `previous`.

    Yields
    ------
    Progress
        ``partial`` is a `Patch`, or None.

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
    if previous is not None:
        start, memory = previous.probabilities, _memory(previous.strokes, painted.count)
    raw = np.zeros((head.classes, *grid.work_shape), np.float32) if start is None else start.copy()
    box = _box(grid, region if start is not None else None)
    finish = _Finisher(head, grid, detail, merge)
    planes, done = box[0].stop - box[0].start, 0
    for first, slab in head.probabilities(forest, focus // grid.factors[0], box):
        last = first + slab.shape[1]
        if start is not None:
            slab = memory * start[:, first:last, box[1], box[2]] + (1 - memory) * slab
        raw[:, first:last, box[1], box[2]] = slab
        quick = None
        if not done:
            quick = Patch(first * grid.factors[0], finish.labels(raw, first, last), False)
        done += last - first
        yield Progress(done, planes, "Predicting", quick)
    shown = head.smooth(raw, placed.voxels, placed.values)
    yield Progress(planes, planes, "Following the edges")
    labels = finish.labels(shown, 0, grid.work_shape[0], merged=False)
    result = Learned(labels, Previous(raw, painted.count), shown, painted.count, 0.0)
    judge(result, head, placed, compare or previous)
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
    """From probabilities on the work grid to labels on the scan's."""

    def __init__(
        self,
        head: FastHead,
        grid: WorkGrid,
        detail: npt.NDArray[Any] | None,
        merge: Callable[[npt.NDArray[Any], int], npt.NDArray[Any]] | None,
    ) -> None:
        self.head, self.grid, self.merge = head, grid, merge
        self.detail = detail if grid.is_coarser else None
        self.dtype = np.uint8 if head.classes < 256 else np.uint16

    def labels(
        self,
        probabilities: npt.NDArray[np.float32],
        first: int,
        last: int,
        merged: bool = True,
    ) -> npt.NDArray[Any]:
        """Labels of the scan's planes that the work grid's planes ``first`` to ``last`` hold."""
        factor, depth = self.grid.factors[0], self.grid.shape[0]
        start, stop = first * factor, min(depth, last * factor)
        out = np.empty((stop - start, *self.grid.shape[1:]), self.dtype)
        step = max(1, 2**24 // max(1, out[0].size * len(probabilities)))
        for z in range(start, stop, step):
            end = min(stop, z + step)
            out[z - start : end - start] = self._part(probabilities, z, end)
        return self.merge(out, start) if merged and self.merge is not None else out

    def _part(self, probabilities: npt.NDArray[np.float32], z: int, end: int) -> Any:
        if self.detail is None or self.head.prior is None:
            return self.grid.expand(probabilities, z, end).argmax(0)
        low = max(0, z // self.grid.factors[0] - 2)
        high = -(-end // self.grid.factors[0]) + 2
        change = np.zeros_like(probabilities)
        change[:, low:high] = np.log(probabilities[:, low:high] + 0.01) - np.log(
            self.head.prior[:, low:high] + 0.01
        )
        detail = np.asarray(self.detail[:, z:end], np.float32)
        return (np.log(detail + 0.01) + self.grid.expand(change, z, end)).argmax(0)


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
