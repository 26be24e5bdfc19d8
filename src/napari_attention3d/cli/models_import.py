"""``napari-attention3d models import``: weights from elsewhere become a model file."""

from __future__ import annotations

import re
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InputError, OutputError
from .common import JsonOption, check_writable_folder, print_json, say

if TYPE_CHECKING:
    from ..models.convert import Conversion
    from ..models.convert_card import CardOptions

__all__ = ["import_command"]

Source = Literal["auto", "monai", "oktay", "medicalnet", "imagenet"]
ENCODERS = "medicalnet, imagenet: "


def import_command(
    file: Annotated[Path, typer.Argument(help="Weights: .safetensors, .pt, .pth, .ckpt or .tar.")],
    name: Annotated[str, typer.Option("--name", help="Name of the model: a-z, 0-9, - . _")],
    source: Annotated[Source, typer.Option("--from", help="Whose network it is.")] = "auto",
    classes: Annotated[
        str | None, typer.Option(help="Names, background first: background,liver,tumour")
    ] = None,
    channels: Annotated[str | None, typer.Option(help="Names: t1,t2")] = None,
    spacing: Annotated[
        str | None, typer.Option(help="Of the training scans, Z,Y,X or one number; default: any.")
    ] = None,
    unit: Annotated[Literal["mm", "um", "pixel"], typer.Option(help="Of the spacing.")] = "mm",
    normalisation: Annotated[
        str | None,
        typer.Option(help="zscore (default), none, percentile:LOW:HIGH, window:LOW:HIGH"),
    ] = None,
    patch_size: Annotated[str | None, typer.Option(help="Tiles, Z,Y,X or one number.")] = None,
    title: Annotated[str, typer.Option(help="What people read in lists.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "",
    strides: Annotated[
        str | None,
        typer.Option(help="monai: from each level to the next, e.g. 2,2,2 or 1x2x2,2x2x2"),
    ] = None,
    align_corners: Annotated[
        bool | None,
        typer.Option(
            "--align-corners/--no-align-corners",
            help="oktay: aligned for torch 0.3 and older (the default), else not.",
        ),
    ] = None,
    shortcut: Annotated[
        Literal["A", "B"] | None,
        typer.Option(help="medicalnet: residual shortcuts; default: what the file shows."),
    ] = None,
    dilated: Annotated[
        bool | None,
        typer.Option(
            "--dilated/--no-dilated",
            help="medicalnet: last two levels dilated (the default), or strided.",
        ),
    ] = None,
    inflate: Annotated[
        Literal["centre", "average"] | None, typer.Option(help="imagenet: how kernels get depth.")
    ] = None,
    variant: Annotated[
        Literal["refined", "paper", "simplified"],
        typer.Option(help=ENCODERS + "of the guided network to be trained."),
    ] = "refined",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The file; default: in your model folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: Annotated[bool, JsonOption("the report")] = False,
) -> None:
    """Make a model of weights from elsewhere; nothing in the file is run.

    Sources: MONAI AttentionUnet, Oktay's attention U-Net for CT, and as encoders of a
    guided network to be trained MedicalNet's and ImageNet's ResNets. Each tensor must find
    its place: what does not fit is listed, and nothing is written.
    """
    target = _target(out, name, force)
    options = _card_options(
        name, title, classes, channels, spacing, unit, normalisation, patch_size, licence
    )
    from ..models.convert import ConvertOptions, convert
    from ..models.convert_card import card_of_import, save_import
    from ..models.convert_match import WeightsMismatchError

    try:
        found = convert(
            file,
            source,
            ConvertOptions(_strides(strides), align_corners, shortcut, dilated, inflate),
            num_classes=len(options.classes) or None,
            in_channels=len(options.channels) or None,
            network_options={"variant": variant, **VARIANT_OPTIONS[variant]},
        )
    except WeightsMismatchError as error:
        for line in error.lines:
            say(line)
        raise
    card = card_of_import(found, options)
    check_writable_folder(target.parent, make=out is None)
    save_import(found, card, target)
    report = _report(found, options, target)
    if json:
        print_json(report)
    else:
        _print(report)


VARIANT_OPTIONS: dict[str, dict[str, Any]] = {
    "refined": {"kv_pool": 2, "features": 32},
    "paper": {},
    "simplified": {"kv_pool": 2},
}


BATCH_NORM = (
    "the encoder's norms are batch norms, and the whole network's with them: train with a "
    "batch_size of 2 or more, since with 1 they learn from a single patch at a time what masks "
    "are later made with"
)


def _target(out: Path | None, name: str, force: bool) -> Path:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", name):
        raise InputError(
            f"--name {name!r}: small letters, digits, '-', '.', '_', a letter or digit first"
        )
    from ..models.store import list_models, user_models_folder

    target = out or user_models_folder() / f"{name}.safetensors"
    if target.suffix != ".safetensors":
        raise InputError(f"{target.name} must end in .safetensors")
    if target.exists() and not force:
        raise OutputError(f"{target} is there already; choose another --name, or add --force")
    taken = [i for i in list_models() if i.name == name and i.path.resolve() != target.resolve()]
    if taken and (out is None or taken[0].built_in):
        raise InputError(f"a model {name!r} is in {taken[0].path} already; choose another --name")
    return target


def _card_options(
    name: str,
    title: str,
    classes: str | None,
    channels: str | None,
    spacing: str | None,
    unit: Literal["mm", "um", "pixel"],
    normalisation: str | None,
    patch_size: str | None,
    licence: str,
) -> CardOptions:
    from ..models.convert_card import CardOptions

    return CardOptions(
        name=name,
        title=title,
        classes=_names("classes", classes),
        channels=_names("channels", channels),
        spacing=None if spacing is None else _three("spacing", spacing, float),
        unit=unit,
        normalisation=_normalisation(normalisation),
        patch_size=None if patch_size is None else _three("patch-size", patch_size, int),
        licence=licence,
    )


def _names(option: str, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = tuple(part.strip() for part in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"--{option} {text!r}: names with commas between, each one once")
    return names


def _three(option: str, text: str, number: Callable[[str], Any]) -> tuple[Any, Any, Any]:
    try:
        values = [number(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--{option} {text!r}: expected Z,Y,X or one number") from error
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or not all(0 < value < 1e6 for value in values):
        raise InputError(f"--{option} {text!r}: expected Z,Y,X or one number, above 0")
    return values[0], values[1], values[2]


def _strides(text: str | None) -> list[tuple[int, int, int]] | None:
    if text is None:
        return None
    return [_three("strides", part.replace("x", ","), int) for part in text.split(",")]


def _normalisation(text: str | None) -> Any:
    if text is None:
        return None
    from pydantic import ValidationError

    from ..models.card import Normalisation

    kind, *limits = text.split(":")
    if kind == "zscore" and not limits:
        limits = ["0", "100"]
    keys = ("lower", "upper")
    try:
        if len(limits) != (0 if kind == "none" else 2):
            raise ValueError
        given = {key: float(limit) for key, limit in zip(keys, limits, strict=False)}
        return Normalisation.model_validate({"kind": kind, **given})
    except (ValueError, ValidationError) as error:
        raise InputError(
            f"--normalisation {text!r}: zscore, none, percentile:LOW:HIGH or window:LOW:HIGH, "
            "LOW below HIGH"
        ) from error


def _report(found: Conversion, options: CardOptions, path: Path) -> dict[str, Any]:
    from ..models.convert import KINDS
    from ..models.convert_card import assumptions

    return {
        "model": options.name,
        "path": str(path),
        "from": found.kind,
        "source": KINDS[found.kind],
        "sha256": found.source.sha256,
        "reading": found.source.steps,
        "network": found.network.name,
        "mapped": found.mapped,
        "dropped": found.dropped,
        "inferred": found.inferred,
        "assumed": assumptions(found, options),
        "encoder_only": found.encoder_only,
        "recipe": _recipe(found, options) if found.encoder_only else None,
        "notes": [BATCH_NORM] if found.encoder_only else [],
    }


def _recipe(found: Conversion, options: CardOptions) -> dict[str, Any]:
    """Lines of a training recipe that begin with this encoder."""
    config = {k: v for k, v in found.network.config.items() if v is not None}
    config = {k: v for k, v in config.items() if k not in ("in_channels", "num_classes")}
    network = {"name": found.network.name, **config}
    return {"init_from": options.name, "network": network, "schedule": {"batch_size": 2}}


def _print(report: dict[str, Any]) -> None:
    dropped = [key for key in report["dropped"] if not key.endswith("num_batches_tracked")]
    counters = len(report["dropped"]) - len(dropped)
    inferred = ", ".join(f"{key} {value}" for key, value in report["inferred"].items())
    rows = [
        ("source", report["source"]),
        *(("reading", step) for step in report["reading"]),
        ("mapped", f"{report['mapped']} tensors, one to one"),
        *(("dropped", key) for key in dropped),
        *([("dropped", f"{counters} counters num_batches_tracked")] if counters else []),
        ("network", report["network"]),
        ("inferred", inferred),
        *(("assumed", text) for text in report["assumed"]),
        ("written", report["path"]),
    ]
    for key, text in rows:
        print(f"{key:<9} {text}")
    if report["recipe"]:
        print("Only the encoder is trained: until the whole is, its masks mean nothing.")
        for note in report["notes"]:
            print(f"Note: {note}.")
        print("To train it, put into a recipe:")
        for key, value in report["recipe"].items():
            # A flow mapping of JSON is valid YAML.
            print(f"  {key}: {dumps(value)}")
