"""Painting the attention, for the worker's thread. No Qt, no viewer."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import Progress
from .inspect_tasks import Desk, RunRecord

if TYPE_CHECKING:
    from ..attention.moved import Moved
    from ..models import Model
    from ..volumes.volume import Volume

__all__ = ["PaintResult", "move_job", "save_painted"]


@dataclass(frozen=True, eq=False)
class PaintResult:
    """A trained copy, and what it changed.

    Attributes
    ----------
    record
        The run that was painted on.
    model
        The copy.
    moved
        Attention and mask before and after.
    steps
        Of the training.
    """

    record: RunRecord
    model: Model
    moved: Moved
    steps: int


def move_job(
    desk: Desk, record: RunRecord, strokes: Volume, seconds: float, everywhere: bool
) -> Generator[Progress, None, PaintResult]:
    """Train a copy of a run's network on strokes, and compare; around the strokes or everywhere."""
    from ..attention.moved import around_strokes, moved_job
    from ..attention.paint import PaintOptions, paint_job

    replay = yield from desk.replay(record)
    painted = yield from paint_job(replay, strokes, PaintOptions(seconds=seconds))
    box = None if everywhere else around_strokes(replay, strokes)
    moved = yield from moved_job(replay, painted.model, strokes, box)
    return PaintResult(record, painted.model, moved, len(painted.guide))


def save_painted(result: PaintResult, path: Path) -> Path:
    """Save the trained copy as a model file.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    from ..correction.working_copy import renamed
    from ..models import save_model

    card = renamed(result.model.card, path, "", result.record.source.volume)
    story = "Its attention was painted on."
    if story not in card.description:
        card = card.model_copy(update={"description": f"{card.description} {story}"})
    return save_model(path, result.model.network, card)
