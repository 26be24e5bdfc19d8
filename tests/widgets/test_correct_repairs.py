"""What people break in the Correct tab is repaired or told; no stroke is lost."""

from __future__ import annotations

import numpy as np
import pytest
from correct_helpers import SHAPE, WAIT, begin, dice, learn, line, paint, paint_both, said

from napari_attention3d.errors import OutOfMemory

pytestmark = pytest.mark.usefixtures("correct_folders")


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


def test_a_scan_of_another_shape_is_refused_and_the_session_intact(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    paint_both(panel)
    viewer.layers["cells"].data = np.zeros((5, 6, 7), np.float32)
    panel.learn()
    assert not panel.is_busy
    assert "(5, 6, 7)" in said(panel)
    assert len(link.session.strokes) == 5


def test_the_layer_that_was_chosen_counts_not_one_of_the_same_name(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    paint_both(panel)
    viewer.layers["cells"].name = "renamed"
    other = viewer.add_image(np.zeros((5, 6, 7), np.float32), name="cells")
    panel.chooser.setCurrentIndex(panel.chooser.findText(other.name))
    learn(qtbot, panel)  # another layer is no reason to refuse
    viewer.layers["renamed"].data = np.zeros((5, 6, 7), np.float32)
    panel.learn()
    assert not panel.is_busy
    assert "(5, 6, 7)" in said(panel)
    assert len(link.session.strokes) == 5


def test_a_scan_that_was_deleted_is_still_corrected(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    paint_both(panel)
    panel.learn()
    viewer.layers.remove("cells")
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    learn(qtbot, panel)
    assert len(link.session.strokes) == 5
    assert link.session.current == 2


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
