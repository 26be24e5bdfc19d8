"""The exact pass equals one pass over the whole grid, whatever part, order or device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from napari_attention3d.geometry import Geometry, Reorientation
from napari_attention3d.inference.device import Precision
from napari_attention3d.inference.plans import ExactPlan, choose_attempt, grown, plan_multiple
from napari_attention3d.inference.predict import GridPrediction, predict_grid
from napari_attention3d.inference.sink import Finished, ScanResults, to_scan_grid
from napari_attention3d.inference.tiling import Box
from napari_attention3d.networks import build_network
from napari_attention3d.networks.base import SegmentationNetwork
from napari_attention3d.progress import finish

CPU = torch.device("cpu")
SHAPE = (13, 30, 41)
NETWORKS: dict[str, dict[str, Any]] = {
    "attention-unet": {"channels": (4, 8, 8, 8), "num_classes": 3},
    "additive-attention-unet": {"channels": (4, 8, 8), "strides": (2, 2), "num_classes": 3},
    "oktay-attention-unet": {"channels": (4, 8, 8), "num_classes": 3},
}


def scan(shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(request.param, **NETWORKS[request.param]).eval()


@pytest.fixture
def unet() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network("attention-unet", **NETWORKS["attention-unet"]).eval()


def plan(shape: tuple[int, int, int] = SHAPE, **changes: Any) -> ExactPlan:
    fields = {"shape": shape, "box": Box((0, 0, 0), shape), "axis": 2, "planes": 5}
    return ExactPlan(**{**fields, **changes})


def whole_pass(network: SegmentationNetwork, x: torch.Tensor, maps: Any) -> GridPrediction:
    """One pass over all of it by the network itself, which also measures the scan."""
    from napari_attention3d.inference.tiling import plan_tiles

    tiles = plan_tiles(x.shape[1:], x.shape[1:], 0.25, plan_multiple(network))
    return finish(predict_grid(network, x, tiles, device=CPU, maps=maps))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_equals_the_single_pass(network: SegmentationNetwork, axis: int) -> None:
    x, maps = scan(), list(network.map_specs)
    single = whole_pass(network, x, maps)
    result = finish(
        predict_grid(
            network,
            x,
            plan(axis=axis),
            device=CPU,
            maps=maps,
            calibration=single.calibration or None,
        )
    )
    torch.testing.assert_close(result.logits, single.logits, atol=2e-4, rtol=2e-4)
    assert (result.logits.argmax(0) != single.logits.argmax(0)).float().mean() <= 1e-4
    for name in maps:
        assert result.maps[name].shape == single.maps[name].shape
        np.testing.assert_allclose(result.maps[name], single.maps[name], atol=1e-4)


@pytest.mark.parametrize(
    "box",
    [Box((0, 3, 11), (13, 9, 17)), Box((2, 20, 30), (9, 30, 41)), Box((12, 0, 0), (13, 30, 1))],
)
@pytest.mark.parametrize("axis", [0, 2])
def test_a_part_equals_the_same_part_of_the_whole(
    unet: SegmentationNetwork, box: Box, axis: int
) -> None:
    x, maps = scan(), ["gate-level-2"]
    single = whole_pass(unet, x, maps)
    known = {"calibration": single.calibration, "maps": maps, "device": CPU}
    part = finish(predict_grid(unet, x, plan(box=box, axis=axis), **known))
    torch.testing.assert_close(
        part.logits, single.logits[(slice(None), *box.slices)], atol=2e-4, rtol=2e-4
    )
    for name in maps:
        stride = unet.map_specs[name].stride
        expected = single.maps[name][box.on_stride(stride).slices]
        np.testing.assert_allclose(part.maps[name], expected, atol=1e-4)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_columns_give_the_whole_without_seams(unet: SegmentationNetwork, parts: int) -> None:
    x, maps = scan(), ["gate-level-2"]
    single = whole_pass(unet, x, maps)
    known = {"calibration": single.calibration, "maps": maps, "device": CPU}
    result = finish(predict_grid(unet, x, plan(parts=parts), **known))
    torch.testing.assert_close(result.logits, single.logits, atol=2e-4, rtol=2e-4)
    np.testing.assert_allclose(result.maps[maps[0]], single.maps[maps[0]], atol=1e-4)


def test_two_devices_share_a_scan(unet: SegmentationNetwork) -> None:
    x, maps = scan(), ["gate-level-2"]
    one = finish(predict_grid(unet, x, plan(), device=CPU, maps=maps))
    known = {"calibration": one.calibration, "maps": maps}
    two = finish(predict_grid(unet, x, plan(), device=(CPU, CPU), **known))
    torch.testing.assert_close(two.logits, one.logits, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(two.maps[maps[0]], one.maps[maps[0]], atol=1e-6)
    assert not [t for t in threading.enumerate() if t.name.startswith("attention3d")]


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("devices", [(CPU,), (CPU, CPU)], ids=["one", "two"])
def test_cancel_at_any_step_leaves_no_thread(
    unet: SegmentationNetwork, after: int, devices: Any
) -> None:
    job = predict_grid(unet, scan(), plan(parts=2), device=devices)
    for _ in range(after + 1):
        next(job)
    job.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("attention3d")]
    assert not torch.is_inference_mode_enabled()


def test_consumer_never_runs_in_inference_mode(unet: SegmentationNetwork) -> None:
    job = predict_grid(unet, scan(), plan(), device=CPU)
    assert not any(torch.is_inference_mode_enabled() for _ in job)


def test_begins_where_one_looks_and_gives_each_label_once(unet: SegmentationNetwork) -> None:
    x = scan()
    single = whole_pass(unet, x, [])
    grid = Geometry.from_spacing(SHAPE, (2, 2, 2), unit="mm")
    target = grid.resampled((1.5, 3, 1))
    turn = Reorientation((1, 2, 0), (False, True, False))
    expected = to_scan_grid(single.logits, grid, target, turn)
    results = ScanResults(3, grid, target, turn)
    job = predict_grid(
        unet,
        x,
        plan(parts=2),
        device=CPU,
        calibration=single.calibration,
        results=results,
        focus=(6, 20, 30),
    )
    seen = np.zeros(results.labels.shape, int)
    first: Finished | None = None
    for step in job:
        for part in step.partial or []:
            first = first or part
            where = tuple(
                slice(s, s + n) for s, n in zip(part.start, part.labels.shape, strict=True)
            )
            seen[where] += 1
            np.testing.assert_array_equal(results.labels[where], part.labels)
    assert (seen == 1).all()
    np.testing.assert_array_equal(results.labels, expected.labels)
    assert first is not None
    column = turn.inverse().permutation.index(2)  # of the scan's axes, the one that streams
    begin, size = first.start[column], first.labels.shape[column]
    assert begin <= 60 <= begin + size + 2  # plane 30 of 2 mm is plane 60 of 1 mm


def test_half_precision_is_near(unet: SegmentationNetwork) -> None:
    x = scan()
    single = whole_pass(unet, x, [])
    fast = finish(
        predict_grid(
            unet,
            x,
            plan(),
            device=CPU,
            calibration=single.calibration,
            precision=Precision("bfloat16", ""),
        )
    )
    assert fast.logits.dtype == torch.float32
    assert not torch.equal(fast.logits, single.logits)
    assert (fast.logits.argmax(0) == single.logits.argmax(0)).float().mean() > 0.9


def test_the_planner_says_why(unet: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"devices": (CPU,), "precision": Precision("float32", "")}
    small = choose_attempt(unet, SHAPE, (32, 32, 32), 0.25, **options)
    assert small.engine == "tiles"
    assert "at once" in small.reason
    known = choose_attempt(unet, SHAPE, (32, 32, 32), 0.25, calibrated=True, **options)
    assert known.engine == "exact"
    assert "each voxel once" in known.reason
    tight = choose_attempt(unet, (40, 200, 200), (32, 32, 32), 0.25, memory=2**21, **options)
    assert isinstance(tight.plan, ExactPlan)
    assert tight.plan.parts > 1
    guided = build_network("guided-attention", preset="small", num_classes=2)
    tiles = choose_attempt(guided, (64, 64, 64), (32, 32, 32), 0.25, **options)
    assert tiles.engine == "tiles"
    assert tiles.batch_size == 2
    assert "whole tile" in tiles.reason


def test_what_is_read_of_a_part_is_bounded(unet: SegmentationNetwork) -> None:
    box = Box((100, 101, 102), (132, 133, 134))
    crop = grown(box, unet, (), (256, 256, 256))
    assert all(a <= b for a, b in zip(crop.start, box.start, strict=True))
    assert max(crop.shape) < 32 + 2 * 72
    assert all(s % m == 0 for s, m in zip(crop.start, plan_multiple(unet), strict=True))


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_every_step_is_computed_at_the_precision_asked_for(
    unet: SegmentationNetwork, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 within its context (which forbids TF32); half precision casts nothing."""
    from napari_attention3d.inference.stream import run

    open_blocks, seen = [0], []
    context = Precision.context

    @contextmanager
    def counted(self: Precision, device: torch.device) -> Iterator[None]:
        open_blocks[0] += 1
        try:
            with context(self, device):
                yield
        finally:
            open_blocks[0] -= 1

    step = run.Pass.step
    whole = whole_pass(unet, scan(), [])
    monkeypatch.setattr(Precision, "context", counted)
    monkeypatch.setattr(run.Pass, "step", lambda self: (seen.append(open_blocks[0]), step(self))[1])
    known = {"calibration": whole.calibration, "precision": Precision(name, "")}
    job = predict_grid(unet, scan(), plan(), device=CPU, **known)
    assert all(open_blocks[0] == 0 for _ in job)  # not around what the consumer does
    assert set(seen) == {1 if name == "float32" else 0}
