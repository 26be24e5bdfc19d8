from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from napari_attention3d.errors import InputError
from napari_attention3d.inference import runner
from napari_attention3d.inference.device import Precision
from napari_attention3d.inference.predict import (
    plan_multiple,
    predict_grid,
    private_copy,
    spread_tiles,
)
from napari_attention3d.inference.tiling import Box, TilePlan, plan_tiles
from napari_attention3d.networks import AttentionUNet, read_calibration
from napari_attention3d.progress import finish

CPU = torch.device("cpu")
Build = Callable[..., Any]


def noise(shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))


def plan_for(network: Any, shape: tuple[int, ...], tile: int, overlap: float = 0.25) -> TilePlan:
    return plan_tiles(shape, (tile,) * 3, overlap, plan_multiple(network))


@pytest.fixture
def unet() -> AttentionUNet:
    torch.manual_seed(0)
    return AttentionUNet(channels=(4, 8, 8), num_classes=3, deep_supervision="none").eval()


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 30, 23), (1, 9, 40), (5, 3, 2), (33, 8, 20)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_pointwise_network_gives_its_own_values_whatever_the_tiles(
    point_network: Build, shape: tuple[int, int, int], overlap: float
) -> None:
    network, x = point_network(0.25), noise(shape)
    result = finish(
        predict_grid(network, x, plan_for(network, shape, 8, overlap), device=CPU, maps=["means"])
    )
    torch.testing.assert_close(result.logits[1], x[0] - 0.25, atol=1e-5, rtol=1e-5)
    assert torch.equal(result.logits[0], torch.zeros(shape))
    whole = network(x[None], return_maps=True).maps["means"][0, 0]
    assert result.maps["means"].shape == tuple(whole.shape)
    np.testing.assert_allclose(result.maps["means"], whole.numpy(), atol=1e-5)


