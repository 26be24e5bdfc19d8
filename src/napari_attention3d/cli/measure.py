"""``napari-attention3d measure``: size, shape and intensity of each label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .common import JsonOption, check_new_file, print_json, run_job, say
from .masks import read_mask

if TYPE_CHECKING:
    from ..analysis.table import Cell, Table
    from ..volumes import Volume

__all__ = ["measure"]

_LEFT_OUT = ("centroid ", "start ", "stop ", "low ", "high ")
"""Columns that a table on the screen has no room for."""


def measure(
    labels: Annotated[Path, typer.Argument(help="Mask to measure.")],
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Also the intensities of this image inside; may be given again."),
    ] = None,
    attention: Annotated[
        list[Path] | None,
        typer.Option(help="Also this attention map inside, on its own grid; may be given again."),
    ] = None,
    components: Annotated[
        bool, typer.Option("--components", help="A row per connected component.")
    ] = False,
    connectivity: Annotated[
        int, typer.Option(help="Of components: 6 (faces), 18 (and edges), 26 (and corners).")
    ] = 26,
    percentiles: Annotated[str, typer.Option(help="Percentiles of intensities.")] = "5,50,95",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Table to write: .csv, .xlsx or .json.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a table that is there.")] = False,
    json: Annotated[bool, JsonOption("the table")] = False,
) -> None:
    """Measure each label: volume, surface, diameters, place, and intensities inside."""
    wanted = _parse_percentiles(percentiles)
    if out is not None:
        from ..analysis.table import check_table_path

        check_table_path(out)
        check_new_file(out, [labels, *(image or []), *(attention or [])], overwrite=overwrite)
    from ..analysis.measure import measure as measure_job

    mask = read_mask(labels)
    images, maps = _read_named(image or []), _read_named(attention or [])
    twice = images.keys() & maps.keys()
    if twice:
        raise InputError(f"{twice.pop()!r} is given as an image and as an attention map")
    job = measure_job(
        mask,
        images=images,
        attention=maps,
        components=components,
        connectivity=connectivity,
        percentiles=wanted,
    )
    table = run_job(job, labels.name)
    for note in table.notes:
        say(f"note: {note}")
    if not table.rows:
        say(f"warning: {labels} holds no labels, only background")
    if out is not None:
        say(f"{table.write(out)} ({len(table.rows)} rows)")
    if json:
        print_json(table.to_dict())
    elif out is None:
        _print_table(table, [*images, *maps])


def _parse_percentiles(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise InputError(f"--percentiles {text!r} is not a list of numbers such as 5,95") from error


def _read_named(paths: list[Path]) -> dict[str, Volume]:
    """Read volumes, by the names that their columns will begin with."""
    from ..volumes import read_volume

    found: dict[str, Volume] = {}
    for path in paths:
        volume = read_volume(path)
        for note in volume.notes:
            say(f"note: {note}")
        if volume.name in found:
            raise InputError(f"two images are called {volume.name}; rename one of the files")
        found[volume.name] = volume
    return found


def _print_table(table: Table, sources: Sequence[str]) -> None:
    """Print size and shape, then a table for each image; places are for files."""
    headings = [c.heading for c in table.columns]
    first = [h for h in headings if h in ("label", "name", "component")]
    of_source = {s: [h for h in headings if h.startswith(f"{s} ")] for s in sources}
    taken = {h for found in of_source.values() for h in found}
    shape = [h for h in headings if h not in taken and not h.startswith(_LEFT_OUT)]
    if "volume (mL)" in shape:
        shape.remove("volume (mm3)")
    _print_columns(table, shape)
    for source, found in of_source.items():
        _print_columns(table, [*first, *found], title=source)
    say("where they lie too: --json, or -o FILE.csv")


def _print_columns(table: Table, headings: list[str], title: str = "") -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    view = RichTable(title=title or None, title_justify="left")
    for heading in headings:
        view.add_column(heading.removeprefix(f"{title} "), justify="right")
    columns = [[_cell(value) for value in table.column(heading)] for heading in headings]
    for row in zip(*columns, strict=True):
        view.add_row(*row)
    Console().print(view)


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
