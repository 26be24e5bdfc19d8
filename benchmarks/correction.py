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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from annotator.forest import PlainForest
from annotator.report import plot, table
from annotator.strokes import Stroke, correct, first_strokes

from napari_attention3d import Volume, load_model, read_volume, segment
from napari_attention3d.correction.learn import Learned, Patch
from napari_attention3d.correction.session import CorrectionSession

CASES = {
    "d01": ("d01_ct_abdomen/image.nii.gz", "d01_ct_abdomen/label.nii.gz", None),
    "d03": ("d03_nuclei_ovule1135/image.tif", "d03_nuclei_ovule1135/label.tif", None),
    "d04": ("d04_mr_cord_t2/image.nii.gz", "d04_mr_cord_t2/label.nii.gz", None),
    "d02": (
        "d02_mr_brain_mni152/image.nii.gz",
        "d02_mr_brain_mni152/label.nii.gz",
        "brain-attention-unet",
    ),
}
BUDGET = {2: 32, 9: 89}
"""Strokes by number of classes; 10 per class otherwise."""


class Loop:
    """The package's own loop, without a window."""

    def __init__(self, scan: Volume, classes: int, threads: int, model: str | None) -> None:
        names = [f"class {i}" for i in range(classes)]
        shares = None
        self.first_change = 0.0
        if model is not None:
            result = segment(scan, load_model(model), probabilities=True)
            assert result.probabilities is not None
            shares = np.asarray(result.probabilities.array)
        self.session = CorrectionSession(scan, names, probabilities=shares, threads=threads)
        self.seen = 0
        begin = time.perf_counter()
        _finish(self.session.prepare_job())
        self.preparing = time.perf_counter() - begin
        self.starts_with_mask = model is not None

    def start(self) -> Any:
        return self.session.labels

    def __call__(self, strokes: list[Stroke]) -> Any:
        for voxels, value in strokes[self.seen :]:
            self.session.add_stroke(voxels, value if value else 255)
        self.seen = len(strokes)
        begin = time.perf_counter()
        self.first_change = 0.0

        def look(step: Any) -> None:
            if isinstance(step.partial, Patch) and not self.first_change:
                self.first_change = time.perf_counter() - begin

        learned: Learned = _finish(self.session.learn_job(), look)
        self.session.apply(learned)
        return self.session.labels


def _finish(job: Any, look: Callable[[Any], None] = lambda step: None) -> Any:
    while True:
        try:
            look(next(job))
        except StopIteration as stop:
            return stop.value


def mean_dice(mask: Any, truth: Any) -> tuple[float, list[float]]:
    scores = []
    for value in range(1, int(truth.max()) + 1):
        a, b = mask == value, truth == value
        scores.append(float(2 * (a & b).sum() / max(1, a.sum() + b.sum())))
    return float(np.mean(scores)), scores


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
        note({"strokes": 0, "voxels": 0, "dice": score, "classes": each, "seconds": 0, "clock": 0})
        strokes = correct(mask, truth, per_round, rng)
    else:
        strokes = first_strokes(truth, rng)
    while True:
        begin = time.perf_counter()
        mask = method(strokes)
        seconds = time.perf_counter() - begin
        clock += seconds
        score, each = mean_dice(mask, truth)
        row = {
            "strokes": len(strokes),
            "voxels": sum(len(v) for v, _ in strokes),
            "dice": score,
            "classes": each,
            "seconds": seconds,
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


def run_case(name: str, files: tuple[Path, Path, str | None], args: Any, book: Any) -> None:
    scan, label = read_volume(files[0]), read_volume(files[1])
    truth = np.asarray(label.channel(0).array).astype(np.int64)
    if truth.shape != scan.geometry.shape:
        raise SystemExit(f"{files[1]} is not on the grid of {files[0]}")
    if files[2] is not None:  # the brain model has one class more than the truth needs
        truth = truth.clip(0, len(load_model(files[2]).card.classes) - 1)
    classes = int(truth.max()) + 1
    budget = args.strokes or BUDGET.get(classes, 10 * classes)
    methods: dict[str, Callable[[], Any]] = {
        "loop": lambda: Loop(scan, classes, args.threads, files[2]),
        "forest": lambda: PlainForest(scan, classes, args.threads),
    }
    for method in args.methods:
        for seed in args.seeds:
            key = f"{name}/{method}/{seed}"
            if book["runs"].get(key, {}).get("done"):
                continue
            made = methods[method]()
            run = {"rows": [], "done": False, "preparing": made.preparing}
            book["runs"][key] = run

            def note(row: dict[str, Any], run: Any = run, key: str = key) -> None:
                run["rows"].append(row)
                print(
                    f"{key}: {row['strokes']} strokes, Dice {row['dice']:.3f}, "
                    f"{row['seconds']:.1f} s",
                    flush=True,
                )

            play(made, truth, seed, budget, note)
            run["done"] = True
            save(args.json, book)


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
    parser.add_argument("--methods", nargs="+", default=["loop", "forest"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--strokes", type=int, help="most strokes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="results; what is in it is not run again")
    parser.add_argument("--plot", type=Path, help="PNG")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    book: dict[str, Any] = {"runs": {}}
    if args.json and args.json.exists():
        book = json.loads(args.json.read_text())
    book["machine"] = {"cores": os.cpu_count(), "threads": args.threads}
    if (args.image is None) != (args.label is None):
        raise SystemExit("give --image and --label together")
    if args.image is not None:
        cases = {args.image.name: (args.image, args.label, args.model)}
    else:
        cases = {
            c: (args.shared / CASES[c][0], args.shared / CASES[c][1], CASES[c][2])
            for c in args.cases
        }
    for name, files in cases.items():
        if not (files[0].exists() and files[1].exists()):
            print(f"{name}: {files[0]} is not there; left out")
            continue
        run_case(name, files, args, book)
    save(args.json, book)
    print(table(book))
    if args.plot:
        plot(book, args.plot)


if __name__ == "__main__":
    main()
