"""The Correct tab in napari's own window: buttons and keys."""

from __future__ import annotations

import numpy as np
import pytest
from correct_helpers import WAIT, add_scan, begin, cell_scan, dice, paint_both
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

pytestmark = pytest.mark.usefixtures("correct_folders")


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


@pytest.fixture
def window(qtbot, make_napari_viewer):
    """The Correct tab in a real window, a session begun and strokes of both classes painted."""
    from napari_attention3d.widgets.main_widget import Attention3DWidget

    viewer = make_napari_viewer()
    add_scan(viewer, cell_scan())
    dock = Attention3DWidget(viewer)
    viewer.window.add_dock_widget(dock)
    dock.tabs.setCurrentIndex(1)
    panel = dock.correct
    panel.beginning.look()
    qtbot.waitUntil(lambda: panel.beginning._listed, timeout=WAIT)
    begin(qtbot, panel)
    paint_both(panel)
    yield panel
    panel.cancel()
    dock.close_down()
    assert dock.runner.join()


def idle(qtbot, panel):
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)


def test_whatever_layer_goes_while_it_learns_no_stroke_is_lost_and_none_is_made(qtbot, window):
    panel, viewer = window, window.viewer
    session, layers = panel.session, panel.link.layers
    strokes = session.corrections.copy()
    panel.learn()
    viewer.layers.remove(layers.strokes)
    idle(qtbot, panel)
    assert layers.strokes in viewer.layers  # what is learned brings it back
    np.testing.assert_array_equal(layers.read("strokes"), strokes)
    panel.learn()
    layers.mask.data = np.zeros((2, 3, 4), np.uint8)
    idle(qtbot, panel)
    panel.learn()
    layers.strokes.data = np.zeros((2, 3, 4), np.uint8)
    idle(qtbot, panel)
    np.testing.assert_array_equal(layers.read("strokes"), strokes)
    panel.learn()
    viewer.layers.remove("cells")
    idle(qtbot, panel)
    panel.learn()  # the session holds the scan
    idle(qtbot, panel)
    assert session.current == 5
    assert len(session.strokes) == 5
    assert panel.link.collect() == []
    assert len(session.strokes) == 5
    np.testing.assert_array_equal(layers.read("mask"), session.labels)
    assert dice(session.labels) > 0.6


def test_keys_do_what_the_buttons_do(qtbot, window):
    panel, chosen = window, window.link.layers
    top = panel.window()
    top.show()
    QApplication.setActiveWindow(top)
    qtbot.waitUntil(lambda: QApplication.activeWindow() is top, timeout=WAIT)
    both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier

    def press(key):
        qtbot.keyClick(panel, key, both)

    press(Qt.Key.Key_0)
    assert chosen.strokes.selected_label == panel.link.marker
    press(Qt.Key.Key_1)
    assert chosen.strokes.selected_label == 1
    press(Qt.Key.Key_C)
    assert chosen.strokes.selected_label == panel.link.marker
    press(Qt.Key.Key_E)
    assert chosen.strokes.mode == "erase"
    with qtbot.waitSignal(panel.learned, timeout=WAIT):
        press(Qt.Key.Key_L)
    idle(qtbot, panel)
    assert panel.session.current == 1
    press(Qt.Key.Key_N)
    idle(qtbot, panel)
    assert panel.session._seen
    press(Qt.Key.Key_Z)
    assert panel.session.current == 0
    press(Qt.Key.Key_Y)
    assert panel.session.current == 1
