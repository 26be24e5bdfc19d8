"""The engine's benchmark as tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comparison.measure import machine
from comparison.report import update_section

from napari_attention3d.volumes.atomic import atomic_path

from .table import cells

__all__ = ["found_figures", "report", "targets", "write"]

Row = dict[str, Any]
TITLE = "The engine"
COMMAND = "python benchmarks/inference.py --report"
TRIED = Path(__file__).with_name("tried.md")
MISSING = "not measured"
GROUPS = {
    "pilot": "MONAI's settings, 128^3, pilot: overlap in percent, batch",
    "headline": "Attention U-Net, 2 classes, {edge}^3",
    "large": "Attention U-Net, 2 classes, 256^3",
    "d02": "Attention U-Net, 2 classes, MNI152 T1 (197 x 233 x 189)",
    "more": "Precisions, compilers, nnU-Net, maps, a region; single runs",
    "14": "Attention U-Net, 14 classes, 192^3; single runs",
    "instance": "Instance norm, 192^3; single runs",
    "guided": "Guided network, tiles of 64, 128^3; single runs",
    "cheap": "One 1 x 1 x 1 convolution: the engine alone; single runs",
    "wide": "The same, 1024 x 512 x 512 on disk; single runs",
}
HEADLINE = {"single", "ours", "ours-small", "ours-plain", "single-plain"}
HEADLINE |= {"monai", "monai-tuned", "monai-25-tuned"}


class Figures:
    """Medians over the rounds of each cell.

    Parameters
    ----------
    known
        Rows of the book: "name", "round", then figures or "error".
    """

    def __init__(self, known: Sequence[Row]) -> None:
        self.rows: dict[str, list[Row]] = {}
        for row in known:
            self.rows.setdefault(row["name"], []).append(row)

    def error(self, name: str) -> str | None:
        """What went wrong, where no round of a cell went well."""
        rows = self.rows.get(name, [])
        if not rows or any("error" not in row for row in rows):
            return None
        return str(rows[0]["error"])

    def text(self, name: str, field: str) -> str:
        """A word of a cell (its plan, a note), or nothing."""
        return next((str(row[field]) for row in self.rows.get(name, []) if field in row), "")

    def get(self, name: str, field: str) -> float | None:
        """Median of a figure; the largest of mismatches; None where it was not measured."""
        found = [row[field] for row in self.rows.get(name, []) if row.get(field) is not None]
        if not found:
            return None
        return float(max(found) if field.startswith("mismatch") else statistics.median(found))

    def ratio(self, name: str, other: str, field: str = "cpu_s") -> float | None:
        """One cell's figure over another's."""
        a, b = self.get(name, field), self.get(other, field)
        return None if a is None or not b else a / b

    def rounds(self, name: str) -> int:
        """How often a cell went well."""
        return sum("error" not in row for row in self.rows.get(name, []))


def group_of(name: str) -> str:
    """Key of GROUPS under which a cell is shown."""
    if name.startswith("pilot"):
        return "pilot"
    for part in ("wide", "cheap", "guided", "instance"):
        if part in name:
            return part
    if "-14-" in name:
        return "14"
    who, _, end = name.rpartition("-")
    if who not in HEADLINE:
        return "more"
    return {"d02": "d02", "256": "large"}.get(end, "headline")


def reference_of(name: str) -> str:
    """The cell that a cell's time is told against, or nothing."""
    group, end = group_of(name), name.rpartition("-")[2]
    if group == "pilot" or name.startswith("ours-cheap-14-wide"):
        return ""
    if group in ("wide", "cheap"):
        middle = "14-" if "-14-" in name else ""
        size = next(s for s in ("128", "256", "512", "wide") if s in name)
        return f"monai-cheap-{middle}{size}"
    fixed = {"guided": "monai-guided-128", "14": "single-14-192", "instance": "single-instance-192"}
    return fixed.get(group, f"single-{end}")


def number(value: float | None, form: str = ".3g") -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def _line(figures: Figures, name: str) -> str:
    note = figures.text(name, "note")
    what = f"{name} ({note})" if note else name
    if name not in figures.rows:
        return f"| {what} | {MISSING} | | | | | | | |"
    error = figures.error(name)
    if error is not None:
        return f"| {what} | error: {error.replace('|', '/')} | | | | | | | |"
    against = reference_of(name)
    values = [
        figures.text(name, "plan"),
        number(figures.get(name, "cpu_s"), ".2f"),
        number(figures.get(name, "wall_s"), ".2f"),
        number(figures.get(name, "peak_mb"), ",.0f"),
        number(figures.ratio(name, against), ".2f"),
        number(figures.get(name, "mismatch"), ".1e"),
        number(figures.get(name, "mismatch_fg"), ".1e"),
        number(figures.get(name, "dice"), ".4f"),
    ]
    return f"| {what} | {' | '.join(values)} |"


