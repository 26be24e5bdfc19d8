"""From a place in the world to a voxel of the scan's array."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes.volume import Volume
from napari_attention3d.widgets.layers import layer_to_volume, volume_to_layer_data
from napari_attention3d.widgets.probe import shown_to_voxel, voxel_to_shown, voxel_under

SHAPE = (6, 8, 10)


def event_2d(position):
    return SimpleNamespace(position=position, dims_displayed=[1, 2], view_direction=None)


def event_3d(position, direction=(1.0, 0.0, 0.0), lead=()):
    displayed = [len(lead) + axis for axis in range(3)]
    return SimpleNamespace(
        position=(*lead, *position),
        dims_displayed=displayed,
        view_direction=np.array([*(0.0 for _ in lead), *direction]),
    )


@pytest.fixture
def array():
    return np.arange(480, dtype=np.float32).reshape(SHAPE)


def test_a_place_is_its_voxel_and_outside_is_none(array):
    layer = Image(array, scale=(2, 1, 0.5), translate=(5, 6, 7), rotate=(10, 20, 30))
    source = layer_to_volume(layer)
    for index in ((0, 0, 0), (5, 7, 9), (2, 3, 4)):
        found = voxel_under(layer, source, event_2d(layer.data_to_world(index)))
        np.testing.assert_allclose(found, index, atol=1e-6)
    assert voxel_under(layer, source, event_2d(layer.data_to_world((5.4, 7, 9)))) is not None
    for index in ((-0.6, 0, 0), (0, 7.6, 0), (0, 0, 40)):
        assert voxel_under(layer, source, event_2d(layer.data_to_world(index))) is None


def test_flipped_and_permuted_scans_give_their_own_voxels(array):
    affine = np.array([[0, 0, -2, 50], [3, 0, 0, 1], [0, -1.5, 0, 9], [0, 0, 0, 1]], float)
    volume = Volume(array, Geometry(SHAPE, affine, "mm", True), "turned")
    data, keywords, _ = volume_to_layer_data(volume)[0]
    layer = Image(data, **keywords)
    source = layer_to_volume(layer)
    assert not source.turn.is_identity
    for shown in ((0, 0, 0), (3, 2, 5), tuple(n - 1 for n in data.shape)):
        voxel = voxel_under(layer, source, event_2d(layer.data_to_world(shown)))
        assert array[tuple(round(v) for v in voxel)] == data[shown]
        np.testing.assert_allclose(voxel_to_shown(source, voxel), shown)
        np.testing.assert_allclose(shown_to_voxel(source, shown), voxel)


def test_multiscale_and_4d_layers(array):
    coarse = array[::2, ::2, ::2]
    layer = Image([array, coarse], multiscale=True, scale=(2, 1, 1))
    source = layer_to_volume(layer)
    assert voxel_under(layer, source, event_2d((8, 3, 6))) == (4, 3, 6)
    time = Image(np.stack((array, array)), scale=(1, 2, 1, 1))
    source = layer_to_volume(time, leading=0)
    event = SimpleNamespace(position=(1, 8, 3, 6), dims_displayed=[2, 3], view_direction=None)
    assert voxel_under(time, source, event) == (4, 3, 6)


def test_in_3d_the_brightest_voxel_along_the_ray_or_the_first_label():
    array = np.zeros(SHAPE, np.float32)
    array[4, 3, 5] = 1
    layer = Image(array, scale=(2, 1, 1), translate=(10, 0, 0))
    source = layer_to_volume(layer)
    for direction, start in (((1.0, 0, 0), 0.0), ((-1.0, 0, 0), 99.0)):
        event = event_3d((start, 3.0, 5.0), direction)
        np.testing.assert_allclose(voxel_under(layer, source, event), (4, 3, 5), atol=0.5)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 3, 5] = 1
    labels = Labels(mask, scale=(2, 1, 1), translate=(10, 0, 0))
    found = voxel_under(layer, source, event_3d((0.0, 3.0, 5.0)), labels)
    np.testing.assert_allclose(found, (2, 3, 5), atol=0.5)
    elsewhere = voxel_under(layer, source, event_3d((0.0, 90.0, 5.0)), labels)
    assert elsewhere is None


def test_in_3d_multiscale_and_4d(array):
    bright = np.zeros(SHAPE, np.float32)
    bright[4:6, 2:4, 6:8] = 1
    layer = Image([bright, bright[::2, ::2, ::2]], multiscale=True)
    source = layer_to_volume(layer)
    found = voxel_under(layer, source, event_3d((-9.0, 2.5, 6.5)))
    assert 3.5 <= found[0] <= 5.5
    time = Image(np.stack((np.zeros_like(bright), bright)))
    source = layer_to_volume(time, leading=0)
    found = voxel_under(time, source, event_3d((-9.0, 2.5, 6.5), lead=(1.0,)))
    assert 3.5 <= found[0] <= 5.5


@pytest.mark.parametrize("mask_lead", [0, 1])
@pytest.mark.parametrize("scan_lead", [0, 1])
def test_in_3d_a_mask_with_time_is_read_at_its_time(scan_lead, mask_lead):
    """The first label along the ray, whether scan, mask or both have an axis of time."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 3, 5] = 1
    if mask_lead:
        mask = np.stack([np.zeros_like(mask), mask, np.zeros_like(mask)])
    scan = np.zeros((3,) * scan_lead + SHAPE, np.float32)
    layer = Image(scan, scale=(1,) * scan_lead + (2, 1, 1))
    labels = Labels(mask, scale=(1,) * mask_lead + (2, 1, 1))
    source = layer_to_volume(layer, leading=0)
    lead = (1.0,) if scan_lead or mask_lead else ()
    found = voxel_under(layer, source, event_3d((-9.0, 3.0, 5.0), lead=lead), labels)
    np.testing.assert_allclose(found, (2, 3, 5), atol=0.5)
    if mask_lead:
        event = event_3d((-9.0, 3.0, 5.0), lead=(2.0,))
        elsewhere = voxel_under(layer, source, event, labels)
        assert not np.allclose(elsewhere, (2, 3, 5), atol=0.5)


def counted(array, chunks):
    """The array as lazy chunks, and the list of those that were read."""
    import dask.array

    read = []

    def block(block_info=None):
        where = block_info[None]["array-location"]
        read.append(block_info[None]["chunk-location"])
        return array[tuple(slice(a, b) for a, b in where)]

    lazy = dask.array.map_blocks(
        block,
        chunks=dask.array.core.normalize_chunks(chunks, array.shape),
        dtype=array.dtype,
        meta=np.empty((0,) * array.ndim, array.dtype),
    )
    return lazy, read


def test_in_3d_only_what_lies_on_the_ray_is_read():
    array = np.zeros((8, 8, 8), np.float32)
    array[5, 1, 1] = 1
    lazy, read = counted(array, (4, 4, 4))
    layer = Image(lazy)
    source = layer_to_volume(layer)
    lazy_mask, read_mask = counted((array > 0).astype(np.uint8), (4, 4, 4))
    mask = Labels(lazy_mask)
    read.clear()
    read_mask.clear()
    event = event_3d((-9.0, 1.0, 1.0))
    assert np.allclose(voxel_under(layer, source, event, mask), (5, 1, 1), atol=0.5)
    assert set(read_mask) == {(0, 0, 0), (1, 0, 0)}
    assert not read
    assert np.allclose(voxel_under(layer, source, event), (5, 1, 1), atol=0.5)
    assert set(read) == {(0, 0, 0), (1, 0, 0)}
