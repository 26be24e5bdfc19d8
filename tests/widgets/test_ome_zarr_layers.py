"""OME-Zarr in the viewer: lazy, multiscale, where it lies, and back."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
import zarr
from napari.components import ViewerModel
from napari.layers import Image, Labels
from npe2 import PluginManager

from napari_attention3d._napari import get_reader
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes import Volume, read_volume, write_volume
from napari_attention3d.volumes.formats.ome_zarr_write import streamed
from napari_attention3d.widgets.layers import layer_to_volume

NAME = "napari-attention3d"


@pytest.fixture(scope="module", autouse=True)
def _discovered():
    PluginManager.instance().discover()


def opened(path):
    return ViewerModel().open(path, plugin=NAME)


def tilted(shape):
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, -1.0], [0.1, 1, 0], [1, -0.1, 0]]) @ np.diag([3, 0.5, 0.5])
    affine[:3, 3] = (5, 6, 7)
    return Geometry(shape, affine, "mm", anatomical=True)


def long(path, kind="image", dtype="uint16", shape=(600, 70, 20)):
    """A volume long enough for two levels in the viewer."""
    with streamed(path, shape, dtype, tilted(shape), name="long", kind=kind) as out:
        ramp = np.arange(shape[0]).astype(dtype)[:, None, None]
        out.array[:] = np.broadcast_to(ramp, shape)
    return path


def test_a_dropped_folder_opens_lazily_as_multiscale(tmp_path):
    path = long(tmp_path / "long.ome.zarr")
    (layer,) = opened(path)
    assert isinstance(layer, Image)
    assert layer.multiscale
    assert all(isinstance(level, dask.array.Array) for level in layer.data)
    assert [level.shape for level in layer.data] == [(20, 70, 600), (20, 35, 300), (20, 35, 150)]
    np.testing.assert_allclose(layer.scale, np.hypot(1, 0.1 * np.array([0, 1, 1])) * (0.5, 0.5, 3))
    assert [str(u) for u in layer.units] == ["millimeter"] * 3
    assert layer.name == "long"


def test_a_multiscale_layer_comes_back_as_its_finest_level_unread(tmp_path):
    (layer,) = opened(long(tmp_path / "long.zarr"))
    volume = layer_to_volume(layer).volume
    assert isinstance(volume.array, dask.array.Array)
    assert volume.array.shape == (600, 70, 20)
    assert volume.geometry.is_close(tilted((600, 70, 20)))
    np.testing.assert_array_equal(np.asarray(volume.array[:, 0, 0]), np.arange(600))


def test_a_multiscale_layer_is_saved_from_its_finest_level(tmp_path):
    (layer,) = opened(long(tmp_path / "long.zarr"))
    (written,) = layer.save(str(tmp_path / "copy.ome.zarr"), plugin=NAME)
    again = read_volume(written)
    assert again.geometry.is_close(tilted((600, 70, 20)))
    np.testing.assert_array_equal(np.asarray(again.array[:, 0, 0]), np.arange(600))


def test_labels_of_moderate_size_can_be_painted_and_saved(tmp_path):
    path = long(tmp_path / "mask.zarr", "labels", "uint8", (300, 70, 20))
    (layer,) = opened(path)
    assert isinstance(layer, Labels)
    assert layer.editable
    layer.data_setitem((np.array([1]), np.array([2]), np.array([3])), 77)
    (written,) = layer.save(str(path), plugin=NAME)
    again = read_volume(written)
    assert again.metadata["kind"] == "labels"
    assert again.geometry.is_close(tilted((300, 70, 20)))
    assert (np.asarray(again.array) == 77).sum() == 70 * 20 + 1


def test_class_names_and_colours_go_to_the_viewer_and_back(tmp_path):
    classes = [
        {"name": "background", "colour": "#000000"},
        {"name": "liver", "colour": "#ff8000"},
        {"name": "spleen", "colour": "#0072b2"},
    ]
    about = {"kind": "labels", "classes": classes}
    volume = Volume.from_array(np.arange(3, dtype=np.uint8).reshape(1, 1, 3), metadata=about)
    (layer,) = opened(write_volume(tmp_path / "a.zarr", volume))
    assert list(layer.features["name"]) == ["background", "liver", "spleen"]
    np.testing.assert_allclose(layer.get_color(1), (1, 128 / 255, 0, 1), atol=1e-6)
    (written,) = layer.save(str(tmp_path / "b.ome.zarr"), plugin=NAME)
    assert read_volume(written).metadata["classes"] == classes
    (plain,) = Labels(np.ones((2, 2, 2), np.uint8)).save(str(tmp_path / "c.zarr"), plugin=NAME)
    assert "classes" not in read_volume(plain).metadata


def test_large_labels_stay_lazy(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_attention3d._napari._EDITABLE", 1000)
    (layer,) = opened(long(tmp_path / "mask.zarr", "labels", "uint16"))
    assert isinstance(layer, Labels)
    assert layer.multiscale
    assert layer.data[0].shape == (20, 70, 600)
    assert isinstance(layer.data[0], dask.array.Array)


def test_the_labels_inside_an_image_come_along(tmp_path):
    path = long(tmp_path / "scan.zarr", shape=(30, 20, 20))
    zarr.open_group(path / "labels", mode="w", attributes={"ome": {"labels": ["cells"]}})
    long(path / "labels" / "cells", "labels", "uint8", (30, 20, 20))
    image, cells = opened(path)
    assert not image.multiscale
    assert isinstance(cells, Labels)
    assert cells.name == "scan cells"
    np.testing.assert_allclose(cells.scale, image.scale)
    np.testing.assert_allclose(cells.translate, image.translate)


def test_channels_are_layers_of_their_own(tmp_path):
    array = np.random.default_rng(0).random((2, 400, 5, 6)).astype(np.float32)
    volume = Volume.from_array(array, spacing=(2, 1, 1), unit="um", channel_names=("DAPI", "GFP"))
    layers = opened(write_volume(tmp_path / "a.zarr", volume))
    assert [layer.name for layer in layers] == ["a · DAPI", "a · GFP"]
    assert all(layer.multiscale for layer in layers)
    np.testing.assert_array_equal(np.asarray(layers[1].data[0]), array[1])


def test_other_folders_are_left_to_other_readers(tmp_path):
    (tmp_path / "slices").mkdir()
    (tmp_path / "odd.zarr").mkdir()
    assert get_reader(str(tmp_path / "slices")) is None
    with pytest.raises(InputError, match="no group"):
        get_reader(str(tmp_path / "odd.zarr"))(str(tmp_path / "odd.zarr"))


def test_a_zarr_array_that_someone_added_is_a_lazy_volume(tmp_path):
    array = zarr.create_array(tmp_path / "x", shape=(5, 6, 7), chunks=(2, 6, 7), dtype="f4")
    array[:] = 3
    volume = layer_to_volume(Image(array, scale=(2, 1, 1), units=("um",) * 3)).volume
    assert isinstance(volume.array, dask.array.Array)
    assert volume.geometry.spacing == (2, 1, 1)
    np.testing.assert_array_equal(np.asarray(volume.array), array[:])
