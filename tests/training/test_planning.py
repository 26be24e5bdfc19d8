"""Plans follow the data and the memory: spacing, patch, strides, batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from napari_attention3d.errors import InputError, OutOfMemory
from napari_attention3d.networks import build_network
from napari_attention3d.training.cases import CaseFacts, DataFacts
from napari_attention3d.training.memory import training_bytes
from napari_attention3d.training.planning import PRESETS, plan_training

PLENTY = 64 * 10**9


def facts(shape, spacing=(1.0, 1.0, 1.0), *, count=1, unit="mm", anatomical=False, smallest=10**4):
    voxels = {0: math.prod(shape) - smallest, 1: smallest}
    cases = tuple(CaseFacts(f"case{i}", shape, spacing, voxels) for i in range(count))
    return DataFacts(cases, unit, anatomical)


@pytest.fixture(autouse=True)
def _memory(monkeypatch):
    """A step's memory as bytes per voxel: the figure itself has a test of its own."""
    monkeypatch.setattr(
        "napari_attention3d.training.planning.training_bytes",
        lambda network, patch, batch=1: batch * 2000 * math.prod(patch),
    )


def test_equal_axes_are_treated_alike():
    plan = plan_training(facts((200, 200, 200)), 2, PLENTY)
    assert plan.patch_size == (48, 48, 48)
    assert all(len(set(stride)) == 1 for stride in plan.network["strides"])
    assert plan.network["kernels"][0] == [3, 3, 3]
    assert plan.spacing == (1.0, 1.0, 1.0)
    assert not plan.in_plane


def test_thick_slices_are_halved_later_and_filtered_in_plane():
    plan = plan_training(facts((40, 300, 300), (5.0, 1.0, 1.0)), 2, PLENTY)
    z, y, x = plan.patch_size
    assert z < y == x
    assert plan.network["strides"][0] == [1, 2, 2]
    assert plan.network["kernels"][0] == [1, 3, 3]
    assert plan.network["kernels"][-1] == [3, 3, 3]
    assert plan.in_plane
    assert any("Thick slices" in note for note in plan.notes)


def test_a_thin_axis_is_not_halved_to_nothing():
    plan = plan_training(facts((6, 400, 400)), 2, PLENTY, "standard")
    total = np.prod(plan.network["strides"], axis=0)
    assert (np.array(plan.patch_size) / total >= 2).all()
    assert plan.network["kernels"][-1] == [3, 3, 3]


@pytest.mark.parametrize("preset", ["quick", "thorough"])
@pytest.mark.parametrize("name", ["attention-unet", "guided-attention"])
@pytest.mark.parametrize("shape", [(30, 101, 122), (9, 256, 256)])
def test_the_planned_network_takes_the_planned_patch(preset, name, shape):
    plan = plan_training(facts(shape), 3, PLENTY, preset, name)
    with FakeTensorMode(), torch.no_grad():  # shapes alone
        network = build_network(**plan.network, in_channels=1, num_classes=3)
        out = network(torch.empty((1, 1, *plan.patch_size)))
    assert out.logits.shape == (1, 3, *plan.patch_size)
    assert math.prod(plan.patch_size) <= 2 * PRESETS[preset].patch_voxels


def test_less_memory_means_smaller_patches_then_a_clear_error():
    scan = facts((200, 200, 200))
    large = plan_training(scan, 2, PLENTY, "standard")
    small = plan_training(scan, 2, 10**9, "standard")
    assert math.prod(small.patch_size) < math.prod(large.patch_size)
    assert small.batch_size == 1 < large.batch_size
    assert small.bytes <= 10**9
    assert any("to fit the memory" in note for note in small.notes)
    with pytest.raises(OutOfMemory, match="smaller preset"):
        plan_training(scan, 2, 10**6, "standard")


def test_small_scans_make_larger_batches():
    assert plan_training(facts((24, 24, 24)), 2, PLENTY).batch_size == 4
    assert plan_training(facts((24, 24, 24)), 2, PLENTY, processes=3).batch_size == 12


def test_a_patients_scan_is_made_coarser_until_a_patch_shows_enough_of_it():
    plan = plan_training(facts((200, 200, 200), anatomical=True), 2, PLENTY)
    assert 2.0 < plan.spacing[0] < 3.0
    assert math.prod(plan.patch_size) * 8 > 0.2 * 200**3 / plan.spacing[0] ** 3 * 8
    tiny = plan_training(facts((200, 200, 200), anatomical=True, smallest=600), 2, PLENTY)
    assert tiny.spacing[0] < 1.2  # the structure would be lost
    cells = plan_training(facts((200, 200, 200), unit="um"), 2, PLENTY)
    assert cells.spacing == (1.0, 1.0, 1.0)


def test_without_a_known_spacing_scans_keep_their_own():
    assert plan_training(facts((64, 64, 64), unit="pixel"), 2, PLENTY).spacing is None


def test_the_median_spacing_is_taken_and_the_thick_axis_finer():
    cases = tuple(
        CaseFacts(str(z), (40, 200, 200), (z, 1.0, 1.0), {0: 10**6, 1: 10**5})
        for z in (1.0, 5.0, 5.0, 6.0)
    )
    plan = plan_training(DataFacts(cases, "mm", False), 2, PLENTY)
    assert plan.spacing == pytest.approx((2.2, 1.0, 1.0))  # 10 % quantile of 1, 5, 5, 6
    assert any("median" in note for note in plan.notes)


def test_unknown_names():
    with pytest.raises(InputError, match="quick"):
        plan_training(facts((20, 20, 20)), 2, PLENTY, "enormous")
    with pytest.raises(InputError, match="attention-unet"):
        plan_training(facts((20, 20, 20)), 2, PLENTY, "quick", "u-net")


def test_a_steps_memory_grows_with_patch_and_batch_and_computes_nothing():
    network = build_network("attention-unet", channels=[4, 8], in_channels=1, num_classes=2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    small, large = (training_bytes(network, (n,) * 3) for n in (16, 32))
    double = training_bytes(network, (16,) * 3, 2)
    assert 2 * small < large <= 8 * small
    assert small < double <= 2 * small
    # no less than the first level's features in float32, kept for the backward pass
    assert large > 4 * 4 * 32**3 * 4
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
