"""OME-Zarr through the command line: names, and a run from folder to folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_attention3d.cli.segment import plan_outputs
from napari_attention3d.volumes import read_volume


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
