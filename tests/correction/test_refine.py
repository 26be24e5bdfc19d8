"""A network trained on strokes: it learns them, keeps the rest, and its original is untouched."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from napari_attention3d.correction.refine import RefineOptions, _Pool, _trust, refine_job
from napari_attention3d.correction.strokes import Painted
from napari_attention3d.errors import InputError, OutOfMemory
from napari_attention3d.volumes.volume import Volume

FEW = RefineOptions(steps=12, patch=(8, 16, 16), device="cpu", learning_rate=0.01)


def weights(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


def predicted(network, scan):
    image = np.asarray(scan.array, np.float32)
    image = (image - image.mean()) / image.std()
    with torch.inference_mode():
        return network.eval()(torch.from_numpy(image)[None, None]).logits[0].argmax(0).numpy()


def test_it_learns_what_was_painted_and_leaves_the_model_as_it_was(model, scan, session, finish):
    before = weights(model.network)
    options = RefineOptions(steps=40, patch=(12, 20, 22), device="cpu", learning_rate=0.01)
    done = finish(refine_job(model, scan, session.corrections, options))
    for name, tensor in model.network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert not any(p.requires_grad for p in model.network.parameters())
    painted = session.strokes.painted()
    truth = painted.values
    was = predicted(model.network, scan)[tuple(painted.voxels.T)] == truth
    now = predicted(done.model.network, scan)[tuple(painted.voxels.T)] == truth
    assert now.mean() > was.mean() + 0.3
    assert np.mean(done.losses[-5:]) < np.mean(done.losses[:5])
    assert not done.model.network.training


def test_unpainted_voxels_move_less_with_the_keep_term(model, scan, session, finish):
    sure = np.zeros((3, *scan.geometry.shape), np.float32)
    sure[1] = 1  # a teacher that says "box" everywhere, and only background is objected to
    corrections = np.where(session.corrections == 255, 255, 0).astype(np.uint8)
    kept = []
    for keep in (2.0, 0.0):
        options = RefineOptions(
            steps=30, patch=(8, 16, 16), device="cpu", learning_rate=0.01, keep=keep
        )
        done = finish(refine_job(model, scan, corrections, options, teacher=sure))
        kept.append((predicted(done.model.network, scan) == 1).mean())
    assert kept[0] > kept[1] + 0.3


def test_same_seed_same_network(model, scan, session, finish):
    both = [finish(refine_job(model, scan, session.corrections, FEW)) for _ in range(2)]
    assert both[0].losses == both[1].losses


def test_batch_norm_statistics_stay(model, scan, session, finish):
    network = copy.deepcopy(model.network)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        from napari_attention3d.models.store import Model
        from napari_attention3d.networks import build_network

        network = build_network(
            "attention-unet", in_channels=1, num_classes=3, channels=(4, 8), norm="batch"
        )
        card = model.card.model_copy(update={"network": {"name": network.name, **network.config}})
        model = Model(card, network)
    done = finish(refine_job(model, scan, session.corrections, FEW))
    moved = 0
    for name, tensor in done.model.network.state_dict().items():
        same = torch.equal(tensor, model.network.state_dict()[name])
        if "running" in name or "num_batches" in name:
            assert same, name
        moved += not same
    assert moved


def test_it_stops_at_a_plateau(model, scan, session, finish):
    options = RefineOptions(
        steps=50, patch=(8, 16, 16), device="cpu", learning_rate=0.0, patience=4
    )
    done = finish(refine_job(model, scan, session.corrections, options))
    assert done.reason == "plateau"
    assert len(done.losses) < 50


def test_it_stops_when_its_time_is_over(model, scan, session, finish):
    options = RefineOptions(seconds=0.0, patch=(8, 16, 16), device="cpu")
    done = finish(refine_job(model, scan, session.corrections, options))
    assert (done.reason, len(done.losses)) == ("time", 1)


def test_progress_tells_the_loss(model, scan, session):
    job = refine_job(model, scan, session.corrections, FEW)
    steps = [step for step in job if step.metrics]
    assert [step.done for step in steps] == list(range(1, 13))
    assert all(step.metrics["loss"] > 0 for step in steps)


def test_held_back_strokes_are_not_learned_from(model, scan, truth, finish):
    voxels, values, strokes = [], [], []
    for number in range(12):
        value = number % 3
        places = np.random.default_rng(0).permutation(np.argwhere(truth == value))
        voxels.append(places[4 * (number // 3) : 4 * (number // 3) + 4])
        values += [value] * 4
        strokes += [number] * 4
    painted = Painted(np.concatenate(voxels), np.array(values), np.array(strokes))
    done = finish(refine_job(model, scan, painted, FEW))
    assert done.score is not None
    assert done.before is not None
    held = painted.held_back
    assert held.any()
    image = torch.zeros(1, *truth.shape)
    pool = _Pool(image, painted.voxels, painted, held, None, FEW, model, torch.device("cpu"))
    assert (pool.labels[tuple(painted.voxels[held].T)] == 65535).all()
    assert (pool.labels[tuple(painted.voxels[~held].T)] == painted.values[~held]).all()


@pytest.mark.parametrize("patch", [(1, 4, 8), (2, 3, 16), (12, 20, 22), (48, 48, 48)])
def test_every_patch_holds_the_stroke_it_was_cut_for(model, truth, patch):
    places = np.argwhere(truth == 1)[::40]
    for place in places:  # one voxel: it is the one that is chosen
        painted = Painted(place[None], np.array([1]), np.array([0]))
        options = RefineOptions(patch=patch, keep=0.0, batch=8)
        model.card = model.card.model_copy(update={"patch_size": (48, 48, 48)})
        image = torch.zeros(1, *truth.shape)
        pool = _Pool(
            image, painted.voxels, painted, np.array([False]), None, options, model,
            torch.device("cpu"),
        )  # fmt: skip
        boxes = [box for step in range(20) for box in pool._boxes(step)]
        for box in boxes:
            assert all(part.start <= at < part.stop for part, at in zip(box, place, strict=True))


def test_a_teacher_is_trusted_where_it_is_sure_and_nobody_objected():
    target = torch.zeros(1, 2, 1, 1, 20)
    target[:, 0] = 1.0
    target[..., 15:] = 0.5  # unsure
    labels = torch.full((1, 1, 1, 20), 65535)
    labels[..., 0] = 1  # objected to
    labels[..., 10] = 0  # agreed
    trust = _trust(target, labels)[0, 0, 0]
    assert (trust[:6] == 0).all()
    torch.testing.assert_close(trust[6:10], torch.ones(4))
    assert trust[10] == 0
    assert trust[11] == 1
    assert (trust[15:] < 1e-4).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: np.zeros_like(c), "nothing is painted"),
        (lambda c: np.where(c == 1, 7, c).astype(np.uint8), "label 7"),
        (lambda c: c[1:], "shape"),
    ],
)
def test_bad_corrections_are_named(model, scan, session, finish, change, message):
    with pytest.raises(InputError, match=message):
        finish(refine_job(model, scan, change(session.corrections), FEW))


def test_memory_that_runs_out_is_named(model, scan, session, finish, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(_Pool, "batch", full)
    with pytest.raises(OutOfMemory, match="Your strokes are kept"):
        finish(refine_job(model, scan, session.corrections, FEW))


def test_strokes_land_where_they_were_painted_on_a_turned_and_coarser_grid(model, truth, finish):
    """The model works on its own spacing and orientation."""
    coarse = model.card.model_copy(update={"spacing": (2.0, 2.0, 2.0)})
    model.card = coarse
    affine = np.diag([-1.0, 1.0, -1.0, 1.0])
    affine[:3, 3] = (11, 0, 21)
    scan = Volume.from_array(
        truth.astype(np.float32), affine=affine, anatomical=True, name="turned"
    )
    voxels = np.argwhere(truth == 1)[::7]
    painted = Painted(
        np.concatenate((voxels, [[0, 0, 0]])),
        np.array([1] * len(voxels) + [0]),
        np.array([0] * len(voxels) + [1]),
    )
    seen = []
    real = _Pool.batch

    def look(pool, step):
        if not seen:
            learned = pool.labels == 1
            seen.append(float(pool.image[0][torch.from_numpy(learned)].mean()))
            seen.append(float(pool.image[0].mean()))
        return real(pool, step)

    monkey = pytest.MonkeyPatch()
    monkey.setattr(_Pool, "batch", look)
    try:
        finish(refine_job(model, scan, painted, RefineOptions(steps=1, device="cpu")))
    finally:
        monkey.undo()
    inside, everywhere = seen
    assert inside > everywhere  # box voxels (1) are brighter than the mean of background and box


@pytest.fixture
def wrong_device(monkeypatch):
    """A device whose logits have their classes swapped; stands for a GPU."""
    from napari_attention3d.correction import refine
    from napari_attention3d.inference import selftest, setup
    from napari_attention3d.inference.device import DeviceChoice

    other, cpu, real = torch.device("meta"), torch.device("cpu"), selftest.run_on

    def run(network, x, device, precision):
        logits = real(network, x, cpu, precision)
        return logits.flip(1) if device == other else logits

    def choose(request):
        return DeviceChoice(cpu if request == "cpu" else other, "")

    monkeypatch.setattr(selftest, "_RESULTS", {})
    monkeypatch.setattr(selftest, "run_on", run)
    for module in (refine, setup):
        monkeypatch.setattr(module, "choose_device", choose)


def test_a_device_that_computes_wrongly_is_not_trained_on(
    model, scan, session, finish, wrong_device
):
    options = dataclasses.replace(FEW, device="auto", steps=2)
    done = finish(refine_job(model, scan, session.corrections, options))
    assert np.isfinite(done.losses).all()
    assert "the CPU is used instead" in done.warnings[0]


def test_a_device_that_computes_wrongly_predicts_nothing(model, scan, finish, wrong_device):
    from napari_attention3d.correction.predict import predict_job

    shares = finish(predict_job(model, scan))
    assert np.isfinite(shares).all()
