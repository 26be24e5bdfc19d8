from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest
import torch

from napari_attention3d.errors import InputError, ModelFileError
from napari_attention3d.models.store import load_model
from napari_attention3d.training import TrainConfig, run_folder, train_job
from napari_attention3d.training.checkpoint import load_checkpoint
from napari_attention3d.training.ema import WeightAverage
from napari_attention3d.training.loop import learning_rate


def drive(job):
    seen = []
    while True:
        try:
            seen.append(next(job))
        except StopIteration as stop:
            return seen, stop.value


def weights(path):
    return load_model(path).network.state_dict()


def test_leaves_model_log_and_checkpoint(synthesis_config, tmp_path):
    output = tmp_path / "toy.safetensors"
    seen, result = drive(train_job(synthesis_config, output))
    assert [p.done for p in seen] == [0, 1, 2, 3, 4]
    assert result.best == output
    assert 0 <= result.score <= 1
    model = load_model(output)
    assert model.card.class_names == ["background", "shell", "core"]
    assert model.card.metrics["validation_mean_dice"] == pytest.approx(result.score, abs=1e-3)
    with result.log.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [1, 2, 3, 4]
    assert [bool(r["val_dice"]) for r in rows] == [False, True, False, True]
    assert all(np.isfinite(float(r["loss"])) for r in rows)


def test_resumed_run_equals_an_uninterrupted_one(synthesis_config, tmp_path):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    drive(train_job(synthesis_config, whole))
    job = train_job(synthesis_config, parts)
    for _ in range(3):  # preparing, step 1, step 2
        next(job)
    job.close()
    seen, _ = drive(train_job(synthesis_config, parts))
    assert [p.done for p in seen] == [2, 3, 4]
    last = "last.safetensors"
    first, second = (weights(run_folder(p) / last) for p in (whole, parts))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_killed_between_checkpoints_goes_on_from_the_last_one(synthesis_config, tmp_path):
    """Without a chance to save (kill -9): the checkpoint of step 2 is whole and is used."""
    output = tmp_path / "toy.safetensors"
    job = train_job(synthesis_config, output)
    for _ in range(4):
        next(job)
    state = (run_folder(output) / "checkpoint.pt").read_bytes()
    job.close()
    (run_folder(output) / "checkpoint.pt").write_bytes(state)
    seen, _ = drive(train_job(synthesis_config, output))
    assert [p.done for p in seen] == [2, 3, 4]


def test_restart_forgets(synthesis_config, tmp_path):
    output = tmp_path / "toy.safetensors"
    drive(train_job(synthesis_config, output))
    seen, _ = drive(train_job(synthesis_config, output, restart=True))
    assert [p.done for p in seen] == [0, 1, 2, 3, 4]


def test_damaged_or_foreign_checkpoints_are_refused(
    synthesis_config, synthesis_settings, label_maps, tmp_path
):
    output = tmp_path / "toy.safetensors"
    drive(train_job(synthesis_config, output))
    raw = synthesis_settings(label_maps)
    raw["network"]["channels"] = [4, 4]
    with pytest.raises(ModelFileError, match="another network"):
        next(train_job(TrainConfig.checked(raw), output))
    path = run_folder(output) / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelFileError, match="--restart"):
        next(train_job(synthesis_config, output))


