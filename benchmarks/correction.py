"""Correct a mask with a simulated person: how good after how many strokes and seconds.

    python benchmarks/correction.py --shared ../shared/data --json out.json
    python benchmarks/correction.py --image scan.nii.gz --label truth.nii.gz [--model NAME]

The person (`annotator`) sees the truth and paints short strokes in the largest wrong
blobs; the loop sees the strokes alone. It starts with one stroke per class, then 2 per
round, or 4 where there are more than two classes. Beside it runs a random forest on fixed
features with the position, as one would write it with scikit-learn, with its own strokes.
Rows that are in the JSON file already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from annotator.forest import PlainForest
from annotator.measure import mean_dice
from annotator.network import train_network
from annotator.report import network_table, plot, table
from annotator.strokes import Stroke, correct, first_strokes

from napari_attention3d import Volume, load_model, read_volume, segment
from napari_attention3d.correction.encoding import background_value
from napari_attention3d.correction.learn import Learned, Patch
from napari_attention3d.correction.session import CorrectionSession
from napari_attention3d.models.store import Model
from napari_attention3d.progress import finish


@dataclass(frozen=True)
class Case:
    """Files, and the model whose mask is corrected; None: from nothing.

    `merge` gives the truth's class of each of the model's, where it has others.
    """

    image: Path
    label: Path
    model: str | None = None
    merge: tuple[int, ...] = ()


CASES = {
    "d01": Case(Path("d01_ct_abdomen/image.nii.gz"), Path("d01_ct_abdomen/label.nii.gz")),
    "d03": Case(Path("d03_nuclei_ovule1135/image.tif"), Path("d03_nuclei_ovule1135/label.tif")),
    "d04": Case(Path("d04_mr_cord_t2/image.nii.gz"), Path("d04_mr_cord_t2/label.nii.gz")),
    # the truth knows three tissues, the model seven: parts of one tissue are joined
    "d02": Case(
        Path("d02_mr_brain_mni152/image.nii.gz"),
        Path("d02_mr_brain_mni152/label.nii.gz"),
        "brain-attention-unet",
        (0, 1, 2, 3, 2, 2, 3, 2),
    ),
}
Start = tuple[Model, Any, list[str]]
"""A model, its probabilities (K, Z, Y, X) in the truth's classes, and their names."""
BUDGET = {2: 32, 9: 89}
"""Strokes by number of classes; 10 per class otherwise."""


class Loop:
    """The package's own loop, without a window."""

    def __init__(self, scan: Volume, classes: int, threads: int, start: Start | None) -> None:
        self.first_change = 0.0
        model, shares, names = start or (None, None, [f"class {i}" for i in range(classes)])
        self.session = CorrectionSession(
            scan, names, probabilities=shares, model=model, threads=threads
        )
        self.seen = 0
        self.background = background_value(self.session.corrections.dtype)
        begin = time.perf_counter()
        finish(self.session.prepare_job())
        self.preparing = time.perf_counter() - begin
        self.starts_with_mask = start is not None

    def start(self) -> Any:
        return self.session.labels

    def __call__(self, strokes: list[Stroke]) -> Any:
        for voxels, value in strokes[self.seen :]:
            self.session.add_stroke(voxels, value if value else self.background)
        self.seen = len(strokes)
        begin = time.perf_counter()
        self.first_change = 0.0

        def look(step: Any) -> None:
            if isinstance(step.partial, Patch) and not self.first_change:
                self.first_change = time.perf_counter() - begin

        learned: Learned = finish(self.session.learn_job(), look)
        self.session.apply(learned)
        return self.session.labels


def play(
    method: Any, truth: Any, seed: int, budget: int, note: Callable[[dict[str, Any]], None]
) -> None:
    """One person with one method; `note` gets a row per round."""
    rng = np.random.default_rng(seed)
    classes = int(truth.max()) + 1
    per_round = 2 if classes == 2 else 4
    strokes: list[Stroke] = []
    clock = 0.0
    if getattr(method, "starts_with_mask", False):
        mask = method.start()
        score, each = mean_dice(mask, truth)
        none = dict.fromkeys(("strokes", "voxels", "seconds", "cpu", "clock"), 0)
        note({**none, "dice": score, "classes": each})
        strokes = correct(mask, truth, per_round, rng)
    else:
        strokes = first_strokes(truth, rng)
    while True:
        begin, cpu = time.perf_counter(), time.process_time()
        mask = method(strokes)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        clock += seconds
        score, each = mean_dice(mask, truth)
        row = {
            "strokes": len(strokes),
            "voxels": sum(len(v) for v, _ in strokes),
            "dice": score,
            "classes": each,
            "seconds": seconds,
            "cpu": cpu,
            "clock": clock,
            "first_change": getattr(method, "first_change", None),
        }
        if isinstance(method, Loop):
            record = method.session.rounds[-1].record
            row |= {"score": record.score, "drift": record.drift, "lost": record.lost}
        note(row)
        new = correct(mask, truth, per_round, rng)
        if not new or len(strokes) + len(new) > budget:
            return
        strokes = strokes + new


