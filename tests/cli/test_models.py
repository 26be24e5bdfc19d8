from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def own_folder(tmp_path, monkeypatch, tiny_model):
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(tmp_path))
    shutil.copy(tiny_model, tmp_path / "mine.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    return tmp_path


def test_list_tells_good_ones_from_broken_ones(run, own_folder):
    listed = {row["name"]: row for row in run("models", "list", "--json").json}
    assert listed["tiny"]["problem"] is None
    assert listed["tiny"]["built_in"] is False
    assert listed["broken"]["problem"]
    table = run("models", "list").out
    assert "tiny" in table
    assert str(own_folder) in table


def test_show_gives_the_card(run, own_folder):
    card = run("models", "show", "tiny", "--json").json
    assert [c["name"] for c in card["classes"]] == ["background", "one", "two"]
    assert card["parameters"] > 100
    text = run("models", "show", own_folder / "mine.safetensors").out
    assert "A tiny model" in text


def test_an_unknown_model_is_bad_input(run, own_folder):
    outcome = run("models", "show", "nothing")
    assert outcome.code == 2
    assert "tiny" in outcome.err  # names those that there are
