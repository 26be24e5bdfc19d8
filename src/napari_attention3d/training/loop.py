"""The training loop: a job that yields progress and leaves models and a log behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..progress import Job, Progress
from .cases import CaseSource
from .config import TrainConfig
from .processes import Processes
from .runs import run_folder
from .trainer import Trainer, TrainResult, card_of, learning_rate

__all__ = ["TrainResult", "card_of", "learning_rate", "run_folder", "train_job"]


def train_job(
    config: TrainConfig,
    output: Path,
    *,
    restart: bool = False,
    cases: Sequence[CaseSource] | None = None,
    processes: Processes | None = None,
) -> Job[TrainResult]:
    """Train a model.

    Resumes from the checkpoint in `run_folder` unless told to restart. Closing the job
    saves a checkpoint first, so nothing is lost, and a model if there is none yet.

    Parameters
    ----------
    config
        What to train.
    output
        The best model's file (.safetensors).
    restart
        Throw away an earlier run of the same output.
    cases
        The training set in memory, instead of the configuration's folders.
    processes
        Those that train together; default: this one alone.

    Yields
    ------
    Progress
        After each step; metrics hold loss and learning rate, and val_dice after a validation.

    Raises
    ------
    InputError
        If data or settings do not fit.
    OutOfMemory
        If a step needs more memory than there is.
    OutputError
        If the disk is full or the folder can't be written.
    """
    run = Trainer(config, output, restart, cases, processes)
    begun = "Preparing training data" + (f" (note: {run.doubt})" if run.doubt else "")
    yield Progress(run.step, config.schedule.steps, begun)
    if run.is_done:
        return run.finish()
    run.prepare()
    try:
        while not run.is_done:
            yield run.advance()
    except GeneratorExit:
        run.stop()
        raise
    return run.finish()