def read_case(case: Case) -> tuple[Volume, Any]:
    """Scan, and truth (Z, Y, X) with classes 0, 1, 2, ... without gaps."""
    scan, label = read_volume(case.image), read_volume(case.label)
    truth = np.asarray(label.channel(0).array)
    if truth.shape != scan.geometry.shape:
        raise SystemExit(f"{case.label} is not on the grid of {case.image}")
    values = np.union1d([0], np.unique(truth))
    return scan, np.searchsorted(values, truth)


def start_from(case: Case, scan: Volume, classes: int) -> Start | None:
    """What the model says about the scan, in the truth's classes."""
    if case.model is None:
        return None
    model = load_model(case.model)
    shares = segment(scan, model, probabilities=True).probabilities
    assert shares is not None
    found = np.asarray(shares.array)
    merge = case.merge or tuple(range(len(found)))
    if len(merge) != len(found) or max(merge) >= classes:
        raise SystemExit(
            f"{case.model} has {len(found)} classes, the truth {classes}; give --merge, the "
            "truth's class for each of the model's, as 0,1,2,2"
        )
    joined = np.zeros((classes, *found.shape[1:]), found.dtype)
    for source, target in enumerate(merge):
        joined[target] += found[source]
    # a class is named as the first of those it joins, whose part of the head it then keeps
    known = model.card.class_names
    names = [known[merge.index(k)] if k in merge else f"class {k}" for k in range(classes)]
    return model, joined, names


def run_case(name: str, case: Case, args: Any, book: Any) -> None:
    scan, truth = read_case(case)
    classes = int(truth.max()) + 1
    start = start_from(case, scan, classes) if "loop" in args.methods else None
    budget = args.strokes or BUDGET.get(classes, 10 * classes)
    methods: dict[str, Callable[[], Any]] = {
        "loop": lambda: Loop(scan, classes, args.threads, start),
        "forest": lambda: PlainForest(scan, classes, args.threads),
    }
    for method in args.methods:
        for seed in args.seeds:
            key = f"{name}/{method}/{seed}"
            network = args.network if method == "loop" else 0.0
            known = book["runs"].get(key, {})
            if known.get("done") and known.get("network_seconds", network) == network:
                continue
            made = methods[method]()
            run: dict[str, Any] = {"rows": [], "done": False, "preparing": made.preparing}
            run["network_seconds"] = network
            book["runs"][key] = run

            def note(row: dict[str, Any], run: Any = run, key: str = key) -> None:
                run["rows"].append(row)
                print(
                    f"{key}: {row['strokes']} strokes, Dice {row['dice']:.3f}, "
                    f"{row['seconds']:.1f} s",
                    flush=True,
                )

            play(made, truth, seed, budget, note)
            if isinstance(made, Loop) and network:
                run["network"] = [
                    train_network(made.session, truth, network, keep) for keep in (1.0, 0.0)
                ]
                print(f"{key}: {json.dumps(run['network'])}", flush=True)
            run["done"] = True
            save(args.json, book)


def pair_name(case: Case) -> str:
    """Name of a pair of files in results: two scans may both be called image.nii.gz."""
    name = f"{case.image.resolve()} + {case.label.resolve()}"
    if case.model is not None:
        file = Path(case.model)
        name += f", model {file.resolve() if file.exists() else case.model}"
    return name + (f", merge {case.merge}" if case.merge else "")


def save(path: Path | None, book: Any) -> None:
    if path is not None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(book, indent=1))
        partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cases", nargs="*", default=["d01", "d03", "d04"])
    parser.add_argument("--image", type=Path)
    parser.add_argument("--label", type=Path)
    parser.add_argument("--model", help="correct this model's mask; default: from nothing")
    parser.add_argument("--merge", default="", help="the truth's class of each of the model's")
    parser.add_argument(
        "--network",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="at the end train the network so long, with and without the keep-term",
    )
    parser.add_argument("--methods", nargs="+", default=["loop", "forest"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--strokes", type=int, help="most strokes")
    parser.add_argument("--quick", action="store_true", help="one seed, six strokes, no forest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="results; what is in it is not run again")
    parser.add_argument("--plot", type=Path, help="PNG")
    args = parser.parse_args()
    if args.quick:
        args.methods, args.seeds, args.strokes = ["loop"], args.seeds[:1], args.strokes or 6
    if args.plot and find_spec("matplotlib") is None:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib")
    torch.set_num_threads(args.threads)
    book: dict[str, Any] = {"runs": {}}
    if args.json and args.json.exists():
        book = json.loads(args.json.read_text())
    book["machine"] = {"cores": os.cpu_count(), "threads": args.threads}
    if (args.image is None) != (args.label is None):
        raise SystemExit("give --image and --label together")
    if args.image is not None:
        merge = tuple(int(part) for part in args.merge.split(",") if part)
        case = Case(args.image, args.label, args.model, merge)
        cases = {pair_name(case): case}
    else:
        known = {name: CASES[name] for name in args.cases}
        cases = {
            name: replace(c, image=args.shared / c.image, label=args.shared / c.label)
            for name, c in known.items()
        }
    for name, case in cases.items():
        if not (case.image.exists() and case.label.exists()):
            print(f"{name}: {case.image} or its labels are not there; left out")
            continue
        settings = "" if args.strokes is None else f", {args.strokes} strokes"
        run_case(name + settings, case, args, book)
    save(args.json, book)
    print(table(book))
    print(network_table(book))
    if args.plot:
        plot(book, args.plot)


if __name__ == "__main__":
    main()
