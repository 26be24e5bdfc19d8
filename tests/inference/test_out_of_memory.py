"""Memory that runs out, anywhere in a run: it goes on, and the result is the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from napari_attention3d.errors import OutOfMemory
from napari_attention3d.inference import plans
from napari_attention3d.inference.exact import ExactRun
from napari_attention3d.inference.plans import ExactPlan
from napari_attention3d.inference.predict import predict_adaptively
from napari_attention3d.inference.runner import Runner
from napari_attention3d.inference.tiling import TilePlan
from napari_attention3d.networks import AttentionUNet, build_network
from napari_attention3d.progress import finish

CPU = torch.device("cpu")
Build = Callable[..., Any]


def noise(shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def unet() -> AttentionUNet:
    torch.manual_seed(0)
    return AttentionUNet(channels=(4, 8, 8), num_classes=3, deep_supervision="none").eval()


def fail_above(monkeypatch: pytest.MonkeyPatch, voxels: int, error: Exception) -> None:
    """Passes over more voxels than this run out of memory."""
    compute = Runner.compute

    def limited(self: Any, device: Any, batch: torch.Tensor) -> Any:
        if batch.numel() > voxels:
            raise error
        return compute(self, device, batch)

    monkeypatch.setattr(Runner, "compute", limited)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "python", "cpu"])
def test_tiles_that_were_asked_for_become_smaller(
    point_network: Build, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    network, x = point_network(), noise((40, 40, 70))
    options = {"device": CPU, "as_asked": True}
    whole = finish(predict_adaptively(network, x, (100, 100, 100), 0.25, **options))
    fail_above(monkeypatch, 40 * 40 * 36, error)
    result = finish(predict_adaptively(network, x, (100, 100, 100), 0.25, **options))
    assert isinstance(result.plan, TilePlan)
    assert len(result.plan.tiles) > 1
    assert "ran out" in result.warnings[0]
    assert "tiles of 40 x 40 x 35 voxels" in result.warnings[0]
    torch.testing.assert_close(result.logits, whole.logits, atol=1e-5, rtol=1e-5)


def test_smaller_tiles_give_what_they_give_from_the_start(
    unet: AttentionUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statistics too: from one tile, since neither the grid nor three tiles fit."""
    x = noise((32, 32, 72))
    fail_above(monkeypatch, 32 * 32 * 71, MemoryError())
    options = {"device": CPU, "as_asked": True}
    small = finish(predict_adaptively(unet, x, (32, 32, 36), 0.25, **options))
    result = finish(predict_adaptively(unet, x, (32, 32, 72), 0.25, **options))
    assert result.attempt.tiles.tile == small.attempt.tiles.tile == (32, 32, 36)
    assert "over 1 tile" in small.warnings[0]
    assert result.warnings[1:] == small.warnings
    assert torch.equal(result.logits, small.logits)


