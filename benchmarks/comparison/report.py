"""Runs and timings as one JSON file and as Markdown tables."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from napari_attention3d.volumes.atomic import atomic_path

from .builders import GROUPS, TITLES

RUNS, TIMING = "runs.jsonl", "timing.json"


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Records of the finished runs in a folder."""
    path = folder / RUNS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    # A distance between a mask and nothing is NaN there, null in what is published.
    runs = [json.loads(line, parse_constant=lambda _: None) for line in lines if line.strip()]
    # Two processes may have done the same: the first counts.
    return list({identity(run): run for run in reversed(runs)}.values())[::-1]


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


METHOD = """\
Training: same patches in the same order, seed, loss (Dice + cross-entropy, ours with its side
losses), AdamW at 1e-3 with a cosine, batch 1, fp32, no averaging of weights. "tiles": windows
of the patch's size, half overlapping; "whole": the scan in one pass, to which the distances
belong. Distances are means over classes, within slices (whole brains: in 3D), where a
structure is both predicted and true; "unmatched" counts where only one of them is. Mean and
standard deviation over seeds."""

ABOUT = {
    "d04": "one end of a spinal cord in T2w MRI (37 slices) to train on; scored on its other "
    "end, 4 slices further, and on a T1w scan (d05), a contrast never seen",
    "d01": "CT of the upper abdomen, labels on every 6th slice to train on; scored on the "
    "slices at least 2 away from these",
    "synthetic": "brains drawn at 5 mm from 15 label maps to train on; scored on 8 draws from "
    "the two maps held back",
}


def markdown(runs: list[dict[str, Any]], timing: dict[str, Any] | None) -> str:
    """All tables, with what they show."""
    lines: list[str] = []
    if runs:
        dates = sorted({r["machine"]["date"] for r in runs})
        devices = sorted(
            {f"{r['machine']['threads']} thread, {r['machine']['device']}" for r in runs}
        )
        lines += [
            f"`python benchmarks/networks.py --out FOLDER`. {' to '.join(dates)}, "
            f"{'; '.join(devices)}.",
            "",
            METHOD,
            "",
        ]
    for case in dict.fromkeys(r["case"] for r in runs):
        mine = [r for r in runs if r["case"] == case]
        steps = ", ".join(map(str, sorted({r["steps"] for r in mine})))
        patch = " x ".join(map(str, mine[0]["patch"]))
        lines += [f"### {case}", "", f"{ABOUT[case]}. {steps} steps, patches of {patch}.", ""]
        lines += [*quality_table(runs, case, GROUPS["all"]), ""]
        if len(mine[0]["scores"]) == 1:
            lines += ["Dice of each class, whole:", ""]
            lines += [*class_table(runs, case, GROUPS["all"]), ""]
        if any(r["network"] in GROUPS["attention"][:1] for r in mine):
            lines += ["What position attention loses after training when it sees less:", ""]
            lines += [*quality_table(runs, case, GROUPS["attention"]), ""]
    if timing is not None:
        m = timing["machine"]
        lines += ["### Cost of training", "", TIMED.format(**m), "", *timing_table(timing), ""]
    return "\n".join(lines).rstrip() + "\n"


TIMED = """\
`python benchmarks/networks.py --timing --out FOLDER`. {date}, {device}, {threads} thread,
torch {torch}. Median of interleaved steps, of processor time on the CPU; most memory that two
steps took above the process before them, each network in a fresh process."""


def update_section(path: Path, title: str, text: str) -> None:
    """Replace a section (## title) of a Markdown file, or add it at the end."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    section = f"## {title}\n\n{text.strip()}\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if pattern.search(old):
        new = pattern.sub(lambda match: section + ("\n" if match.end() < len(old) else ""), old)
    else:
        new = old.rstrip() + "\n\n" + section
    with atomic_path(path) as temporary:
        temporary.write_text(new, encoding="utf-8")
