"""Several devices share a scan that is read part by part."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from napari_attention3d.geometry import Geometry, Reorientation
from napari_attention3d.inference.plans import ExactPlan
from napari_attention3d.inference.predict import predict_grid
from napari_attention3d.inference.runner import Runner
from napari_attention3d.inference.source import LazySource
from napari_attention3d.inference.tiles import TileRun
from napari_attention3d.inference.tiling import Box, TilePlan, plan_tiles
from napari_attention3d.networks import build_network
from napari_attention3d.progress import finish

CPU = torch.device("cpu")
TWO = (CPU, torch.device("cpu", 0))
"""Two devices for the engine: the second one has a copy of the network."""
SHAPE = (13, 30, 70)


class Slow:
    """A stored array: reading takes a while, so that threads overlap."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.chunks = (8, 8, 8)

    def __getitem__(self, index: Any) -> np.ndarray:
        time.sleep(0.002)
        return self.array[index]


def lazy(array: np.ndarray) -> LazySource:
    grid = Geometry.from_spacing(array.shape)
    return LazySource(Slow(array), grid, Reorientation((0, 1, 2), (False, False, False)), grid)


def cases() -> list[Any]:
    exact = ExactPlan(SHAPE, Box((0, 0, 0), SHAPE), 2, 5, parts=2)
    tiles = plan_tiles(SHAPE, (16, 16, 16), 0.25, (8, 8, 8))
    return [pytest.param(exact, id="exact"), pytest.param(tiles, id="tiles")]


@pytest.mark.parametrize("plan", cases())
def test_two_devices_with_a_lazy_scan_give_what_one_gives(plan: ExactPlan | TilePlan) -> None:
    torch.manual_seed(0)
    network = build_network("attention-unet", channels=(4, 8, 8, 8), num_classes=3).eval()
    array = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    known: dict[str, Any] = {"maps": ["gate-level-2"], "batch_size": 2}
    tensor = torch.from_numpy(array)[None]
    one = finish(predict_grid(network, tensor, plan, device=CPU, **known))
    known["calibration"] = one.calibration
    for _ in range(4):
        two = finish(predict_grid(network, lazy(array), plan, device=TWO, **known))
        torch.testing.assert_close(two.logits, one.logits, atol=2e-5, rtol=2e-5)
        np.testing.assert_allclose(two.maps["gate-level-2"], one.maps["gate-level-2"], atol=1e-5)
    assert not [t for t in threading.enumerate() if t.name.startswith("attention3d")]


@pytest.mark.parametrize("devices", [TWO[:1], TWO], ids=["one", "two"])
def test_every_batch_but_the_first_ones_is_read_ahead(
    devices: tuple[torch.device, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network("attention-unet", channels=(4, 8), num_classes=2).eval()
    array = np.zeros(SHAPE, np.float32)
    told: list[Box] = []

    class Told(LazySource):
        def ahead(self, *boxes: Box) -> None:
            told.extend(boxes)
            super().ahead(*boxes)

    grid = Geometry.from_spacing(SHAPE)
    source = Told(array, grid, Reorientation((0, 1, 2), (False, False, False)), grid)
    batches: list[list[Box]] = []
    begun = TileRun.steps
    monkeypatch.setattr(
        TileRun, "steps", lambda self: (batches.extend(self.batches), begun(self))[1]
    )
    plan = plan_tiles(SHAPE, (16, 16, 16), 0.25, (2, 2, 2))
    finish(predict_grid(network, source, plan, device=devices, batch_size=2))
    assert max(map(len, batches)) == 2
    expected = [box for batch in batches[len(devices) :] for box in batch]
    assert sorted(told, key=str) == sorted(expected, key=str)


def test_a_copy_is_made_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("attention-unet", channels=(4, 8), num_classes=2).eval()
    made: list[Any] = []
    quickest = Runner._quickest
    monkeypatch.setattr(
        Runner, "_quickest", lambda self, *about: (made.append(about), quickest(self, *about))[1]
    )
    from napari_attention3d.inference.device import Precision
    from napari_attention3d.inference.source import TensorSource

    source = TensorSource(torch.zeros(1, 8, 8, 8))
    runner = Runner(network, source, TWO, Precision("float32", ""), ())
    begin = threading.Barrier(6)

    def ask() -> None:
        begin.wait()
        runner.on(TWO[1])

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    runner.close(collect=False)
