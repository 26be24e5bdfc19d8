"""Files cut short anywhere or with odd bytes: told in one line, never read as another scan."""

from __future__ import annotations

import gzip
import logging

import nibabel as nib
import numpy as np
import pytest
import tifffile

from napari_attention3d.errors import Attention3DError, VolumeFormatError
from napari_attention3d.volumes import Volume, read_volume, write_volume

SHAPE = (7, 10, 11)
AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def voxels():
    return np.random.default_rng(0).integers(0, 60_000, SHAPE).astype(np.uint16)


def ours(path):
    write_volume(path, Volume.from_array(voxels(), spacing=(3, 2, 1), unit="um"))


def pages(path):
    with tifffile.TiffWriter(path) as file:
        for page in voxels():
            file.write(page, contiguous=False, metadata=None)


WAYS = {
    "ours.tif": ours,
    "ours.ome.tif": ours,
    "imagej_packed.tif": lambda p: tifffile.imwrite(
        p, voxels(), imagej=True, compression="zlib", metadata={"axes": "ZYX", "unit": "um"}
    ),
    "shaped.tif": lambda p: tifffile.imwrite(p, voxels(), photometric="minisblack"),
    "packed.tif": lambda p: tifffile.imwrite(
        p, voxels(), photometric="minisblack", compression="zlib"
    ),
    "pages.tif": pages,
    "one.nii": lambda p: nib.save(nib.Nifti1Image(voxels().T, AFFINE), p),
    "one.nii.gz": lambda p: nib.save(nib.Nifti1Image(voxels().T, AFFINE), p),
    "two.nii": lambda p: nib.save(nib.Nifti2Image(voxels().T, AFFINE), p),
    "free.mgz": lambda p: nib.save(nib.MGHImage(voxels().T.astype(np.float32), AFFINE), p),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_file_cut_anywhere_is_refused_or_complete(tmp_path, name):
    path = tmp_path / name
    WAYS[name](path)
    whole = read_volume(path, lazy=False)
    raw = path.read_bytes()
    refused = []
    for keep in {*np.linspace(1, len(raw) - 1, 30).astype(int), len(raw) - 1}:
        path.write_bytes(raw[:keep])
        try:
            volume = read_volume(path, lazy=False)
        except VolumeFormatError as error:
            refused.append(str(error))
            continue
        # Only what follows the voxels was lost, and if that matters it is said.
        assert np.array_equal(volume.array, whole.array)
        assert volume.geometry.is_close(whole.geometry) or volume.notes != whole.notes
    assert len(refused) >= 20
    assert not any("\n" in message for message in refused)


@pytest.mark.parametrize("name", WAYS)
def test_odd_bytes_never_raise_what_is_not_ours(tmp_path, name, caplog):
    path = tmp_path / name
    WAYS[name](path)
    packed = path.read_bytes()[:2] == b"\x1f\x8b"
    raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    rng = np.random.default_rng(1)
    refused = []
    with caplog.at_level(logging.WARNING):
        for _ in range(40):
            odd = bytearray(raw)
            for place in rng.integers(0, 400, rng.integers(1, 4)):
                odd[place] = rng.integers(0, 256)
            path.write_bytes(gzip.compress(bytes(odd), 1) if packed else odd)
            try:
                np.asarray(read_volume(path).array).sum(dtype=float)
            except Attention3DError as error:
                refused.append(str(error))
    assert refused
    assert all(name in message and "\n" not in message for message in refused)
    assert caplog.records == []  # what the libraries say goes into the notes


def test_what_nibabel_repairs_is_noted(tmp_path):
    path = tmp_path / "odd.nii"
    WAYS["one.nii"](path)
    raw = bytearray(path.read_bytes())
    raw[252:254] = (77).to_bytes(2, "little")  # a qform_code that does not exist
    path.write_bytes(raw)
    volume = read_volume(path)
    assert any("qform_code" in note for note in volume.notes)
    assert np.allclose(volume.geometry.affine_xyz, AFFINE)
