"""File names as people have them, links, and places that can't be written to."""

from __future__ import annotations

import os

import numpy as np
import pytest

from napari_attention3d.volumes import read_volume

ODD = (
    "with a space",
    "Ünï-cödé 脳 🧠",
    "-leading-dash",
    "semi;colon & 'quote' $(x)",
    "per%20cent",
    "l" * 200,
)
"""200 bytes of the 255 that Linux takes: what is written beside a scan has a longer name."""


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("suffix", [".nii.gz", ".ome.tif"])
def test_a_scan_of_any_name_is_segmented(run, tiny_model, scan_maker, tmp_path, name, suffix):
    scan = scan_maker(tmp_path / f"{name}{suffix}")
    target = tmp_path / f"{name} out" / f"{name[:190]}_mask.nii.gz"
    target.parent.mkdir()

    done = run("segment", "-o", target, "--model", tiny_model, "--", scan)
    assert done.code == 0, done.err
    assert read_volume(target).array.shape == (12, 14, 16)
    assert [p.name for p in target.parent.iterdir()] == [target.name]


def test_names_relative_to_the_folder_that_begin_with_a_dash(
    run, tiny_model, scan_maker, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    scan_maker(tmp_path / "-scan.nii.gz")
    done = run("segment", "--model", tiny_model, "-o", "mask.nii.gz", "--", "-scan.nii.gz")
    assert done.code == 0, done.err
    assert (tmp_path / "mask.nii.gz").is_file()


def test_a_folder_of_odd_names_is_a_batch(run, tiny_model, scan_maker, tmp_path):
    folder, masks = tmp_path / "my scans", tmp_path / "my masks"
    folder.mkdir()
    for seed, name in enumerate(ODD):
        scan_maker(folder / f"{name}.nii.gz", seed)
    done = run("segment", folder, "-o", masks, "--model", tiny_model)
    assert done.code == 0, done.err
    made = sorted(p.name for p in masks.glob("*_labels.nii.gz"))
    assert made == sorted(f"{name}_labels.nii.gz" for name in ODD)


def test_a_link_to_a_scan_is_read_and_stays_a_link(run, tiny_model, scan, tmp_path):
    link = tmp_path / "link.nii.gz"
    link.symlink_to(scan)
    target = tmp_path / "mask.nii.gz"
    done = run("segment", link, "-o", target, "--model", tiny_model)
    assert done.code == 0, done.err
    assert link.is_symlink()
    np.testing.assert_array_equal(read_volume(link).array, read_volume(scan).array)


def test_links_that_lead_nowhere_or_to_themselves_are_told(run, tiny_model, tmp_path):
    for name, to in (("nowhere.nii.gz", "gone.nii.gz"), ("loop.nii.gz", "loop.nii.gz")):
        link = tmp_path / name
        link.symlink_to(tmp_path / to)
        done = run("segment", link, "-o", tmp_path / "m.nii.gz", "--model", tiny_model)
        assert done.code != 0
        assert name in done.err
        assert "Traceback" not in done.err


def test_a_file_where_a_folder_should_be_is_told(run, tiny_model, scan, tmp_path):
    (tmp_path / "masks").write_text("a file")
    done = run("segment", scan, "-o", tmp_path / "masks" / "m.nii.gz", "--model", tiny_model)
    assert done.code != 0
    assert "Traceback" not in done.err
    assert "masks" in done.err
    assert (tmp_path / "masks").read_text() == "a file"


def test_a_folder_without_permission_is_told_and_nothing_stays(
    run, tiny_model, scan, tmp_path, monkeypatch
):
    target = tmp_path / "masks" / "m.nii.gz"
    target.parent.mkdir()
    old = os.replace

    def refused(source, to, *rest, **more):
        if str(to).startswith(str(target.parent)):
            raise PermissionError(13, "Permission denied", str(to))
        return old(source, to, *rest, **more)

    monkeypatch.setattr(os, "replace", refused)  # for root, too, who may write anywhere
    done = run("segment", scan, "-o", target, "--model", tiny_model)
    assert done.code != 0
    assert "ermission" in done.err
    assert "Traceback" not in done.err
    assert list(target.parent.iterdir()) == []
