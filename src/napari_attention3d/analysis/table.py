"""A table of figures, with a unit for each column: to look at, and to CSV and XLSX."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..provenance import made_with
from ..volumes.atomic import atomic_path

__all__ = ["TABLE_SUFFIXES", "Cell", "Column", "Table"]

Cell = int | float | str | None
TABLE_SUFFIXES = (".csv", ".xlsx", ".json")
"""Files that a table can be written to."""


@dataclass(frozen=True)
class Column:
    """A column: what it holds, and in which unit ("" if none).

    Its heading is "volume (mm3)".
    """

    name: str
    unit: str = ""

    @property
    def heading(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Table:
    """Rows of cells; a cell without a figure is None.

    Parameters
    ----------
    columns
        In order.
    rows
        Each with one cell per column.
    notes
        What a person should know about the figures.
    made
        From what and how, JSON-compatible; default: the program's version and the time.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = field(default=())
    made: Mapping[str, Any] = field(default_factory=made_with, compare=False)

    def column(self, name: str) -> list[Cell]:
        """Cells of a column, by its heading or by its name (the first one of that name).

        Raises
        ------
        KeyError
            If there is none of that name.
        """
        for index, column in enumerate(self.columns):
            if name in (column.name, column.heading):
                return [row[index] for row in self.rows]
        known = ", ".join(column.heading for column in self.columns)
        raise KeyError(f"no column {name!r}; there are: {known}")

    def noted(self, *notes: str) -> Table:
        """Return the table with more notes; empty ones are left out."""
        return replace(self, notes=(*self.notes, *filter(None, notes)))

    def as_columns(self) -> dict[str, list[Cell]]:
        """Cells by heading, as pandas and napari's ``layer.features`` take them."""
        return {c.heading: [row[i] for row in self.rows] for i, c in enumerate(self.columns)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible: ``columns`` (name, unit), ``rows`` (by heading), ``notes``, ``made``."""
        headings = [column.heading for column in self.columns]
        return {
            "columns": [{"name": c.name, "unit": c.unit} for c in self.columns],
            "rows": [dict(zip(headings, row, strict=True)) for row in self.rows],
            "notes": list(self.notes),
            "made": dict(self.made),
        }

    def write(self, path: str | Path) -> Path:
        """Write the table; the suffix chooses: .csv, .xlsx (needs openpyxl) or .json.

        How it was made goes into the JSON, a sheet of the XLSX, or a file beside the CSV, which
        has no place for it: ``measures.csv.json``.

        Raises
        ------
        InputError
            If the suffix is another one, or openpyxl is missing.
        OutputError
            If the file can't be written; nothing half-written stays behind.
        """
        path = Path(path)
        suffix = check_table_path(path)
        with atomic_path(path) as temporary:
            if suffix == ".csv":
                self._write_csv(temporary)
            elif suffix == ".json":
                text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
                temporary.write_text(text + "\n", encoding="utf-8")
            else:
                self._write_xlsx(temporary)
        if suffix == ".csv":
            with atomic_path(path.with_name(f"{path.name}.json")) as temporary:
                text = json.dumps({"made": self.made, "notes": self.notes}, indent=2)
                temporary.write_text(text + "\n", encoding="utf-8")
        return path

    def _write_csv(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([column.heading for column in self.columns])
            writer.writerows(self.rows)

    def _write_xlsx(self, path: Path) -> None:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.styles import Font

        book = Workbook(write_only=True)
        sheet = book.create_sheet("measures")
        sheet.freeze_panes = "A2"
        headings = [WriteOnlyCell(sheet, column.heading) for column in self.columns]
        for cell in headings:
            cell.font = Font(bold=True)
        sheet.append(headings)
        for row in self.rows:
            sheet.append([_no_formula(sheet, cell) for cell in row])
        if self.notes:
            notes = book.create_sheet("notes")
            for note in self.notes:
                notes.append([_no_formula(notes, note)])
        made = book.create_sheet("made with")
        for key, value in _flat(self.made):
            made.append([_no_formula(made, key), _no_formula(made, value)])
        book.save(path)


def check_table_path(path: Path) -> str:
    """Return the file's suffix, in small letters, if a table can be written to it.

    Raises
    ------
    InputError
        If not, or if openpyxl is missing for .xlsx.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise InputError(f"can't write {path.name}: a table goes to {', '.join(TABLE_SUFFIXES)}")
    if suffix == ".xlsx":
        try:
            import openpyxl  # noqa: F401
        except ImportError as error:
            raise InputError(
                "XLSX needs openpyxl, which is not installed; write .csv, or "
                'pip install "napari-attention3d[xlsx]"'
            ) from error
    return suffix


def _flat(about: Any, key: str = "") -> Iterator[tuple[str, Cell]]:
    """Nested values as rows, their keys joined by spaces."""
    if isinstance(about, Mapping):
        for name, value in about.items():
            yield from _flat(value, f"{key} {name}".strip())
    elif about is None or isinstance(about, (int, float, str)):
        yield key, about
    else:
        yield key, json.dumps(about)


def _no_formula(sheet: Any, value: Cell) -> Any:
    """Text stays text in the sheet, even if it starts with "="."""
    from openpyxl.cell import WriteOnlyCell

    if not isinstance(value, str):
        return value
    cell = WriteOnlyCell(sheet, value)
    cell.data_type = "s"
    return cell
