"""What the Train tab lets its worker do: look around, plan, train. No Qt; torch only here."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..progress import Progress

if TYPE_CHECKING:
    from ..training import TrainConfig, TrainResult
    from ..training.cases import CaseSource
    from ..training.planning import Plan
    from ..training.runs import RunInfo
    from ..volumes import Volume

__all__ = ["Ahead", "Points", "Ready", "Wish", "discard", "look_around", "plan", "resume", "train"]

NETWORKS = {"attention-unet": "Attention U-Net", "guided-attention": "Multi-scale guided attention"}
BETWEEN_REPORTS = 0.1
"""Seconds; points of the curves are collected in between."""

Row = Mapping[str, float]


@dataclass(frozen=True)
class Wish:
    """What shall be trained, as the form says it.

    `pairs` holds (name, image, labels) of open layers, `folder` and `labels` a place on disk;
    `names` are those of the classes, by label value.
    """

    name: str
    preset: str
    network: str
    device: str
    pairs: tuple[tuple[str, Volume, Volume], ...] = ()
    folder: Path | None = None
    labels: Path | None = None
    ignore: int | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    steps: int | None = None
    minutes: int | None = None


@dataclass(frozen=True)
class Ahead:
    """A plan, made ready to begin."""

    config: TrainConfig
    plan: Plan
    cases: tuple[CaseSource, ...]
    output: Path
    from_layers: bool
    taken: str
    """Why its name can't be used, or ""."""

    @property
    def lines(self) -> list[str]:
        """What a person wants to know of it."""
        names = ", ".join(one.name for one in self.config.classes)
        many = "1 scan" if len(self.cases) == 1 else f"{len(self.cases)} scans"
        few = len(self.cases) < 3
        held = "none is kept for validation: three are needed" if few else "one in five validates"
        return [f"{many}; {held}", f"Classes: {names}", *self.plan.lines()]


@dataclass(frozen=True)
class Ready:
    """What can be chosen, and runs that were begun earlier."""

    presets: list[tuple[str, str, str]]
    """Key, title, explanation."""
    networks: list[tuple[str, str]]
    devices: list[tuple[str, str]]
    runs: list[RunInfo]


@dataclass(frozen=True)
class Points:
    """New points of the curves."""

    rows: list[Row]
    first: bool = False
    """Whether they replace what is shown."""


def models_folder() -> Path:
    """Return the folder of the person's models."""
    from ..models.store import user_models_folder

    return user_models_folder()


def look_around() -> Ready:
    """Load torch, list presets, networks, devices and unfinished runs."""
    from ..networks import network_names
    from ..training.planning import PRESETS
    from ..training.runs import list_runs
    from . import tasks

    return Ready(
        [(key, one.title, one.explanation) for key, one in PRESETS.items()],
        [(key, NETWORKS[key]) for key in network_names() if key in NETWORKS],
        tasks.look_around().devices,
        list_runs(models_folder()),
    )


def plan(wish: Wish) -> Generator[Progress, None, Ahead]:
    """Look at the training data and plan; a job."""
    from ..training.cases import TrainingCase
    from ..training.folders import open_training_folder
    from ..training.planned import folder_settings, model_name, plan_job

    settings: dict[str, Any] = {"class_names": wish.names, "ignore": wish.ignore}
    cases: tuple[CaseSource, ...] = tuple(TrainingCase(*pair) for pair in wish.pairs)
    if wish.folder is not None:
        found = open_training_folder(wish.folder, wish.labels)
        cases, settings = found.cases, folder_settings(found)
        if wish.ignore is not None:
            settings["ignore"] = wish.ignore
    if not cases:
        raise InputError("no scans with labels are chosen")
    schedule: dict[str, Any] = {} if wish.steps is None else {"steps": wish.steps}
    if wish.minutes is not None:
        schedule["seconds"] = 60.0 * wish.minutes
    config, made = yield from plan_job(
        cases,
        name=wish.name,
        preset=wish.preset,
        network=wish.network,
        device=wish.device,
        schedule=schedule,
        **settings,
    )
    output = models_folder() / f"{model_name(wish.name)}.safetensors"
    return Ahead(config, made, cases, output, wish.folder is None, _taken(output))


def _taken(output: Path) -> str:
    from ..models import list_models
    from ..training.runs import RunFolder

    name = output.name.removesuffix(".safetensors")
    run = RunFolder(output).info()
    if run is not None and not run.finished:
        return f"“{name}” was begun earlier: resume or discard it below, or choose another name"
    if output.exists() or any(info.name == name for info in list_models()):
        return f"There is a model called “{name}” already; choose another name"
    return ""


def train(ahead: Ahead) -> Generator[Progress, None, TrainResult]:
    """Train as planned; a job. Closing it keeps the best so far and what is needed to go on."""
    from ..training import train_job
    from ..training.config import PairsData
    from ..training.keep import kept_cases_job
    from ..training.runs import RunFolder

    yield Progress(0, 0, "Preparing the training", Points([], first=True))
    taken = _taken(ahead.output)
    if taken:
        raise InputError(taken)
    config, cases = ahead.config, ahead.cases
    files = RunFolder(ahead.output)
    files.make()
    if ahead.from_layers and isinstance(config.data, PairsData):
        # So that it can go on after napari was closed.
        cases = tuple((yield from kept_cases_job(cases, files.path / "data")))
        where = {name: files.path / "data" / name for name in ("images", "labels")}
        config = config.model_copy(update={"data": config.data.model_copy(update=where)})
    result: TrainResult = yield from _reported(train_job(config, ahead.output, cases=cases))
    return result


def resume(run: RunInfo) -> Generator[Progress, None, TrainResult]:
    """Go on with a run; a job."""
    from ..training import train_job
    from ..training.runs import RunFolder

    rows = RunFolder(run.output).read_log()
    earlier: list[Row] = [row for row in rows if row["step"] <= run.step]
    yield Progress(0, 0, "Preparing training data", Points(earlier, first=True))
    result: TrainResult = yield from _reported(train_job(run.config, run.output))
    return result


def discard(run: RunInfo) -> list[RunInfo]:
    """Remove a run's folder (its model stays); return those that are left."""
    from ..training.runs import list_runs, run_folder

    shutil.rmtree(run_folder(run.output), ignore_errors=True)
    return list_runs(models_folder())


def _reported(job: Generator[Progress, None, TrainResult]) -> Generator[Progress, None, Any]:
    """Steps with the points of the curves, a few times a second."""
    rows: list[Row] = []
    last = 0.0
    try:
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                if rows:
                    yield Progress(1, 1, "Saving the model", Points(rows))
                return end.value
            if not step.metrics:
                yield Progress(0, 0, step.message)  # not to be counted in the time left
                continue
            rows.append({"step": step.done, **step.metrics})
            now = time.monotonic()
            if now - last < BETWEEN_REPORTS and "val_dice" not in step.metrics:
                yield Progress(step.done, step.total, step.message)
                continue
            last = now
            yield Progress(step.done, step.total, step.message, Points(rows))
            rows = []
    finally:
        job.close()
