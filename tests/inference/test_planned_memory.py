"""What a run is told to take at its peak, and what a fresh process takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from napari_attention3d.inference import allocator

MEASURE = """
import gc, json, sys
from pathlib import Path
import numpy as np
import torch
from napari_attention3d.geometry import Geometry
from napari_attention3d.inference import memory
from napari_attention3d.inference.allocator import give_back
from napari_attention3d.models.card import ModelCard
from napari_attention3d.models.store import Model
from napari_attention3d.networks import build_network
from napari_attention3d.session import SegmentOptions, preflight, segment
from napari_attention3d.volumes import Volume

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))

def model(patch):
    torch.manual_seed(0)
    network = build_network(case["network"], num_classes=case["classes"], **case["config"]).eval()
    card = {
        "name": "test", "title": "Test", "network": {"name": network.name, **network.config},
        "classes": [{"name": str(i), "colour": "#808080"} for i in range(case["classes"])],
        "channels": [{"name": "image"}], "patch_size": [patch] * 3,
        "normalisation": {"kind": "none"},
    }
    return Model(ModelCard.model_validate(card), network)

def scan(shape):
    array = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return Volume(array, Geometry(array.shape, np.eye(4), "mm", True), name="scan")

case = json.loads(sys.argv[1])
torch.set_num_threads(1)
if case["streamed"]:
    memory.WHOLE_GRID_VOXELS = 1
options = {"device": "cpu", "precision": "exact", **case["options"]}
segment(scan((32, 32, 32)), model(32), device="cpu")  # what libraries take once
chosen, volume = model(64), scan(tuple(case["shape"]))
predicted = preflight(volume, chosen, SegmentOptions(**options)).bytes
gc.collect()
give_back()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
plan = segment(volume, chosen, **options).provenance["plan"]
print(json.dumps([predicted, status("VmHWM") - before, plan]))
"""


def case(
    network: str, shape: tuple[int, int, int], classes: int = 2, *, streamed: bool = False,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    config = more.pop("config", {"preset": "small"})
    about = {"network": network, "config": config, "shape": shape, "classes": classes}
    return about | {"streamed": streamed, "options": more}


CASES = {
    "plane by plane": case("attention-unet", (144, 128, 128), streamed=True),
    "few planes": case("attention-unet", (144, 128, 128), streamed=True, memory=150_000_000),
    "many classes": case("attention-unet", (128, 112, 112), 14, streamed=True),
    "at once": case("attention-unet", (80, 96, 80)),
    "global network": case("guided-attention", (96, 80, 80)),
    "tiles as asked": case("attention-unet", (96, 96, 96), 14, tile=(64, 64, 64), overlap=0.5),
}
"""Six settings: engines, planes per step, classes, networks."""


@pytest.mark.skipif(allocator._libc() is None, reason="reads /proc; glibc")
@pytest.mark.parametrize(
    "name",
    [name if name == "at once" else pytest.param(name, marks=pytest.mark.long) for name in CASES],
)
def test_memory_is_told_within_a_fifth(name: str) -> None:
    environment = {k: v for k, v in os.environ.items() if "MALLOC" not in k}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(CASES[name])],
        capture_output=True,
        encoding="utf-8",
        timeout=400,
        check=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    predicted, taken, plan = json.loads(done.stdout.splitlines()[-1])
    assert plan["engine"] == ("exact" if CASES[name]["streamed"] else "tiles")
    assert predicted == pytest.approx(taken, rel=0.2), plan


LIMITS = {
    "plane by plane": case("attention-unet", (144, 128, 128), streamed=True, memory=330_000_000),
    "columns": case("attention-unet", (96, 160, 160), 14, streamed=True, memory=200_000_000),
    "at once": case("attention-unet", (64, 64, 64), memory=400_000_000),
    "one tile at a time": case("guided-attention", (96, 80, 80), memory=420_000_000),
    "tiles as asked": case(
        "attention-unet", (96, 96, 96), 4, tile=(64, 64, 64), overlap=0.5, memory=260_000_000
    ),
}


@pytest.mark.skipif(allocator._libc() is None, reason="reads /proc; glibc")
@pytest.mark.parametrize(
    "name",
    [name if name == "at once" else pytest.param(name, marks=pytest.mark.long) for name in LIMITS],
)
def test_no_run_takes_more_than_it_may(name: str) -> None:
    """Measuring the scan, reading it and the results included."""
    environment = {k: v for k, v in os.environ.items() if "MALLOC" not in k}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(LIMITS[name])],
        capture_output=True,
        encoding="utf-8",
        timeout=400,
        check=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    _, taken, plan = json.loads(done.stdout.splitlines()[-1])
    assert taken <= LIMITS[name]["options"]["memory"], plan


AGAIN = (
    MEASURE[: MEASURE.index("case = json.loads")]
    + """
case = json.loads(sys.argv[1])
torch.set_num_threads(1)
chosen, volume, left = model(32), scan((64, 64, 96)), []
for _ in range(3):
    segment(volume, chosen, device="cpu", precision="exact", **case["options"])
    gc.collect()
    left.append(status("VmRSS"))
print(json.dumps(left))
"""
)


@pytest.mark.skipif(allocator._libc() is None, reason="reads /proc; glibc")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="at once", marks=pytest.mark.long),
        pytest.param({"tile": (32, 32, 32)}, id="tiles", marks=pytest.mark.long),
        pytest.param({"probabilities": True, "uncertainty": True}, id="all results"),
    ],
)  # fmt: skip
def test_memory_comes_back_after_each_run(options: dict[str, Any]) -> None:
    """Against the state after one run that warmed up."""
    environment = {k: v for k, v in os.environ.items() if "MALLOC" not in k}
    about = case("attention-unet", (64, 64, 96), config={"channels": (8, 16, 16)}, **options)
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, json.dumps(about)],
        capture_output=True,
        encoding="utf-8",
        timeout=400,
        check=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    first, *later = json.loads(done.stdout.splitlines()[-1])
    assert max(later) <= 1.05 * first
