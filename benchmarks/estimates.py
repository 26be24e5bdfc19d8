"""What a forward pass was predicted to cost, and what it took.

    python benchmarks/estimates.py [--cases NAMES] [--threads 1] [--write]

Each case runs in a process of its own: peak memory of one pass that measures the scan's
statistics, above what the process held before, beside `estimate_forward`; seconds of
another such pass, and of one as later tiles take, beside the operations divided by the
speed that `Rates.probe` found with a small tile, both of processor time, which other
programs disturb less. Another network runs first: what libraries take once is not the tile's.
--write puts the table into benchmarks/RESULTS.md and the rows into benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comparison.measure import in_forked_process, machine, peak_mib
from comparison.report import update_section

from napari_attention3d.inference.device import Precision
from napari_attention3d.inference.estimate import Rates, estimate_forward
from napari_attention3d.networks import build_network, calibrating
from napari_attention3d.volumes.atomic import atomic_path

HERE = Path(__file__).resolve().parent
ABOUT = """\
`python benchmarks/estimates.py --write`. {date}, {device}, {threads} thread, torch {torch}.
What `estimate_forward` and `Rates.probe` told about one pass, and what it took in a process
of its own: peak memory above the process before it, seconds of processor time. The probe runs
tiles of 64 voxels along each axis, smaller ones for large networks."""
CLASSES = 8
SMALL, BASE, LARGE = {"preset": "small"}, {"preset": "base"}, {"preset": "large"}
SHIPPED = {"widths": [32, 64, 128, 256], "features": 16, "kv_pool": 2}

Case = tuple[str, dict[str, Any], tuple[int, int, int], str]
CASES: dict[str, Case] = {
    "unet small 32": ("attention-unet", SMALL, (32, 32, 32), "float32"),
    "unet small 64": ("attention-unet", SMALL, (64, 64, 64), "float32"),
    "unet small 96": ("attention-unet", SMALL, (96, 96, 96), "float32"),
    "unet small flat": ("attention-unet", SMALL, (24, 128, 96), "float32"),
    "unet small 96 half": ("attention-unet", SMALL, (96, 96, 96), "bfloat16"),
    "unet base 32": ("attention-unet", BASE, (32, 32, 32), "float32"),
    "unet base 64": ("attention-unet", BASE, (64, 64, 64), "float32"),
    "unet base flat": ("attention-unet", BASE, (40, 96, 72), "float32"),
    "unet base 64 half": ("attention-unet", BASE, (64, 64, 64), "bfloat16"),
    "unet large 32": ("attention-unet", LARGE, (32, 32, 32), "float32"),
    "unet large 64": ("attention-unet", LARGE, (64, 64, 64), "float32"),
    "additive base 64": ("additive-attention-unet", BASE, (64, 64, 64), "float32"),
    "additive base 96": ("additive-attention-unet", BASE, (96, 64, 80), "float32"),
    "guided small 32": ("guided-attention", SMALL, (32, 32, 32), "float32"),
    "guided small 64": ("guided-attention", SMALL, (64, 64, 64), "float32"),
    "guided small 96": ("guided-attention", SMALL, (96, 96, 96), "float32"),
    "guided small odd": ("guided-attention", SMALL, (33, 75, 90), "float32"),
    "guided small 96 half": ("guided-attention", SMALL, (96, 96, 96), "bfloat16"),
    "guided wide flat": ("guided-attention", SHIPPED, (80, 96, 80), "float32"),
    "guided base 32": ("guided-attention", BASE, (32, 32, 32), "float32"),
    "guided base 64": ("guided-attention", BASE, (64, 64, 64), "float32"),
    "guided windows 96": (
        "guided-attention",
        {**SMALL, "kv_pool": 1, "window": 8},
        (96,) * 3,
        "float32",
    ),
    "unet small 64 half": ("attention-unet", SMALL, (64, 64, 64), "bfloat16"),
    "guided windows 64": (
        "guided-attention",
        {**SMALL, "kv_pool": 1, "window": 8},
        (64,) * 3,
        "float32",
    ),
    "guided windows 64 half": (
        "guided-attention",
        {**SMALL, "kv_pool": 1, "window": 8},
        (64,) * 3,
        "bfloat16",
    ),
    "guided exact 64 half": ("guided-attention", {**SMALL, "kv_pool": 1}, (64,) * 3, "bfloat16"),
    "additive base 64 half": ("additive-attention-unet", BASE, (64, 64, 64), "bfloat16"),
    "guided large 64": ("guided-attention", LARGE, (64, 64, 64), "float32"),
    "guided paper 64": ("guided-attention", {"preset": "paper"}, (64, 64, 64), "float32"),
}


def probe(case: Case) -> dict[str, float]:
    """Measure one case; in a process of its own."""
    name, config, tile, precision_name = case
    device, precision = torch.device("cpu"), Precision(precision_name, "")
    network = build_network(name, num_classes=CLASSES, **config).eval()

    def forward(size: tuple[int, int, int], measuring: bool = True) -> None:
        x = torch.zeros((1, network.in_channels, *size))
        mode = calibrating(network) if measuring else nullcontext()
        with torch.inference_mode(), mode, precision.context(device):
            network(x)

    with torch.inference_mode():
        build_network("attention-unet", channels=(4, 8))(torch.zeros((1, 1, 16, 16, 16)))
    peak = peak_mib(lambda: forward(tile), device)
    began = time.process_time()
    cost = estimate_forward(network, tile, precision=precision)
    needed = time.process_time() - began
    rates = Rates(time.process_time)
    rates.probe(network, device, precision)
    seconds = {}
    for name, measuring in (("seconds", True), ("later_seconds", False)):
        began = time.process_time()
        forward(tile, measuring)
        seconds[name] = time.process_time() - began
        rate = rates.known(network, device, precision, measuring=measuring)
        seconds["predicted_" + name] = cost.flops / rate
    return {
        "peak_mib": peak,
        "predicted_mib": cost.bytes / 2**20,
        **seconds,
        "estimate_seconds": needed,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    heads = ["case", "tile", "precision"]
    for unit in ("MiB", "s, with statistics", "s, later tiles"):
        heads += [unit, "predicted", "ratio"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["case"], " x ".join(map(str, row["tile"])), row["precision"]]
        for key, style in (("mib", ".0f"), ("seconds", ".2f"), ("later_seconds", ".2f")):
            real = row["peak_mib" if key == "mib" else key]
            predicted = row[f"predicted_{key}"]
            cells += [f"{real:{style}}", f"{predicted:{style}}", f"{predicted / real:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def summary(rows: list[dict[str, Any]]) -> str:
    """Say how far off the predictions are, and which miss."""
    parts = []
    for what, key in (
        ("memory", "peak_mib"),
        ("time with statistics", "seconds"),
        ("time of later tiles", "later_seconds"),
    ):
        predicted = "predicted_mib" if key == "peak_mib" else f"predicted_{key}"
        ratios = {row["case"]: row[predicted] / row[key] for row in rows}
        missed = [name for name, ratio in ratios.items() if abs(ratio - 1) > 0.25]
        text = f"{what}: {len(rows) - len(missed)} of {len(rows)} within 25 % "
        text += f"({min(ratios.values()):.2f} to {max(ratios.values()):.2f})"
        parts.append(text + (f", not {', '.join(missed)}" if missed else ""))
    return "Predicted / real, " + "; ".join(parts) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="all", help="names, separated by commas, or all")
    parser.add_argument("--quick", action="store_true", help="the first case alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = list(CASES) if arguments.cases == "all" else arguments.cases.split(",")
    names = names[:1] if arguments.quick else names
    rows: list[dict[str, Any]] = []
    for name in names:
        _, _, tile, precision = CASES[name]
        about = {"case": name, "tile": tile, "precision": precision}
        rows.append(about | in_forked_process(partial(probe, CASES[name])))
        print(json.dumps(rows[-1]), flush=True)
    lines = [*table(rows), "", summary(rows)]
    print("\n".join(lines))
    if arguments.write:
        about = machine(torch.device("cpu"))
        text = ABOUT.format(**about) + "\n\n" + "\n".join(lines)
        update_section(HERE / "RESULTS.md", "Predicted and real cost of a pass", text)
        (HERE / "results").mkdir(exist_ok=True)
        with atomic_path(HERE / "results" / "estimates.json") as temporary:
            temporary.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
