from __future__ import annotations

import gzip
import itertools
import struct

import nibabel as nib
import numpy as np
import pytest

from napari_attention3d.errors import InputError, VolumeFormatError
from napari_attention3d.geometry import Geometry, Reorientation
from napari_attention3d.volumes import Volume, read_volume, write_volume

AFFINE = np.array([[2.0, 0.1, 0, -10], [-0.1, 2.5, 0.2, 4], [0, -0.2, 3.0, 7], [0, 0, 0, 1]])
ALL_48 = [
    Reorientation(p, f)
    for p in itertools.permutations(range(3))
    for f in itertools.product((False, True), repeat=3)
]


def voxels(shape=(5, 6, 7), dtype=np.int16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path, array, affine=AFFINE, kind=nib.Nifti1Image, **changes):
    image = kind(array, affine)
    image.set_qform(affine, 1)
    for key, value in changes.items():
        image.header[key] = value
    nib.save(image, path)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "name with späces.nii.gz"])
def test_reads_as_nibabel_does(tmp_path, kind, name):
    path = save(tmp_path / name, voxels(), kind=kind)
    volume = read_volume(path)
    assert np.array_equal(volume.array, voxels().T)
    assert volume.array.shape == (7, 6, 5)
    assert np.allclose(volume.geometry.affine_xyz, nib.load(path).affine)
    assert volume.name == name.removesuffix(".gz").removesuffix(".nii")
    assert volume.geometry.anatomical


@pytest.mark.parametrize("turn", ALL_48, ids=lambda t: f"{t.permutation}{t.flips}")
def test_mask_lies_on_its_scan_in_every_orientation(tmp_path, turn):
    """mask.nii.gz made from scan.nii.gz: same shape, affine and voxels in nibabel."""
    tilted = Geometry.from_xyz((5, 6, 7), AFFINE).reorient(turn)
    array = voxels(tilted.shape)
    scan_path = tmp_path / "scan.nii.gz"
    save(scan_path, array.T, tilted.affine_xyz)
    scan = read_volume(scan_path)
    # As the engine does: compute in the canonical orientation, come back.
    home = scan.geometry.canonical_reorientation()
    canonical = home.apply(np.asarray(scan.array))
    mask = home.inverse().apply(canonical % 3).astype(np.uint8)
    path = write_volume(
        tmp_path / "mask.nii.gz",
        Volume(mask, scan.geometry, metadata={"kind": "labels"}),
        like=scan,
    )
    first, second = nib.load(scan_path), nib.load(path)
    assert second.shape == first.shape
    assert np.array_equal(second.affine, first.affine)
    assert np.array_equal(second.get_qform(), first.get_qform())
    assert second.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(second.dataobj), np.asarray(first.dataobj) % 3)


@pytest.mark.parametrize("lazy", [True, False])
def test_scaling_is_honoured(tmp_path, lazy):
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.header.set_slope_inter(0.5, -3)
    path = tmp_path / "scaled.nii"
    nib.save(image, path)
    expected = nib.load(path).get_fdata().T
    assert expected.min() != voxels().min()
    volume = read_volume(path, lazy=lazy)
    assert volume.dtype == np.float32
    assert np.allclose(volume.array, expected)


def test_plain_files_are_mapped_not_read(tmp_path):
    path = save(tmp_path / "scan.nii", voxels())
    assert isinstance(read_volume(path).array, np.memmap)
    assert not isinstance(read_volume(path, lazy=False).array, np.memmap)


