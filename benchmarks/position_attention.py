"""Position attention: every pair of voxels in a matrix, against the fused kernel.

    python benchmarks/position_attention.py [--sides 8,16,24] [--write]

Time, forward alone and forward with backward, measured A, B, A, B ...; peak memory above
the inputs, each in a process of its own. 8 key channels, 64 value channels, batch 1.
Error: largest difference from the same formula in float64, as a share of the largest
value, at logits whose standard deviation is 1. --write puts the table into
benchmarks/RESULTS.md and the figures into benchmarks/results/position_attention.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from comparison.measure import in_fresh_process, interleaved, machine, peak_mib
from comparison.report import update_section

from napari_attention3d.networks.self_attention import fused_attention
from napari_attention3d.volumes.atomic import atomic_path

KEYS, VALUES = 8, 64
HERE = Path(__file__).resolve().parent


def naive_attention(q, k, v):
    """softmax(q k^T) v with the whole N x N matrix."""
    return torch.softmax(q @ k.transpose(1, 2), dim=2) @ v


ABOUT = """\
`python benchmarks/position_attention.py --write`. {date}, {device}, {threads} thread, torch
{torch}. 8 key and 64 value channels; medians of interleaved calls (processor time on the CPU),
peak memory above the inputs in a fresh process, largest error against float64 as a share of
the largest value."""

WAYS = {"naive": naive_attention, "fused": fused_attention}
PASSES = ("forward", "forward and backward")


def tensors(side: int, device: torch.device):
    generator = torch.Generator().manual_seed(side)
    n = side**3
    # Products of KEYS channels then have a standard deviation of 1.
    q, k = (torch.randn((1, n, KEYS), generator=generator) / KEYS**0.25 for _ in range(2))
    v = torch.randn((1, n, VALUES), generator=generator)
    return [t.to(device).requires_grad_() for t in (q, k, v)]


def make_job(way: str, what: str, side: int, device: torch.device):
    q, k, v = tensors(side, device)

    def forward():
        with torch.no_grad():
            return WAYS[way](q, k, v)

    def both():
        return torch.autograd.grad(WAYS[way](q, k, v).sum(), (q, k, v))

    return forward if what == "forward" else both


def error(side: int, device: torch.device) -> dict[str, float]:
    """Of both ways against float64, over the first queries (a matrix of all is too large)."""
    q, k, v = (t.detach() for t in tensors(side, device))
    rows = min(512, q.shape[1])
    exact = naive_attention(q[:, :rows].double(), k.double(), v.double())
    return {
        name: float((way(q, k, v)[:, :rows].double() - exact).abs().max() / v.abs().max())
        for name, way in WAYS.items()
    }


def measure(sides: list[int], rounds: int, threads: int, device: torch.device):
    rows = []
    for side in sides:
        # A matrix of 24^3 voxels takes seconds: fewer rounds do.
        count = max(3, rounds if side <= 16 else rounds // 3)
        errors = error(side, device)
        for what in PASSES:
            jobs = {way: make_job(way, what, side, device) for way in WAYS}
            seconds = interleaved(jobs, count, device)
            for way in WAYS:
                options = ["--sides", str(side), "--threads", str(threads), "--device", str(device)]
                peak = in_fresh_process(__file__, ["--probe", f"{way}:{what}", *options])
                rows.append(
                    {"side": side, "pass": what, "way": way, "rounds": count}
                    | {**seconds[way], "peak_mib": peak, "largest_error": errors[way]}
                )
    return rows


def table(rows, key: str) -> list[str]:
    head = ["voxels", "pass"]
    head += [f"{way}, {unit}" for unit in ("s", "MiB", "error") for way in WAYS]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for naive, fused in zip(rows[::2], rows[1::2], strict=True):
        cells = [f"{naive['side']}^3", naive["pass"]]
        cells += [f"{r[key]:.4f}" for r in (naive, fused)]
        cells += [f"{r['peak_mib']:.0f}" for r in (naive, fused)]
        cells += [f"{r['largest_error']:.1e}" for r in (naive, fused)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", default="8,16,24")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="the first side, 3 rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    sides = [int(side) for side in arguments.sides.split(",")]
    if arguments.quick:
        sides, arguments.rounds = sides[:1], min(arguments.rounds, 3)
    if arguments.probe:
        way, what = arguments.probe.split(":")
        make_job(way, what, 4, device)()  # one-off costs of libraries are not the method's
        print(json.dumps(peak_mib(make_job(way, what, sides[0], device), device)))
        return
    rows = measure(sides, arguments.rounds, arguments.threads, device)
    lines = table(rows, "cpu_seconds" if device.type == "cpu" else "seconds")
    print("\n".join(lines))
    if arguments.write:
        about = machine(device)
        text = ABOUT.format(**about) + "\n\n" + "\n".join(lines)
        update_section(HERE / "RESULTS.md", "Position attention: matrix and fused kernel", text)
        (HERE / "results").mkdir(exist_ok=True)
        with atomic_path(HERE / "results" / "position_attention.json") as temporary:
            temporary.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
