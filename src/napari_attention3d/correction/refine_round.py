"""A round in which the network is trained: refine, predict, correct the rest, compare."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..models.store import Model
from ..progress import Job
from ..volumes.volume import Volume
from .fast_head import FastHead
from .grid import WorkGrid
from .learn import CONFIDENT, Learned, NetworkState, learn_job
from .predict import predict_job
from .refine import RefineOptions, refine_job
from .rounds import Round
from .strokes import Painted

__all__ = ["refine_round_job"]

MOVED = 0.1
"""How far a trained network may go from what was certain: 1 - Dice, mean over the classes."""


def refine_round_job(
    model: Model,
    scan: Volume,
    head: FastHead,
    grid: WorkGrid,
    painted: Painted,
    before: Round,
    options: RefineOptions,
    *,
    focus: Sequence[float] | None = None,
    axis: int = 0,
    erased: bool = False,
    attention: npt.NDArray[Any] | None = None,
) -> Job[Learned]:
    """Train a copy of `model` on the strokes, and make a round of what it then says.

    Parameters
    ----------
    model
        As it is in the current round; not changed.
    scan
        The scan.
    head
        The fast learner of the current round; its features are used.
    grid
        Its grid.
    painted
        On the scan's grid.
    before
        The current round: what it shows is kept where nobody objected.
    options
        Of the training.
    focus, axis, erased
        See `learn_job`.
    attention
        Strokes on the attention, see `refine_job`.

    Returns
    -------
    Learned
        With the new network. ``lost`` tells whether it looks worse than the current round:
        on held-back strokes, or because it changes much of what was certain. A few strokes,
        painted where the mask was wrong, can't tell that a network forgot the rest.
    """
    begin = time.perf_counter()
    teacher = _teacher(before, grid)
    refined = yield from refine_job(
        model, scan, painted, options, teacher=teacher, attention=attention
    )
    shares = yield from predict_job(refined.model, scan, focus=focus, device=options.device)
    corrected = FastHead(head.features, head.classes, grid.reduce(shares), head.threads)

    def check(result: Learned) -> None:
        if before.state is not None:
            _guard(result, before.state.probabilities)

    result = yield from learn_job(
        corrected,
        grid,
        painted,
        None,
        detail=shares,
        focus=focus,
        axis=axis,
        compare=None if erased else before.state,
        check=check,
    )
    weights = {k: v.detach().cpu().numpy() for k, v in refined.model.network.state_dict().items()}
    result.kind, result.losses, result.reason = "network", refined.losses, refined.reason
    result.network = NetworkState(weights, shares.astype(np.float16))
    result.warnings += refined.warnings
    result.seconds = time.perf_counter() - begin
    return result


def _guard(result: Learned, before: npt.NDArray[np.float32]) -> None:
    """Call a result lost that differs much from what was certain (K, z, y, x) before."""
    moved = _moved(before, result.state.probabilities)
    if moved > MOVED and not result.lost:
        result.lost = True
        result.warnings.append(
            f"the trained network differs by {moved:.0%} (1 - Dice) from what was certain; paint "
            "more strokes, train longer, or go on without it"
        )


def _moved(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> float:
    """1 - Dice of before and after among certain voxels, mean over the classes (K, z, y, x).

    Dice and not a share of voxels: a small class that spreads into a large one changes few of
    either's voxels, and is still ruined. A class of which nothing is certain yet counts whole.
    """
    sure, old, new = before.max(0) > CONFIDENT, before.argmax(0), after.argmax(0)
    if not sure.any():
        return 0.0
    shares = []
    for k in range(len(before)):
        was, now = old == k, new == k
        if (was & sure).any():
            was, now = was & sure, now & sure
        if was.any():
            shares.append(1 - 2 * (was & now).sum() / (was.sum() + now.sum()))
    return float(np.mean(shares))


def _teacher(before: Round, grid: WorkGrid) -> npt.NDArray[Any] | None:
    """What the current round shows (K, Z, Y, X) on the scan's grid; None before the first."""
    shown = before.shown
    if shown is None and before.state is not None:
        shown = before.state.probabilities
    if shown is None:
        return None
    out = np.empty((len(shown), *grid.shape), np.float16)
    step = max(1, 2**24 // int(np.prod(grid.shape[1:])))
    for first in range(0, grid.shape[0], step):
        last = min(grid.shape[0], first + step)
        out[:, first:last] = grid.expand(shown, first, last)
    return out