def test_single_tile_is_the_network_itself_to_the_bit(unet: AttentionUNet) -> None:
    x = noise((13, 18, 11))
    result = finish(
        predict_grid(unet, x, plan_for(unet, (13, 18, 11), 32), device=CPU, maps=["gate-level-2"])
    )
    with torch.inference_mode():
        expected = unet(x[None], return_maps=True)
    # One sample: statistics per sample and over the batch are the same.
    torch.testing.assert_close(result.logits, expected.logits[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        torch.from_numpy(result.maps["gate-level-2"]),
        expected.maps["gate-level-2"][0, 0],
        atol=1e-4,
        rtol=1e-4,
    )


def test_statistics_come_from_the_whole_grid(point_network: Build) -> None:
    """With per-tile statistics a ramp would be flattened in each tile."""
    network = point_network(0.0, norm=True).eval()
    x = torch.linspace(0, 10, 48).expand(1, 16, 16, 48).contiguous()
    result = finish(predict_grid(network, x, plan_for(network, (16, 16, 48), 16), device=CPU))
    expected = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(result.logits[1:], expected, atol=1e-4, rtol=1e-4)
    mean, var = result.calibration["norm"]
    assert mean == pytest.approx([x.mean().item()], rel=1e-5)
    assert var == pytest.approx([x.var(correction=0).item()], rel=1e-4)


@pytest.mark.parametrize(("limit", "tiles"), [(8 * 16**3, 8), (5 * 16**3, 4), (0, 1)])
def test_statistics_of_tiles_when_the_grid_is_too_large(
    point_network: Build,
    seen: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    tiles: int,
) -> None:
    monkeypatch.setattr(runner, "fits_whole", lambda voxels, *rest: voxels <= limit)
    network = point_network(0.0, norm=True).eval()
    x = noise((32, 32, 33))
    finish(predict_grid(network, x, plan_for(network, (32, 32, 33), 16), device=CPU))
    assert seen[0] == (tiles, 1, 16, 16, 16)
    assert all(shape[0] == 1 for shape in seen[1:])


def test_statistics_of_an_earlier_run_give_its_result_again(unet: AttentionUNet) -> None:
    x, plan = noise((24, 24, 40)), plan_for(unet, (24, 24, 40), 16)
    first = finish(predict_grid(unet, x, plan, device=CPU))
    part = plan.within(Box((0, 0, 30), (8, 24, 40)))
    again = finish(predict_grid(unet, x, part, device=CPU, calibration=first.calibration))
    assert torch.equal(again.logits, first.logits[(slice(None), *part.box.slices)])
    assert again.calibration == first.calibration


def test_part_equals_the_same_part_of_the_whole(unet: AttentionUNet) -> None:
    x, plan = noise((24, 31, 40)), plan_for(unet, (24, 31, 40), 16)
    box = Box((3, 5, 21), (11, 30, 29))
    whole = finish(predict_grid(unet, x, plan, device=CPU, maps=["gate-level-2"]))
    part = finish(predict_grid(unet, x, plan.within(box), device=CPU, maps=["gate-level-2"]))
    assert len(part.plan.tiles) < len(plan.tiles)
    assert torch.equal(part.logits, whole.logits[(slice(None), *box.slices)])
    stride = unet.map_specs["gate-level-2"].stride
    np.testing.assert_array_equal(
        part.maps["gate-level-2"], whole.maps["gate-level-2"][box.on_stride(stride).slices]
    )


def test_batches_give_the_same_result(unet: AttentionUNet) -> None:
    x, plan = noise((24, 32, 40)), plan_for(unet, (24, 32, 40), 16)
    one = finish(predict_grid(unet, x, plan, device=CPU))
    four = finish(predict_grid(unet, x, plan, device=CPU, batch_size=4))
    torch.testing.assert_close(one.logits, four.logits, atol=1e-4, rtol=1e-4)


def test_two_runs_are_equal_to_the_bit(unet: AttentionUNet) -> None:
    x, plan = noise((24, 20, 33)), plan_for(unet, (24, 20, 33), 16)
    one = finish(predict_grid(unet, x, plan, device=CPU))
    two = finish(predict_grid(unet, x, plan, device=CPU))
    assert torch.equal(one.logits, two.logits)


def test_progress_counts_tiles(point_network: Build) -> None:
    network = point_network()
    plan = plan_for(network, (16, 16, 40), 16)
    steps = list(predict_grid(network, noise((16, 16, 40)), plan, device=CPU))
    assert [s.done for s in steps] == list(range(len(plan.tiles) + 1))
    assert {s.total for s in steps} == {len(plan.tiles)}


@pytest.mark.parametrize("after", [1, 2, 4])
def test_cancel_stops_at_once_and_leaves_the_network_as_it_was(
    unet: AttentionUNet, after: int
) -> None:
    unet.train()
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    job = predict_grid(unet, noise((16, 16, 60)), plan_for(unet, (16, 16, 60), 16), device=CPU)
    for _ in range(after):
        next(job)
    job.close()
    assert unet.training
    assert read_calibration(unet) == {}
    assert not any(getattr(m, "measuring", False) for m in unet.modules())
    assert all(torch.equal(before[k], v) for k, v in unet.state_dict().items())
    assert not torch.is_inference_mode_enabled()


def test_consumer_never_runs_in_inference_mode(unet: AttentionUNet) -> None:
    job = predict_grid(unet, noise((8, 8, 40)), plan_for(unet, (8, 8, 40), 16), device=CPU)
    assert [torch.is_inference_mode_enabled() for _ in job] == [False] * 4


def test_two_runs_at_the_same_time_do_not_mix(unet: AttentionUNet) -> None:
    shape = (16, 16, 48)
    plan, scans = plan_for(unet, shape, 16), [noise(shape), noise(shape) * 5 + 3]
    alone = [finish(predict_grid(unet, x, plan, device=CPU)).logits for x in scans]
    together: dict[int, torch.Tensor] = {}

    def run(index: int) -> None:
        together[index] = finish(predict_grid(unet, scans[index], plan, device=CPU)).logits

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        torch.testing.assert_close(together[index], alone[index], atol=1e-5, rtol=1e-5)


def test_private_copy_shares_weights_only(unet: AttentionUNet) -> None:
    twin = private_copy(unet.train())
    assert not twin.training
    assert unet.training
    for mine, other in zip(unet.parameters(), twin.parameters(), strict=True):
        assert mine is other
    assert not {id(m) for m in unet.modules()} & {id(m) for m in twin.modules()}


def test_values_that_are_not_finite_are_reported(point_network: Build) -> None:
    x = noise((8, 8, 8))
    x[0, 1, 2, 3] = float("inf")
    network = point_network()
    plan = plan_for(network, (8, 8, 8), 8)
    with pytest.raises(InputError, match="not finite"):
        finish(predict_grid(network, x, plan, device=CPU))


def test_half_precision_is_near_and_returns_float32(unet: AttentionUNet) -> None:
    x, plan = noise((24, 24, 24)), plan_for(unet, (24, 24, 24), 32)
    exact = finish(predict_grid(unet, x, plan, device=CPU)).logits
    fast = finish(
        predict_grid(unet, x, plan, device=CPU, precision=Precision("bfloat16", ""))
    ).logits
    assert fast.dtype == torch.float32
    assert not torch.equal(exact, fast)
    assert (exact.argmax(0) == fast.argmax(0)).float().mean() > 0.95


def test_calibration_tiles_are_alike_and_spread() -> None:
    plan = plan_tiles((50, 61, 70), (16, 16, 16), 0.25, (4, 4, 4))
    boxes = spread_tiles(plan, 8)
    assert len(boxes) == 8
    assert {b.shape for b in boxes} == {(16, 16, 16)}
    assert boxes[0].start == (0, 0, 0)
    assert boxes[-1].stop == (50, 61, 70)


def test_every_network_and_map_stride_divides_the_tiles_corners(unet: AttentionUNet) -> None:
    assert plan_multiple(unet) == (4, 4, 4)
