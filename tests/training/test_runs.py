"""The folder of a run; a run that was stopped goes on as if nothing had happened."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_attention3d.errors import InputError
from napari_attention3d.models.store import load_model
from napari_attention3d.training import TrainConfig, run_folder, train_job
from napari_attention3d.training.runs import RunFolder, list_runs


def begin(config, output, steps):
    """Drive a job for some steps, then stop it."""
    job, losses = train_job(config, output), []
    while len(losses) < steps:
        step = next(job)
        if step.metrics:
            losses.append(step.metrics["loss"])
    job.close()
    return losses


def to_the_end(config, output):
    job, losses = train_job(config, output), []
    try:
        while True:
            step = next(job)
            if step.metrics:
                losses.append(step.metrics["loss"])
    except StopIteration as stop:
        return losses, stop.value


def weights_of(path):
    return load_model(path).network.state_dict()


def test_a_stopped_run_has_the_curve_of_one_that_was_not(pairs, pairs_config, tmp_path):
    """Same steps, same losses, same model, stopped twice in between."""
    config = pairs_config(pairs, steps=7)
    whole, _ = to_the_end(config, tmp_path / "whole.safetensors")
    parts = tmp_path / "parts.safetensors"
    losses = begin(config, parts, 2) + begin(config, parts, 3)
    rest, result = to_the_end(config, parts)
    assert losses + rest == pytest.approx(whole, rel=1e-4)
    assert [int(row["step"]) for row in RunFolder(parts).read_log()] == [1, 2, 3, 4, 5, 6, 7]
    assert result.steps == 7
    other = weights_of(run_folder(parts) / "last.safetensors")
    whole_run = run_folder(tmp_path / "whole.safetensors") / "last.safetensors"
    for key, value in weights_of(whole_run).items():
        assert np.allclose(value, other[key], atol=1e-3)


def test_stopping_leaves_a_model_and_what_is_needed_to_go_on(pairs, pairs_config, tmp_path):
    output = tmp_path / "toy.safetensors"
    begin(pairs_config(pairs, steps=9), output, 2)  # before the first validation
    assert load_model(output).card.name == "toy"
    (run,) = list_runs(tmp_path)
    assert (run.output, run.step, run.steps, run.finished) == (output, 2, 9, False)
    assert run.config.schedule.steps == 9
    to_the_end(run.config, output)  # from what was kept alone
    assert list_runs(tmp_path) == []
    assert RunFolder(output).info().finished


def test_folders_in_the_kept_configuration_are_absolute(pairs, pairs_config, tmp_path, monkeypatch):
    monkeypatch.chdir(pairs)
    config = pairs_config(pairs, steps=1)
    raw = config.model_dump()
    raw["data"] |= {"images": "images", "labels": "labels"}
    output = tmp_path / "toy.safetensors"
    begin(TrainConfig.checked(raw), output, 1)
    monkeypatch.chdir("/")
    assert RunFolder(output).config().data.images == pairs / "images"


def test_work_that_was_lost_is_taken_out_of_the_log(pairs, pairs_config, tmp_path):
    """Killed after step 5, with the checkpoint of step 4."""
    output = tmp_path / "toy.safetensors"
    config = pairs_config(pairs, steps=6)
    job = train_job(config, output)
    for _ in range(6):
        next(job)
    checkpoint = RunFolder(output).checkpoint.read_bytes()  # every second step
    job.close()
    files = RunFolder(output)
    files.checkpoint.write_bytes(checkpoint)
    with open(files.log, "a") as file:
        file.write("6,0.1,0.")  # and the last line cut off
    losses, _ = to_the_end(config, output)
    assert len(losses) == 2
    assert [int(row["step"]) for row in files.read_log()] == [1, 2, 3, 4, 5, 6]


def test_restart_forgets(pairs, pairs_config, tmp_path):
    output = tmp_path / "toy.safetensors"
    begin(pairs_config(pairs, steps=9), output, 3)
    job = train_job(pairs_config(pairs, steps=9), output, restart=True)
    next(job)
    first = next(job)
    assert first.done == 1
    job.close()
    assert [int(row["step"]) for row in RunFolder(output).read_log()] == [1]
    assert output.exists()  # until there is a better one


def test_time_ends_a_run_interruptions_not_counted(pairs, pairs_config, tmp_path):
    config = pairs_config(pairs, steps=1000)
    schedule = config.schedule.model_copy(update={"seconds": 1e-6})
    config = config.model_copy(update={"schedule": schedule})
    _, result = to_the_end(config, tmp_path / "toy.safetensors")
    assert result.steps == 1
    assert result.best.exists()


@pytest.mark.parametrize("damage", ["{", '{"step": 1}', '{"step": "x"}', "[]", None])
def test_a_damaged_note_hides_the_run_and_raises_nothing(pairs, pairs_config, tmp_path, damage):
    files = RunFolder(tmp_path / "toy.safetensors")
    files.make()
    files.write_config(pairs_config(pairs))
    files.checkpoint.write_bytes(b"")
    files.write_progress(3, 9, False)
    assert files.info().step == 3
    path = files.path / "progress.json"
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage)
    assert files.info() is None
    assert list_runs(tmp_path) == []


def test_a_damaged_configuration_is_told(pairs, pairs_config, tmp_path):
    files = RunFolder(tmp_path / "toy.safetensors")
    files.make()
    files.write_config(pairs_config(pairs))
    files.checkpoint.write_bytes(b"")
    (files.path / "config.yaml").write_text("name: [")
    files.write_progress(3, 9, False)
    with pytest.raises(InputError, match="not valid YAML"):
        files.config()
    assert files.info() is None
    assert json.loads((files.path / "progress.json").read_text())["step"] == 3


GUIDED = {
    "name": "guided-attention",
    "widths": [4, 4, 8, 8],
    "features": 8,
    "head_width": 4,
}


def test_the_log_has_the_parts_of_a_guided_loss(synthesis_settings, label_maps, tmp_path):
    settings = synthesis_settings(label_maps, steps=2) | {"network": GUIDED}
    output = tmp_path / "toy.safetensors"
    to_the_end(TrainConfig.checked(settings), output)
    rows = RunFolder(output).read_log()
    assert [int(row["step"]) for row in rows] == [1, 2]
    for row in rows:
        parts = row["segmentation"] + row["guided"] + row["reconstruction"]
        assert parts == pytest.approx(row["loss"], rel=1e-4)
        assert all(row[f"strength_scale_{scale}"] > 0 for scale in (1, 2, 3, 4))


def test_a_log_that_was_begun_with_fewer_figures_keeps_its_columns(tmp_path):
    """A run that an earlier version began goes on: no figure slips into another's column."""
    folder = RunFolder(tmp_path / "m.safetensors")
    folder.make()
    folder.log.write_text("step,seconds,loss,val_a\n1,2.0,0.5,\n", encoding="utf-8")
    folder.add_to_log(["a"], {"step": "2", "loss": "0.4", "guided": "7", "val_a": "0.9"})
    assert folder.read_log() == [
        {"step": 1, "seconds": 2, "loss": 0.5},
        {"step": 2, "loss": 0.4, "val_a": 0.9},
    ]
