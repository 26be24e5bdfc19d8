"""The simulated person of the correction benchmark, and the benchmark on a small phantom."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from annotator import strokes as person
from annotator.report import network_table, table

from napari_attention3d.correction import fast_head


@pytest.fixture
def truth() -> np.ndarray:
    labels = np.zeros((8, 30, 40), np.int64)
    labels[2:6, 5:25, 6:18] = 1
    labels[1:7, 8:14, 24:36] = 2
    return labels


def is_straight(voxels: np.ndarray) -> bool:
    """In one slice, without gaps, and never more than half a voxel off a line."""
    first, last = voxels[0, 1:], voxels[-1, 1:]
    share = np.linspace(0, 1, len(voxels))[:, None]
    off = np.abs(voxels[:, 1:] - (first + share * (last - first)))
    near = len(voxels) == 1 or np.abs(np.diff(voxels[:, 1:], axis=0)).max() == 1
    return len(np.unique(voxels[:, 0])) == 1 and near and float(off.max()) <= 1.0


@pytest.mark.parametrize("seed", range(5))
def test_first_strokes_lie_in_their_class(truth, seed):
    found = person.first_strokes(truth, np.random.default_rng(seed))
    assert [value for _, value in found] == [0, 1, 2]
    for voxels, value in found:
        assert 1 < len(voxels) <= person.LENGTH
        assert is_straight(voxels)
        assert (truth[tuple(voxels.T)] == value).all()


def test_corrections_go_into_the_largest_wrong_blobs_with_the_true_class(truth):
    mask = truth.copy()
    mask[2:6, 5:25, 6:12] = 2  # large: half of class 1
    mask[1:3, 8:10, 24:36] = 0  # smaller
    mask[7, 0, 0] = 1  # smallest
    found = person.correct(mask, truth, 2, np.random.default_rng(0))
    assert [value for _, value in found] == [1, 2]
    for voxels, value in found:
        where = tuple(voxels.T)
        assert len(voxels) <= person.LENGTH
        assert is_straight(voxels)
        assert (truth[where] == value).all()
        assert (mask[where] != value).all()
    assert person.correct(truth, truth, 2, np.random.default_rng(0)) == []


def test_it_runs_on_any_pair_and_keeps_what_it_measured(truth, tmp_path, monkeypatch, capsys):
    import correction

    monkeypatch.setattr(fast_head, "TREES", 10)
    rng = np.random.default_rng(0)
    image = np.array([0.0, 4.0, -4.0])[truth] + rng.normal(0, 0.5, truth.shape)
    scan, label, out = (tmp_path / name for name in ("scan.tif", "label.tif", "out.json"))
    tifffile.imwrite(scan, image.astype(np.float32))
    tifffile.imwrite(label, np.array([0, 3, 7], np.uint8)[truth])  # classes with gaps
    arguments = ["--image", scan, "--label", label, "--json", out, "--strokes", 7]
    arguments += ["--seeds", 1, "--threads", 1]
    monkeypatch.setattr(sys, "argv", ["correction.py", *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        correction.main()
        kept = json.loads(Path(out).read_text())
        correction.main()  # nothing is computed again
    finally:
        torch.set_num_threads(threads)
    assert json.loads(Path(out).read_text())["runs"] == kept["runs"]
    name = f"{scan} + {label}, 7 strokes"
    assert set(kept["runs"]) == {f"{name}/loop/1", f"{name}/forest/1"}
    rows = kept["runs"][f"{name}/loop/1"]["rows"]
    assert rows[0]["strokes"] == 3
    assert all(row["strokes"] <= 7 for row in rows)
    assert rows[-1]["dice"] > 0.6
    assert len(rows[-1]["classes"]) == 2
    assert "| loop |" in capsys.readouterr().out


def test_pairs_of_the_same_file_names_are_kept_apart(tmp_path):
    import correction

    def named(folder: str, label: str = "label.nii.gz", **more) -> str:
        place = tmp_path / folder
        return correction.pair_name(correction.Case(place / "image.nii.gz", place / label, **more))

    names = {
        named("a"),
        named("b"),
        named("a", "other.nii.gz"),
        named("a", model="mine"),
        named("a", model="mine", merge=(0, 1, 1)),
    }
    assert len(names) == 5
    assert named("a") == named("b/../a")


def test_more_than_254_classes_are_painted_with_their_own_background(monkeypatch):
    import correction
    from napari_attention3d import Volume

    monkeypatch.setattr(correction, "finish", lambda job, look=None: None)
    scan = Volume.from_array(np.zeros((2, 3, 4), np.float32))
    loop = correction.Loop(scan, 300, 1, None)
    monkeypatch.setattr(loop.session, "apply", lambda learned: None)
    loop([(np.array([[0, 0, 0]]), 0), (np.array([[0, 0, 1]]), 255)])
    assert loop.session.labels[0, 0, :2].tolist() == [0, 255]


def test_tables_show_each_seed_and_their_median():
    def run(*dice: float) -> dict:
        rows = [
            {"strokes": 2 + 6 * i, "dice": d, "seconds": 1.0, "cpu": 2.0, "first_change": 0.5}
            for i, d in enumerate(dice)
        ]
        return {"rows": rows}

    book = {"runs": {"a/loop/0": run(0.5, 0.8), "a/loop/1": run(0.7, 0.6), "a/loop/2": run(0.4, 1)}}
    text = table(book)
    assert "0.500 (0.500 0.700 0.400)" in text
    assert "0.800 (0.800 0.600 1.000)" in text
    assert "| 0.000 0.100 0.000 | 1.0 | 2.0 | 0.5 |" in text
    assert network_table(book) == ""
