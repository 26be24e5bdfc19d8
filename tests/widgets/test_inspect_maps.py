"""The list of maps, thresholds, histogram and the read-out under the mouse."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_attention3d.widgets.inspect_cursor import class_name
from napari_attention3d.widgets.inspect_histogram import Histogram, short_number
from napari_attention3d.widgets.inspect_look import (
    base_colormap,
    map_layers,
    sample,
    set_threshold,
    threshold_of,
    thumbnail,
    value_at,
)
from napari_attention3d.widgets.inspect_maps import MapsSection
from napari_attention3d.widgets.layers import KEY


def add_map(viewer, role="attention:gate-level-2", name="scan · net · attention gate", **keywords):
    data = keywords.pop("data", np.linspace(0, 1, 4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6))
    keywords = {"colormap": "magma", "contrast_limits": (0, 1), **keywords}
    return viewer.add_image(data, name=name, metadata={KEY: {"role": role}}, **keywords)


@pytest.fixture
def section(qtbot, viewer):
    made = MapsSection(viewer)
    qtbot.addWidget(made)
    made.start()
    made.show()
    yield made
    made.close_down()


def titles(section):
    tree = section.tree
    groups = [tree.topLevelItem(i) for i in range(tree.topLevelItemCount())]
    return {g.text(0): [g.child(j).text(0) for j in range(g.childCount())] for g in groups}


def test_maps_are_listed_by_group_and_other_layers_are_not(qtbot, viewer, section):
    assert not section.hint.isHidden()
    viewer.add_image(np.zeros((4, 5, 6)))
    add_map(viewer)
    add_map(viewer, "uncertainty", "scan · net · uncertainty")
    add_map(viewer, "asked", "net · row, all scales, step 1")
    add_map(viewer, "asked-outline", "net · could look within")
    qtbot.waitUntil(lambda: len(section.entries) == 3)
    assert titles(section) == {
        "Where it looked": ["Gate"],
        "Answers": ["Row, all scales, step 1"],
        "How sure it is": ["Uncertainty"],
    }
    assert section.hint.isHidden()
    tips = [item.toolTip(0) for item in section._items()]
    assert ["faithful" in tip for tip in tips] == [True, True, True]
    assert "merely pretty" in tips[1]
    viewer.layers.clear()
    qtbot.waitUntil(lambda: not section.entries)
    assert section.layer is None
    assert section.histogram.counts.size == 0


def test_eye_opacity_and_names_go_both_ways(qtbot, viewer, section):
    layer = add_map(viewer)
    qtbot.waitUntil(lambda: section.layer is layer)
    item = section.tree.currentItem()
    item.setCheckState(0, Qt.CheckState.Unchecked)
    assert not layer.visible
    layer.visible = True
    layer.name = "another"
    qtbot.waitUntil(lambda: section.tree.currentItem().text(0) == "Another")
    assert section.tree.currentItem().checkState(0) == Qt.CheckState.Checked
    section.opacity_slider.setValue(30)
    assert layer.opacity == pytest.approx(0.3)
    layer.opacity = 0.9
    qtbot.waitUntil(lambda: section.opacity_slider.value() == 90)


def test_the_histogram_counts_the_chosen_map_and_hides_below_a_value(qtbot, viewer, section):
    layer = add_map(viewer)
    qtbot.waitUntil(lambda: section.layer is layer)
    assert section.histogram.counts.sum() == layer.data.size
    before = np.array(layer.colormap.map([0.2, 0.8]))
    histogram = section.histogram
    area = histogram._area()
    middle = QPoint(round(area.center().x()), round(area.center().y()))
    QTest.mouseClick(histogram, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, middle)
    assert threshold_of(layer) == pytest.approx(0.5, abs=0.02)
    assert layer.contrast_limits == [0, 1]
    np.testing.assert_array_equal(layer.colormap.map([0.2])[0], 0)
    np.testing.assert_allclose(layer.colormap.map([0.8])[0], before[1], atol=0.01)
    QTest.keyClick(histogram, Qt.Key.Key_Right)
    assert threshold_of(layer) == pytest.approx(histogram.threshold, abs=0.006)
    QTest.mouseDClick(histogram, Qt.MouseButton.LeftButton)
    assert layer.colormap.name == "magma"
    assert threshold_of(layer) == 0


def test_an_out_of_date_map_says_so_and_answers_do_not(qtbot, viewer, section):
    add_map(viewer)
    add_map(viewer, "asked", "net · row")
    qtbot.waitUntil(lambda: len(section.entries) == 2)
    section.set_stale("the model was replaced")
    assert titles(section) == {"Where it looked": ["⚠ Gate"], "Answers": ["Row"]}
    section.set_stale("")
    assert titles(section)["Where it looked"] == ["Gate"]


def test_values_of_visible_maps_under_the_mouse(qtbot, viewer, section):
    fine = add_map(viewer, scale=(2, 1, 1), translate=(10, 0, 0))
    coarse = add_map(viewer, "asked", "row", data=np.full((2, 2, 2), 7.0), scale=(4, 3, 3))
    hidden = add_map(viewer, "uncertainty", "u", visible=False)
    qtbot.waitUntil(lambda: len(section.entries) == 3)
    section.show_values((14.0, 3.0, 2.0))
    shown = {item.data(0, Qt.ItemDataRole.UserRole): item.text(2) for item in section._items()}
    assert shown == {fine: short_number(fine.data[2, 3, 2]), coarse: "", hidden: ""}
    section.show_values(None)
    assert {item.text(2) for item in section._items()} == {""}


def test_thresholds_are_few_colormaps_and_never_pile_up(viewer):
    from napari.utils.colormaps import AVAILABLE_COLORMAPS

    layer = add_map(viewer)
    set_threshold(layer, 0.3)
    number = len(AVAILABLE_COLORMAPS)
    for value in (0.302, 0.298, 0.3):
        set_threshold(layer, value)
    assert len(AVAILABLE_COLORMAPS) == number
    assert base_colormap(layer).name == "magma"


def test_pictures_keep_the_proportions_and_show_the_largest_value():
    data = np.zeros((3, 40, 20), np.float32)
    data[1, 5, 5] = 1
    layer = Image(data, scale=(1, 1, 1), contrast_limits=(0, 1), colormap="gray")
    picture = thumbnail(layer, 20)
    assert picture.shape == (20, 10, 4)
    assert picture[..., 0].max() == 255
    time = Image(np.stack((data, data)), contrast_limits=(0, 1))
    assert thumbnail(time, 20).shape == (20, 10, 4)


def test_values_outside_and_of_multiscale_layers():
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    layer = Image([data, data[::2, ::2, ::2]], multiscale=True, scale=(2, 1, 1))
    assert value_at(layer, (4, 3, 4)) == 59
    assert value_at(layer, (9, 0, 0)) is None
    assert value_at(layer, (0, -0.6, 0)) is None
    assert sample(layer).size == 60
    large = Image(np.ones((130, 130, 130), np.float32))
    assert 0 < sample(large).size <= 2**19


def test_numbers_are_short():
    assert [short_number(v) for v in (0, 0.5, 63.512, 0.00123, 1.5e-9, 123456)] == [
        "0",
        "0.5",
        "63.5",
        "1.2e-3",
        "1.5e-9",
        "1.2e5",
    ]


def test_labels_have_names(viewer):
    mask = viewer.add_labels(np.zeros((2, 2, 2), np.uint8))
    assert class_name(mask, 0) == "background"
    assert class_name(mask, 3) == "label 3"
    mask.features = {"index": [0, 3], "name": ["nothing", "liver"]}
    assert class_name(mask, 3) == "liver"


def test_an_empty_histogram_takes_no_clicks(qtbot):
    histogram = Histogram()
    qtbot.addWidget(histogram)
    changes = []
    histogram.threshold_changed.connect(changes.append)
    QTest.mouseClick(histogram, Qt.MouseButton.LeftButton)
    assert not changes


def test_map_layers_skips_layers_whose_metadata_is_not_ours(viewer):
    viewer.add_image(np.zeros((2, 2, 2)), metadata={KEY: "a stranger's"})
    viewer.add_labels(np.zeros((2, 2, 2), np.uint8), metadata={KEY: {"role": "attention:x"}})
    assert map_layers(viewer) == []
    assert map_layers(SimpleNamespace(layers=[])) == []