def _table(figures: Figures, title: str, names: Sequence[str]) -> str:
    against = reference_of(names[0])
    who = "MONAI" if against.startswith("monai") else "single pass"
    head = ["what", "plan", "CPU s", "wall s", "peak MB above start"]
    head += [f"CPU against {who}", "mismatch per voxel", "per foreground voxel", "Dice"]
    rounds = max(figures.rounds(name) for name in names)
    if rounds > 1:
        title += f"; medians of {rounds} rounds"
    lines = [f"### {title}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(_line(figures, name) for name in names)])


def report(known: Sequence[Row], quick: bool) -> str:
    """Tables of all cells, by group.

    Parameters
    ----------
    known
        Rows of the book; may be incomplete.
    quick
        Whether they are of the quick run.

    Returns
    -------
    str
        Markdown. What was not measured, or went wrong, says so.
    """
    figures = Figures(known)
    names: dict[str, list[str]] = {}
    for _, cell in cells(quick):
        group = names.setdefault(group_of(cell["name"]), [])
        if cell["name"] not in group:
            group.append(cell["name"])
    edge = 128 if quick else 192
    tables = [
        _table(figures, title.format(edge=edge), names[group])
        for group, title in GROUPS.items()
        if group in names
    ]
    return "\n\n".join(tables) + "\n"


@dataclass(frozen=True)
class Target:
    """What was aimed at, what was found; `reached` is None where a cell is missing."""

    what: str
    target: str
    measured: str
    reached: bool | None


def _target(what: str, value: float | None, most: float, of: str, extra: str = "") -> Target:
    measured = f"{number(value)}{of}{extra}" if value is not None else MISSING
    reached = None if value is None else value <= most
    return Target(what, f"<= {most:,g}{of}", measured, reached)


def _faster(
    what: str, value: float | None, least: float, extra: str = "", well: bool = True
) -> Target:
    measured = f"{number(value)}x{extra}" if value is not None else MISSING
    reached = None if value is None else value >= least and well
    return Target(what, f">= {least:g}x", measured, reached)


def _quicker(figures: Figures, names: Sequence[str]) -> str:
    """Of those measured, the cell with the least CPU time; the first if none was."""
    times = {n: s for n in names if (s := figures.get(n, "cpu_s")) is not None}
    return min(times, key=lambda n: times[n], default=names[0])


def _network(figures: Figures, small: str, large: str) -> Iterator[Target]:
    """Attention U-Net against one pass and MONAI, in float32 and as fast as it goes."""
    get, ratio = figures.get, figures.ratio
    mismatch = get(f"ours-{small}", "mismatch")
    yield _target(
        f"exact float32 against one warm whole pass, {small}^3: CPU time",
        ratio(f"ours-{small}", f"single-{small}"), 1.15, "x", f"; mismatch {number(mismatch)}",
    )  # fmt: skip
    name, single = f"ours-small-{small}", f"single-{small}"
    yield _target("the same, smallest plan: peak memory", ratio(name, single, "peak_mb"), 0.5, "x")
    yield _target("the same, smallest plan: CPU time", ratio(name, single), 1.6, "x")
    ours = f"ours-{large}"
    mismatch = get(ours, "mismatch")
    equal = mismatch is not None and mismatch <= 1e-6
    rivals = [
        (_quicker(figures, [f"{name}-{large}" for name in names]), who)
        for names, who in (
            (("monai-tuned", "monai-2-tuned"), "tuned"),
            (("monai", "monai-2"), "as it comes"),
        )
    ]
    for (rival, who), least in zip(rivals, (4, 8), strict=True):
        yield _faster(
            f"exact float32 against MONAI {who}, {large}^3: CPU time",
            ratio(rival, ours), least, f" ({rival}); mismatch {number(mismatch)}", equal,
        )  # fmt: skip
    best = _quicker(figures, [ours, f"ours-bf16-{large}"])
    mismatch = get(best, "mismatch")
    dice, truth = get(best, "dice"), get(f"single-{large}", "dice")
    near = dice is not None and truth is not None and abs(dice - truth) <= 1e-3
    close = near and mismatch is not None and mismatch <= 2e-4
    for (rival, who), least in zip(rivals, (10, 20), strict=True):
        yield _faster(
            f"fast path against MONAI {who}, {large}^3: CPU time",
            ratio(rival, best), least,
            f" ({best}); mismatch {number(mismatch)}, Dice {number(dice, '.4f')}", close,
        )  # fmt: skip
    yield _target("attention maps on: CPU time", ratio(f"ours-maps-{large}", ours), 1.1, "x")
    yield _target("32^3 again in a scan: CPU time", ratio(f"ours-region-{large}", ours), 0.125, "x")


def _engine(figures: Figures) -> Iterator[Target]:
    """Planned tiles, and the engine alone."""
    get, ratio, wide = figures.get, figures.ratio, "1024 x 512 x 512, cheap network"
    for name, text, least in (("ours", "float32", 1.3), ("ours-fast", "fast", 2.5)):
        yield _faster(
            f"guided network, {text}, against MONAI with the same tiles: CPU time",
            ratio("monai-guided-128", f"{name}-guided-128"), least,
        )  # fmt: skip
    yield _target(
        "256^3, 14 classes, blended tiles, cheap network: peak memory against MONAI",
        ratio("ours-cheap-14-256-tiles", "monai-cheap-14-256", "peak_mb"), 0.4, "x",
    )  # fmt: skip
    yield _faster(
        f"{wide}: throughput against MONAI (wall time)",
        ratio("monai-cheap-wide", "ours-cheap-wide", "wall_s"), 4,
    )  # fmt: skip
    yield _target(
        f"{wide}: peak memory against MONAI",
        ratio("ours-cheap-wide", "monai-cheap-wide", "peak_mb"), 0.15, "x",
    )  # fmt: skip
    yield _target(f"{wide}, 2 classes: peak memory", get("ours-cheap-wide", "peak_mb"), 600, " MB")
    yield _target(
        f"{wide}, 14 classes: peak memory", get("ours-cheap-14-wide", "peak_mb"), 2000, " MB"
    )


def found_targets(known: Sequence[Row], quick: bool) -> list[Target]:
    """Every target of the benchmark with what was measured."""
    figures = Figures(known)
    sizes = ("128", "128") if quick else ("192", "256")
    return [*_network(figures, *sizes), *_engine(figures)]


def targets(known: Sequence[Row], quick: bool) -> str:
    """Table of the targets.

    Parameters
    ----------
    known
        Rows of the book; may be incomplete.
    quick
        Whether they are of the quick run.

    Returns
    -------
    str
        Markdown: what, target, measured, reached (yes, no, or a dash if a cell is missing).
    """
    lines = ["| what | target | measured | reached |", "|---|---|---|---|"]
    for t in found_targets(known, quick):
        reached = "-" if t.reached is None else "yes" if t.reached else "no"
        lines.append(f"| {t.what} | {t.target} | {t.measured} | {reached} |")
    return "\n".join(lines) + "\n"


def _about(where: dict[str, Any]) -> str:
    return (
        f"`{COMMAND}`. {where['date']}, {where['cpu']}, 1 thread, torch {where['torch']}. Same\n"
        "trained network, same scan on disk; each row is a process of its own. CPU seconds are\n"
        "the figure that counts: others worked on this machine, which wall seconds show.\n"
        '"Tuned" and "ours": an allocator that keeps large buffers; "plain": as it comes;\n'
        '"small": the smallest plan. MONAI: gaussian, tiles of 96, overlap 0.5 ("25": 0.25),\n'
        'batch 1 ("2": 2); in the targets, the quicker of both batches. A row with "older\n'
        'labels step" or "earlier engine" is of an earlier run and was not measured again.\n'
        "Peak memory is above the process with the network loaded; where a row is warm, its\n"
        "time is that of a second run. Mismatch: labels unlike the single pass's (guided and\n"
        "cheap: unlike MONAI's; region: unlike the full run's)."
    )


def found_figures(known: Sequence[Row], quick: bool) -> Row:
    """Every figure of the tables under a stable name: medians per cell, and the targets.

    Parameters
    ----------
    known
        Rows of the book; may be incomplete.
    quick
        Whether they are of the quick run.
    """
    figures = Figures(known)
    fields = ("cpu_s", "wall_s", "peak_mb", "mismatch", "mismatch_fg", "dice")
    cells_found: dict[str, Row] = {}
    for name, rows in figures.rows.items():
        values: Row = {f: v for f in fields if (v := figures.get(name, f)) is not None}
        texts = {f: figures.text(name, f) for f in ("plan", "note") if figures.text(name, f)}
        cells_found[name] = {"rounds": len(rows)} | values | texts
        if (error := figures.error(name)) is not None:
            cells_found[name]["error"] = error
    return {
        "machine": machine(torch.device("cpu")) | {"threads": 1},
        "quick": quick,
        "targets": [vars(t) for t in found_targets(known, quick)],
        "cells": cells_found,
    }


def write(known: Sequence[Row], folder: Path) -> None:
    """Put the section into RESULTS.md and the figures into results/inference.json.

    Parameters
    ----------
    known
        Rows of the full run's book.
    folder
        Holds RESULTS.md and results.

    Raises
    ------
    OutputError
        If a file can't be written.
    """
    whole = found_figures(known, quick=False)
    where = whole["machine"]
    text = [_about(where), "### Targets", targets(known, quick=False)]
    text += [report(known, quick=False), "### What was tried", TRIED.read_text(encoding="utf-8")]
    update_section(folder / "RESULTS.md", TITLE, "\n\n".join(part.strip() for part in text))
    (folder / "results").mkdir(exist_ok=True)
    with atomic_path(folder / "results" / "inference.json") as temporary:
        temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
