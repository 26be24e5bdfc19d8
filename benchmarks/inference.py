"""The engine against MONAI's sliding window, nnU-Net's predictor and one single pass.

    python benchmarks/inference.py [--quick] [--json FILE] [--report]

Same trained network, same scan on disk, one process per measurement, one thread, rounds
interleaved. What a folder (``runs/inference/full``, ``quick``) holds already is not measured
again, but for what failed. ``--json`` writes medians per cell and the targets.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from engine.cell import measure, start
from engine.report import found_figures, report, targets, write
from engine.table import cells, compare

ROOT = Path(__file__).resolve().parents[1]


def read_book(book: Path) -> list[dict[str, Any]]:
    """Measurements that went well, the last of each; what failed is tried again."""
    lines = book.read_text().splitlines() if book.exists() else []
    rows = [json.loads(line) for line in lines]
    last = {(row["name"], row["round"]): row for row in rows}
    return [row for row in last.values() if "error" not in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small volumes, within 6 minutes")
    parser.add_argument("--json", type=Path, help="write every figure there")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "inference")
    parser.add_argument("--only", help="cells whose name holds this")
    parser.add_argument("--limit", type=float, default=1500, help="seconds for one measurement")
    parser.add_argument("--report", action="store_true", help="write the table to RESULTS.md")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.cell:
        out = arguments.out or arguments.work
        print(json.dumps(measure(json.loads(arguments.cell), arguments.work, out)))
        return
    work = arguments.work / ("quick" if arguments.quick else "full")
    work.mkdir(exist_ok=True)
    book = work / "cells.jsonl"
    known = read_book(book)
    done = {(row["name"], row["round"]) for row in known}
    for number, cell in cells(arguments.quick):
        if (cell["name"], number) in done or (
            arguments.only and arguments.only not in cell["name"]
        ):
            continue
        found = start(cell, arguments.work, arguments.limit, work)
        row = {"name": cell["name"], "round": number, **found, **compare(cell, work)}
        known.append(row)
        with book.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    print(report(known, arguments.quick))
    print(targets(known, arguments.quick))
    if arguments.json:
        figures = found_figures(known, arguments.quick)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.report and not arguments.quick:
        write(known, ROOT / "benchmarks")


if __name__ == "__main__":
    sys.exit(main())
