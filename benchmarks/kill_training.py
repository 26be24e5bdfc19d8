"""Kill a training run with SIGKILL at random moments; each time, what is on disk must do.

python benchmarks/kill_training.py --kills 50 --json kills.json

A small model is trained by the command line, in a process of its own. It is killed at random,
begun again by the same command, and so on. After each kill the checkpoint must load (or not be
there yet), the model must load with its checksum right (or not be there yet), and no step that
a checkpoint had reached may be lost. The curve must be that of a run that was never killed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PATIENCE = 240
"""Seconds after which a process that makes no step counts as hung."""

PRELOADED = ["nibabel", "torch._dynamo", "napari_attention3d.cli", "napari_attention3d.training"]
"""Loaded once, so that each process begins at once."""


def kill_often(folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Train with so many kills in between; raises AssertionError where something is lost.

    Parameters
    ----------
    folder
        An empty one, for scans and models.
    kills
        How often.
    seed
        Of the moments.

    Returns
    -------
    dict
        kills, of them while a file was being written, steps, largest difference of the loss
        to the run that was never killed.
    """
    from napari_attention3d.training.runs import RunFolder

    os.environ["OMP_NUM_THREADS"] = "1"
    recipe = _make_case(folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    whole, killed = folder / "whole.safetensors", folder / "killed.safetensors"
    rng, files, safe, halves = random.Random(seed), RunFolder(killed), 0, 0
    for _ in range(kills):
        process = _start(context, recipe, killed)
        _wait_for_step(files, process, safe + rng.randint(1, 3))
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join(60)
        halves += _half_written(folder)
        safe = _check(killed, safe)
    process = _start(context, recipe, killed)
    _wait_for_step(files, process, safe + 2)
    process.kill()
    process.join(60)
    rows = files.read_log()
    untouched = RunFolder(whole)
    process = _start(context, recipe, whole)
    _wait_for_step(untouched, process, len(rows))
    process.kill()
    process.join(60)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), "steps are missing"
    pairs = zip(rows, untouched.read_log(), strict=False)
    apart = [abs(a["loss"] - b["loss"]) for a, b in pairs]
    assert len(apart) == len(rows)
    return {
        "kills": kills,
        "while_writing": halves,
        "steps": len(rows),
        "largest_difference_of_the_loss": max(apart),
    }


def _check(output: Path, safe: int) -> int:
    """Look at what a kill left behind; return the step that is safe now."""
    from napari_attention3d.models import load_model
    from napari_attention3d.training.runs import RunFolder

    info = RunFolder(output).info()
    if output.exists():
        load_model(output)  # its checksum is compared
    if info is None:
        assert safe == 0, f"step {safe} was safe, and now nothing is"
        return 0
    import torch

    raw = torch.load(RunFolder(output).checkpoint, weights_only=True)
    assert raw["step"] >= safe, f"step {safe} was safe, now it is {raw['step']}"
    return int(raw["step"])


def _half_written(folder: Path) -> bool:
    """Whether the kill came while a file was being written; the remains are taken away."""
    remains = list(folder.rglob(".na3d-*"))
    for path in remains:
        path.unlink()
    return bool(remains)


def _start(context: Any, recipe: Path, output: Path) -> Any:
    from napari_attention3d.cli import main

    words = ["train", "-c", str(recipe), "-o", str(output)]
    process = context.Process(target=main, args=(words,))
    process.start()
    return process


def _wait_for_step(files: Any, process: Any, wanted: int) -> None:
    """Wait until the log has so many steps."""
    until = time.monotonic() + PATIENCE
    while len(files.read_log()) < wanted:
        assert time.monotonic() < until, f"no step in {PATIENCE} s"
        assert process.exitcode is None, f"the run ended with code {process.exitcode}"
        time.sleep(0.005)


def _make_case(folder: Path) -> Path:
    """Two small scans with labels, and a recipe that saves after every step."""
    from napari_attention3d.volumes import Volume, write_volume

    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        labels = np.zeros((12, 12, 12), np.uint8)
        labels[3:8, 3:8, 3:8] = 1
        image = (labels * 100 + rng.normal(50, 5, labels.shape)).astype(np.float32)
        for kind, array in (("images", image), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            write_volume(folder / kind / f"{name}.nii.gz", Volume.from_array(array))
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "name": "blocks",
                "title": "Blocks",
                "classes": [
                    {"name": "background", "colour": "#000000"},
                    {"name": "block", "colour": "#e69f00"},
                ],
                "network": {"name": "attention-unet", "channels": [4, 8]},
                "data": {
                    "kind": "pairs",
                    "images": "images",
                    "labels": "labels",
                    "augment": False,
                },
                "schedule": {
                    "steps": 10_000,
                    "patch_sizes": [[8, 8, 8]],
                    "validate_every": 2,
                    "checkpoint_every": 1,
                    "warm_up": 1,
                    "precision": "fp32",
                    "device": "cpu",
                    "threads": 1,
                },
            }
        )
    )
    return recipe


def table(found: dict[str, Any]) -> str:
    """The figures as a table for RESULTS.md."""
    rows = [f"| {key.replace('_', ' ')} | {value:.3g} |" for key, value in found.items()]
    return "\n".join(["| A training run, killed | |", "|---|---|", *rows])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = kill_often(Path(folder), given.kills, given.seed)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
