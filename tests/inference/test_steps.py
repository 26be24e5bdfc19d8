"""At every step of both engines: cancelled, or out of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from napari_attention3d.geometry import Geometry
from napari_attention3d.inference import memory, predict
from napari_attention3d.inference.exact import ExactRun
from napari_attention3d.inference.plans import ExactPlan
from napari_attention3d.inference.predict import GridPrediction, predict_adaptively
from napari_attention3d.inference.runner import Runner
from napari_attention3d.inference.sink import Logits
from napari_attention3d.inference.store import ZarrStore
from napari_attention3d.inference.stream import run as stream_run
from napari_attention3d.inference.tiling import Box
from napari_attention3d.models.card import ModelCard
from napari_attention3d.models.store import Model
from napari_attention3d.networks import build_network
from napari_attention3d.networks.base import SegmentationNetwork
from napari_attention3d.progress import finish
from napari_attention3d.session import SegmentOptions, segment_job
from napari_attention3d.volumes import Volume, read_volume

CPU = torch.device("cpu")
FAKE_GPU = torch.device("cpu", 0)
"""Not the CPU for the engine, and there on every machine."""
SHAPE = (14, 20, 70)
NETWORKS: dict[str, dict[str, Any]] = {
    "attention-unet": {"channels": (4, 8, 8)},
    "guided-attention": {"widths": (4, 4, 8, 8), "features": 8, "head_width": 4},
}
ENGINES = {"attention-unet": "exact", "guided-attention": "tiles"}


@pytest.fixture(autouse=True)
def streams_small_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WHOLE_GRID_VOXELS", 1)


@pytest.fixture(params=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(request.param, num_classes=3, **NETWORKS[request.param]).eval()


def some(steps: int, network: SegmentationNetwork) -> Iterator[int]:
    """Steps to fail at: all of the engine with few; first, last and six between of the other."""
    number = steps if network.name == "attention-unet" else 8
    yield from sorted(set(np.linspace(0, steps - 1, number).round().astype(int).tolist()))


def scan() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)


def model_of(network: SegmentationNetwork) -> Model:
    card = {
        "name": "test", "title": "Test", "network": {"name": network.name, **network.config},
        "classes": [{"name": str(i), "colour": "#808080"} for i in range(3)],
        "channels": [{"name": "image"}], "patch_size": [16, 16, 16],
        "normalisation": {"kind": "none"},
    }  # fmt: skip
    return Model(ModelCard.model_validate(card), network)


def to_zarr(network: SegmentationNetwork, path: Path) -> Iterator[Any]:
    """A run from an array to a folder, as a generator."""
    grid = Geometry.from_spacing(SHAPE)
    volume = Volume(scan(), grid, "scan")
    options = SegmentOptions(device="cpu", precision="exact", uncertainty=True)
    paths = {name: path / f"{name}.ome.zarr" for name in ("labels", "uncertainty")}
    with ZarrStore(paths, grid, "scan") as store:
        yield from segment_job(volume, model_of(network), options, allocate=store.allocate)


def test_cancelled_at_any_step_nothing_is_left(
    network: SegmentationNetwork, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    steps = sum(1 for _ in to_zarr(network, tmp_path / "whole"))
    assert len(list((tmp_path / "whole").iterdir())) == 2
    assert steps > 6
    for after in some(steps, network):
        folder = tmp_path / str(after)
        folder.mkdir()
        job = to_zarr(network, folder)
        for _ in range(after + 1):
            next(job)
        job.close()  # type: ignore[attr-defined]
        assert list(folder.iterdir()) == []
        assert not [t for t in threading.enumerate() if t.name.startswith("attention3d")]


class Limited:
    """Fails at one of the passes, once, or at all of them on one device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.fail_at, self.broken = 0, -1, None
        step, compute = stream_run.Pass.step, Runner.compute

        def stepped(run: Any) -> Any:
            self.tell(run.graph.device)
            return step(run)

        def computed(runner: Any, device: Any, batch: Any) -> Any:
            if not any(getattr(m, "measuring", False) for m in runner.on(device).modules()):
                self.tell(device)
            return compute(runner, device, batch)

        monkeypatch.setattr(stream_run.Pass, "step", stepped)
        monkeypatch.setattr(Runner, "compute", computed)

    def tell(self, device: torch.device) -> None:
        self.count += 1
        if self.count - 1 == self.fail_at or (device == self.broken and self.count > 2):
            raise MemoryError


def run(network: SegmentationNetwork, device: torch.device, known: Any) -> GridPrediction:
    x = torch.from_numpy(scan())[None]
    return finish(
        predict_adaptively(network, x, (16, 16, 16), 0.25, device=device, calibration=known)
    )


