from __future__ import annotations

import csv

import numpy as np
import pytest

from napari_attention3d.volumes import Volume, read_volume, write_volume


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
    found = outcome.json
    assert (found["unit"], found["tolerance"], found["mean_dice"]) == ("mm", 2.5, 0.5)
    plate, absent, block = (found["classes"][str(v)] for v in (1, 2, 3))
    assert plate == {
        "dice": 0.0,
        "iou": 0.0,
        "hd95": pytest.approx(7.5),
        "average_surface_distance": pytest.approx(7.5),
        "surface_dice": 0.0,
        "volume": 250.0,
        "volume_truth": 250.0,
        "volume_difference": 0.0,
        "relative_volume_difference": 0.0,
    }
    assert absent["dice"] is absent["hd95"] is None
    assert (block["dice"], block["hd95"], block["surface_dice"]) == (1.0, 0.0, 1.0)
    wide = run("evaluate", *masks, "--json", "--tolerance", "7.5").json
    assert wide["classes"]["1"]["surface_dice"] == 1.0


def test_disagreement_and_table_are_written(run, masks, tmp_path):
    where, table = tmp_path / "differ.nii.gz", tmp_path / "figures.csv"
    outcome = run("evaluate", *masks, "--disagreement", where, "--csv", table)
    assert outcome.code == 0
    found = read_volume(where)
    assert found.geometry.is_close(read_volume(masks[1]).geometry)
    assert np.unique(found.array[2]).tolist() == [1]
    assert np.unique(found.array[5]).tolist() == [2]
    assert np.asarray(found.array).sum() == 100 + 2 * 100
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["hd95 (mm)"]) == pytest.approx(7.5)
    assert rows[1]["dice"] == ""
    again = run("evaluate", *masks, "--disagreement", where)
    assert (again.code, "--overwrite" in again.err) == (2, True)


def test_another_grid_is_resampled_on_request(run, masks, tmp_path):
    """The mask again, oblique and twice as fine within the planes."""
    mask = read_volume(masks[0])
    fine = np.repeat(np.repeat(np.asarray(mask.array), 2, axis=1), 2, axis=2)
    grid = mask.geometry.strided(fine.shape, (1, 0.5, 0.5), (0, -0.25, -0.25))
    turn = np.eye(4)
    turn[1:3, 1:3] = [[0.8, -0.6], [0.6, 0.8]]
    paths = [
        write_volume(
            tmp_path / f"{name}.nii.gz",
            Volume.from_array(array, affine=turn @ affine, unit="mm", anatomical=True),
        )
        for name, array, affine in (
            ("fine", fine, grid.affine),
            ("coarse", np.asarray(mask.array), mask.geometry.affine),
        )
    ]
    refused = run("evaluate", *paths, "--json")
    assert (refused.code, refused.out) == (2, "")
    assert "different grids" in refused.err
    outcome = run("evaluate", *paths, "--json", "--resample")
    assert outcome.code == 0
    assert outcome.json["mean_dice"] == 1
    assert "resampled onto" in outcome.err


def test_a_table_for_people(run, masks, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    outcome = run("evaluate", *masks, "--classes", "1,3")
    assert outcome.code == 0
    assert "HD95 (mm)" in outcome.out
    assert "surface Dice" in outcome.out
    assert "7.5000" in outcome.out
    assert "mean Dice 0.5000" in outcome.out


def test_bad_input_is_told_in_one_line(run, masks, tmp_path):
    other = Volume.from_array(np.zeros((12, 10, 9), dtype=np.uint8), spacing=(2.5, 1, 1))
    other_path = write_volume(tmp_path / "other.nii.gz", other)
    for words, says in (
        ((masks[0], other_path), "different grids"),
        ((masks[0], tmp_path / "absent.nii.gz"), "absent.nii.gz"),
        ((*masks, "--classes", "one"), "--classes"),
        ((*masks, "--tolerance=-1"), "tolerance"),
        ((*masks, "--csv", tmp_path / "a.txt"), ".csv"),
        ((*masks, "--disagreement", tmp_path / "a.txt"), ".nii.gz"),
        ((*masks, "--disagreement", masks[0], "--overwrite"), "must not be replaced"),
    ):
        outcome = run("evaluate", *words, "--json")
        assert outcome.code == 2
        assert outcome.out == ""
        assert says in outcome.err
        assert [line for line in outcome.err.splitlines() if "error" in line] == [
            outcome.err.splitlines()[-1]
        ]
