"""Half precision is kept only where a test tile's labels stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from napari_attention3d.inference import trial as module
from napari_attention3d.inference.device import Precision
from napari_attention3d.inference.plans import choose_attempt
from napari_attention3d.inference.predict import GridPrediction, predict_adaptively
from napari_attention3d.inference.runner import Runner
from napari_attention3d.networks import build_network
from napari_attention3d.progress import finish

CPU = torch.device("cpu")
TRIAL = Precision("bfloat16", "it is faster", on_trial=True)
Build = Callable[..., Any]


def run(network: Any, x: torch.Tensor, precision: Precision) -> GridPrediction:
    options = {"device": CPU, "precision": precision, "as_asked": True}
    return finish(predict_adaptively(network, x, (16, 16, 16), 0.25, **options))


def rough(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    """Half precision adds this to the logits."""
    compute = Runner.compute

    def wrong(self: Any, device: Any, batch: torch.Tensor) -> Any:
        output = compute(self, device, batch)
        if self.precision.name == "float32":
            return output
        return output._replace(logits=output.logits + torch.tensor([error, 0]).view(1, 2, 1, 1, 1))

    monkeypatch.setattr(Runner, "compute", wrong)


def ramp() -> torch.Tensor:
    return torch.linspace(-1, 1, 48).expand(1, 16, 16, 48).contiguous()


def test_labels_that_stay_let_it_pass(
    point_network: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    rough(monkeypatch, 1e-6)
    result = run(point_network(0.01), ramp(), TRIAL)
    assert result.attempt.precision.name == "bfloat16"
    assert "labels change by 0.000%" in result.attempt.precision.reason


def test_labels_that_change_forbid_it_and_the_reason_is_told(
    point_network: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    rough(monkeypatch, 0.1)
    network = point_network(0.01)
    result = run(network, ramp(), TRIAL)
    assert result.attempt.precision.name == "float32"
    assert "changed" in result.attempt.precision.reason
    exact = run(network, ramp(), Precision("float32", ""))
    assert torch.equal(result.logits, exact.logits)
    asked = run(network, ramp(), Precision("bfloat16", "as asked"))
    assert asked.attempt.precision.name == "bfloat16"


def test_a_tile_of_background_is_no_test(
    point_network: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    rough(monkeypatch, 0)
    result = run(point_network(5.0), ramp(), TRIAL)
    assert result.attempt.precision.name == "float32"
    assert "too little" in result.attempt.precision.reason


@pytest.mark.parametrize("error", [1e-6, 0.3])
def test_the_exact_pass_is_tried_by_the_exact_pass(
    error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its half precision is wrong here by a known error, which only the exact pass has."""
    torch.manual_seed(0)
    unet = build_network("attention-unet", channels=(4, 8, 8), num_classes=2).eval()
    x = torch.randn(1, 20, 20, 40, generator=torch.Generator().manual_seed(1))
    known = finish(predict_adaptively(unet, x, (16,) * 3, 0.25, device=CPU)).calibration
    options = {"device": CPU, "calibration": known}
    exact = finish(predict_adaptively(unet, x, (16,) * 3, 0.25, **options))
    spread = float((exact.logits[1] - exact.logits[0]).std())
    stream, tried = module.ExactRun._stream, []

    def wrong(self: Any, device: torch.device, piece: Any) -> Any:
        half = self.runner.precision.name != "float32"
        tried.append((self.runner.precision.name, self.plan.box.shape))
        self.runner.precision, kept = Precision("float32", ""), self.runner.precision
        for one, found in stream(self, device, piece):
            self.runner.precision = kept
            first, logits = found["logits"]
            if half:
                logits = logits + error * spread * torch.tensor([1.0, 0]).view(2, 1, 1, 1)
            yield one, {**found, "logits": (first, logits)}

    monkeypatch.setattr(module.ExactRun, "_stream", wrong)
    result = finish(predict_adaptively(unet, x, (16,) * 3, 0.25, precision=TRIAL, **options))
    assert result.attempt.engine == "exact"
    tile = (16, 16, 16)
    assert tried[:2] == [("float32", tile), ("bfloat16", tile)]
    if error < 1e-3:
        assert result.attempt.precision.name == "bfloat16"
        assert tried[2:] == [("bfloat16", (20, 20, 40))]
    else:
        assert result.attempt.precision.name == "float32"
        assert "changed" in result.attempt.precision.reason
        assert torch.equal(result.logits, exact.logits)


@pytest.mark.parametrize("engine", ["tiles", "exact"])
def test_numbers_beyond_half_precision_are_no_end_but_a_reason(engine: str) -> None:
    """Within float32's range, beyond float16's: the run goes on in float32 and says why."""
    torch.manual_seed(0)
    unet = build_network("attention-unet", channels=(4, 8, 8), num_classes=2).eval()
    x = torch.randn(1, 20, 20, 40, generator=torch.Generator().manual_seed(1))
    known = finish(predict_adaptively(unet, x, (16,) * 3, 0.25, device=CPU)).calibration
    with torch.no_grad():
        for parameter in unet.heads[0].parameters():  # type: ignore[union-attr, index]
            parameter *= 1e6
    options = {"device": CPU, "calibration": known, "as_asked": engine == "tiles"}
    half = Precision("float16", "it is faster", on_trial=True)
    result = finish(predict_adaptively(unet, x, (16,) * 3, 0.25, precision=half, **options))
    assert result.attempt.engine == engine
    assert result.attempt.precision.name == "float32"
    assert "beyond the range of float16" in result.attempt.precision.reason
    exact = finish(predict_adaptively(unet, x, (16,) * 3, 0.25, **options))
    assert torch.equal(result.logits, exact.logits)


def test_one_pass_is_no_occasion_for_a_trial() -> None:
    unet = build_network("attention-unet", channels=(4, 8, 8), num_classes=2).eval()
    chosen = choose_attempt(unet, (20,) * 3, (16,) * 3, 0.25, devices=(CPU,), precision=TRIAL)
    assert chosen.precision.name == "float32"
    assert "as long" in chosen.precision.reason
