from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from napari_attention3d.errors import InputError, VolumeFormatError
from napari_attention3d.volumes import Volume, read_volume, write_volume

AFFINE = np.array([[-1.0, 0, 0, 12], [0, 0, 2.0, -7], [0, -1.5, 0, 3], [0, 0, 0, 1]])


def save(path, shape=(4, 5, 6), dtype=np.float32):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    nib.save(nib.MGHImage(array, AFFINE), path)
    return array


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_reads_as_nibabel_does(tmp_path, name, dtype):
    array = save(tmp_path / name, dtype=dtype)
    volume = read_volume(tmp_path / name)
    assert np.array_equal(volume.array, array.T)
    assert volume.dtype.isnative
    assert np.allclose(volume.geometry.affine_xyz, nib.load(tmp_path / name).affine, atol=1e-5)
    assert volume.geometry.unit == "mm"


def test_frames_are_channels_or_points_in_time(tmp_path):
    array = save(tmp_path / "a.mgz", (4, 5, 6, 3))
    assert read_volume(tmp_path / "a.mgz").array.shape == (3, 6, 5, 4)
    assert np.array_equal(read_volume(tmp_path / "a.mgz", channel=1).array, array[..., 1].T)
    assert np.array_equal(read_volume(tmp_path / "a.mgz", time=2).array, array[..., 2].T)


def test_damage_is_said_in_one_line(tmp_path):
    save(tmp_path / "a.mgz")
    raw = (tmp_path / "a.mgz").read_bytes()
    for keep in (3, 40, len(raw) - 20):
        (tmp_path / "a.mgz").write_bytes(raw[:keep])
        with pytest.raises(VolumeFormatError) as caught:
            read_volume(tmp_path / "a.mgz")
        assert "\n" not in str(caught.value)


def test_it_is_not_written(tmp_path):
    volume = Volume.from_array(np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(InputError, match=r"\.nii"):
        write_volume(tmp_path / "a.mgz", volume)
    assert list(tmp_path.iterdir()) == []
