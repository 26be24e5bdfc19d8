"""Whatever the format: bad files, bad places, atomic writes, samples."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from napari_attention3d.errors import InputError, OutputError, VolumeFormatError
from napari_attention3d.volumes import Volume, formats, read_volume, write_volume
from napari_attention3d.volumes.atomic import atomic_path
from napari_attention3d.volumes.samples import (
    mni152_t1_path,
    mni152_tissue_paths,
    phantom_paths,
)

SUFFIXES = [".nii", ".nii.gz", ".mgz", ".mgh", ".tif", ".tiff", ".ome.tif"]
WRITABLE = [".nii", ".nii.gz", ".tif", ".ome.tif"]


def small():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    return Volume.from_array(array, spacing=(2.0, 1.5, 1.0))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"hello", bytes(1000), b"\x1f\x8b" + bytes(50)])
def test_files_that_are_something_else(tmp_path, suffix, content):
    path = tmp_path / f"odd{suffix}"
    path.write_bytes(content)
    with pytest.raises(VolumeFormatError, match="odd") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_files_and_folders(tmp_path, suffix):
    with pytest.raises(VolumeFormatError, match="does not exist"):
        read_volume(tmp_path / f"none{suffix}")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    with pytest.raises(VolumeFormatError, match="folder"):
        read_volume(folder)


def test_other_suffixes(tmp_path):
    with pytest.raises(VolumeFormatError, match="supported format"):
        read_volume(tmp_path / "a.docx")
    with pytest.raises(InputError, match="suffixes"):
        write_volume(tmp_path / "a.docx", small())
    assert not formats.can_read("a.docx")
    assert formats.can_read("A.NII.GZ")


@pytest.mark.parametrize("suffix", WRITABLE)
def test_round_trip(tmp_path, suffix):
    path = write_volume(tmp_path / f"a{suffix}", small())
    again = read_volume(path)
    assert np.array_equal(again.array, small().array)
    assert again.geometry.is_close(small().geometry)
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", WRITABLE)
@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission")]
)
def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path, monkeypatch, suffix, code, words
):
    path = write_volume(tmp_path / f"a{suffix}", small())
    before = path.read_bytes()

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("napari_attention3d.volumes.atomic.os.fsync", fail)
    changed = small().replace(array=small().array + 1)
    with pytest.raises(OutputError, match=words):
        write_volume(path, changed)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", WRITABLE)
def test_folders_that_are_not_there(tmp_path, suffix):
    with pytest.raises(OutputError, match="does not exist"):
        write_volume(tmp_path / "none" / f"a{suffix}", small())
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="can't write"):
        write_volume(tmp_path / "file" / f"a{suffix}", small())


def test_any_error_inside_leaves_nothing(tmp_path):
    def interrupted():
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_links_stay_links(tmp_path):
    target, link = tmp_path / "real.nii", tmp_path / "link.nii"
    write_volume(target, small())
    link.symlink_to(target)
    write_volume(link, small().replace(array=small().array + 1))
    assert link.is_symlink()
    assert np.array_equal(read_volume(target).array, small().array + 1)


@pytest.mark.parametrize("name", ["-a.nii.gz", "ä ö.nii.gz", "x" * 240 + ".nii.gz"])
def test_odd_names(tmp_path, name):
    path = write_volume(tmp_path / name, small())
    assert np.array_equal(read_volume(path).array, small().array)


def test_volumes_check_what_they_are_given():
    with pytest.raises(InputError, match="3 or 4 axes"):
        Volume.from_array(np.zeros((3, 3)))
    with pytest.raises(InputError, match="empty"):
        Volume.from_array(np.zeros((0, 3, 3)))
    with pytest.raises(InputError, match="not both"):
        Volume.from_array(np.zeros((2, 3, 3)), spacing=(1, 1, 1), affine=np.eye(4))
    with pytest.raises(InputError, match="does not lie"):
        Volume(np.zeros((2, 3, 3)), small().geometry)
    with pytest.raises(InputError, match="no channel 1"):
        small().channel(1)
    assert small().channel(0).array.shape == (2, 3, 4)


def test_phantoms_are_there_and_fit_their_labels():
    paths = phantom_paths()
    for name in ("mri", "nuclei"):
        scan, labels = read_volume(paths[name]), read_volume(paths[f"{name}_labels"])
        assert labels.geometry.is_close(scan.geometry)
        values = np.asarray(labels.array)
        assert len(np.unique(values)) > 3
        inside = np.asarray(scan.array)[values > 0].mean()
        assert inside > 2 * np.asarray(scan.array)[values == 0].mean()
    assert read_volume(paths["mri"]).geometry.obliquity > 5
    assert read_volume(paths["nuclei"]).geometry.unit == "um"


def test_real_brain_of_the_demo():
    pytest.importorskip("nilearn")
    scan = read_volume(mni152_t1_path())
    assert scan.geometry.spacing == pytest.approx((1, 1, 1))
    for path in mni152_tissue_paths().values():
        assert read_volume(path).geometry.is_close(scan.geometry)


def test_without_nilearn_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("napari_attention3d.volumes.samples.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"napari-attention3d\[demo\]"):
        mni152_t1_path()


def test_a_volume_prints_in_one_line():
    assert repr(small()) == "Volume('volume', 2 x 3 x 4 uint8, 2 x 1.5 x 1 mm)"
