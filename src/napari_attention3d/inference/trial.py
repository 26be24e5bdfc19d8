"""Half precision on trial: kept only where a test tile's labels stay as in float32."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import InputError
from ..progress import Job, Progress
from .device import Precision
from .exact import ExactRun
from .plans import Attempt, ExactPlan
from .runner import Runner
from .sink import Logits, check_finite
from .tiling import Box

__all__ = ["MOST_CHANGED", "Trial", "try_precision"]

MOST_CHANGED = 1e-3
"""Largest share of the foreground that may get another label."""
FOREGROUND = 0.001
"""Least share of foreground that makes a tile a test."""


@dataclass(frozen=True)
class Trial:
    """What a test tile showed.

    Attributes
    ----------
    precision
        To go on with.
    changed
        Labels of the tile that changed, over its foreground; None: there was too little, or
        no number came out.
    """

    precision: Precision
    changed: float | None


def try_precision(runner: Runner, attempt: Attempt) -> Job[Trial]:
    """Job: compare a tile in the middle of the wanted box in float32 and as the run would do it.

    Parameters
    ----------
    runner
        Calibrated; its precision is what is on trial.
    attempt
        Of the run.
    """
    wanted = runner.precision
    exact = Precision("float32", "")
    box = _middle(attempt)
    truth = yield from _labels(runner, attempt, box, exact)
    foreground = int((truth > 0).sum())
    if foreground < FOREGROUND * truth.numel():
        reason = f"the test tile holds too little to tell whether {wanted.name} would do"
        return Trial(Precision("float32", reason), None)
    try:
        found = yield from _labels(runner, attempt, box, wanted)
    except InputError:  # in float32 it went well
        reason = f"values of a test tile are beyond the range of {wanted.name}"
        return Trial(Precision("float32", reason), None)
    changed = int((found != truth).sum()) / foreground
    if changed > MOST_CHANGED:
        reason = f"{wanted.name} changed {changed:.2%} of the labels of a test tile"
        return Trial(Precision("float32", reason), changed)
    reason = f"{wanted.reason}; a test tile's labels change by {changed:.3%}"
    return Trial(Precision(wanted.name, reason), changed)


def _middle(attempt: Attempt) -> Box:
    box, tile = attempt.plan.box, attempt.tiles.tile
    if not isinstance(attempt.plan, ExactPlan):
        centre = [(a + b) / 2 for a, b in zip(box.start, box.stop, strict=True)]

        def far(one: Box) -> float:
            middles = [(a + b) / 2 for a, b in zip(one.start, one.stop, strict=True)]
            return sum((m - c) ** 2 for m, c in zip(middles, centre, strict=True))

        return min(attempt.tiles.tiles, key=far)
    start, stop = [], []
    for a, b, size in zip(box.start, box.stop, tile, strict=True):
        size = min(size, b - a)
        start.append(a + (b - a - size) // 2)
        stop.append(start[-1] + size)
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _labels(runner: Runner, attempt: Attempt, box: Box, precision: Precision) -> Job[Tensor]:
    """Labels (z, y, x) of a box, by the attempt's engine."""
    yield Progress(0, 0, f"Trying {precision.name} on a test tile")
    before, specs = runner.precision, runner.specs
    runner.precision, runner.specs = precision, {}
    try:
        if isinstance(attempt.plan, ExactPlan):
            results = Logits(runner.network.num_classes, box)
            plan = replace(attempt.plan, box=box, parts=1)
            whole = [Box((0, 0, 0), box.shape)]
            run = ExactRun(runner, plan, results, whole, {})
            for done, _ in run.steps():
                yield Progress(0, 0, f"Trying {precision.name}, plane {done} of {run.total}")
            return results.logits.argmax(0)
        output = runner.forward(runner.devices[0], [box])
        logits = output.logits[0].float()
        check_finite(logits)
        return torch.argmax(logits, 0).cpu()
    finally:
        runner.precision, runner.specs = before, specs
