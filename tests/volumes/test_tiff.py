from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_attention3d.errors import InputError, VolumeFormatError
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes import Volume, read_volume, write_volume


def voxels(shape=(4, 5, 6), dtype=np.uint16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def imagej(path, array, axes, **meta):
    tifffile.imwrite(
        path, array, imagej=True, resolution=(4.0, 2.0), metadata={"axes": axes, **meta}
    )
    return path


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
def test_imagej_stack_in_micrometres(tmp_path, unit):
    path = imagej(tmp_path / "a.tif", voxels(), "ZYX", spacing=1.5, unit=unit)
    volume = read_volume(path)
    assert np.array_equal(volume.array, voxels())
    assert volume.geometry.unit == "um"
    assert volume.geometry.spacing == pytest.approx((1.5, 0.5, 0.25))
    assert not volume.geometry.anatomical


def test_imagej_channels_come_first(tmp_path):
    array = voxels((4, 3, 5, 6))
    volume = read_volume(imagej(tmp_path / "c.tif", array, "ZCYX", spacing=1, unit="um"))
    assert volume.array.shape == (3, 4, 5, 6)
    assert np.array_equal(volume.array, array.transpose(1, 0, 2, 3))
    one = read_volume(tmp_path / "c.tif", channel=2)
    assert np.array_equal(one.array, array[:, 2])


def test_imagej_time_series_asks(tmp_path):
    array = voxels((2, 4, 5, 6))
    path = imagej(tmp_path / "t.tif", array, "TZYX", spacing=1, unit="um")
    with pytest.raises(InputError, match="--time"):
        read_volume(path)
    assert np.array_equal(read_volume(path, time=1).array, array[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_simpleitk_reads_what_we_write(tmp_path, name, dtype):
    sitk = pytest.importorskip("SimpleITK")
    volume = Volume.from_array(voxels(dtype=dtype), spacing=(1.5, 0.5, 0.25), unit="um")
    image = sitk.ReadImage(str(write_volume(tmp_path / name, volume)))
    found = sitk.GetArrayFromImage(image)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, voxels(dtype=dtype))


def test_ome_each_axis_with_its_unit(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path,
        voxels((2, 4, 5, 6)),
        ome=True,
        metadata={
            "axes": "CZYX",
            "PhysicalSizeX": 250.0,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
            "PhysicalSizeZ": 2.0,
            "PhysicalSizeZUnit": "µm",
            "Channel": {"Name": ["nuclei", "walls"]},
        },
    )
    volume = read_volume(path)
    assert volume.array.shape == (2, 4, 5, 6)
    assert volume.channel_names == ("nuclei", "walls")
    assert volume.geometry.spacing == pytest.approx((2.0, 0.5, 0.25))
    assert volume.geometry.unit == "um"


def test_plain_pages_are_slices_without_a_size(tmp_path):
    path = tmp_path / "plain.tif"
    with tifffile.TiffWriter(path) as file:
        for page in voxels():
            file.write(page, contiguous=False, metadata=None)
    volume = read_volume(path)
    assert np.array_equal(volume.array, voxels())
    assert volume.geometry.unit == "pixel"
    assert volume.notes


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".ome.tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_round_trip_keeps_an_oblique_grid(tmp_path, suffix, dtype):
    affine = np.array([[2, 0.3, 0, 5], [-0.3, 1, 0.1, 6], [0, -0.1, 1, 7], [0, 0, 0, 1.0]])
    grid = Geometry((4, 5, 6), affine, "um")
    volume = Volume(voxels(dtype=dtype), grid, metadata={"provenance": {"model": "m"}})
    path = write_volume(tmp_path / f"näme with space{suffix}", volume)
    again = read_volume(path)
    assert np.array_equal(again.array, volume.array)
    assert again.dtype == dtype
    assert again.geometry.is_close(grid)
    assert again.metadata["provenance"] == {"model": "m"}
    # An independent reader sees voxels and their sizes.
    with tifffile.TiffFile(path) as file:
        assert np.array_equal(file.asarray(), volume.array)
        if suffix != ".ome.tif":
            assert file.imagej_metadata["spacing"] == pytest.approx(grid.spacing[0])
            assert file.imagej_metadata["unit"] == "um"
            n, d = file.pages[0].tags["XResolution"].value
            assert d / n == pytest.approx(grid.spacing[2], rel=1e-3)


def test_two_channels_round_trip(tmp_path):
    grid = Geometry.from_spacing((4, 5, 6), (2, 1, 1), unit="um")
    volume = Volume(voxels((3, 4, 5, 6)), grid, channel_names=("a", "b", "c"))
    again = read_volume(write_volume(tmp_path / "c.tif", volume))
    assert np.array_equal(again.array, volume.array)
    assert again.channel_names == ("a", "b", "c")


def test_a_file_rescaled_elsewhere_is_believed(tmp_path):
    grid = Geometry.from_spacing((4, 5, 6), (2, 1, 1), (9, 9, 9), unit="um")
    path = write_volume(tmp_path / "a.tif", Volume(voxels(), grid))
    with tifffile.TiffFile(path) as file:
        info = file.imagej_metadata["Info"]
    tifffile.imwrite(
        path,
        voxels(),
        imagej=True,
        resolution=(10.0, 10.0),
        metadata={"axes": "ZYX", "spacing": 0.5, "unit": "um", "Info": info},
    )
    volume = read_volume(path)
    assert volume.geometry.spacing == pytest.approx((0.5, 0.1, 0.1))
    assert any("changed" in note for note in volume.notes)


def test_wide_integers_shrink_or_go_plain(tmp_path):
    big = voxels(dtype=np.uint32) + np.uint32(100_000)
    path = write_volume(tmp_path / "a.tif", Volume.from_array(big, spacing=(1, 1, 1)))
    assert np.array_equal(read_volume(path).array, big)
    small = voxels(dtype=np.int64)
    path = write_volume(tmp_path / "b.tif", Volume.from_array(small, spacing=(1, 1, 1)))
    assert read_volume(path).dtype == np.uint8


def test_pictures_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "flat.tif", voxels((5, 6)))
    with pytest.raises(InputError, match="2D"):
        read_volume(tmp_path / "flat.tif")
    tifffile.imwrite(tmp_path / "rgb.tif", voxels((4, 5, 6, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match="RGB"):
        read_volume(tmp_path / "rgb.tif")
    tifffile.imwrite(tmp_path / "complex.tif", voxels(dtype=np.complex64), photometric="minisblack")
    with pytest.raises(InputError, match="complex"):
        read_volume(tmp_path / "complex.tif")


@pytest.mark.parametrize("keep", [4, 100, 600])
def test_cut_files(tmp_path, keep):
    path = imagej(tmp_path / "a.tif", voxels((9, 20, 20)), "ZYX", spacing=1.5, unit="um")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(VolumeFormatError) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def test_real_stack_of_nuclei(shared_data):
    scan = read_volume(shared_data / "d03_nuclei_ovule1135" / "image.tif")
    assert scan.array.shape == (100, 100, 100)
    assert scan.geometry.unit == "um"
    assert scan.geometry.spacing == pytest.approx((0.28372, 0.12679, 0.12679), abs=1e-4)
    light = read_volume(shared_data / "d06_lightsheet_nuclei_unlabelled" / "image.tif")
    assert light.array.shape == (124, 86, 94)
    assert light.geometry.unit == "pixel"
