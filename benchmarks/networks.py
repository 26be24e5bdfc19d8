"""Networks side by side: same data, steps, seed, patches, optimiser and loss.

    python benchmarks/networks.py --out FOLDER [--cases d04] [--networks all] [--seeds 3]
    python benchmarks/networks.py --timing [--out FOLDER]
    python benchmarks/networks.py --report --out FOLDER

d01: CT, labels of every 6th slice to train on, scored on slices at least 2 away. d04: one
end of a spinal cord, scored on the other end and on another contrast (d05). synthetic:
brains drawn from 15 label maps, scored on two that were held back. With --out each run
(case, network, seed) is trained, scored and appended to FOLDER/runs.jsonl; those that are
there are skipped. --timing measures seconds per step (interleaved) and peak memory of
training (each in a fresh process), and is all that happens without --out. --report writes
what is in FOLDER to benchmarks/RESULTS.md and benchmarks/results/networks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from comparison.builders import BUILDERS, GROUPS, build, parameter_count
from comparison.cases import CASES, SEEDS, SHAPES
from comparison.measure import in_fresh_process, interleaved, machine, peak_mib
from comparison.report import (
    TIMING,
    add_run,
    identity,
    markdown,
    read_runs,
    timing_table,
    update_section,
)
from comparison.training import Trainer, run

from napari_attention3d.volumes.atomic import atomic_path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "networks.json"


def random_batch(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    patch, classes = SHAPES[case]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((1, 1, *patch), generator=generator)
    return images, torch.randint(classes, (1, *patch), generator=generator)


def make_step(name: str, case: str, device: torch.device):
    """A training step of a fresh network on a random batch."""
    torch.manual_seed(0)
    trainer = Trainer(build(name, SHAPES[case][1]), None, None, device)
    images, labels = random_batch(case)
    return lambda: trainer.step(images, labels)


def probe(name: str, case: str, device: torch.device) -> None:
    """Print the peak memory of two training steps; runs in a process of its own."""
    step = make_step(name, case, device)
    print(json.dumps(peak_mib(lambda: [step() for _ in range(2)], device)))


def timing_pass(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {"machine": machine(device), "rounds": arguments.rounds, "cases": {}}
    for case in arguments.cases:
        steps = {name: make_step(name, case, device) for name in arguments.networks}
        seconds = interleaved(steps, arguments.rounds, device)
        rows = {}
        for name in arguments.networks:
            options = ["--threads", str(arguments.threads), "--device", str(device)]
            peak = in_fresh_process(__file__, ["--probe", name, "--cases", case, *options])
            count = parameter_count(build(name, SHAPES[case][1]))
            rows[name] = {"parameters": count, **seconds[name], "peak_mib": peak}
        found["cases"][case] = {"patch": list(SHAPES[case][0]), "networks": rows}
    return found


def quality_pass(arguments: argparse.Namespace, device: torch.device) -> None:
    data = Path(arguments.data)
    if not data.is_dir():
        print(f"skipped: no data in {data}; give the folder with --data")
        return
    arguments.out.mkdir(parents=True, exist_ok=True)

    def is_done(case: str, name: str, seed: int) -> bool:
        key = (case, name, seed, arguments.steps)
        return key in {identity(r) for r in read_runs(arguments.out)}

    for case_name in arguments.cases:
        for seed in range(arguments.seeds or SEEDS[case_name]):
            case = None
            for name in arguments.networks:
                if is_done(case_name, name, seed):  # perhaps meanwhile, by another process
                    continue
                case = case or CASES[case_name](data, seed)
                began = time.monotonic()
                for step, record in run(case, name, seed, arguments.steps, device):
                    if step % 100 == 0 and record is None:
                        spent = time.monotonic() - began
                        print(f"{case_name} {name} seed {seed}: {step}, {spent:.0f} s", flush=True)
                    if record is not None:
                        add_run(arguments.out, record | {"machine": machine(device)})
                        scores = {g: s["whole"]["mean_dice"] for g, s in record["scores"].items()}
                        print(f"  Dice {scores}", flush=True)


def report(arguments: argparse.Namespace) -> None:
    runs = read_runs(arguments.out)
    path = arguments.out / TIMING
    timing = json.loads(path.read_text()) if path.exists() else None
    runs.sort(key=lambda r: (list(CASES).index(r["case"]), list(BUILDERS).index(r["network"])))
    text = markdown(runs, timing)
    print(text)
    update_section(HERE / "RESULTS.md", "Networks side by side", text)
    RESULTS.parent.mkdir(exist_ok=True)
    with atomic_path(RESULTS) as temporary:
        temporary.write_text(json.dumps({"runs": runs, "timing": timing}, indent=1) + "\n")


def _names(text: str, groups: dict[str, list[str]], known: list[str]) -> list[str]:
    names = [n for part in text.split(",") for n in groups.get(part, [part])]
    for name in names:
        if name not in known:
            raise SystemExit(f"{name!r} is not known; use {', '.join([*groups, *known])}")
    return list(dict.fromkeys(names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("NA3D_SHARED_DATA", HERE.parents[1] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(shared), help="folder of the scans")
    parser.add_argument("--out", type=Path, help="folder of the runs; made if missing")
    parser.add_argument("--cases", default="all", help="comma-separated; " + ", ".join(CASES))
    parser.add_argument("--networks", default="all", help="or attention, or names with commas")
    parser.add_argument("--seeds", type=int, help="runs per network; default 3, synthetic 1")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7, help="of the timing")
    parser.add_argument("--quick", action="store_true", help="one round of one case and network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--timing", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.cases = _names(arguments.cases, {"all": list(CASES)}, list(CASES))
    arguments.networks = _names(arguments.networks, GROUPS, list(BUILDERS))
    if arguments.quick:
        arguments.cases, arguments.networks = arguments.cases[:1], arguments.networks[:1]
        arguments.rounds, arguments.seeds = 1, arguments.seeds or 1
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.probe:
        probe(arguments.probe, arguments.cases[0], device)
    elif arguments.report:
        if arguments.out is None:
            sys.exit("--report needs --out, the folder of the runs")
        report(arguments)
    elif arguments.timing or arguments.out is None:
        found = timing_pass(arguments, device)
        print("\n".join(timing_table(found)))
        if arguments.out is None:
            print("Give --out FOLDER to train and score as well (about an hour of one core).")
        else:
            arguments.out.mkdir(parents=True, exist_ok=True)
            with atomic_path(arguments.out / TIMING) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n")
    else:
        quality_pass(arguments, device)


if __name__ == "__main__":
    main()
