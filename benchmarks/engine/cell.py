"""One measurement in a fresh process: time, memory above the start, labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["measure", "start"]


def start(cell: dict[str, Any], folder: Path, limit: float, out: Path) -> dict[str, Any]:
    """Run a cell in a process of its own; what went wrong stands under "error".

    Parameters
    ----------
    folder
        Of scans and networks, which all runs share.
    limit
        Seconds.
    out
        Of the labels, each run's own: cells of the same name are of other sizes there.
    """
    threads = str(cell.get("threads", 1))
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "NAPARI_ATTENTION3D_PLAIN_MALLOC": "0" if cell.get("tuned") else "1",
    }
    script = Path(__file__).resolve().parents[1] / "inference.py"
    command = [sys.executable, str(script), "--cell", json.dumps(cell), "--work", str(folder)]
    command += ["--out", str(out)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {limit:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def measure(cell: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    """Measure in this process.

    Memory is that of the first run, time that of the second where the cell is `warm`.
    """
    import torch

    from napari_attention3d.inference.allocator import keep_large_buffers

    from . import contenders, scans

    torch.set_num_threads(int(cell.get("threads", 1)))
    scan, truth = scans.scan_path(folder, cell["shape"], cell["classes"])
    network = scans.trained(cell["network"], folder)
    model = scans.model(network, cell.get("patch", 96))
    _load(cell, model)
    if cell.get("tuned") and not keep_large_buffers():
        return {"error": "this system's allocator can't be tuned"}
    how, name = cell["how"], cell["name"]
    if how["who"] in contenders.PREPARED:
        model = contenders.prepared(how["who"], model, scan)
    stored = out / f"{name}.ome.zarr" if how.get("to_disk") else None
    base = _reset_peak()
    (labels, plan), cpu, wall = contenders.timed(lambda: contenders.run(how, scan, model, stored))
    found = {"peak_mb": (_peak() - base) / 1e6, "base_mb": base / 1e6, "plan": plan}
    if cell.get("warm"):
        again = out / f"{name}-again.ome.zarr" if stored else None
        (labels, _), cpu, wall = contenders.timed(lambda: contenders.run(how, scan, model, again))
    if labels is not None:
        np.save(out / f"{name}.npy", labels)
        if "region" not in how:
            found["dice"] = _dice(labels, truth, cell["classes"])
    return found | {"cpu_s": cpu, "wall_s": wall}


def _load(cell: dict[str, Any], model: Any) -> None:
    """Make torch load what a first call loads, on a volume too small to grow the heap."""
    import torch

    if cell["how"]["who"] == "monai":
        import monai.inferers  # noqa: F401
    if cell["how"]["who"] == "nnunet":
        import nnunetv2.inference.predict_from_raw_data  # noqa: F401
    if cell["how"]["who"] == "ours":
        import torch._dynamo  # taken along by fake tensors: 2 s in a new process
    if not cell["network"].endswith("instance"):
        with torch.inference_mode():
            model.network(torch.zeros(1, 1, 32, 32, 32))


def _dice(labels: Any, truth: Path, classes: int) -> float:
    import zarr

    known = zarr.open_array(truth, mode="r")[:]
    scores = []
    for value in range(1, classes):
        a, b = labels == value, known == value
        scores.append(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
    return float(np.mean(scores))


def _reset_peak() -> int:
    import gc

    from comparison.measure import process_bytes

    from napari_attention3d.inference.allocator import give_back

    gc.collect()
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    return process_bytes("VmRSS")


def _peak() -> int:
    from comparison.measure import process_bytes

    return process_bytes("VmHWM")
