"""The Correct tab: paint, learn, take back, approve, resume; what people break is repaired."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attention3d.errors import OutOfMemory
from napari_attention3d.volumes import Volume
from napari_attention3d.widgets.correct_panel import CorrectPanel
from napari_attention3d.widgets.correct_sessions import sessions_folder
from napari_attention3d.widgets.layer_chooser import LayerChooser
from napari_attention3d.widgets.layers import volume_to_layer_data
from napari_attention3d.widgets.status_bar import StatusBar
from napari_attention3d.widgets.worker import JobRunner

WAIT = 60_000
SHAPE = (14, 20, 24)
CELL = (slice(4, 10), slice(6, 15), slice(8, 18))


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTENTION3D_SESSIONS", str(tmp_path / "sessions"))
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(tmp_path / "models"))


def cell_scan(**place):
    array = np.random.default_rng(0).normal(0, 0.1, SHAPE).astype(np.float32)
    array[CELL] += 1
    return Volume.from_array(array, name="cells", **place)


def add_scan(viewer, volume):
    ((data, keywords, _),) = volume_to_layer_data(volume)
    return viewer.add_image(data, **keywords)


def make_panel(qtbot, viewer):
    status = StatusBar()
    panel = CorrectPanel(viewer, JobRunner(), LayerChooser(viewer), status)
    for widget in (panel, status):
        qtbot.addWidget(widget)
    panel.beginning.look()
    qtbot.waitUntil(lambda: panel.beginning._listed, timeout=WAIT)
    return panel


@pytest.fixture
def panel(qtbot, viewer):
    add_scan(viewer, cell_scan())
    made = make_panel(qtbot, viewer)
    yield made
    made.cancel()
    made.close_down()
    made.runner.stop()
    assert made.runner.join()


def begin(qtbot, panel, classes="cell"):
    panel.start_form.choose("nothing")
    panel.start_form.classes_edit.setText(classes)
    panel.start_form.changed.emit()
    with qtbot.waitSignal(panel.started, timeout=WAIT):
        panel.start_form.start_button.click()
    return panel.link


def paint(panel, voxels, value):
    """A movement of the brush over voxels of the layer."""
    layer = panel.link.layers.strokes
    layer.selected_label = value
    with layer.block_history():
        layer.data_setitem(tuple(np.array(voxels).T), value)


def line(z, y, x0, x1):
    return [(z, y, x) for x in range(x0, x1)]


def paint_both(panel):
    paint(panel, line(7, 10, 9, 17), 1)
    paint(panel, line(7, 2, 2, 22), panel.link.marker)
    paint(panel, line(12, 10, 2, 22), panel.link.marker)
    paint(panel, line(5, 17, 2, 22), panel.link.marker)
    paint(panel, line(5, 12, 9, 17), 1)


def learn(qtbot, panel):
    with qtbot.waitSignal(panel.learned, timeout=WAIT):
        panel.learn()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)


def dice(mask):
    truth = np.zeros(SHAPE, bool)
    truth[CELL] = True
    found = np.asarray(mask) == 1
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def said(panel):
    return panel.status.label.text()


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
    paint(panel, line(7, 10, 9, 17), 0)
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


def test_a_round_is_taken_back_and_brought_again(qtbot, panel):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    first = link.layers.read("mask").copy()
    paint(panel, line(2, 2, 2, 12), 1)
    learn(qtbot, panel)
    second = link.layers.read("mask").copy()
    assert (first != second).any()
    panel.form.rounds.undo_button.click()
    shown = link.layers.read("mask")
    assert (shown[2, 2, 2:12] == 1).all()  # the stroke itself stays
    untouched = link.session.corrections == 0
    np.testing.assert_array_equal(shown[untouched], first[untouched])
    panel.form.rounds.redo_button.click()
    np.testing.assert_array_equal(link.layers.read("mask"), second)
    assert len(link.session.strokes) == 6
    assert panel.form.rounds.table.rowCount() == 3


def test_an_approved_slice_stays(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    viewer.dims.set_current_step(0, 6)
    panel.checking.approve("slice")
    assert "approved" in said(panel)
    before = link.layers.read("mask")[6].copy()
    assert f"{100 / SHAPE[0]:.3g} %" in panel.form.approved_label.text()
    paint(panel, [(5, y, x) for y in range(7, 14) for x in range(9, 17)], link.marker)
    learn(qtbot, panel)
    np.testing.assert_array_equal(link.layers.read("mask")[6], before)
    panel.checking.approve("withdraw")
    assert link.approved_share() == 0


def test_approving_a_slice_needs_the_2d_view(qtbot, panel, viewer):
    begin(qtbot, panel)
    viewer.dims.ndisplay = 3
    panel.checking.approve("slice")
    assert "2D view only" in said(panel)
    panel.checking.approve("all")
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


def test_cancelled_learning_changes_nothing(qtbot, panel):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    before = link.layers.read("mask").copy()
    paint(panel, line(2, 2, 2, 12), 1)
    panel.learn()
    panel.cancel()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    same = link.session.corrections == 0
    np.testing.assert_array_equal(link.layers.read("mask")[same], before[same])
    assert len(link.session.strokes) == 6


# ---- what goes wrong


def test_strokes_of_one_class_only_are_not_enough_and_kept(qtbot, panel):
    link = begin(qtbot, panel)
    paint(panel, line(7, 10, 9, 17), 1)
    panel.learn()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    assert "background" in said(panel)
    assert len(link.session.strokes) == 1
    paint_both(panel)
    learn(qtbot, panel)
    assert dice(link.layers.read("mask")) > 0.6


def test_a_label_that_is_no_class_is_refused_and_nothing_else_lost(qtbot, panel):
    link = begin(qtbot, panel)
    paint_both(panel)
    paint(panel, [(1, 1, 1)], 7)
    assert "7" in said(panel)
    assert len(link.session.strokes) == 5
    panel.learn()
    assert not panel.is_busy
    assert "7" in said(panel)
    paint(panel, [(1, 1, 1)], 0)
    learn(qtbot, panel)


def test_a_deleted_strokes_layer_comes_back_with_all_strokes(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    paint_both(panel)
    before = link.session.corrections.copy()
    viewer.layers.remove(link.layers.strokes)
    assert "deleted" in said(panel)
    panel.form.brush_buttons[1].click()
    np.testing.assert_array_equal(link.layers.read("strokes"), before)
    assert viewer.layers.selection.active is link.layers.strokes


def test_a_mask_that_is_deleted_while_it_learns_is_made_again(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    paint_both(panel)
    panel.learn()
    viewer.layers.remove(link.layers.mask)
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    assert link.layers.mask in viewer.layers
    assert dice(link.layers.read("mask")) > 0.6


def test_a_mask_whose_data_were_replaced_is_made_again(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    paint_both(panel)
    link.layers.mask.data = np.zeros((3, 3, 3), np.uint8)
    learn(qtbot, panel)
    assert link.layers.read("mask").shape == SHAPE
    assert "replaced" in said(panel)
    assert "edited" not in said(panel)
    assert len(link.session.strokes) == 5  # what the new mask shows of them are no edits
    assert "5 strokes: cell 2, background 3" in panel.form.painted_label.text()


def test_a_network_that_lost_leaves_no_strokes_behind(qtbot, panel):
    """Parts of its mask were shown before it was judged; they are nobody's edits."""
    from dataclasses import replace

    from napari_attention3d.correction.learn import Learned, Patch

    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    before = link.layers.read("mask").copy()
    link.show_patch(Patch(3, np.ones((4, *SHAPE[1:]), np.uint8), False))
    assert (link.layers.read("mask") != before).any()
    state = link.session.shown_round.state
    worse = Learned(before, state, state.probabilities, 5, 1.0, kind="network", lost=True)
    assert link.apply(worse) is None
    np.testing.assert_array_equal(link.layers.read("mask"), before)
    assert link.collect() == []
    assert len(link.session.strokes) == 5
    assert link.apply(replace(worse, lost=False)) is not None


