"""Tables and curves of the correction benchmark."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["network_table", "plot", "table"]

POINTS = (2, 8, 12, 13, 22, 32, 49, 89)
TIMES = ("largest loss in a round", "round s", "CPU s", "first change s")


def table(book: Any) -> str:
    """Dice after so many strokes: median over the seeds, and each seed's."""
    lines = []
    for case in _unique(0, book):
        counts = sorted({r["strokes"] for run in _runs(book, case) for r in run["rows"]})
        shown = [n for n in counts if n in POINTS or n in (counts[0], counts[-1])]
        columns = ["method", *map(str, shown), *TIMES]
        lines += [
            f"\n**{case}** (Dice: median (each seed) at a number of strokes)\n",
            "| " + " | ".join(columns) + " |",
            "|" + "---|" * len(columns),
        ]
        for method in _unique(1, book):
            runs = _runs(book, case, method)
            if runs:
                lines.append(f"| {method} | " + " | ".join(_cells(runs, shown)) + " |")
    return "\n".join(lines)


def _cells(runs: list[Any], counts: list[int]) -> list[str]:
    cells = []
    for n in counts:
        values = [_at(run, n) for run in runs]
        known = [v for v in values if v is not None]
        each = " ".join(f"{v:.3f}" for v in known)
        cells.append(f"{np.median(known):.3f} ({each})" if known else "")
    worst = [_worst_loss(run) for run in runs]
    seconds = [r["seconds"] for run in runs for r in run["rows"] if r["strokes"]]
    cpu = [r["cpu"] for run in runs for r in run["rows"] if r.get("cpu")]
    first = [r["first_change"] for run in runs for r in run["rows"] if r.get("first_change")]
    cells.append(" ".join(f"{w:.3f}" for w in worst))
    cells.append(f"{np.median(seconds):.1f}")
    cells.append(f"{np.median(cpu):.1f}" if cpu else "")
    cells.append(f"{np.median(first):.1f}" if first else "")
    return cells


def _at(run: Any, strokes: int) -> float | None:
    """Dice at the last round with at most so many strokes (and not long before)."""
    rows = [r for r in run["rows"] if strokes - 4 < r["strokes"] <= strokes]
    return float(rows[-1]["dice"]) if rows else None


def _worst_loss(run: Any) -> float:
    dice = [r["dice"] for r in run["rows"]]
    return max([0.0, *(a - b for a, b in pairwise(dice))])


def network_table(book: Any) -> str:
    """What training the network did after the last quick round, with and without keeping."""
    lines = [
        "| case, seed | strokes | start | quick rounds | keep | network alone | with quick round "
        "| network forgot | round forgot | steps | s | CPU s |",
        "|" + "---|" * 12,
    ]
    for key, run in book["runs"].items():
        for one in run.get("network", []):
            case, _, seed = key.rsplit("/", 2)
            start = f"{one['start']:.3f}" if one["start"] != one["before"] else ""
            lines.append(
                f"| {case}, {seed} | {one['strokes']} | {start} | {one['before']:.3f} "
                f"| {one['keep']:g} | {one['network']:.3f} | {one['round']:.3f} "
                f"| {one['network_forgot']:.1%} | {one['round_forgot']:.1%} "
                f"| {one['steps']} | {one['seconds']:.0f} | {one['cpu']:.0f} |"
            )
    return "\n".join(lines) if len(lines) > 2 else ""


def plot(book: Any, path: Path) -> None:
    """Dice against strokes and against seconds, a row per case."""
    from matplotlib.figure import Figure

    cases = _unique(0, book)
    figure = Figure(figsize=(7, 2.6 * len(cases)), layout="constrained")
    axes = figure.subplots(len(cases), 2, squeeze=False, sharey="row")
    colours = {"loop": "#0072b2", "forest": "#d55e00"}
    for row, case in zip(axes, cases, strict=True):
        for method in _unique(1, book):
            for i, run in enumerate(_runs(book, case, method)):
                style = {"color": colours.get(method, "#009e73"), "lw": 1.2, "alpha": 0.8}
                label = method if i == 0 else None
                dice = [r["dice"] for r in run["rows"]]
                row[0].plot([r["strokes"] for r in run["rows"]], dice, label=label, **style)
                row[1].plot([r["clock"] for r in run["rows"]], dice, **style)
        row[0].set(ylabel=f"{case}: mean Dice", xlabel="strokes", ylim=(0, 1))
        row[1].set(xlabel="seconds of computing")
        row[0].legend(frameon=False)
    figure.savefig(path, dpi=90)


def _unique(part: int, book: Any) -> list[str]:
    return list(dict.fromkeys(key.rsplit("/", 2)[part] for key in book["runs"]))


def _runs(book: Any, case: str, method: str | None = None) -> list[Any]:
    start = f"{case}/" if method is None else f"{case}/{method}/"
    return [run for key, run in book["runs"].items() if key.startswith(start) and run["rows"]]
