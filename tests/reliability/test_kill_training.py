"""A training run that is killed loses nothing that was saved; a few kills here, 50 in `long`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_training.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("kill_training", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back after the script has set it


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.long)])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(script, tmp_path, kills):
    found = script.kill_often(tmp_path, kills, seed=kills)
    assert found["kills"] == kills
    assert found["steps"] > kills  # each time something was saved that the next run went on from
    assert found["largest_difference_of_the_loss"] < 1e-3


def test_a_journal_of_kills_is_gone_on_with(script, tmp_path):
    folder, journal = tmp_path / "run", tmp_path / "kills.jsonl"
    script.kill_often(folder, 1, journal=journal)
    (first,) = journal.read_text().splitlines()
    with journal.open("a") as file:
        file.write('{"kill": 1, "st')  # as a kill of the script leaves it
    found = script.kill_often(folder, 2, journal=journal)
    lines = journal.read_text().splitlines()
    assert lines[0] == first
    assert len(lines) == 2
    assert found["kills"] == 2
    assert found["steps"] > 2


@pytest.mark.parametrize("saved", [None, 3], ids=["none", "an old one"])
def test_the_script_sees_a_run_that_saves_nothing(script, tmp_path, saved):
    from napari_attention3d.training.checkpoint import Checkpoint, save_checkpoint
    from napari_attention3d.training.runs import RunFolder

    files = RunFolder(tmp_path / "a.safetensors")
    files.make()
    if saved is not None:
        save_checkpoint(files.checkpoint, Checkpoint(saved, {}, {}, 1, {}, 0.0, "same"))
    step = saved or 0
    for number in range(1, step + 2):
        files.add_to_log([], {"step": number, "loss": 1.0})
    assert script.check(files.output, 0) == step  # the last step may be in the log alone
    files.add_to_log([], {"step": step + 2, "loss": 1.0})
    with pytest.raises(AssertionError, match=f"step {step + 2} was done, and {step} is saved"):
        script.check(files.output, 0)


def test_what_was_half_written_is_neither_listed_nor_kept(tmp_path):
    from napari_attention3d.models import list_models
    from napari_attention3d.training.runs import RunFolder

    (tmp_path / ".na3d-0123.safetensors").write_bytes(b"half a mod")
    files = RunFolder(tmp_path / "a.safetensors")
    files.make()
    (files.path / ".na3d-4567.pt").write_bytes(b"half a check")
    (files.path / "log.csv").write_text("kept")
    files.make()
    assert [p.name for p in files.path.iterdir()] == ["log.csv"]
    assert not [info for info in list_models(user_folder=tmp_path) if not info.built_in]
