"""Which scans folders and patterns stand for, and where their masks go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_attention3d.batch import find_scans, plan_outputs
from napari_attention3d.errors import InputError
from napari_attention3d.volumes import Volume, read_volume, write_volume
from napari_attention3d.volumes.formats import can_read

pydicom = pytest.importorskip("pydicom")
sitk = pytest.importorskip("SimpleITK")


def write_series(folder: Path, count: int = 3, uid: str = "1.2.3") -> list[Path]:
    """Slices of a CT, written by SimpleITK, with what tells a series from others."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    files = []
    for z in range(count):
        image = sitk.GetImageFromArray(np.full((6, 5), z, np.int16))
        image.SetMetaData("0020|000e", uid)
        image.SetMetaData("0020|000d", "1.2")
        image.SetMetaData("0008|0018", f"{uid}.{z + 1}")
        image.SetMetaData("0020|0032", f"0\\0\\{z}")
        image.SetMetaData("0020|0037", "1\\0\\0\\0\\1\\0")
        files.append(folder / f"{uid}-{z}.dcm")
        writer.SetFileName(str(files[-1]))
        writer.Execute(image)
    return files


def test_parts_of_a_scan_are_no_scans(tmp_path, tools):
    (tmp_path / "T" / "sub").mkdir(parents=True)
    scan = tools.write_scan(tmp_path / "T" / "sub" / "a.ome.zarr")
    mask = Volume.from_array(np.ones((12, 14, 16), np.uint8), metadata={"kind": "labels"})
    write_volume(scan / "labels" / "cells", mask.replace(geometry=read_volume(scan).geometry))
    nifti = tools.write_scan(tmp_path / "T" / "b.nii.gz")
    write_series(tmp_path / "T" / "ct")
    assert find_scans([f"{tmp_path}/T/**"]) == [nifti, tmp_path / "T" / "ct", scan]
    assert find_scans([f"{scan}/labels/*"]) == [scan / "labels" / "cells"]
    with pytest.raises(InputError, match="holds no scan"):
        find_scans([f"{scan}/0/**"])


def test_slices_stand_for_their_series_once(tmp_path):
    one = write_series(tmp_path / "ct", uid="1.2.3")
    assert find_scans([f"{tmp_path}/ct/*.dcm"]) == one[:1]
    two = write_series(tmp_path / "ct", uid="1.2.4")
    assert find_scans([f"{tmp_path}/ct/*.dcm"]) == [one[0], two[0]]
    assert find_scans([f"{tmp_path}/**"]) == [one[0], two[0]]  # the folder is not one scan
    (tmp_path / "ct" / "broken.dcm").write_bytes(b"no DICOM")
    assert len(find_scans([f"{tmp_path}/ct/*.dcm"])) == 3  # told when it is read


def test_a_folder_that_must_not_be_read_is_no_series(tmp_path, tools, monkeypatch):
    scan = tools.write_scan(tmp_path / "a.nii.gz")
    locked = tmp_path / "locked"
    locked.mkdir()
    real = Path.iterdir

    def iterdir(self):
        if self == locked:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert not can_read(locked)
    assert find_scans([tmp_path]) == [scan]
    assert find_scans([f"{tmp_path}/*"]) == [scan]
    with pytest.raises(InputError, match="holds no scan"):
        find_scans([locked])


def test_scans_of_the_same_name_go_into_folders_like_theirs(tmp_path, tools):
    scans = [
        tools.write_scan(tmp_path / "study" / f"sub-{i}" / name)
        for i in (1, 2)
        for name in ("T1.nii.gz", "c.ome.zarr")
        if (tmp_path / "study" / f"sub-{i}").mkdir(parents=True, exist_ok=True) is None
    ]
    out = tmp_path / "masks"
    plans = plan_outputs(find_scans([f"{tmp_path}/study/**"]), out)
    assert sorted(plan.image for plan in plans) == sorted(scans)
    assert {plan.labels.relative_to(out).as_posix() for plan in plans} == {
        f"sub-{i}/{name}" for i in (1, 2) for name in ("T1_labels.nii.gz", "c_labels.ome.zarr")
    }
    assert (out / "sub-2").is_dir()
    flat = plan_outputs(scans[:2], out)  # nothing collides: no folders
    assert {plan.labels.parent for plan in flat} == {out}
    for name in ("x.nii", "x.nii.gz"):
        tools.write_scan(tmp_path / name)
    with pytest.raises(InputError, match="would both write"):
        plan_outputs([tmp_path / "x.nii", tmp_path / "x.nii.gz"], out)
