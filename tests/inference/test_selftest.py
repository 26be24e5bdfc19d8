"""A device that computes something else than the CPU is found out before it is used."""

from __future__ import annotations

import pytest
import torch

from napari_attention3d.inference import selftest
from napari_attention3d.inference.device import Precision
from napari_attention3d.inference.selftest import known_problem, self_test
from napari_attention3d.networks import build_network

OTHER = torch.device("meta")  # stands for a device: what it returns is replaced below
EXACT = Precision("float32", "")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network("guided-attention", widths=(4, 4, 8, 8), features=8, head_width=4).eval()


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(selftest, "_RESULTS", {})


def pretend(monkeypatch, change):
    """Let the other device return what `change` makes of the right logits."""
    real, calls = selftest.run_on, []

    def run(network, x, device, precision):
        calls.append(device)
        logits = real(network, x, torch.device("cpu"), precision)
        return change(logits) if device == OTHER else logits

    monkeypatch.setattr(selftest, "run_on", run)
    return calls


def test_a_device_that_agrees_passes_and_is_tested_once(network, monkeypatch):
    calls = pretend(monkeypatch, lambda t: t * (1 + 1e-6))
    assert self_test(network, OTHER, EXACT, "a") == ""
    assert self_test(network, OTHER, EXACT, "a") == ""
    assert len(calls) == 2
    self_test(network, OTHER, EXACT, "other weights")
    assert len(calls) == 4


def test_another_result_is_found(network, monkeypatch):
    pretend(monkeypatch, lambda t: t.flip(1))
    assert "does not compute what the CPU does" in self_test(network, OTHER, EXACT, "a")


def test_one_wrong_corner_is_found(network, monkeypatch):
    def spoil(logits):
        wrong = logits.clone()
        wrong[..., -3:, -3:, -3:] += 10
        return wrong

    pretend(monkeypatch, spoil)
    assert "standard deviations" in self_test(network, OTHER, EXACT, "a")


def test_values_that_are_not_finite_are_found(network, monkeypatch):
    pretend(monkeypatch, lambda t: t * float("nan"))
    assert "not finite" in self_test(network, OTHER, EXACT, "a")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NotImplementedError("aten::upsample_trilinear3d"), "can't run this network"),
        (TypeError("Cannot convert a MPS Tensor to float64 dtype"), "float64"),
        (torch.OutOfMemoryError("CUDA out of memory"), "no memory left"),
        (RuntimeError("device-side assert\nmore lines"), "device-side assert"),
    ],
)
def test_a_device_that_fails_is_named(network, monkeypatch, error, message):
    def fail(logits):
        raise error

    pretend(monkeypatch, fail)
    found = self_test(network, OTHER, EXACT, "a")
    assert message in found
    assert "\n" not in found


def test_memory_that_ran_out_once_is_tried_again(network, monkeypatch):
    full = [True]

    def run_out(logits):
        if full:
            full.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits

    pretend(monkeypatch, run_out)
    assert "no memory left" in self_test(network, OTHER, EXACT, "a")
    assert known_problem(network, OTHER, EXACT, "a") == ""
    assert self_test(network, OTHER, EXACT, "a") == ""


def test_a_known_problem_is_told_without_a_run(network, monkeypatch):
    calls = pretend(monkeypatch, lambda t: t * float("nan"))
    assert known_problem(network, OTHER, EXACT, "a") == ""
    assert calls == []
    found = self_test(network, OTHER, EXACT, "a")
    assert found
    count = len(calls)
    assert known_problem(network, OTHER, EXACT, "a") == found
    assert known_problem(network, OTHER, EXACT, "other weights") == ""
    assert len(calls) == count


def test_statistics_of_the_scan_are_measured_on_the_device_too(monkeypatch):
    """A wrong `var_mean` alone is found: runs depend on it."""
    network = build_network("attention-unet", channels=(4, 8)).eval()
    real = torch.var_mean

    def run(twin, x, device, precision):
        if device == OTHER:
            monkeypatch.setattr(torch, "var_mean", lambda *a, **k: [t * 2 for t in real(*a, **k)])
        logits = original(twin, x, torch.device("cpu"), precision)
        monkeypatch.setattr(torch, "var_mean", real)
        return logits

    original = selftest.run_on
    monkeypatch.setattr(selftest, "run_on", run)
    assert "does not compute" in self_test(network, OTHER, EXACT, "a")


def test_half_precision_may_round(network, monkeypatch):
    """bfloat16 on the CPU itself stands for another device: it passes, sign errors do not."""
    real = selftest.run_on

    def run(network, x, device, precision):
        return real(network, x, torch.device("cpu"), precision)

    monkeypatch.setattr(selftest, "run_on", run)
    rough = Precision("bfloat16", "")
    assert self_test(network, OTHER, rough, "a") == ""
    pretend(monkeypatch, lambda t: -t)
    assert self_test(network, OTHER, rough, "b") != ""


def test_the_cpu_needs_no_test(network, monkeypatch):
    calls = pretend(monkeypatch, lambda t: t)
    assert self_test(network, torch.device("cpu"), EXACT, "a") == ""
    assert calls == []


def test_the_network_stays_where_it_is(network, monkeypatch):
    pretend(monkeypatch, lambda t: t)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    self_test(network, OTHER, EXACT, "a")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert network.device.type == "cpu"
