"""What does not fit is made smaller before it begins, or refused with the figure needed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from napari_attention3d.errors import OutOfMemory
from napari_attention3d.inference import ladder, plans, runner
from napari_attention3d.inference.device import Precision
from napari_attention3d.inference.ladder import attempt_bytes, fitted_attempt, smaller
from napari_attention3d.inference.memory import bytes_per_voxel
from napari_attention3d.inference.plans import KEPT_TO, Attempt, ExactPlan, choose_attempt
from napari_attention3d.inference.predict import predict_adaptively
from napari_attention3d.networks import build_network
from napari_attention3d.networks.base import SegmentationNetwork
from napari_attention3d.progress import finish

CPU = torch.device("cpu")
EXACT = Precision("float32", "")


def noise(shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))


def attempt_for(network: SegmentationNetwork, shape: Any, tile: int, **more: Any) -> Attempt:
    options = {"devices": (CPU,), "precision": EXACT, **more}
    return choose_attempt(network, shape, (tile,) * 3, 0.25, **options)


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    for module in (ladder, plans):
        monkeypatch.setattr(module, "available_bytes", lambda device: free)


@pytest.fixture(scope="module")
def guided() -> SegmentationNetwork:
    torch.manual_seed(0)
    tiny = {"widths": (4, 4, 8, 8), "features": 8, "head_width": 4}
    return build_network("guided-attention", num_classes=2, **tiny).eval()


@pytest.fixture
def unet() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network("attention-unet", channels=(4, 8, 8), num_classes=3).eval()


def test_a_global_network_takes_one_tile_at_a_time_and_keeps_the_cards_tiles(
    guided: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what may be taken as well as by what is free."""
    begun = attempt_for(guided, (64, 32, 96), 32)
    one = smaller(guided, begun)
    assert one is not None
    most, less = attempt_bytes(guided, begun), attempt_bytes(guided, one[0])
    assert begun.batch_size == 2
    assert less < most
    allowed = attempt_for(guided, (64, 32, 96), 32, memory=int((most + less) / 2 / KEPT_TO))
    fitted, told = fitted_attempt(guided, allowed)
    assert fitted.batch_size == 1
    assert fitted.tiles == begun.tiles
    assert "one tile at a time" in told[0]
    set_free(monkeypatch, (most + less) // 2)
    assert fitted_attempt(guided, begun)[0].batch_size == 1
    set_free(monkeypatch, most + 1)
    assert fitted_attempt(guided, begun) == (begun, [])


@pytest.mark.parametrize("by", ["limit", "free memory"])
def test_what_does_not_fit_at_all_is_not_begun_and_the_figure_is_told(
    guided: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    x = noise((64, 32, 96))
    options: dict[str, Any] = {"device": CPU}
    if by == "limit":
        options["memory"] = 10_000_000
    else:
        set_free(monkeypatch, 10_000_000)
    monkeypatch.setattr(runner.Runner, "compute", None)  # must not be reached
    with pytest.raises(OutOfMemory, match=r"the smallest plan takes about .* more than the") as e:
        finish(predict_adaptively(guided, x, (32,) * 3, 0.25, **options))
    number, unit = re.findall(r"about ([0-9.]+) (MB|GB)", str(e.value))[0]
    needed = int(float(number) * {"MB": 1e6, "GB": 1e9}[unit])
    assert needed > 10_000_000
    if by == "limit":  # with as much as it says it is begun
        told = attempt_for(guided, (64, 32, 96), 32, memory=needed)
        assert fitted_attempt(guided, told)[0].batch_size == 1


def test_a_gpu_is_let_try(guided: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises an error where its memory ends, and the run goes on smaller."""
    set_free(monkeypatch, 10)
    begun = Attempt(
        **{**vars(attempt_for(guided, (32, 32, 96), 32)), "devices": (torch.device("cuda"),)}
    )
    assert fitted_attempt(guided, begun) == (begun, [])


def test_tiles_that_were_asked_for_become_smaller_where_they_may_not_take_as_much(
    unet: SegmentationNetwork,
) -> None:
    whole = attempt_for(unet, (64, 64, 64), 64, as_asked=True)
    need = attempt_bytes(unet, whole)
    limited = attempt_for(unet, (64, 64, 64), 64, as_asked=True, memory=int(0.8 * need))
    fitted, told = fitted_attempt(unet, limited)
    assert fitted.tiles.tile == (32, 64, 64)
    assert "32 x 64 x 64" in told[0]
    assert attempt_bytes(unet, fitted) <= KEPT_TO * 0.8 * need


def test_the_next_plan_after_memory_ran_out_keeps_to_the_limit(unet: SegmentationNetwork) -> None:
    free = attempt_for(unet, (64, 64, 64), 64)
    assert free.engine == "tiles"
    after = smaller(unet, free)
    assert after is not None
    assert isinstance(after[0].plan, ExactPlan)
    most = attempt_bytes(unet, after[0])
    limit = int(0.7 * most / KEPT_TO)
    limited = smaller(unet, Attempt(**{**vars(free), "memory": limit}))
    assert limited is not None
    assert attempt_bytes(unet, limited[0]) <= 0.7 * most


def test_what_lies_beside_the_network_counts(unet: SegmentationNetwork) -> None:
    alone = attempt_for(unet, (64, 64, 200), 64, calibrated=True, memory=10**8)
    beside = attempt_for(unet, (64, 64, 200), 64, calibrated=True, memory=10**8, beside=7 * 10**7)
    assert isinstance(alone.plan, ExactPlan)
    assert isinstance(beside.plan, ExactPlan)
    assert beside.room == int(KEPT_TO * 10**8) - 7 * 10**7
    assert beside.plan.planes < alone.plan.planes
    assert attempt_bytes(unet, beside) < attempt_bytes(unet, alone)


@pytest.mark.parametrize("share", [10.0, 0.6, 0.2])
def test_the_scan_is_measured_over_no_more_than_may_be_taken(
    unet: SegmentationNetwork, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all of it, over some tiles, over the middle of one."""
    x = noise((64, 64, 128))
    one_tile = 64**3 * bytes_per_voxel(unet)
    sizes: list[int] = []
    compute = runner.Runner.compute
    monkeypatch.setattr(
        runner.Runner,
        "compute",
        lambda self, device, batch: (sizes.append(batch.numel()), compute(self, device, batch))[1],
    )
    begun = attempt_for(unet, (64, 64, 128), 64)
    room = int(share * one_tile)
    plan = ExactPlan((64, 64, 128), begun.plan.box, 2, 1)
    limited = Attempt(**{**vars(begun), "plan": plan, "memory": int(room / KEPT_TO) + 2})
    limited = Attempt(
        **{**vars(limited), "tiles": attempt_for(unet, (64, 64, 128), 64, as_asked=True).tiles}
    )
    from napari_attention3d.inference import predict
    from napari_attention3d.inference.source import TensorSource

    monkeypatch.setattr(predict, "fitted_attempt", lambda network, attempt: (attempt, []))
    finish(predict.run_attempts(unet, TensorSource(x), limited))
    assert len(sizes) == 1
    assert sizes[0] * bytes_per_voxel(unet) <= room
    if share < 1:
        assert sizes[0] >= 32**3


def test_a_grid_goes_through_at_once_only_to_be_measured() -> None:
    """A network without statistics of the scan has no reason to; nor one whose are known."""
    options: dict[str, Any] = {"channels": (4, 8, 8), "num_classes": 2}
    measuring = build_network("attention-unet", **options).eval()
    fixed = build_network("attention-unet", norm="batch", **options).eval()
    assert attempt_for(measuring, (64, 64, 64), 32).engine == "tiles"
    assert attempt_for(measuring, (64, 64, 64), 32, calibrated=True).engine == "exact"
    assert attempt_for(fixed, (64, 64, 64), 32).engine == "exact"
