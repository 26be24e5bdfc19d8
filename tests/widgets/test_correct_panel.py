"""The Correct tab: begin, paint, learn, approve, look where it is doubtful."""

from __future__ import annotations

import numpy as np
import pytest
from correct_helpers import (
    CELL,
    SHAPE,
    WAIT,
    add_scan,
    approve,
    begin,
    cell_scan,
    dice,
    learn,
    line,
    make_panel,
    paint,
    paint_both,
    said,
)

from napari_attention3d.errors import InputError
from napari_attention3d.volumes import Volume
from napari_attention3d.widgets.batch_tasks import recipe_of_layer
from napari_attention3d.widgets.layers import KEY

pytestmark = pytest.mark.usefixtures("correct_folders")


# ---- beginning


def test_from_nothing_the_classes_are_named_first(qtbot, panel):
    panel.start_form.choose("nothing")
    panel.start_form.classes_edit.setText("")
    panel.start_form.changed.emit()
    assert not panel.start_form.start_button.isEnabled()
    assert "Name at least one class" in panel.start_form.note.text()
    panel.start_form.classes_edit.setText("a, a")
    panel.start_form.changed.emit()
    assert "same name" in panel.start_form.note.text()


def test_strokes_lie_above_the_mask_and_are_ready_to_be_painted(qtbot, panel, viewer):
    link = begin(qtbot, panel, "cell, wall")
    names = [layer.name for layer in viewer.layers]
    assert names == ["cells", "cells · corrected mask", "cells · strokes"]
    assert viewer.layers.selection.active is link.layers.strokes
    assert link.layers.strokes.mode == "paint"
    assert [b.text() for b in panel.form.brush_buttons.values()] == [
        "cell", "wall", "background", "erase strokes",
    ]  # fmt: skip
    panel.form.brush_buttons[link.marker].click()
    assert link.layers.strokes.selected_label == link.marker
    panel.form.brush_buttons[0].click()
    assert link.layers.strokes.mode == "erase"
    panel.painting.choose_next_class()
    assert link.layers.strokes.mode == "paint"


def test_from_a_mask_its_classes_are_taken_and_it_is_kept_where_nobody_objects(
    qtbot, panel, viewer
):
    mask = np.zeros(SHAPE, np.uint8)
    mask[CELL] = 1
    viewer.add_labels(mask, name="mine")
    panel.beginning.refresh()
    assert panel.start_form.start.startswith("mask:")
    assert panel.start_form.classes == ["background", "class 1"]
    with qtbot.waitSignal(panel.started, timeout=WAIT):
        panel.start_form.start_button.click()
    np.testing.assert_array_equal(panel.link.layers.read("mask"), mask)
    assert not viewer.layers["mine"].visible
    paint(panel, line(7, 2, 2, 22), panel.link.marker)
    learn(qtbot, panel)
    assert dice(panel.link.layers.read("mask")) > 0.95


# ---- painting and learning


def test_painted_strokes_teach_the_mask_and_win_in_it(qtbot, panel):
    link = begin(qtbot, panel)
    paint_both(panel)
    odd = [(1, 1, 1), (1, 1, 2)]  # nobody would call that a cell
    paint(panel, odd, 1)
    assert "6 strokes: cell 3, background 3" in panel.form.painted_label.text()
    learn(qtbot, panel)
    mask = link.layers.read("mask")
    assert dice(mask) > 0.6
    assert all(mask[voxel] == 1 for voxel in odd)
    assert all(mask[voxel] == 0 for voxel in line(7, 2, 2, 22))
    np.testing.assert_array_equal(mask, link.session.labels)
    assert "Learned from 6 strokes" in said(panel)


def test_what_is_painted_while_it_learns_is_kept_for_the_next_round(qtbot, panel):
    link = begin(qtbot, panel)
    paint_both(panel)
    panel.learn()
    assert panel.is_busy
    late = line(3, 3, 3, 9)
    paint(panel, late, 1)
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    qtbot.waitUntil(lambda: len(link.session.strokes) == 6, timeout=WAIT)
    assert all(link.layers.read("strokes")[voxel] == 1 for voxel in late)
    assert all(link.layers.read("mask")[voxel] == 1 for voxel in late)
    assert panel.unlearned == 1
    learn(qtbot, panel)
    assert panel.unlearned == 0
    assert panel.session.rounds[-1].record.strokes == 6


