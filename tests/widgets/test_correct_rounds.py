"""Rounds in the Correct tab: shown slab by slab, judged, cancelled, taken back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from correct_helpers import SHAPE, WAIT, approve, begin, learn, line, paint, paint_both, said

from napari_attention3d.correction.learn import Learned, Patch

pytestmark = pytest.mark.usefixtures("correct_folders")


def test_the_mask_is_written_slab_by_slab_and_whole_at_the_end(qtbot, panel, viewer, monkeypatch):
    """Also in a sagittal view, whose plane comes first; late strokes are in it."""
    monkeypatch.setattr("napari_attention3d.correction.learn.PATCH_VOXELS", 3 * 14 * 20)
    link = begin(qtbot, panel)
    paint_both(panel)
    viewer.dims.order = (2, 0, 1)
    viewer.dims.set_current_step(2, 19)
    patches, wholes, late = [], [], [(1, 1, 4), (12, 18, 22)]
    real, write = link.show_patch, link.layers.write

    def look(patch):
        real(patch)
        if patch.final and not any(one.final for one in patches):
            paint(panel, late, 1)
        patches.append(patch)

    def count(name, array, start=(0, 0, 0), *, part=False):
        wholes.extend([name] * (not part))
        return write(name, array, start, part=part)

    monkeypatch.setattr(link, "show_patch", look)
    monkeypatch.setattr(link.layers, "write", count)
    learn(qtbot, panel)
    final = [patch for patch in patches if patch.final]
    assert len(final) == 8
    assert all(patch.labels.shape == (14, 20, 3) for patch in final)
    assert final[0].start == (0, 0, 18)
    assert wholes == []  # the window never wrote it all at once
    qtbot.waitUntil(lambda: len(link.session.strokes) == 6, timeout=WAIT)
    np.testing.assert_array_equal(link.layers.read("mask"), link.session.labels)
    assert all(link.layers.read("mask")[voxel] == 1 for voxel in late)
    assert link.collect() == []
    assert len(link.session.strokes) == 6


def test_a_round_is_saved_beside_the_window(qtbot, panel):
    import threading

    link = begin(qtbot, panel)
    paint_both(panel)
    threads, real = [], link.session.saved.write_round

    def look(*args, **kwargs):
        threads.append(threading.current_thread())
        return real(*args, **kwargs)

    link.session.saved.write_round = look
    learn(qtbot, panel)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    saved = sorted(path.name for path in (link.session.saved.folder / "rounds").iterdir())
    assert saved == ["000000", "000001"]


def test_a_round_that_lost_can_be_taken_back_to_the_best(qtbot, panel):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    button = panel.form.rounds.best_button
    assert button.isHidden()
    good = link.layers.read("mask").copy()
    state = link.session.shown_round.state
    worse = Learned(np.ones(SHAPE, np.uint8), state, state.probabilities, 5, 1.0, lost=True)
    link.apply(worse)
    panel.update_state()
    assert not button.isHidden()
    assert "back to the best, round 1" in button.text()
    assert link.layers.read("mask").sum() > good.sum()
    button.click()
    assert link.session.current == 1
    np.testing.assert_array_equal(link.layers.read("mask"), good)
    assert said(panel) == "Back at round 1"
    assert button.isHidden()


def test_the_view_goes_from_flip_to_flip(qtbot, panel, viewer):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    panel.checking.next_flip()
    assert "change nothing that is approved" in said(panel)
    approve(qtbot, panel, "all")
    labels = link.session.predicted.copy()
    for voxel in ((2, 3, 4), (2, 3, 5), (2, 3, 6), (11, 17, 20)):
        labels[voxel] = 1 - labels[voxel]
    state = link.session.shown_round.state
    link.apply(Learned(labels, state, state.probabilities, 5, 1.0))
    panel.update_state()
    assert "4 approved voxels" in panel.form.flip_button.text()
    assert not panel.form.flip_button.isHidden()
    seen = []
    for _ in range(2):
        panel.form.flip_button.click()
        qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
        seen.append(tuple(int(at) for at in viewer.dims.point))
    assert seen == [(2, 3, 5), (11, 17, 20)]
    assert "the round says" in said(panel)
    panel.form.flip_button.click()
    qtbot.waitUntil(lambda: "These were all" in said(panel), timeout=WAIT)


def test_an_edit_before_an_undo_is_told(qtbot, panel):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    link.layers.mask.data[12, 17, 20:23] = 1
    panel.form.rounds.undo_button.click()
    assert "Back at the start" in said(panel)
    assert "3 voxels edited in the mask" in said(panel)
    assert (link.layers.read("mask")[12, 17, 20:23] == 1).all()


def test_strokes_of_a_cancelled_round_are_still_to_be_learned(qtbot, panel):
    begin(qtbot, panel)
    paint_both(panel)
    panel.form.auto_box.setChecked(True)
    panel.pause()
    panel._pause.stop()
    panel.learn()
    panel.cancel()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    assert panel.unlearned == 5
    assert not panel._pause.isActive()  # not again by itself what was just cancelled
    panel.form.auto_box.setChecked(False)
    panel.form.auto_box.setChecked(True)
    assert panel._pause.isActive()


def test_a_round_cancelled_when_parts_were_shown_is_taken_back(qtbot, panel, monkeypatch):
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    before = link.layers.read("mask").copy()
    paint(panel, line(2, 2, 2, 12), 1)
    shown, real = [], link.show_patch

    def look(patch):
        real(patch)
        shown.append((link.layers.read("mask") != before).any())
        panel.cancel()

    monkeypatch.setattr(link, "show_patch", look)
    panel.learn()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    assert shown == [True]  # the late stroke at least
    assert "Cancelled" in said(panel)
    np.testing.assert_array_equal(link.layers.read("mask"), link.session.labels)
    assert link.collect() == []
    assert len(link.session.strokes) == 6
    assert link.session.current == 1


def test_a_network_that_lost_leaves_no_strokes_behind(qtbot, panel):
    """Parts of its mask were shown before it was judged; they are nobody's edits."""
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    before = link.layers.read("mask").copy()
    link.show_patch(Patch((3, 0, 0), np.ones((4, *SHAPE[1:]), np.uint8), False))
    assert (link.layers.read("mask") != before).any()
    state = link.session.shown_round.state
    worse = Learned(before, state, state.probabilities, 5, 1.0, kind="network", lost=True)
    assert link.apply(worse) is None
    np.testing.assert_array_equal(link.layers.read("mask"), before)
    assert link.collect() == []
    assert len(link.session.strokes) == 5
    assert link.apply(replace(worse, lost=False)) is not None


def test_what_napari_undoes_is_undone_in_the_session(qtbot, panel):
    """napari's own undo and redo of the strokes layer emit no paint event."""
    link = begin(qtbot, panel)
    paint_both(panel)
    paint(panel, line(3, 3, 3, 9), 1)
    layer = link.layers.strokes
    layer.undo()
    qtbot.waitUntil(lambda: link.session.corrections[3, 3, 3] == 0, timeout=WAIT)
    assert "5 strokes: cell 2, background 3" in panel.form.painted_label.text()
    assert panel.unlearned
    layer.redo()
    qtbot.waitUntil(lambda: link.session.corrections[3, 3, 3] == 1, timeout=WAIT)
    assert "6 strokes: cell 3, background 3" in panel.form.painted_label.text()


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
