"""What is told about the place under the mouse, on scans that are turned or have time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes import Volume
from napari_attention3d.widgets.inspect_cursor import Cursor, words_at
from napari_attention3d.widgets.layers import KEY, layer_to_volume, volume_to_layer_data

SHAPE = (4, 6, 8)


class Runs:
    """What the cursor asks: the chosen scan, its mask, a tile that was looked at."""

    def __init__(self, viewer):
        self.viewer = viewer
        self.chooser = SimpleNamespace(layer=None)
        self.mask = None
        self.record = None
        self.desk = SimpleNamespace(probabilities=lambda record, voxel: record)
        self.leading = None

    def source(self):
        return layer_to_volume(self.chooser.layer, leading=self.leading)

    def mask_layer(self):
        return self.mask

    def known(self):
        return self.record


@pytest.fixture
def runs(viewer):
    return Runs(viewer)


@pytest.fixture
def cursor(qtbot, runs):
    made = Cursor(runs)
    made.said = []
    made.moved.connect(lambda place, words: made.said.append((place, words)))
    made.switch(True)
    yield made
    made.switch(False)


def add_scan(viewer, runs, array=None, **place):
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) if array is None else array
    runs.chooser.layer = viewer.add_image(array, name="scan", **place)
    return runs.chooser.layer


def move(viewer, layer, index):
    """The mouse comes over a voxel of a layer."""
    position = tuple(layer.data_to_world(index))
    event = SimpleNamespace(
        position=position,
        view_direction=None,
        dims_displayed=list(viewer.dims.displayed),
        dims_point=tuple(viewer.dims.point),
        pos=(0, 0),
    )
    for callback in list(viewer.mouse_move_callbacks):
        callback(viewer, event)


def test_place_intensity_and_label_of_a_voxel(qtbot, viewer, runs, cursor):
    layer = add_scan(viewer, runs, scale=(2, 1, 0.5), translate=(5, 6, 7), units=("mm",) * 3)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 2, 3] = 2
    runs.mask = viewer.add_labels(mask, scale=(2, 1, 0.5), translate=(5, 6, 7))
    runs.mask.features = {"index": [0, 2], "name": ["background", "vessel"]}
    move(viewer, layer, (1, 2, 3))
    qtbot.waitUntil(lambda: bool(cursor.said))
    place, words = cursor.said[-1]
    np.testing.assert_allclose(place, (7, 8, 8.5))
    assert words == "z, y, x: 7.0, 8.0, 8.5 mm (voxel 1, 2, 3)\nscan 67 · vessel"
    move(viewer, layer, (1, 2, 4))
    qtbot.waitUntil(lambda: len(cursor.said) == 2)
    assert cursor.said[-1][1].endswith("scan 68 · background")


def test_many_movements_are_one_reading_of_the_last(qtbot, viewer, runs, cursor):
    layer = add_scan(viewer, runs)
    for x in range(5):
        move(viewer, layer, (1, 1, x))
    assert not cursor.said  # none while the mouse moves
    qtbot.waitUntil(lambda: bool(cursor.said))
    assert len(cursor.said) == 1
    assert "voxel 1, 1, 4" in cursor.said[0][1]


def test_beside_the_scan_nothing_is_told(qtbot, viewer, runs, cursor):
    layer = add_scan(viewer, runs)
    move(viewer, layer, (1, 1, 20))
    qtbot.waitUntil(lambda: bool(cursor.said))
    assert cursor.said == [(None, "")]


def test_a_scan_shown_turned_is_told_by_its_own_voxels(qtbot, viewer, runs, cursor):
    affine = np.diag([-2.0, 1, -0.5, 1])
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    volume = Volume(array, Geometry(SHAPE, affine, "mm", anatomical=True), name="turned")
    ((data, keywords, _),) = volume_to_layer_data(volume)
    runs.chooser.layer = layer = viewer.add_image(data, **keywords)
    own = (1, 4, 6)
    position = np.asarray(volume.geometry.to_world(own))
    shown = np.rint(layer.world_to_data(position)).astype(int)
    assert tuple(shown) != own
    move(viewer, layer, tuple(shown))
    qtbot.waitUntil(lambda: bool(cursor.said))
    place, words = cursor.said[-1]
    np.testing.assert_allclose(place, position)
    assert "(voxel 1, 4, 6)" in words
    assert f"scan {array[own]:.3g}" in words


def test_a_scan_with_time_is_told_at_the_time_in_view(qtbot, viewer, runs, cursor):
    array = np.stack([np.zeros(SHAPE, np.float32), np.full(SHAPE, 7, np.float32)])
    layer = add_scan(viewer, runs, array)
    runs.leading = 1
    viewer.dims.set_point(0, 1)
    move(viewer, layer, (1, 2, 2, 2))
    qtbot.waitUntil(lambda: bool(cursor.said))
    place, words = cursor.said[-1]
    np.testing.assert_allclose(place, (1, 2, 2, 2))
    assert "(voxel 2, 2, 2)" in words
    assert "scan 7" in words


def test_probabilities_come_from_layers_and_the_largest_first(viewer, runs):
    layer = add_scan(viewer, runs)
    for name, value in (("bone", 0.2), ("brain", 0.7), ("skin", 0.06), ("air", 0.04)):
        chance = viewer.add_image(
            np.full(SHAPE, value, np.float32), name=f"scan · probability of {name}"
        )
        chance.metadata[KEY] = {"role": f"probability:{name}"}
    runs.record = {"never": 1.0}  # a tile that was looked at says less than a layer
    words = words_at(runs, (1, 2, 3), layer.data_to_world((1, 2, 3)))
    assert words.splitlines()[-1] == "brain 0.70, bone 0.20, skin 0.06"


def test_without_such_layers_they_come_from_the_tile_that_was_looked_at(viewer, runs):
    layer = add_scan(viewer, runs)
    runs.record = {"cell": 0.25, "wall": 0.75}
    words = words_at(runs, (1, 2, 3), layer.data_to_world((1, 2, 3)))
    assert words.splitlines()[-1] == "wall 0.75, cell 0.25 (in this tile)"
    runs.record = None
    assert "cell" not in words_at(runs, (1, 2, 3), layer.data_to_world((1, 2, 3)))


def test_smaller_layers_are_silent_where_they_do_not_reach(viewer, runs):
    layer = add_scan(viewer, runs)
    runs.mask = viewer.add_labels(np.ones((2, 2, 2), np.uint8))
    chance = viewer.add_image(np.ones((2, 2, 2), np.float32), name="probability of cell")
    chance.metadata[KEY] = {"role": "probability:cell"}
    words = words_at(runs, (3, 5, 7), layer.data_to_world((3, 5, 7)))
    assert words == "z, y, x: 3.0, 5.0, 7.0 (voxel 3, 5, 7)\nscan 191"


def test_switched_off_it_hears_nothing_and_twice_is_as_once(qtbot, viewer, runs, cursor):
    layer = add_scan(viewer, runs)
    cursor.switch(True)
    assert len(viewer.mouse_move_callbacks) == 1
    move(viewer, layer, (1, 1, 1))
    cursor.switch(False)
    cursor.switch(False)
    assert len(viewer.mouse_move_callbacks) == 0
    cursor.read()  # the reading that was on its way
    assert not cursor.said


def test_a_callback_that_another_removed_is_not_missed(viewer, runs, cursor):
    viewer.mouse_move_callbacks.clear()
    cursor.switch(False)
    cursor.switch(True)
    assert len(viewer.mouse_move_callbacks) == 1


def test_a_scan_that_is_gone_or_unreadable_is_no_error(qtbot, viewer, runs, cursor, monkeypatch):
    layer = add_scan(viewer, runs)
    move(viewer, layer, (1, 1, 1))
    runs.chooser.layer = None
    cursor.read()
    runs.chooser.layer = layer

    def refuse():
        raise InputError("a layer of two dimensions")

    monkeypatch.setattr(runs, "source", refuse)
    move(viewer, layer, (1, 1, 1))
    cursor.read()
    assert not cursor.said