def test_big_endian(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    path = tmp_path / "big.nii"
    nib.save(nib.Nifti1Image(voxels(dtype=">i2"), AFFINE, header), path)
    assert path.read_bytes()[:4] == struct.pack(">i", 348)
    volume = read_volume(path)
    assert volume.dtype.isnative
    assert np.array_equal(volume.array, voxels().T)


def four_d(path, seconds):
    image = nib.Nifti1Image(voxels((5, 6, 7, 3)), AFFINE)
    image.header.set_xyzt_units("mm", "sec" if seconds else "unknown")
    nib.save(image, path)
    return path


def test_a_time_series_asks_which_point(tmp_path):
    path = four_d(tmp_path / "bold.nii.gz", True)
    with pytest.raises(InputError, match=r"3 time points.*--time"):
        read_volume(path)
    assert np.array_equal(read_volume(path, time=2).array, voxels((5, 6, 7, 3))[..., 2].T)
    with pytest.raises(InputError, match="no time point 3"):
        read_volume(path, time=3)


def test_channels_come_first(tmp_path):
    path = four_d(tmp_path / "multi.nii.gz", False)
    volume = read_volume(path)
    assert volume.array.shape == (3, 7, 6, 5)
    assert np.array_equal(volume.array[1], voxels((5, 6, 7, 3))[..., 1].T)
    one = read_volume(path, channel=1)
    assert one.array.shape == (7, 6, 5)
    assert np.array_equal(one.array, volume.array[1])
    with pytest.raises(InputError, match="no channel 5"):
        read_volume(path, channel=5)


def test_no_form_is_said(tmp_path):
    path = tmp_path / "noform.nii"
    image = nib.Nifti1Image(voxels(), None)
    image.header.set_zooms((1, 2, 3))
    nib.save(image, path)
    volume = read_volume(path)
    assert not volume.geometry.anatomical
    assert volume.geometry.spacing == pytest.approx((3, 2, 1))
    assert any("neither sform nor qform" in note for note in volume.notes)


def test_forms_that_disagree_are_said(tmp_path):
    path = tmp_path / "two.nii"
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.set_sform(AFFINE, 2)
    moved = AFFINE.copy()
    moved[0, 3] += 5
    image.set_qform(moved, 1)
    nib.save(image, path)
    volume = read_volume(path)
    assert np.allclose(volume.geometry.affine_xyz, AFFINE, atol=1e-5)
    assert any("differ by up to 5" in note and "sform" in note for note in volume.notes)


def test_qform_alone_is_used(tmp_path):
    path = tmp_path / "q.nii"
    image = nib.Nifti1Image(voxels(), np.diag([2.0, 3, 4, 1]))
    image.set_sform(None, 0)
    image.set_qform(np.diag([2.0, 3, 4, 1]), 1)
    nib.save(image, path)
    volume = read_volume(path)
    assert volume.geometry.spacing == pytest.approx((4, 3, 2))
    assert not any("differ" in note for note in volume.notes)


@pytest.mark.parametrize(
    ("unit", "expected", "factor"),
    [("mm", "mm", 1), ("micron", "um", 1), ("meter", "mm", 1000), ("unknown", "mm", 1)],
)
def test_units(tmp_path, unit, expected, factor):
    path = tmp_path / "unit.nii"
    image = nib.Nifti1Image(voxels(), np.diag([1.0, 2, 3, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    volume = read_volume(path)
    assert volume.geometry.unit == expected
    assert volume.geometry.spacing == pytest.approx((3 * factor, 2 * factor, 1 * factor))
    assert any("no unit" in note for note in volume.notes) == (unit == "unknown")


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_voxels_that_are_not_numbers_are_refused(tmp_path, dtype):
    path = tmp_path / "odd.nii"
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), dtype), AFFINE), path)
    with pytest.raises(InputError, match=r"complex|RGB"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [10, 200, 400])
def test_cut_files(tmp_path, suffix, keep):
    path = save(tmp_path / f"cut{suffix}", voxels((9, 9, 9)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(VolumeFormatError, match="cut") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(tmp_path):
    path = save(tmp_path / "bomb.nii", voxels((2, 2, 2)))
    raw = bytearray(path.read_bytes())
    raw[40:56] = struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
    path.write_bytes(raw)
    with pytest.raises(VolumeFormatError, match="cut short"):
        read_volume(path)
    packed = tmp_path / "bomb.nii.gz"
    packed.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(VolumeFormatError, match="cut short"):
        read_volume(packed)


def test_a_damaged_checksum_is_found(tmp_path):
    path = save(tmp_path / "sum.nii.gz", voxels((9, 9, 9)))
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(VolumeFormatError, match="damaged"):
        read_volume(path)


def test_nan_is_read(tmp_path):
    array = voxels(dtype=np.float32)
    array[0, 0, 0] = np.nan
    volume = read_volume(save(tmp_path / "nan.nii", array))
    assert np.isnan(volume.array[0, 0, 0])


@pytest.mark.parametrize(
    ("dtype", "top", "expected"),
    [(np.int64, 3, "uint8"), (np.int32, 300, "uint16"), (bool, 1, "uint8"), (np.uint8, 9, "uint8")],
)
def test_labels_take_the_smallest_integer(tmp_path, dtype, top, expected):
    array = np.zeros((3, 4, 5), dtype)
    array[0, 0, 0] = top
    volume = Volume.from_array(array, spacing=(3, 2, 1), metadata={"kind": "labels"})
    path = write_volume(tmp_path / "labels.nii.gz", volume)
    assert nib.load(path).get_data_dtype() == np.dtype(expected)
    assert np.array_equal(np.asarray(nib.load(path).dataobj).T, array)


def test_provenance_and_channels_come_back(tmp_path):
    volume = Volume.from_array(
        np.zeros((2, 3, 4, 5), np.float32),
        spacing=(1, 1, 1),
        channel_names=("T1", "T2"),
        metadata={"provenance": {"model": "brain", "sha256": "ab"}},
    )
    again = read_volume(write_volume(tmp_path / "a.nii.gz", volume))
    assert again.channel_names == ("T1", "T2")
    assert again.metadata["provenance"] == {"model": "brain", "sha256": "ab"}
    assert again.array.shape == (2, 3, 4, 5)


def test_real_scan_stored_posterior_first(shared_data, tmp_path):
    scan = read_volume(shared_data / "d04_mr_cord_t2" / "image.nii.gz")
    assert scan.geometry.orientation == "RSP"  # (z, y, x) of a file stored PSR
    assert scan.notes == []  # the codes differ, the matrices agree
    labels = read_volume(shared_data / "d04_mr_cord_t2" / "label.nii.gz")
    assert labels.geometry.is_close(scan.geometry)
    path = write_volume(tmp_path / "mask.nii.gz", labels, like=scan)
    first = nib.load(shared_data / "d04_mr_cord_t2" / "image.nii.gz")
    assert np.array_equal(nib.load(path).affine, first.affine)
    assert nib.load(path).shape == first.shape