def test_a_grid_that_does_not_go_through_at_once_goes_plane_by_plane(
    unet: AttentionUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = noise((32, 32, 72))
    whole = finish(predict_adaptively(unet, x, (32, 32, 36), 0.25, device=CPU))
    assert isinstance(whole.plan, TilePlan)
    fail_above(monkeypatch, 32 * 32 * 71, MemoryError())
    result = finish(predict_adaptively(unet, x, (32, 32, 36), 0.25, device=CPU))
    assert isinstance(result.plan, ExactPlan)
    assert "plane by plane" in result.warnings[0]
    assert result.attempt.reason == plans.EACH_ONCE
    # Not over the same voxels, so not the same statistics.
    assert (result.logits.argmax(0) == whole.logits.argmax(0)).float().mean() > 0.9


def test_at_the_smallest_plan_it_says_what_to_do(
    point_network: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(monkeypatch, 0, MemoryError())
    network = point_network()
    with pytest.raises(OutOfMemory, match="even for the smallest plan; close other programs"):
        finish(predict_adaptively(network, noise((50, 50, 50)), (50,) * 3, 0.25, device=CPU))


def test_other_errors_come_through_as_they_are(
    point_network: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(monkeypatch, 0, RuntimeError("size mismatch"))
    network = point_network()
    with pytest.raises(RuntimeError, match="size mismatch"):
        finish(predict_adaptively(network, noise((8, 8, 8)), (8, 8, 8), 0.25, device=CPU))


def test_statistics_over_fewer_tiles_are_told(
    unet: AttentionUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(monkeypatch, 3 * 32**3, MemoryError())
    x = noise((32, 32, 140))
    options = {"device": CPU, "as_asked": True}
    result = finish(predict_adaptively(unet, x, (32, 32, 32), 0.25, **options))
    assert "over 3 tiles" in result.warnings[0]


class Failing:
    """A scan whose n-th reading runs out of memory, once."""

    def __init__(self, tensor: torch.Tensor, fail_at: int) -> None:
        self.tensor, self.fail_at, self.reads = tensor, fail_at, 0
        self.shape = tuple(tensor.shape)

    def read(self, box: Any) -> torch.Tensor:
        self.reads += 1
        if self.reads - 1 == self.fail_at:
            raise MemoryError
        return self.tensor[(slice(None), *box.slices)]

    def ahead(self, *boxes: Any) -> None:
        pass

    def close(self) -> None:
        pass


def test_exact_pass_goes_on_from_where_it_was_whichever_step_fails(
    unet: AttentionUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "PLANES", 4)
    x = noise((13, 22, 41))
    first = finish(predict_adaptively(unet, x, (16, 16, 16), 0.25, device=CPU))
    known = {"device": CPU, "calibration": first.calibration, "maps": ["gate-level-2"]}
    source = Failing(x, -1)
    job = predict_adaptively(unet, source, (16, 16, 16), 0.25, **known)
    while next(job).done == 0:
        pass
    before_the_first_planes = source.reads
    whole = finish(job)
    assert isinstance(whole.plan, ExactPlan)
    steps: list[int] = []
    begun = ExactRun.steps
    monkeypatch.setattr(
        ExactRun, "steps", lambda self: (steps.append(self.total), (yield from begun(self)))[1]
    )
    for fail_at in range(source.reads):
        steps.clear()
        result = finish(predict_adaptively(unet, Failing(x, fail_at), (16, 16, 16), 0.25, **known))
        assert isinstance(result.plan, ExactPlan)
        assert result.plan.planes == 2
        assert "2 planes at a time" in result.warnings[0]
        assert steps[0] == 41
        assert (
            steps[1] < 41 or fail_at < before_the_first_planes
        )  # what was final is not computed again
        torch.testing.assert_close(result.logits, whole.logits, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(
            result.maps["gate-level-2"], whole.maps["gate-level-2"], atol=1e-6
        )


def test_tiles_of_a_global_network_stay_whichever_step_fails() -> None:
    torch.manual_seed(0)
    network = build_network("guided-attention", preset="small", num_classes=2).eval()
    x = noise((32, 32, 80))
    options: dict[str, Any] = {"device": CPU, "maps": [next(iter(network.map_specs))]}
    first = finish(predict_adaptively(network, x, (32, 32, 32), 0.25, **options))
    options["calibration"] = first.calibration
    source = Failing(x, -1)
    whole = finish(predict_adaptively(network, source, (32, 32, 32), 0.25, **options))
    assert whole.attempt.batch_size == 2
    for fail_at in range(source.reads):
        result = finish(
            predict_adaptively(network, Failing(x, fail_at), (32, 32, 32), 0.25, **options)
        )
        assert result.attempt.tiles == whole.attempt.tiles
        torch.testing.assert_close(result.logits, whole.logits, atol=1e-3, rtol=1e-3)
        assert result.attempt.batch_size == 1
        assert "one tile at a time" in result.warnings[0]


def test_a_global_network_gives_up_its_maps_before_its_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    network = build_network("guided-attention", preset="small", num_classes=2).eval()
    compute = Runner.compute

    def limited(self: Any, device: Any, batch: torch.Tensor) -> Any:
        if self.specs and not any(getattr(m, "measuring", False) for m in self.network.modules()):
            raise MemoryError
        return compute(self, device, batch)

    monkeypatch.setattr(Runner, "compute", limited)
    names = [next(iter(network.map_specs))]
    x = noise((32, 32, 60))
    result = finish(predict_adaptively(network, x, (32, 32, 32), 0.25, device=CPU, maps=names))
    assert result.maps == {}
    assert [w.split("; ")[1] for w in result.warnings] == [
        "went on with one tile at a time",
        "went on without the attention maps",
    ]
    assert not [t for t in threading.enumerate() if t.name.startswith("attention3d")]
