from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml

from napari_attention3d.volumes import read_volume

RULES = "rules: [{rule: minimum_size, size: 8}]"


@pytest.fixture
def model(tiny_model, tmp_path, monkeypatch):
    """The tiny model, installed."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(folder))
    return shutil.copy(tiny_model, folder / "tiny.safetensors")


@pytest.fixture
def mask(run, scan, model, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    words = ("--rules", rules, "--measure", "--overlap", "0.5")
    assert run("segment", scan, "-m", "tiny", *words).code == 0
    return scan.with_name("scan_labels.nii.gz")


def labels(path):
    return np.asarray(read_volume(path).array)


def test_a_mask_is_made_again(run, mask):
    outcome = run("rerun", mask, "--json")
    assert outcome.code == 0
    assert outcome.json["identical"] is True
    np.testing.assert_array_equal(labels(outcome.json["labels"]), labels(mask))
    assert outcome.json["labels"].endswith("scan_labels_again.nii.gz")
    again = run("rerun", mask)
    assert again.code == 2
    assert "--overwrite" in again.err
    assert "identical" in run("rerun", mask, "--overwrite").err


def test_maps_are_not_replaced_by_masks(run, scan, model, tmp_path):
    out = tmp_path / "mask.nii.gz"
    more = ("--uncertainty", "--attention")
    assert run("segment", scan, "-m", "tiny", "-o", out, *more).code == 0
    before = sorted(tmp_path.iterdir())
    for name in ("mask_uncertainty.nii.gz", "mask_attention_gate-level-2.nii.gz"):
        outcome = run("rerun", tmp_path / name)
        assert outcome.code == 2
        assert "no mask but a map" in outcome.err
    assert sorted(tmp_path.iterdir()) == before


def test_it_is_not_made_with_other_weights(run, mask, model):
    import torch

    from napari_attention3d.models import load_model, save_model

    loaded = load_model(model)
    with torch.no_grad():
        for weights in loaded.network.parameters():
            weights.add_(0.01)
    save_model(model, loaded.network, loaded.card)
    outcome = run("rerun", mask)
    assert outcome.code == 2
    assert "other weights" in outcome.err


def test_its_recipe_does_the_same_to_other_scans(run, mask, scan, scan_maker, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    assert run("recipe", mask, "-o", recipe).code == 0
    shown = yaml.safe_load(run("recipe", mask).out)
    assert shown == yaml.safe_load(recipe.read_text())
    assert shown["clean_up"][0]["rule"] == "minimum_size"
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(scan, folder / "one.nii.gz")
    scan_maker(folder / "two.nii.gz", seed=1)
    summary, out = tmp_path / "summary.csv", tmp_path / "out"
    outcome = run("segment", folder, "-o", out, "--recipe", recipe, "--summary", summary)
    assert outcome.code == 0, outcome.err
    assert "2 done, 0 skipped, 0 failed" in outcome.err
    np.testing.assert_array_equal(labels(out / "one_labels.nii.gz"), labels(mask))
    assert (out / "two_measures.csv").exists()
    assert len(summary.read_text().splitlines()) == 3
    again = run("segment", f"{folder}/*.nii.gz", "-o", out, "--recipe", recipe)
    assert "0 done, 2 skipped, 0 failed" in again.err


def test_a_mask_that_was_painted_on_is_told(run, mask, tmp_path):
    from napari_attention3d.volumes import write_volume

    assert "changed by hand" not in run("recipe", mask).err
    old = read_volume(mask, lazy=False)
    array = np.array(old.array)
    array[:2, :3] = 2
    write_volume(mask, old.replace(array=array))
    told = run("recipe", mask)
    assert told.code == 0
    assert "changed by hand" in told.err
    # what is cleaned later does not hide it
    assert run("clean", mask, "-o", tmp_path / "c.nii.gz", "--fill-holes").code == 0
    assert "changed by hand" in run("recipe", tmp_path / "c.nii.gz").err


def test_a_recipe_says_it_all(run, mask, scan, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    run("recipe", mask, "-o", recipe)
    words = ("--recipe", recipe, "--uncertainty", "-m", "tiny")
    outcome = run("segment", scan, "-o", tmp_path / "x.nii.gz", *words)
    assert outcome.code == 2
    assert "leave out --uncertainty, --model" in outcome.err


def test_the_models_own_rules_are_applied_on_request(run, scan, model, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    refused = run("segment", scan, "-m", "tiny", "--clean-up")
    assert refused.code == 2
    assert "no rules are stored" in refused.err
    assert run("models", "rules", "tiny", rules).code == 0
    plain, clean = tmp_path / "plain.nii.gz", tmp_path / "clean.nii.gz"
    assert run("segment", scan, "-m", "tiny", "-o", plain).code == 0
    assert run("segment", scan, "-m", "tiny", "-o", clean, "--clean-up").code == 0
    assert np.count_nonzero(labels(plain) != labels(clean))
    both = run("segment", scan, "-m", "tiny", "-o", clean, "--clean-up", "--rules", rules)
    assert both.code == 2


def test_files_without_a_past_are_told(run, scan):
    for command in ("rerun", "recipe"):
        outcome = run(command, scan)
        assert outcome.code == 2
        assert "does not say how it was made" in outcome.err
