from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.volumes import Volume, read_volume, write_volume


def tilted() -> np.ndarray:
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = np.array([[1, 0, 0, 40], [0, c, -s, -7], [0, s, c, 12], [0, 0, 0, 1.0]])
    return affine @ np.diag([2.0, 1.0, 0.5, 1.0])  # voxels of 1 mm3


@pytest.fixture
def mask(tmp_path):
    """An oblique mask: a block with a hole, a speck; a small block of class 2."""
    array = np.zeros((8, 14, 18), dtype=np.uint8)
    array[1:6, 2:9, 3:13] = 1
    array[3, 5, 7] = 0
    array[7, 13, 17] = 1
    array[7, :2, :2] = 2
    volume = Volume.from_array(array, affine=tilted(), unit="mm", anatomical=True)
    return write_volume(tmp_path / "mask.nii.gz", volume)


def test_options_are_applied_and_reported(run, mask, tmp_path):
    out = tmp_path / "clean.nii.gz"
    outcome = run("clean", mask, "-o", out, "--fill-holes", "--keep-largest", "--json")
    assert outcome.code == 0
    before, after = read_volume(mask), read_volume(out)
    assert after.geometry.is_close(before.geometry)
    assert after.dtype == np.uint8
    array = np.asarray(after.array)
    assert array[3, 5, 7] == 1
    assert array[7, 13, 17] == 0
    assert (array == 1).sum() == 350
    assert (array == 2).sum() == 4
    assert outcome.json["rules"][0]["classes"] == {"1": {"lost": 0, "gained": 1}}
    assert after.metadata["provenance"]["clean_up"] == outcome.json["rules"]
    assert "fill holes: class 1 +1 voxels" in outcome.err
    assert "keep largest: class 1 -1 voxels" in outcome.err


def test_sizes_are_in_the_scans_unit_and_classes_can_be_chosen(run, mask, tmp_path):
    out = tmp_path / "clean.nii.gz"
    assert run("clean", mask, "-o", out, "--min-size", "4.5", "--classes", "1").code == 0
    found = np.asarray(read_volume(out).array)
    assert ((found == 1).sum(), (found == 2).sum()) == (349, 4)
    assert run("clean", mask, "-o", out, "--min-size", "4.5", "--overwrite").code == 0
    found = np.asarray(read_volume(out).array)
    assert ((found == 1).sum(), (found == 2).sum()) == (349, 0)


def test_rules_come_from_a_file(run, mask, tmp_path):
    rules, out = tmp_path / "rules.yaml", tmp_path / "clean.tif"
    rules.write_text(
        "rules:\n"
        "  - {rule: minimum_size, size: 2, unit: mm}\n"
        "  - {rule: remove_outside, inside: 1, classes: 2}\n"
        "  - {rule: components, classes: 1}\n"
    )
    outcome = run("clean", mask, "-o", out, "--rules", rules)
    assert (outcome.code, outcome.out) == (0, "")
    assert "components: 1 of class 1" in outcome.err
    found = np.asarray(read_volume(out).array)
    assert np.unique(found).tolist() == [0, 1]
    assert (found == 1).sum() == 349


def test_smoothing_and_splitting(run, tmp_path):
    array = np.zeros((12, 24, 60), dtype=np.uint8)
    z, y, x = np.indices(array.shape) * np.array([2, 1, 0.5])[:, None, None, None]
    for centre in (8, 20):
        array[(z - 11) ** 2 + (y - 11) ** 2 + (x - centre) ** 2 <= 49] = 1
    volume = Volume.from_array(array, affine=tilted(), unit="um")
    path = write_volume(tmp_path / "cells.tif", volume)
    out = tmp_path / "split.tif"
    outcome = run("clean", path, "-o", out, "--smooth", "0.5", "--split-touching")
    assert outcome.code == 0
    found = read_volume(out)
    assert np.unique(np.asarray(found.array)).tolist() == [0, 1, 2]
    assert found.geometry.unit == "um"
    assert "split touching: 2 of class 1" in outcome.err


def test_bad_input_is_told_in_one_line_and_nothing_is_written(run, mask, tmp_path):
    out = tmp_path / "clean.nii.gz"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("- rule: polish\n")
    done = tmp_path / "done.nii.gz"
    done.write_bytes(b"here")
    for words, says in (
        ((mask, "-o", out), "nothing to do"),
        ((mask, "-o", out, "--rules", wrong), "wrong.yaml: rule 1"),
        ((mask, "-o", out, "--rules", wrong, "--keep-largest"), "--rules"),
        ((mask, "-o", out, "--min-size=-1"), "greater than 0"),
        ((mask, "-o", out, "--smooth", "nan"), "the options: rule 1 smooth width"),
        ((mask, "-o", out, "--fill-holes", "--classes", "a"), "--classes"),
        ((mask, "-o", out, "--fill-holes", "--classes", "0"), "from 1 up"),
        ((mask, "-o", mask, "--fill-holes", "--overwrite"), "must not be replaced"),
        ((mask, "-o", done, "--fill-holes"), "--overwrite"),
        ((mask, "-o", tmp_path / "a.png", "--fill-holes"), "a.png"),
        ((mask, "-o", tmp_path / "absent" / "a.nii", "--fill-holes"), "absent"),
        ((tmp_path / "absent.nii.gz", "-o", out, "--fill-holes"), "absent.nii.gz"),
    ):
        outcome = run("clean", *words, "--json")
        assert outcome.code == 2, words
        assert outcome.out == ""
        assert says in outcome.err
        assert len([line for line in outcome.err.splitlines() if line.startswith("error")]) == 1
    assert not out.exists()
    assert done.read_bytes() == b"here"
