"""``napari-attention3d train``: train a model from a recipe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .common import JsonOption, check_writable_folder, print_json, run_job, say

if TYPE_CHECKING:
    from ..training import TrainConfig, TrainResult

__all__ = ["train"]


def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="The recipe, a YAML file.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The model's file (.safetensors) to write.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder of label maps, instead of the recipe's.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images, instead of the recipe's.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of their labels, instead of the recipe's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of the recipe's.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart/--resume", help="Begin anew, or go on (the default).")
    ] = False,
    json: Annotated[bool, JsonOption("the result")] = False,
) -> None:
    """Train a model from a recipe; a run that was cut off goes on where it was.

    The checkpoint, the last model and the log (CSV) lie in the folder NAME.run beside
    the model. Ctrl-C saves first.
    """
    settings = _settings(config, data, images, labels, steps, device)
    check_writable_folder(out.parent)
    from ..training import run_folder, train_job

    say(f"checkpoints and log: {run_folder(out)}")
    result = run_job(train_job(settings, out, restart=restart), settings.name)
    if json:
        print_json(_as_dict(result))
        return
    score = "" if math.isnan(result.score) else f", validation Dice {result.score:.4f}"
    print(f"{result.best} ({result.steps} steps{score})")


def _settings(
    config: Path,
    data: Path | None,
    images: Path | None,
    labels: Path | None,
    steps: int | None,
    device: str | None,
) -> TrainConfig:
    folders = {"folder": data, "images": images, "labels": labels}
    given = {key: path.resolve() for key, path in folders.items() if path is not None}
    for path in given.values():
        if not path.is_dir():
            raise InputError(f"{path} is not a folder; give the folder of the training data")
    overrides: dict[str, Any] = {"data": given} if given else {}
    schedule = {"steps": steps, "device": device}
    schedule = {key: value for key, value in schedule.items() if value is not None}
    if schedule:
        overrides["schedule"] = schedule
    from ..training import TrainConfig

    return TrainConfig.from_yaml(config, **overrides)


def _as_dict(result: TrainResult) -> dict[str, Any]:
    return {
        "best": str(result.best),
        "last": str(result.last),
        "log": str(result.log),
        "steps": result.steps,
        "validation_dice": None if math.isnan(result.score) else result.score,
        "validation_dice_by_class": result.per_class,
    }