def test_out_of_memory_at_any_step_the_labels_are_equal(
    network: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = run(network, CPU, None).calibration
    limited = Limited(monkeypatch)
    whole = run(network, CPU, known)
    assert whole.attempt.engine == ENGINES[network.name]
    labels, steps = whole.logits.argmax(0), limited.count
    assert steps >= 4
    for fail_at in some(steps, network):
        limited.count, limited.fail_at = 0, fail_at
        result = run(network, CPU, known)
        assert "ran out" in result.warnings[0]
        assert (result.logits.argmax(0) != labels).float().mean() <= 1e-4
        torch.testing.assert_close(result.logits, whole.logits, atol=1e-3, rtol=1e-3)


def test_where_a_device_has_no_room_at_all_the_cpu_goes_on(
    network: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = run(network, CPU, None).calibration
    whole = run(network, CPU, known)
    limited = Limited(monkeypatch)
    limited.broken = FAKE_GPU
    result = run(network, FAKE_GPU, known)
    assert result.attempt.devices == (CPU,)
    assert result.warnings[-1].endswith("went on with the CPU")
    assert "did not suffice" in result.attempt.device_reason
    torch.testing.assert_close(result.logits, whole.logits, atol=1e-3, rtol=1e-3)


def test_a_result_names_the_device_that_finished_it_and_what_happened(
    network: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Limited(monkeypatch).broken = FAKE_GPU
    volume = Volume(scan(), Geometry.from_spacing(SHAPE), "scan")
    from napari_attention3d.inference import setup
    from napari_attention3d.inference.device import DeviceChoice

    monkeypatch.setattr(setup, "choose_device", lambda request: DeviceChoice(FAKE_GPU, "a GPU"))
    monkeypatch.setattr(setup, "self_test", lambda *about: "")
    result = finish(segment_job(volume, model_of(network), SegmentOptions(precision="exact")))
    assert result.device == "cpu"
    assert "did not suffice" in result.device_reason
    assert result.provenance["device"] == "cpu"
    assert result.provenance["device_reason"] == result.device_reason
    told = result.labels.metadata["provenance"]["warnings"]
    assert told == result.warnings
    assert any("went on with the CPU" in one for one in told)


def test_a_fallback_to_columns_in_the_middle_of_a_row_of_chunks_loses_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From planes that wait for their row to columns that are written at once."""
    torch.manual_seed(0)
    network = build_network("attention-unet", num_classes=3, channels=(4, 8)).eval()
    shape = (30, 96, 22)
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    volume = Volume(array, Geometry.from_spacing(shape), "scan")
    options = SegmentOptions(device="cpu", precision="exact")
    whole = finish(segment_job(volume, model_of(network), options))

    def limited(run: ExactRun) -> Any:
        for number, found in enumerate(begun(run)):
            if run.plan.parts == 1 and number == 1:
                raise MemoryError
            yield found

    begun = ExactRun.steps
    monkeypatch.setattr(ExactRun, "steps", limited)
    path = tmp_path / "labels.ome.zarr"
    wide = volume.geometry
    chosen = predict.run_attempts

    def along_z(network: Any, source: Any, attempt: Any, **more: Any) -> Any:
        plan = ExactPlan(shape, attempt.plan.box, 0, 2)
        from dataclasses import replace

        return (yield from chosen(network, source, replace(attempt, plan=plan), **more))

    from napari_attention3d import session

    monkeypatch.setattr(session, "run_attempts", along_z)
    with ZarrStore({"labels": path}, wide, "scan") as store:
        job = segment_job(
            volume, model_of(network), options, allocate=store.allocate,
            calibration=whole.provenance["calibration"],
        )  # fmt: skip
        result = finish(job)
    assert result.provenance["plan"]["columns"] > 1
    assert (np.asarray(read_volume(path).array) != whole.labels.array).mean() <= 1e-4


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_viewed_place_comes_first_whatever_shares_the_work(devices: int, parts: int) -> None:
    shape, focus = (40, 60, 200), (20.0, 45.0, 90.0)
    box = Box((0, 0, 0), shape)
    plan = ExactPlan(shape, box, 2, 8, parts=parts)
    runner: Any = SimpleNamespace(devices=(CPU,) * devices)
    pieces = ExactRun(runner, plan, Logits(2, box), [box], {}, focus=focus).pieces
    first = pieces[0]
    assert all(a <= f < b for a, b, f in zip(first.box.start, first.box.stop, focus, strict=True))
    assert 90 - 8 <= first.first <= 90 < first.last
    seen = np.zeros(shape, int)
    for piece in pieces:
        y = slice(piece.box.start[1], piece.box.stop[1])
        seen[:, y, piece.first : piece.last] += 1
    assert (seen == 1).all()
    columns = [piece.box.start[1] for piece in pieces if piece.first == first.first]
    gaps = [abs(45 - start) for start in columns]
    assert gaps[0] == min(gaps)


def test_empty_tiles_are_background_and_are_not_computed(
    network: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.from_numpy(scan())[None]
    x[..., 35:] = -1.0
    known = run(network, CPU, None).calibration
    seen: list[torch.Tensor] = []
    compute = Runner.compute
    monkeypatch.setattr(
        Runner,
        "compute",
        lambda self, device, batch: (seen.append(batch), compute(self, device, batch))[1],
    )
    options: dict[str, Any] = {"device": CPU, "calibration": known, "as_asked": True}
    full = finish(predict_adaptively(network, x, (16, 16, 16), 0.25, **options))
    count = len(seen)
    seen.clear()
    result = finish(predict_adaptively(network, x, (16, 16, 16), 0.25, skip_empty=True, **options))
    assert 0 < len(seen) < count
    assert all(bool((batch.amax((2, 3, 4)) > batch.amin((2, 3, 4))).any()) for batch in seen)
    # Up to the first empty tile nothing differs; beyond the last that is not, all is background.
    torch.testing.assert_close(result.logits[..., :30], full.logits[..., :30], atol=1e-5, rtol=1e-5)
    assert (result.logits.argmax(0)[..., 52:] == 0).all()