def test_an_erased_stroke_is_gone(qtbot, panel):
    link = begin(qtbot, panel)
    paint(panel, line(7, 10, 9, 17), 1)
    paint(panel, line(7, 10, 9, 17), 0)
    paint_both(panel)
    learn(qtbot, panel)
    assert link.session.corrections[7, 10, 9] == 1  # painted again
    assert "5 strokes: cell 2, background 3" in panel.form.painted_label.text()
    paint(panel, line(7, 10, 9, 17), 0)
    assert "4 strokes: cell 1, background 3" in panel.form.painted_label.text()
    assert not (link.session.corrections[7] == 1).any()


def test_edits_of_the_mask_count_as_a_stroke(qtbot, panel):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    mask = link.layers.mask
    mask.data[5, 8, 9:12] = 0  # the eraser
    mask.data[12, 17, 20:23] = 1
    learn(qtbot, panel)
    assert "6 voxels edited in the mask count as a stroke" in said(panel)
    strokes = link.layers.read("strokes")
    assert (strokes[5, 8, 9:12] == link.marker).all()
    assert (strokes[12, 17, 20:23] == 1).all()
    assert (link.layers.read("mask")[12, 17, 20:23] == 1).all()
    assert (link.layers.read("mask")[5, 8, 9:12] == 0).all()


def test_auto_mode_learns_after_a_pause(qtbot, panel):
    begin(qtbot, panel)
    panel._pause.setInterval(20)
    panel.form.auto_box.setChecked(True)
    with qtbot.waitSignal(panel.learned, timeout=WAIT):
        paint_both(panel)
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)


def test_a_scan_that_is_shown_turned_is_painted_where_it_is_clicked(qtbot, viewer):
    flipped = np.array([[0, 0, -1.0, 30], [0, 2, 0, 3], [3, 0, 0, -5], [0, 0, 0, 1]])
    array = cell_scan().array
    from napari_attention3d.geometry import Geometry

    volume = Volume(array, Geometry(array.shape, flipped, "mm", True), name="turned")
    layer = add_scan(viewer, volume)
    panel = make_panel(qtbot, viewer)
    link = begin(qtbot, panel)
    place = np.argwhere(layer.data > 0.7)[20]  # an index of what is shown
    paint(panel, [tuple(place)], 1)
    own = np.argwhere(link.session.corrections == 1)
    assert len(own) == 1
    assert array[tuple(own[0])] == layer.data[tuple(place)]
    assert volume.geometry.to_world(own[0]) == pytest.approx(
        link.layers.strokes.data_to_world(place)
    )
    panel.close_down()
    panel.runner.stop()
    assert panel.runner.join()


# ---- rounds, approvals, places


def test_an_approved_slice_stays(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    viewer.dims.set_current_step(0, 6)
    approve(qtbot, panel, "slice")
    assert "approved" in said(panel)
    before = link.layers.read("mask")[6].copy()
    assert f"{100 / SHAPE[0]:.3g} %" in panel.form.approved_label.text()
    paint(panel, [(5, y, x) for y in range(7, 14) for x in range(9, 17)], link.marker)
    learn(qtbot, panel)
    np.testing.assert_array_equal(link.layers.read("mask")[6], before)
    approve(qtbot, panel, "withdraw")
    assert link.approved_share() == 0


def test_approving_a_slice_needs_the_2d_view(qtbot, panel, viewer):
    begin(qtbot, panel)
    viewer.dims.ndisplay = 3
    approve(qtbot, panel, "slice")
    assert "2D view only" in said(panel)
    approve(qtbot, panel, "all")
    assert panel.link.approved_share() == 1


def test_the_view_goes_to_a_doubtful_place(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    panel.checking.next_place()
    assert "Learn once first" in said(panel)
    paint_both(panel)
    learn(qtbot, panel)
    panel.checking.next_place()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    step = viewer.dims.current_step
    assert "doubtful" in said(panel)
    assert 0 <= step[0] < SHAPE[0]
    assert link.session._seen


def test_nothing_is_saved_before_the_network_was_trained(qtbot, panel, tmp_path):
    begin(qtbot, panel)
    assert not panel.form.save_button.isEnabled()
    assert "Train the network first" in panel.form.save_button.toolTip()
    panel.checking.save_model_as(tmp_path / "early")
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    assert "no network was trained" in said(panel)
    assert not list(tmp_path.glob("early*"))


def test_mask_and_strokes_say_that_they_were_painted_and_a_recipe_is_refused(qtbot, panel):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    for layer in (link.layers.mask, link.layers.strokes):
        made = layer.metadata[KEY]["provenance"]
        assert made["corrections"]["strokes"] == 5
        assert made["corrections"]["rounds"] == ["start", "fast"]
        assert made["source"]["name"] == "cells"
        with pytest.raises(InputError, match="corrected by painting"):
            recipe_of_layer(layer)
