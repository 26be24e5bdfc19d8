"""Kill a training run with SIGKILL at random moments; each time, what is on disk must do.

python benchmarks/kill_training.py --kills 50 --journal kills.jsonl

A small model is trained by the command line, in a process of its own. It is killed at random,
begun again by the same command, and so on. After each kill the checkpoint must load (or not be
there yet), the model must load with its checksum right (or not be there yet), and no step that
a checkpoint had reached may be lost: at most the last step of the log may be missing in it. What
a kill left half-written lies there when the run is begun again, which takes it away. The curve
must be that of a run that was never killed. Stopped half-way, the same command goes on: the
journal has a line per kill, and the run's folder is kept beside it.
"""

from __future__ import annotations

import argparse
import contextlib
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


def kill_often(
    folder: Path, kills: int, seed: int = 0, journal: Path | None = None
) -> dict[str, Any]:
    """Train with so many kills in between; raises AssertionError where something is lost.

    Parameters
    ----------
    folder
        For scans and models: an empty one, or that of the journal.
    kills
        How often.
    seed
        Of the moments.
    journal
        A line per kill; those that are there already are not done again.

    Returns
    -------
    dict
        kills, of them while a file was being written, steps, largest difference of the loss
        to the run that was never killed.
    """
    from napari_attention3d.training.runs import RunFolder

    os.environ["OMP_NUM_THREADS"] = "1"
    rows = _read(journal) if folder.is_dir() else []
    recipe = _make_case(folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    whole, killed = folder / "whole.safetensors", folder / "killed.safetensors"
    files, safe = RunFolder(killed), rows[-1]["step"] if rows else 0
    safe = check(killed, safe)  # the folder may be ahead of the journal
    for number in range(len(rows), kills):
        rng, before = random.Random(f"{seed} {number}"), _half_written(folder)
        process = _start(context, recipe, killed)
        # Before a first checkpoint, too; later ones are after two steps, of which one is saved.
        _wait_for_step(files, process, safe + (rng.randint(2, 4) if number else 1))
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join(60)
        remains = _half_written(folder)
        assert not _half_written(files.path) & before, "what was half-written is still there"
        safe = check(killed, safe)
        rows.append({"kill": number, "step": safe, "while_writing": bool(remains - before)})
        if journal is not None:
            with journal.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    process = _start(context, recipe, killed)
    _wait_for_step(files, process, safe + 2)
    process.kill()
    process.join(60)
    check(killed, safe)
    log = files.read_log()
    untouched = RunFolder(whole)
    process = _start(context, recipe, whole)
    _wait_for_step(untouched, process, len(log))
    process.kill()
    process.join(60)
    assert [row["step"] for row in log] == list(range(1, len(log) + 1)), "steps are missing"
    pairs = zip(log, untouched.read_log(), strict=False)
    apart = [abs(a["loss"] - b["loss"]) for a, b in pairs]
    assert len(apart) == len(log)
    return {
        "kills": kills,
        "while_writing": sum(row["while_writing"] for row in rows),
        "steps": len(log),
        "largest_difference_of_the_loss": max(apart),
    }


def check(output: Path, safe: int) -> int:
    """Look at what a kill left behind; return the step that is safe now.

    Parameters
    ----------
    output
        The model that the run makes.
    safe
        The step that was safe after the kill before.
    """
    import torch

    from napari_attention3d.models import load_model
    from napari_attention3d.training.runs import RunFolder

    files = RunFolder(output)
    if output.exists():
        load_model(output)  # its checksum is compared
    step = 0
    if files.checkpoint.exists():
        step = int(torch.load(files.checkpoint, weights_only=True)["step"])
    assert step >= safe, f"step {safe} was safe, now it is {step}"
    assert safe == 0 or files.info() is not None, "the run is no longer known"
    log = files.read_log()
    logged = int(log[-1]["step"]) if log else 0
    # each step is saved; the line of the log comes just before
    assert step >= logged - 1, f"step {logged} was done, and {step} is saved"
    return step


def _half_written(folder: Path) -> set[Path]:
    """Names of what was being written when a kill came."""
    return set(folder.rglob(".na3d-*"))


def _read(journal: Path | None) -> list[dict[str, Any]]:
    """Lines of the journal; one that was cut off in writing is taken out."""
    rows: list[dict[str, Any]] = []
    if journal is not None and journal.exists():
        for line in journal.read_text().splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


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
    parser.add_argument("--quick", action="store_true", help="3 kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="the figures")
    parser.add_argument("--journal", type=Path, help="a line per kill; goes on with it")
    given = parser.parse_args()
    kills = 3 if given.quick else given.kills
    if given.journal is not None:
        folder = given.journal.with_suffix(".folder")
        if not folder.is_dir():
            given.journal.unlink(missing_ok=True)
        found = kill_often(folder, kills, given.seed, given.journal)
    else:
        with tempfile.TemporaryDirectory() as name:
            found = kill_often(Path(name), kills, given.seed)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
