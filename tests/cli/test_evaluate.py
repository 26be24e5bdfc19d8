from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.volumes import Volume, write_volume


@pytest.fixture
def masks(tmp_path):
    """Two plates, 3 slices of 2.5 mm apart, and a block that both share."""
    a, b = np.zeros((2, 12, 10, 10), dtype=np.uint8)
    a[2], b[5] = 1, 1
    a[8:11, 2:6, 2:6] = b[8:11, 2:6, 2:6] = 3
    paths = []
    for name, array in (("mask", a), ("truth", b)):
        volume = Volume.from_array(array, spacing=(2.5, 1, 1), unit="mm", anatomical=True)
        paths.append(write_volume(tmp_path / f"{name}.nii.gz", volume))
    return paths


def test_json_holds_each_class_and_the_mean(run, masks):
    outcome = run("evaluate", *masks, "--json")
    assert outcome.code == 0
    assert outcome.json == {
        "unit": "mm",
        "classes": {
            "1": {"dice": 0.0, "hd95": pytest.approx(7.5)},
            "2": {"dice": None, "hd95": None},
            "3": {"dice": 1.0, "hd95": 0.0},
        },
        "mean_dice": 0.5,
    }


def test_a_table_for_people(run, masks):
    outcome = run("evaluate", *masks, "--classes", "1,3")
    assert outcome.code == 0
    assert "HD95 (mm)" in outcome.out
    assert "7.5000" in outcome.out
    assert "mean Dice 0.5000" in outcome.out


def test_bad_input_is_told_in_one_line(run, masks, tmp_path):
    other = Volume.from_array(np.zeros((12, 10, 9), dtype=np.uint8), spacing=(2.5, 1, 1))
    other_path = write_volume(tmp_path / "other.nii.gz", other)
    for words, says in (
        ((masks[0], other_path), "different grids"),
        ((masks[0], tmp_path / "absent.nii.gz"), "absent.nii.gz"),
        ((*masks, "--classes", "one"), "--classes"),
    ):
        outcome = run("evaluate", *words, "--json")
        assert outcome.code == 2
        assert outcome.out == ""
        assert says in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1
