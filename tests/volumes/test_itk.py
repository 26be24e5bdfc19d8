"""NRRD and MetaImage, against pynrrd, SimpleITK and the bytes themselves."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from napari_attention3d.errors import InputError, VolumeFormatError
from napari_attention3d.volumes import Volume, read_volume, write_volume
from napari_attention3d.volumes.formats import itk, supported_suffixes, writable_suffixes

sitk = pytest.importorskip("SimpleITK")


def tilted() -> np.ndarray:
    """Oblique, anisotropic, one axis backwards."""
    c, s = np.cos(np.radians(25)), np.sin(np.radians(25))
    affine = np.array([[1, 0, 0, 40], [0, c, -s, -7], [0, s, c, 12], [0, 0, 0, 1.0]])
    return affine @ np.diag([3.0, 1.0, -0.5, 1.0])


def scan(dtype=np.int16, **changes) -> Volume:
    array = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(dtype)
    settings = {"affine": tilted(), "unit": "mm", "anatomical": True, "name": "scan", **changes}
    return Volume.from_array(array, **settings)


LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_nrrd_reads_back_in_pynrrd(tmp_path, dtype):
    nrrd = pytest.importorskip("nrrd")
    volume = scan(dtype)
    path = write_volume(tmp_path / "scan.nrrd", volume)
    array, header = nrrd.read(str(path))
    np.testing.assert_array_equal(array.T, volume.array)
    assert array.dtype == dtype
    assert header["space"] == "left-posterior-superior"
    theirs = np.eye(4)
    theirs[:3, :3] = header["space directions"].T
    theirs[:3, 3] = header["space origin"]
    np.testing.assert_allclose(LPS @ theirs, volume.geometry.affine_xyz, atol=1e-9)
    spacing = np.linalg.norm(header["space directions"], axis=1)[::-1]
    np.testing.assert_allclose(spacing, volume.geometry.spacing)


def test_metaimage_holds_what_its_header_says(tmp_path):
    """Read by hand: the header's lines, then the voxels by zlib."""
    volume = scan()
    blob = write_volume(tmp_path / "scan.mha", volume).read_bytes()
    text, voxels = blob.split(b"ElementDataFile = LOCAL\n", 1)
    header = dict(line.split(" = ", 1) for line in text.decode().splitlines())
    figures = {
        key: np.array(header[key].split(), dtype=float)
        for key in ("TransformMatrix", "Offset", "ElementSpacing", "DimSize")
    }
    assert figures["DimSize"].tolist() == [7, 6, 5]
    array = np.frombuffer(zlib.decompress(voxels), np.int16).reshape(5, 6, 7)
    np.testing.assert_array_equal(array, volume.array)
    theirs = np.eye(4)  # the matrix is written axis by axis
    theirs[:3, :3] = (
        figures["TransformMatrix"].reshape(3, 3) * figures["ElementSpacing"][:, None]
    ).T
    theirs[:3, 3] = figures["Offset"]
    np.testing.assert_allclose(LPS @ theirs, volume.geometry.affine_xyz, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_both_lie_where_nifti_lies_in_simpleitk(tmp_path, suffix):
    volume = scan()
    ours = sitk.ReadImage(str(write_volume(tmp_path / f"a{suffix}", volume)))
    nifti = sitk.ReadImage(str(write_volume(tmp_path / "a.nii.gz", volume)))
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(i) for i in (ours, nifti)))
    for corner in ((0, 0, 0), (6, 0, 0), (0, 5, 4)):
        np.testing.assert_allclose(
            ours.TransformIndexToPhysicalPoint(corner),
            nifti.TransformIndexToPhysicalPoint(corner),
            atol=1e-4,
        )


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd", ".nhdr"])
def test_files_of_simpleitk_are_read_in_the_right_place(tmp_path, suffix):
    image = sitk.GetImageFromArray(np.arange(210, dtype=np.int16).reshape(5, 6, 7))
    image.SetSpacing((0.5, 1.5, 4.0))
    image.SetOrigin((-10, 20, 30))
    c, s = np.cos(0.3), np.sin(0.3)
    image.SetDirection((1, 0, 0, 0, c, -s, 0, s, c))
    path = tmp_path / f"theirs{suffix}"
    sitk.WriteImage(image, str(path))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    assert volume.geometry.spacing == pytest.approx((4.0, 1.5, 0.5))
    assert (volume.geometry.unit, volume.geometry.anatomical) == ("mm", True)
    x, y, z = image.TransformIndexToPhysicalPoint((3, 2, 4))
    np.testing.assert_allclose(volume.geometry.to_world((4, 2, 3)), (z, -y, -x), atol=1e-5)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("unit", ["mm", "um", "pixel"])
