"""Correction sessions on the disk are offered, resumed and discarded."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from correct_helpers import WAIT, add_scan, begin, cell_scan, learn, make_panel, paint_both
from napari.components import ViewerModel

from napari_attention3d.volumes import Volume
from napari_attention3d.widgets.correct_sessions import sessions_folder

pytestmark = pytest.mark.usefixtures("correct_folders")


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


def test_killed_by_the_system_the_panel_offers_to_resume(qtbot, viewer, tmp_path):
    """Another process corrects the scan and is killed (-9) at some moment."""
    place = Path(__file__).parents[1] / "correction" / "kill_worker.py"
    spec = importlib.util.spec_from_file_location("kill_worker", place)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    folder = sessions_folder() / "noise-1"
    folder.parent.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(place), str(folder)], stdout=subprocess.PIPE, encoding="utf-8"
    )
    finished = 0
    for words in process.stdout:
        if words.startswith("stroke"):
            finished = int(words.split()[1])
        if finished == 8:
            process.kill()  # SIGKILL
            break
    for words in process.stdout:  # what it said before it died
        finished = int(words.split()[1])
    process.stdout.close()
    process.wait(60)
    add_scan(viewer, worker.scan())
    panel = make_panel(qtbot, viewer)
    assert not panel.start_form.resume_box.isHidden()
    with qtbot.waitSignal(panel.started, timeout=WAIT):
        panel.start_form.resume_button.click()
    assert finished <= len(panel.session.strokes) <= finished + 1
    wanted = np.zeros(worker.SHAPE, np.uint8)
    for number in range(len(panel.session.strokes)):
        voxels, value = worker.stroke(number)
        wanted[tuple(np.array(voxels).T)] = value
    np.testing.assert_array_equal(panel.link.layers.read("strokes"), wanted)
    assert panel.form.rounds.table.rowCount() == len(panel.session.rounds) > 1
    panel.close_down()
    panel.runner.stop()
    assert panel.runner.join()
