"""A small scan and a panel over it, for the tests of the Correct tab."""

from __future__ import annotations

import numpy as np

from napari_attention3d.volumes import Volume
from napari_attention3d.widgets.correct_panel import CorrectPanel
from napari_attention3d.widgets.layer_chooser import LayerChooser
from napari_attention3d.widgets.layers import volume_to_layer_data
from napari_attention3d.widgets.status_bar import StatusBar
from napari_attention3d.widgets.worker import JobRunner

WAIT = 60_000
SHAPE = (14, 20, 24)
CELL = (slice(4, 10), slice(6, 15), slice(8, 18))


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


def approve(qtbot, panel, what):
    panel.checking.approve(what)
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