def test_everything_comes_back(tmp_path, suffix, unit):
    about = {"kind": "labels", "provenance": {"model": {"name": "ü"}, "n": list(range(9000))}}
    volume = scan(np.uint8, unit=unit, anatomical=unit == "mm", metadata=about)
    back = read_volume(write_volume(tmp_path / f"m{suffix}", volume))
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.geometry.is_close(volume.geometry)
    assert back.geometry.unit == unit
    assert back.geometry.anatomical == (unit == "mm")
    assert back.metadata["kind"] == "labels"
    assert back.metadata["provenance"] == about["provenance"]


def test_micrometres_are_millimetres_to_others(tmp_path):
    volume = scan(affine=np.diag([2.0, 0.5, 0.25, 1]), unit="um", anatomical=False)
    image = sitk.ReadImage(str(write_volume(tmp_path / "cells.nrrd", volume)))
    np.testing.assert_allclose(image.GetSpacing(), (0.00025, 0.0005, 0.002))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_channels(tmp_path, suffix):
    array = np.random.default_rng(1).random((3, 4, 5, 6)).astype(np.float32)
    volume = Volume.from_array(
        array, spacing=(2, 1, 1), unit="um", channel_names=("a", "b", "c"), name="cells"
    )
    path = write_volume(tmp_path / f"cells{suffix}", volume)
    assert sitk.ReadImage(str(path)).GetNumberOfComponentsPerPixel() == 3
    back = read_volume(path)
    np.testing.assert_array_equal(back.array, array)
    assert back.channel_names == ("a", "b", "c")
    one = read_volume(path, channel=1)
    np.testing.assert_array_equal(one.array, array[1])
    assert one.channel_names == ("b",)
    with pytest.raises(InputError, match="no channel 7"):
        read_volume(path, channel=7)


def test_a_fourth_axis_is_channels_or_time(tmp_path):
    array = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    path = tmp_path / "series.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(path))
    assert read_volume(path).n_channels == 2
    assert "4th axis" in read_volume(path).notes[0]
    np.testing.assert_array_equal(read_volume(path, time=1).array, array[1])


def test_a_slicer_segmentation_is_a_mask(tmp_path):
    image = sitk.GetImageFromArray(np.ones((3, 4, 5), np.uint8))
    image.SetMetaData("Segment0_ID", "Segment_1")
    path = tmp_path / "liver.seg.nrrd"
    sitk.WriteImage(image, str(path))
    assert read_volume(path).metadata["kind"] == "labels"


def test_what_they_can_not_hold_is_refused(tmp_path):
    sheared = tilted()
    sheared[:3, 1] += 0.3 * sheared[:3, 2]
    with pytest.raises(InputError, match="right angles"):
        write_volume(tmp_path / "s.nrrd", scan(affine=sheared))
    with pytest.raises(InputError, match="can't write"):
        write_volume(tmp_path / "s.mhd", scan())
    assert list(tmp_path.iterdir()) == []
    assert {".nrrd", ".mha"} <= set(writable_suffixes())
    assert {".nhdr", ".mhd"} <= set(supported_suffixes()) - set(writable_suffixes())


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_damaged_files_are_told(tmp_path, suffix):
    path = write_volume(tmp_path / f"a{suffix}", scan())
    path.write_bytes(path.read_bytes()[:-80])
    with pytest.raises(VolumeFormatError, match=r"damaged|cut short"):
        read_volume(path)
    path.write_text(json.dumps({"not": "a scan"}))
    with pytest.raises(VolumeFormatError, match="damaged or not a"):
        read_volume(path)


def test_without_simpleitk_the_extra_is_named(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "a.nrrd", scan())
    monkeypatch.setattr(itk, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"napari-attention3d\[itk\]"):
        read_volume(path)
