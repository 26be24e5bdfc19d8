"""OME-Zarr through the command line: names, and a run from folder to folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_attention3d.batch import plan_outputs
from napari_attention3d.cli.segment import parse_memory
from napari_attention3d.errors import InputError
from napari_attention3d.volumes import read_volume, write_volume
from napari_attention3d.volumes.formats.ome_zarr import label_groups


def test_masks_are_named_after_the_folder(tmp_path):
    scan = tmp_path / "a.ome.zarr"
    inner = scan / "0"
    inner.mkdir(parents=True)
    (plan,) = plan_outputs([scan], None)
    assert plan.labels == tmp_path / "a_labels.ome.zarr"
    assert plan.beside("uncertainty") == tmp_path / "a_uncertainty.ome.zarr"
    (plan,) = plan_outputs([inner], None)
    assert plan.labels == tmp_path / "a_0_labels.ome.zarr"  # never inside the scan
    (plan,) = plan_outputs([scan], tmp_path / "mask.nii.gz")
    assert plan.labels == tmp_path / "mask.nii.gz"


def test_zarr_in_zarr_out(run, tmp_path, tiny_model, scan_maker):
    scan = Path(scan_maker(tmp_path / "scan.ome.zarr"))
    nifti = Path(scan_maker(tmp_path / "scan.nii.gz"))
    assert run("segment", scan, "-m", tiny_model).code == 0
    assert run("segment", nifti, "-m", tiny_model).code == 0
    mask, same = (read_volume(tmp_path / f"scan_labels{s}") for s in (".ome.zarr", ".nii.gz"))
    assert mask.metadata["kind"] == "labels"
    assert mask.geometry.is_close(same.geometry)
    np.testing.assert_array_equal(np.asarray(mask.array), np.asarray(same.array))
    names = ["background", "one", "two"]
    assert [one["name"] for one in mask.metadata["classes"]] == names
    assert run("segment", scan, "-m", tiny_model).code == 2  # it is there
    assert run("segment", scan, "-m", tiny_model, "--overwrite").code == 0


def test_streamed_results_equal_those_in_memory(run, tmp_path, tiny_model, scan_maker, monkeypatch):
    """The scan is read part by part and the mask written part by part."""
    from napari_attention3d.inference import preprocess

    scan = scan_maker(tmp_path / "scan.ome.zarr")
    more = ("--attention", "--probabilities", "--uncertainty")
    options = ("-m", tiny_model, *more)
    assert run("segment", scan, *options, "-o", tmp_path / "whole.nii.gz").code == 0
    monkeypatch.setattr(preprocess, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(preprocess, "LOOK_BYTES", 4000)
    monkeypatch.setattr(
        preprocess.Preprocessor.open, "__kwdefaults__", {"channel": None, "most": 0, "memory": None}
    )
    assert run("segment", scan, *options, "-o", tmp_path / "parts.zarr").code == 0
    names = sorted(p.name.removeprefix("parts") for p in tmp_path.glob("parts*"))
    assert len(names) >= 4
    for name in names:
        parts = read_volume(tmp_path / f"parts{name}")
        whole = read_volume(tmp_path / f"whole{name.removesuffix('.zarr')}.nii.gz")
        assert parts.geometry.is_close(whole.geometry)
        np.testing.assert_allclose(np.asarray(parts.array), np.asarray(whole.array), atol=1e-4)
    assert not list(tmp_path.glob(".attention3d*"))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_mask_goes_into_the_zarr_of_its_scan(run, tmp_path, tiny_model, scan_maker, version):
    scan = Path(scan_maker(tmp_path / "z.ome.zarr"))
    write_volume(scan, read_volume(scan, lazy=False), zarr_version=version)
    place = scan / "labels" / "mask"
    more = ("--uncertainty", "--measure")
    assert run("segment", scan, "-m", tiny_model, "-o", place, *more).code == 0
    assert run("segment", scan, "-m", tiny_model).code == 0
    assert label_groups(scan) == [place]
    mask, beside = read_volume(place), read_volume(tmp_path / "z_labels.ome.zarr")
    assert mask.metadata["format"] == f"OME-Zarr {version}"
    assert mask.metadata["kind"] == "labels"
    np.testing.assert_array_equal(np.asarray(mask.array), np.asarray(beside.array))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "z.ome.zarr",
        "z_labels.ome.zarr",
        "z_mask_measures.csv",
        "z_mask_measures.csv.json",
        "z_mask_uncertainty.ome.zarr",
    ]
    clean = scan / "labels" / "clean"
    assert run("clean", place, "-o", clean, "--fill-holes").code == 0
    assert label_groups(scan) == [place, clean]
    assert run("segment", scan, "-m", tiny_model, "-o", place).code == 2  # it is there
    assert run("rerun", place).code == 0
    assert label_groups(scan) == [place, clean, scan / "labels" / "mask_again"]


@pytest.mark.parametrize(
    "inner", ["mask", "0/labels/mask", "labels/a/mask", "labels/mask.nii.gz/x"]
)
def test_nothing_else_goes_into_a_zarr_and_no_folder_stays(
    run, tmp_path, tiny_model, scan_maker, inner
):
    scan = Path(scan_maker(tmp_path / "z.ome.zarr"))
    before = sorted(scan.rglob("*"))
    found = run("segment", scan, "-m", tiny_model, "-o", scan / inner)
    assert found.code == 2
    assert "labels/NAME" in found.err
    assert sorted(scan.rglob("*")) == before
    other = tmp_path / "none.zarr" / "labels" / "x"
    assert run("segment", scan, "-m", tiny_model, "-o", other).code == 2
    assert not other.parent.parent.exists()


def test_results_of_the_version_that_is_asked_for(run, tmp_path, tiny_model, scan_maker):
    scan = Path(scan_maker(tmp_path / "z.ome.zarr"))
    more = ("--zarr-version", "0.4", "--probabilities", "--attention")
    assert run("segment", scan, "-m", tiny_model, *more).code == 0
    written = [p for p in tmp_path.iterdir() if p != scan]
    assert len(written) >= 3
    assert {read_volume(p).metadata["format"] for p in written} == {"OME-Zarr 0.4"}
    again = run("rerun", tmp_path / "z_labels.ome.zarr", "-o", tmp_path / "again.zarr")
    assert again.code == 0
    assert read_volume(tmp_path / "again.zarr").metadata["format"] == "OME-Zarr 0.4"
    for words in (("0.3",), ("0.4", "-o", scan / "labels" / "x"), ("0.4", "-o", "m.nii.gz")):
        assert run("segment", scan, "-m", tiny_model, "--zarr-version", *words).code == 2
    assert not (scan / "labels").exists()


def test_memory_is_a_size():
    assert parse_memory("") is None
    assert parse_memory("4GB") == 4_000_000_000
    assert parse_memory("1.5 gib") == 3 * 2**29
    assert parse_memory("500m") == 500_000_000
    for bad in ("much", "-1GB", "0", "4GBs", "ib", "1..2G"):
        with pytest.raises(InputError, match="is not a size"):
            parse_memory(bad)
