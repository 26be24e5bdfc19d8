"""``napari-attention3d train``: train a model, planned from a folder or by a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..progress import finish
from .common import JsonOption, check_writable_folder, print_json, run_job, say

if TYPE_CHECKING:
    from ..training import TrainConfig, TrainResult
    from ..training.processes import Processes

__all__ = ["train"]


@dataclass(frozen=True)
class _Wish:
    """What was asked for on the command line; None: not said."""

    folder: Path | None
    config: Path | None
    out: Path
    data: Path | None
    images: Path | None
    labels: Path | None
    preset: str | None
    network: str | None
    ignore: int | None
    name: str | None
    schedule: dict[str, Any]
    restart: bool


def train(
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The model's file (.safetensors) to write.")
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder with images/ and labels/, or in nnU-Net's layout; a plan is made from it."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A recipe (YAML) instead of a plan.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of label maps, instead of the recipe's.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of their labels.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Size of the plan: quick (default), standard, thorough.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Network of the plan; default attention-unet.")
    ] = None,
    ignore: Annotated[
        int | None, typer.Option(help="Label value of voxels that nobody labelled.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name; default: the file's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the training.")] = None,
    minutes: Annotated[float | None, typer.Option(help="End after that time at most.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Patches in a batch.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would be done; print the recipe.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart/--resume", help="Begin anew, or go on (the default).")
    ] = False,
    json: Annotated[bool, JsonOption("the result")] = False,
) -> None:
    """Train a model; a run that was cut off goes on where it was.

    Patch, spacing, network and batch are planned from the scans in FOLDER and the memory
    at hand, or read from a recipe. Configuration, checkpoint, last model and log (CSV) lie
    in the folder NAME.run beside the model. Ctrl-C saves first. With torchrun, several
    GPUs train together.
    """
    schedule = {
        "steps": steps,
        "seconds": None if minutes is None else minutes * 60,
        "batch_size": batch,
        "device": device,
    }
    wish = _Wish(
        folder=folder,
        config=config,
        out=out,
        data=data,
        images=images,
        labels=labels,
        preset=preset,
        network=network,
        ignore=ignore,
        name=name,
        schedule={key: value for key, value in schedule.items() if value is not None},
        restart=restart,
    )
    check_writable_folder(out.parent)
    from ..training.processes import joined

    with joined(device or "auto") as processes:
        settings = _settings(wish, processes)
        if plan:
            if processes.is_first:
                print(_recipe(settings), end="")
            return
        result = _train(settings, wish, processes)
    if not processes.is_first:
        return
    for warning in result.warnings:
        say(f"warning: {warning}")
    if json:
        print_json(_as_dict(result))
        return
    score = "" if math.isnan(result.score) else f", validation Dice {result.score:.4f}"
    print(f"{result.best} ({result.steps} steps{score})")


def _train(settings: TrainConfig, wish: _Wish, processes: Processes) -> TrainResult:
    from ..training import run_folder, train_job

    job = train_job(settings, wish.out, restart=wish.restart, processes=processes)
    if not processes.is_first:
        return finish(job)
    say(f"checkpoints and log: {run_folder(wish.out)}")
    return run_job(job, settings.name)


def _settings(wish: _Wish, processes: Processes) -> TrainConfig:
    """The run that goes on, the recipe's, or a planned one; the same in all processes."""
    from ..training.runs import RunFolder

    earlier = None if wish.restart else RunFolder(wish.out).config()
    if earlier is None and wish.out.exists() and not wish.restart:
        raise InputError(
            f"{wish.out} exists and was not trained here; choose another name, or add --restart "
            "to replace it"
        )
    if wish.config is not None:
        return _from_recipe(wish, wish.config)
    if earlier is not None:
        return _going_on(wish, earlier)
    found = _planned(wish, processes) if processes.is_first else None
    settings: TrainConfig | None = processes.agree(found)
    assert settings is not None
    return settings


def _from_recipe(wish: _Wish, recipe: Path) -> TrainConfig:
    planned = {"a folder": wish.folder, "--preset": wish.preset, "--network": wish.network}
    for what, value in planned.items():
        if value is not None:
            raise InputError(f"give a recipe (--config) or {what}, not both")
    folders = {"folder": wish.data, "images": wish.images, "labels": wish.labels}
    given: dict[str, Any] = {k: path.resolve() for k, path in folders.items() if path is not None}
    for path in given.values():
        if not path.is_dir():
            raise InputError(f"{path} is not a folder; give the folder of the training data")
    if wish.ignore is not None:
        given["ignore"] = wish.ignore
    overrides: dict[str, Any] = {"data": given} if given else {}
    if wish.schedule:
        overrides["schedule"] = wish.schedule
    if wish.name is not None:
        from ..training.planned import model_name

        overrides |= {"name": model_name(wish.name), "title": wish.name}
    from ..training import TrainConfig

    return TrainConfig.from_yaml(recipe, **overrides)


def _going_on(wish: _Wish, earlier: TrainConfig) -> TrainConfig:
    """Settings of the run that was begun, with another length or device if that is asked."""
    from ..training.config import PairsData

    given = _folders(wish)
    if given is not None and isinstance(earlier.data, PairsData):
        images = _open(*given).images.resolve()
        if earlier.data.images is not None and earlier.data.images.resolve() != images:
            raise InputError(
                f"{wish.out} belongs to a training on {earlier.data.images}; choose another "
                "name, or add --restart to begin anew"
            )
    say(f"going on with the training of {wish.out}, with its own settings")
    schedule = earlier.schedule.model_dump() | wish.schedule
    raw = earlier.model_dump() | {"schedule": schedule}
    return type(earlier).checked(raw, "options")


def _planned(wish: _Wish, processes: Processes) -> TrainConfig:
    from ..training.planned import folder_settings, plan_job

    given = _folders(wish)
    if given is None:
        raise InputError(
            "nothing to train on: give a folder with images/ and labels/, --images and "
            "--labels, or a recipe (--config)"
        )
    found = _open(*given)
    settings = folder_settings(found)
    if wish.ignore is not None:
        settings["ignore"] = wish.ignore
    settings |= {key: v for key in ("preset", "network") if (v := getattr(wish, key)) is not None}
    name = wish.name or wish.out.name.removesuffix(".safetensors")
    device = str(wish.schedule.get("device", "auto"))
    job = plan_job(
        found.cases,
        name=name,
        device=device,
        schedule=wish.schedule,
        processes=processes.count,
        **settings,
    )
    config, plan = run_job(job, "plan")
    say(f"{len(found.cases)} cases ({found.layout})")
    for note in plan.lines():
        say(f"- {note}")
    return config


def _folders(wish: _Wish) -> tuple[Path, Path | None] | None:
    if wish.images is not None or wish.labels is not None:
        if wish.images is None or wish.labels is None:
            raise InputError("--images and --labels belong together; give both folders")
        if wish.folder is not None:
            raise InputError("give one folder, or --images and --labels, not both")
        return wish.images.resolve(), wish.labels.resolve()
    return None if wish.folder is None else (wish.folder.resolve(), None)


def _open(folder: Path, labels: Path | None) -> Any:
    from ..training.folders import open_training_folder

    return open_training_folder(folder, labels)


def _recipe(config: TrainConfig) -> str:
    import yaml

    raw = config.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def _as_dict(result: TrainResult) -> dict[str, Any]:
    return {
        "best": str(result.best),
        "last": str(result.last),
        "log": str(result.log),
        "steps": result.steps,
        "validation_dice": None if math.isnan(result.score) else result.score,
        "validation_dice_by_class": result.per_class,
        "warnings": result.warnings,
    }
