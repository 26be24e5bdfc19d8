"""``napari-attention3d evaluate``: compare a mask with the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .common import JsonOption, print_json

__all__ = ["evaluate"]


def evaluate(
    labels: Annotated[Path, typer.Argument(help="Mask to judge.")],
    truth: Annotated[Path, typer.Argument(help="Mask that is taken as true.")],
    classes: Annotated[
        str, typer.Option(help='Classes to compare, as "1,2,5" (default: all that are there).')
    ] = "",
    json: Annotated[bool, JsonOption("the figures")] = False,
) -> None:
    """Compare a mask with the truth: Dice and 95 % Hausdorff distance of each class."""
    wanted = _parse_classes(classes)
    from ..analysis.compare import compare_labels
    from ..volumes import read_volume

    result = compare_labels(read_volume(labels), read_volume(truth), wanted)
    if json:
        print_json(result)
    else:
        _print_table(result)


def _parse_classes(text: str) -> list[int] | None:
    if not text:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(f"--classes {text!r} is not a list of numbers such as 1,2,5") from error


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "Dice", f"HD95 ({result['unit']})")
    for name, row in result["classes"].items():
        table.add_row(name, _figure(row["dice"]), _figure(row["hd95"]))
    console = Console()
    console.print(table)
    console.print(f"mean Dice {_figure(result['mean_dice'])}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