def test_a_scan_of_another_shape_is_refused_and_the_session_intact(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    paint_both(panel)
    viewer.layers["cells"].data = np.zeros((5, 6, 7), np.float32)
    panel.learn()
    assert not panel.is_busy
    assert "(5, 6, 7)" in said(panel)
    assert len(link.session.strokes) == 5


def test_memory_that_ends_is_told_and_the_next_try_works(qtbot, panel, monkeypatch):
    link = begin(qtbot, panel)
    paint_both(panel)

    def ends(**_):
        raise OutOfMemory("the memory ended; close something")
        yield

    monkeypatch.setattr(link.session, "learn_job", ends)
    with qtbot.waitSignal(panel.failed, timeout=WAIT):
        panel.learn()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    assert "memory" in said(panel)
    monkeypatch.undo()
    learn(qtbot, panel)
    assert dice(link.layers.read("mask")) > 0.6


def test_nothing_is_saved_before_the_network_was_trained(qtbot, panel, tmp_path):
    begin(qtbot, panel)
    assert not panel.form.save_button.isEnabled()
    assert "Train the network first" in panel.form.save_button.toolTip()
    panel.checking.save_model_as(tmp_path / "early")
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    assert "no network was trained" in said(panel)
    assert not list(tmp_path.glob("early*"))


# ---- sessions on the disk


def test_a_session_that_was_not_closed_is_offered_again(qtbot, panel):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    mask, strokes = link.layers.read("mask").copy(), link.session.corrections.copy()
    other = ViewerModel()
    add_scan(other, cell_scan())
    again = make_panel(qtbot, other)  # as after a crash: the first was never closed
    again.beginning.look()
    assert not again.start_form.resume_box.isHidden()
    with qtbot.waitSignal(again.started, timeout=WAIT):
        again.start_form.resume_button.click()
    np.testing.assert_array_equal(again.link.layers.read("mask"), mask)
    np.testing.assert_array_equal(again.link.layers.read("strokes"), strokes)
    assert again.form.rounds.table.rowCount() == 2
    again.close_down()
    again.runner.stop()
    assert again.runner.join()


def test_a_closed_session_leaves_the_mask_and_can_be_discarded(qtbot, panel, viewer):
    begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    panel.form.close_button.click()
    assert [layer.name for layer in viewer.layers] == ["cells", "cells · corrected mask"]
    assert len(list(sessions_folder().iterdir())) == 1
    assert not panel.start_form.resume_box.isHidden()
    panel.start_form.discard_button.click()
    assert not list(sessions_folder().iterdir())
    assert panel.start_form.resume_box.isHidden()


def test_a_session_without_strokes_leaves_nothing_behind(qtbot, panel):
    begin(qtbot, panel)
    panel.form.close_button.click()
    assert not list(sessions_folder().iterdir())


def test_another_scan_is_offered_no_session_of_this_one(qtbot, panel, viewer):
    begin(qtbot, panel)
    paint_both(panel)
    panel.form.close_button.click()
    viewer.layers.clear()
    add_scan(viewer, Volume.from_array(np.zeros((5, 6, 7), np.float32), name="other"))
    panel.beginning.look()
    assert panel.start_form.resume_box.isHidden()


# ---- the real window


def test_in_the_real_window_by_buttons(qtbot, make_napari_viewer):
    from napari_attention3d.widgets.main_widget import Attention3DWidget

    viewer = make_napari_viewer()
    add_scan(viewer, cell_scan())
    dock = Attention3DWidget(viewer)
    viewer.window.add_dock_widget(dock)
    panel = dock.correct
    dock.tabs.setCurrentIndex(1)
    assert dock.tabs.tabText(1) == "Correct"
    panel.beginning.look()
    qtbot.waitUntil(lambda: panel.beginning._listed, timeout=WAIT)
    link = begin(qtbot, panel)
    paint_both(panel)
    with qtbot.waitSignal(panel.learned, timeout=WAIT):
        panel.form.learn_button.click()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    assert dice(link.layers.read("mask")) > 0.6
    assert link.layers.mask in viewer.layers
    dock.close_down()
    assert dock.runner.join()
