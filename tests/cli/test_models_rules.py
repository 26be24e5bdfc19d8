from __future__ import annotations

import shutil

import numpy as np
import pytest

from napari_attention3d.models import load_model
from napari_attention3d.volumes import Volume, read_volume, write_volume

RULES = """
rules:
  - {rule: minimum_size, size: 3, classes: 1}
  - {rule: fill_holes, classes: 2}
"""


@pytest.fixture
def own_model(tiny_model, tmp_path):
    return shutil.copy(tiny_model, tmp_path / "own.safetensors")


@pytest.fixture
def mask(tmp_path):
    array = np.zeros((8, 10, 12), np.uint8)
    array[1:4, 1:4, 1:4] = 2
    array[2, 2, 2] = 0
    array[6, 6, 6:9] = 1
    array[7, 0, 0] = 1
    array[0, 9, 11] = 2
    volume = Volume.from_array(array, spacing=(1.0, 1.0, 1.0), anatomical=True)
    return write_volume(tmp_path / "mask.nii.gz", volume)


def test_rules_are_stored_with_a_model_and_applied_class_by_class(run, own_model, mask, tmp_path):
    file, out = tmp_path / "rules.yaml", tmp_path / "clean.nii.gz"
    file.write_text(RULES)
    before = load_model(own_model)
    assert run("models", "rules", own_model, file).code == 0
    after = load_model(own_model)
    assert after.card.sha256 == before.card.sha256
    assert after.card.model_copy(update={"clean_up": ()}) == before.card
    shown = run("models", "rules", own_model, "--json").json["rules"]
    assert [one["rule"] for one in shown] == ["minimum_size", "fill_holes"]
    assert run("clean", mask, "-o", out, "--model", own_model).code == 0
    expected = np.asarray(read_volume(mask).array).copy()
    expected[2, 2, 2] = 2
    expected[7, 0, 0] = 0  # too small for class 1; the speck of class 2 stays
    np.testing.assert_array_equal(np.asarray(read_volume(out).array), expected)
    assert run("models", "rules", own_model, "--clear").code == 0
    assert load_model(own_model).card == before.card


def test_rules_for_classes_that_a_model_has_not_are_refused(run, own_model, tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text("rules: [{rule: keep_largest, classes: 7}]")
    outcome = run("models", "rules", own_model, file)
    assert outcome.code == 2
    assert "names class 7" in outcome.err
    assert load_model(own_model).card.clean_up == ()


def test_models_of_the_package_stay_as_they_are(run, tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text("rules: [{rule: fill_holes}]")
    outcome = run("models", "rules", "brain-attention-unet", file)
    assert outcome.code == 2
    assert "came with the package" in outcome.err


def test_a_model_without_rules_says_how_to_store_some(run, own_model, mask, tmp_path):
    outcome = run("clean", mask, "-o", tmp_path / "x.nii.gz", "--model", own_model)
    assert outcome.code == 2
    assert "models rules" in outcome.err
    outcome = run("clean", mask, "-o", tmp_path / "x.nii.gz", "-m", own_model, "--fill-holes")
    assert outcome.code == 2
    assert "leave the other options out" in outcome.err
