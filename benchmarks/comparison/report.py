"""Runs and timings as one JSON file and as Markdown tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .builders import GROUPS, TITLES

RUNS, TIMING = "runs.jsonl", "timing.json"


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Records of the finished runs in a folder."""
    path = folder / RUNS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    # A distance between a mask and nothing is NaN there, null in what is published.
    return [json.loads(line, parse_constant=lambda _: None) for line in lines if line.strip()]


def identity(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(run[key] for key in ("case", "network", "seed", "steps"))


def add_run(folder: Path, run: dict[str, Any]) -> None:
    """Append a record, in one write."""
    with open(folder / RUNS, "a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")


def _number(values: Sequence[float | None], digits: int) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    text = f"{statistics.mean(known):.{digits}f}"
    if len(known) > 1:
        text += f" ± {statistics.stdev(known):.{digits}f}"
    return text


def quality_table(runs: Iterable[dict[str, Any]], case: str, networks: Sequence[str]) -> list[str]:
    """Rows of a case: mean and standard deviation over the seeds."""
    chosen = [r for r in runs if r["case"] == case]
    groups = list(dict.fromkeys(g for r in chosen for g in r["scores"]))
    head = ["network", "seeds"]
    for group in groups:
        modes = _modes(chosen, group)
        head += [f"{group}: Dice" + (f", {m}" if len(modes) > 1 else "") for m in modes]
        head += ["HD95, mm", "ASSD, mm", "unmatched, %"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in networks:
        mine = [r for r in chosen if r["network"] == name]
        if not mine:
            continue
        row = [TITLES[name], str(len(mine))]
        for group in groups:
            for mode in _modes(chosen, group):
                row.append(_number([r["scores"][group][mode]["mean_dice"] for r in mine], 3))
            best = [r["scores"][group]["whole"] for r in mine]
            row += [_number([s["hd95"] for s in best], 1), _number([s["assd"] for s in best], 2)]
            row.append(_number([100 * s["unmatched"] for s in best], 0))
        lines.append("| " + " | ".join(row) + " |")
    return lines


def _modes(runs: Sequence[dict[str, Any]], group: str) -> list[str]:
    """Modes worth a column: one where the scan is as large as the patch."""
    same = all(r["scores"][group]["tiles"] == r["scores"][group]["whole"] for r in runs)
    return ["whole"] if same else ["tiles", "whole"]


def class_table(runs: Iterable[dict[str, Any]], case: str, networks: Sequence[str]) -> list[str]:
    """Dice of each class, whole scan in one pass, mean over seeds."""
    chosen = [r for r in runs if r["case"] == case]
    group = next(iter(chosen[0]["scores"]))
    classes = list(chosen[0]["scores"][group]["whole"]["dice"])
    lines = ["| " + " | ".join(["network", *classes]) + " |", "|---" * (len(classes) + 1) + "|"]
    for name in networks:
        mine = [r["scores"][group]["whole"]["dice"] for r in chosen if r["network"] == name]
        if mine:
            cells = [f"{statistics.mean(d[c] for d in mine):.3f}" for c in classes]
            lines.append("| " + " | ".join([TITLES[name], *cells]) + " |")
    return lines


def timing_table(timing: dict[str, Any]) -> list[str]:
    cases = list(timing["cases"])
    head = ["network", "parameters"]
    for case in cases:
        size = " x ".join(map(str, timing["cases"][case]["patch"]))
        head += [f"{case} ({size}): s per step", "peak MiB"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    key = "cpu_seconds" if timing["machine"]["device"] == "cpu" else "seconds"
    for name in timing["cases"][cases[0]]["networks"]:
        row = [TITLES[name], f"{timing['cases'][cases[0]]['networks'][name]['parameters']:,}"]
        for case in cases:
            found = timing["cases"][case]["networks"][name]
            row += [f"{found[key]:.3f}", f"{found['peak_mib']:.0f}"]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def markdown(runs: list[dict[str, Any]], timing: dict[str, Any] | None) -> str:
    """All tables."""
    lines: list[str] = []
    for case in dict.fromkeys(r["case"] for r in runs):
        steps = sorted({r["steps"] for r in runs if r["case"] == case})
        lines += [f"**{case}**, {', '.join(map(str, steps))} steps", ""]
        lines += [*quality_table(runs, case, GROUPS["all"]), ""]
        if len(next(r for r in runs if r["case"] == case)["scores"]) == 1:
            lines += [*class_table(runs, case, GROUPS["all"]), ""]
        if any(r["case"] == case and r["network"] == "guided-exact" for r in runs):
            lines += [*quality_table(runs, case, GROUPS["attention"]), ""]
    if timing is not None:
        lines += timing_table(timing)
    return "\n".join(lines)