def test_checkpoints_never_run_a_pickle(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "checkpoint.pt"
    torch.save({"step": Evil()}, path)
    with pytest.raises(ModelFileError, match="can't be read"):
        load_checkpoint(path, "any")
    assert not (tmp_path / "owned").exists()


def test_starting_from_another_model(synthesis_config, synthesis_settings, label_maps, tmp_path):
    first = tmp_path / "first.safetensors"
    drive(train_job(synthesis_config, first))
    raw = synthesis_settings(label_maps, steps=1, learning_rate=1e-12)
    raw["init_from"] = str(first)
    second = tmp_path / "second.safetensors"
    drive(train_job(TrainConfig.checked(raw), second))
    a, b = weights(first), weights(run_folder(second) / "last.safetensors")
    assert all(torch.allclose(a[k], b[k], atol=1e-3) for k in a)
    raw["network"]["channels"] = [4, 4]
    with pytest.raises(InputError, match="does not fit"):
        next(train_job(TrainConfig.checked(raw), tmp_path / "third.safetensors"))


def test_no_maps_no_training(synthesis_settings, tmp_path):
    raw = synthesis_settings(tmp_path / "empty")
    job = train_job(TrainConfig.checked(raw), tmp_path / "toy.safetensors")
    next(job)
    with pytest.raises(InputError, match="no label maps"):
        next(job)


def test_output_must_be_safetensors(synthesis_config, tmp_path):
    with pytest.raises(InputError, match=r"\.safetensors"):
        next(train_job(synthesis_config, tmp_path / "toy.pt"))


def test_learns_from_pairs(pairs, pairs_config, tmp_path):
    _, untrained = drive(train_job(pairs_config(pairs, steps=1), tmp_path / "one.safetensors"))
    _, result = drive(train_job(pairs_config(pairs, steps=80), tmp_path / "toy.safetensors"))
    assert untrained.score < 0.6
    assert result.score > 0.75


def test_pairs_that_do_not_fit(pairs, pairs_config, tmp_path):
    (pairs / "labels/c1.nii.gz").rename(pairs / "labels/other.nii.gz")
    job = train_job(pairs_config(pairs), tmp_path / "toy.safetensors")
    next(job)
    with pytest.raises(InputError, match=r"c1\.nii\.gz has no label map"):
        next(job)


def test_labels_beyond_the_classes(pairs, pairs_config, tmp_path):
    path = pairs / "labels/c0.nii.gz"
    values = np.asarray(nib.load(path).dataobj).copy()
    values[0, 0, 0] = 7
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    job = train_job(pairs_config(pairs), tmp_path / "toy.safetensors")
    next(job)
    with pytest.raises(InputError, match="label 7"):
        next(job)
    job = train_job(pairs_config(pairs, steps=1, ignore=7), tmp_path / "ignored.safetensors")
    assert drive(job)[1].steps == 1


@pytest.mark.parametrize(
    ("locality", "shape", "seen"),
    [
        ("local", (16, 16, 32), {(16, 16, 32)}),  # one pass is exact
        ("global", (16, 16, 32), {(16, 16, 16)}),  # attends to a patch: as it is used later
        ("global", (16, 16, 16), {(16, 16, 16)}),
    ],
)
def test_validation_sees_what_inference_will_see(
    pairs, pairs_config, tmp_path, monkeypatch, locality, shape, seen
):
    from napari_attention3d.training.trainer import Trainer

    trainer = Trainer(pairs_config(pairs), tmp_path / "m.safetensors")
    assert trainer.card.patch_size == (16, 16, 16)
    monkeypatch.setattr(type(trainer.network), "locality", locality)
    sizes = set()
    trainer.network.register_forward_hook(lambda _, x, __: sizes.add(tuple(x[0].shape[2:])))
    found = trainer._predict(torch.zeros(1, *shape))
    assert tuple(found.shape) == shape
    assert sizes == seen


def test_learning_rate_rises_and_falls(synthesis_config):
    schedule = synthesis_config.schedule.model_copy(update={"steps": 100, "warm_up": 10})
    for decay in ("poly", "cosine"):
        config = synthesis_config.model_copy(
            update={"schedule": schedule.model_copy(update={"decay": decay})}
        )
        rates = [learning_rate(config, step) for step in range(101)]
        assert rates[:11] == sorted(rates[:11])
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert max(rates) == pytest.approx(schedule.learning_rate)
        assert rates[-1] == pytest.approx(0.01 * schedule.learning_rate)


def test_average_follows_the_weights():
    layer = torch.nn.Linear(2, 2)
    average = WeightAverage(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    for _ in range(300):
        average.update(layer)
    assert torch.allclose(average.state_dict()["weight"], torch.ones(2, 2), atol=1e-4)
    before = average.state_dict()["weight"].clone()
    with torch.no_grad():
        layer.weight.fill_(2.0)
    average.update(layer)
    expected = before + 0.1 * (2 - before)
    assert torch.allclose(average.state_dict()["weight"], expected, atol=1e-5)
