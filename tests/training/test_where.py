"""A device that computes something else than the CPU trains nothing, and that is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.errors import InputError
from napari_attention3d.inference import selftest
from napari_attention3d.inference.device import DeviceChoice
from napari_attention3d.networks import build_network
from napari_attention3d.training import train_job, where
from napari_attention3d.training.cases import TrainingCase
from napari_attention3d.training.planned import plan_job
from napari_attention3d.training.processes import Processes
from napari_attention3d.training.where import training_device
from napari_attention3d.volumes import Volume

OTHER = torch.device("meta")  # stands for a GPU: what it computes is made up below
ALONE = Processes()


def right(logits, precision):
    return logits


def wrong(logits, precision):
    return logits.flip(1)


def wrong_in_half(logits, precision):
    return logits.flip(1) if precision.name == "bfloat16" else logits


@pytest.fixture
def device(monkeypatch):
    """Function that puts a device there whose logits are what a function makes of the CPU's."""
    real = selftest.run_on

    def put(change):
        def run(network, x, device, precision):
            logits = real(network, x, torch.device("cpu"), selftest.Precision("float32", ""))
            return change(logits, precision) if device == OTHER else logits

        monkeypatch.setattr(selftest, "_RESULTS", {})
        monkeypatch.setattr(selftest, "run_on", run)
        monkeypatch.setattr(where, "choose_device", lambda request: DeviceChoice(OTHER, ""))

    return put


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network("attention-unet", channels=(4, 8))


def finish(job):
    said = []
    while True:
        try:
            said.append(next(job).message)
        except StopIteration as end:
            return said, end.value


def test_a_training_on_a_wrong_device_goes_to_the_cpu(device, synthesis_config, tmp_path):
    device(wrong)
    said, result = finish(train_job(synthesis_config, tmp_path / "toy.safetensors"))
    assert result.steps == 4
    assert "does not compute what the CPU does" in said[0]
    assert "the CPU is used instead" in result.warnings[0]


def test_a_device_that_passes_is_taken(device, network):
    device(right)
    before = torch.random.get_rng_state()
    assert training_device(network, "auto", "bf16", "a", ALONE) == (OTHER, True, "")
    assert training_device(network, "auto", "fp32", "a", ALONE) == (OTHER, False, "")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert network.device.type == "cpu"


def test_only_half_precision_is_given_up_where_that_alone_is_wrong(device, network):
    device(wrong_in_half)
    chosen, half, doubt = training_device(network, "auto", "bf16", "a", ALONE)
    assert (chosen, half) == (OTHER, False)
    assert "float32 is used instead" in doubt


def test_one_of_several_processes_does_not_go_to_the_cpu_alone(device, network):
    device(wrong)
    with pytest.raises(InputError, match="train without this device"):
        training_device(network, "meta", "fp32", "a", Processes(rank=1, count=2, local=1))


def test_the_cpu_needs_no_test(network, monkeypatch):
    monkeypatch.setattr(selftest, "run_on", None)
    assert training_device(network, "cpu", "fp32", "a", ALONE) == (torch.device("cpu"), False, "")


def test_a_plan_is_made_for_the_memory_of_the_device_that_will_train(device, monkeypatch):
    from napari_attention3d.training import planned

    asked = []
    monkeypatch.setattr(planned, "available_bytes", lambda d: asked.append(d) or 4 * 10**9)
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[5:15, 5:15, 5:15] = 1
    keys = {"spacing": (1, 1, 1), "unit": "um"}
    image = Volume.from_array(labels.astype(np.float32), **keys)
    case = TrainingCase("a", image, Volume.from_array(labels, **keys))
    for change, expected in ((wrong, torch.device("cpu")), (right, OTHER)):
        device(change)
        _, (_, plan) = finish(plan_job([case], name="m"))
        assert asked.pop() == expected
        assert any("does not compute" in line for line in plan.lines()) == (change is wrong)
