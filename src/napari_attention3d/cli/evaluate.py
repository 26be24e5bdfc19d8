"""``napari-attention3d evaluate``: compare a mask with the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .common import JsonOption, check_new_file, print_json, run_job, say
from .masks import read_mask

if TYPE_CHECKING:
    from ..analysis.compare import Comparison

__all__ = ["evaluate"]


def evaluate(
    labels: Annotated[Path, typer.Argument(help="Mask to judge.")],
    truth: Annotated[Path, typer.Argument(help="Mask that is taken as true.")],
    classes: Annotated[
        str, typer.Option(help='Classes to compare, as "1,2,5" (default: all that are there).')
    ] = "",
    tolerance: Annotated[
        float | None,
        typer.Option(help="Of the surface Dice, in the mask's unit (default: a voxel's side)."),
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Resample a mask that lies on another grid.")
    ] = False,
    disagreement: Annotated[
        Path | None,
        typer.Option(help="Mask to write: 1 only in LABELS, 2 only in TRUTH, 3 other class."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", "--csv", help="Table to write: .csv, .xlsx or .json."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
    json: Annotated[bool, JsonOption("the figures")] = False,
) -> None:
    """Compare a mask with the truth, class by class: overlap, surfaces, volumes."""
    wanted = _parse_classes(classes)
    _check_targets(out, disagreement, {labels, truth}, overwrite=overwrite)
    from ..analysis.compare import compare
    from ..volumes import write_volume

    mask, reference = read_mask(labels), read_mask(truth)
    job = compare(mask, reference, wanted, tolerance=tolerance, resample=resample)
    found = run_job(job, labels.name)
    for note in found.figures["notes"]:
        say(f"note: {note}")
    if disagreement is not None:
        say(str(write_volume(disagreement, found.disagreement, like=reference)))
    if out is not None:
        say(str(found.table().write(out)))
    if json:
        print_json(found.figures)
    else:
        _print_table(found)


def _check_targets(
    out: Path | None, disagreement: Path | None, inputs: set[Path], *, overwrite: bool
) -> None:
    """Refuse what can't be written before anything runs."""
    if out is not None:
        from ..analysis.table import check_table_path

        check_table_path(out)
        check_new_file(out, inputs, overwrite=overwrite)
    if disagreement is not None:
        from ..volumes.formats import format_for

        format_for(disagreement, writing=True)
        check_new_file(disagreement, inputs, overwrite=overwrite)


def _parse_classes(text: str) -> list[int] | None:
    if not text:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(f"--classes {text!r} is not a list of numbers such as 1,2,5") from error


def _print_table(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    unit, tolerance = found.figures["unit"], found.figures["tolerance"]
    headings = {
        "dice": "Dice",
        "iou": "IoU",
        "hd95": f"HD95 ({unit})",
        "average_surface_distance": f"mean distance ({unit})",
        "surface_dice": f"surface Dice ({tolerance:g} {unit})",
        "volume_difference": f"volume difference ({unit}3)",
    }
    table = Table("class")
    for heading in headings.values():
        table.add_column(heading, justify="right")
    for value, row in found.figures["classes"].items():
        name = found.names.get(int(value))
        title = f"{value} {name}" if name else value
        table.add_row(title, *(_figure(row[key]) for key in headings))
    console = Console()
    console.print(table)
    console.print(f"mean Dice {_figure(found.figures['mean_dice'])}")


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.0f}"
