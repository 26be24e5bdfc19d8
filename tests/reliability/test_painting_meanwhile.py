"""Painting goes on while a network learns and a scan is segmented: no voxel is lost.

And napari's layers are touched by the window's thread alone, whatever the others compute.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from napari.components import LayerList
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QTimer

from napari_attention3d.inference.runner import Runner

from .faults import WAIT, look_ahead


@pytest.fixture
def touched(monkeypatch):
    """What was done to layers, and by which threads."""
    found: dict[str, set[int]] = {}

    def noting(name, function):
        def noted(*given, **named):
            found.setdefault(name, set()).add(threading.get_ident())
            return function(*given, **named)

        return noted

    for kind in (Image, Labels):
        data = next(vars(k)["data"] for k in kind.__mro__ if "data" in vars(k))
        setter = noting("data", data.fset)
        monkeypatch.setattr(kind, "data", property(data.fget, setter, data.fdel))
    monkeypatch.setattr(Layer, "refresh", noting("refresh", Layer.refresh))
    monkeypatch.setattr(Layer, "__setattr__", noting("attribute", Layer.__setattr__))
    monkeypatch.setattr(Labels, "data_setitem", noting("painted", Labels.data_setitem))
    for name in ("insert", "remove", "__delitem__"):
        monkeypatch.setattr(LayerList, name, noting(name, getattr(LayerList, name)))
    return found


class Painter:
    """Paints a row of voxels at each of its timer's ticks, as a person would, and remembers."""

    def __init__(self, link):
        self.link, self.layer = link, link.layers.strokes
        self.painted: dict[tuple[int, int, int], int] = {}
        self.strokes = 0
        self._rows = [(z, y) for z in range(20) for y in range(24)]
        self._timer = QTimer()
        self._timer.timeout.connect(self.stroke)

    def stroke(self, value=None):
        z, y = self._rows.pop(0)
        x = np.arange(4 + self.strokes % 5, 20)
        value = value or (1, self.link.marker)[self.strokes % 2]
        with self.layer.block_history():
            self.layer.data_setitem((np.full(len(x), z), np.full(len(x), y), x), value)
        self.painted |= {(z, y, int(one)): value for one in x}
        self.strokes += 1

    def throughout(self, qtbot, begin, busy):
        """Begin something and paint until it ends; how many strokes fell into it."""
        before = self.strokes
        self._timer.start(5)
        begin()
        assert busy()
        qtbot.waitUntil(lambda: not busy() or not self._rows[1:], timeout=WAIT)
        self._timer.stop()
        assert not busy()
        return self.strokes - before

    def assert_all_there(self, panel):
        where = tuple(np.array(list(self.painted)).T)
        values = np.array(list(self.painted.values()))
        np.testing.assert_array_equal(np.asarray(self.layer.data)[where], values)
        said = panel.session.corrections
        marker = said[where][values == self.link.marker]
        assert set(said[where][values == 1]) == {1}
        assert len(set(marker)) == 1
        assert marker[0] not in (0, 1)
        assert (said != 0).sum() == len(self.painted)  # and nothing that was not painted


def begin_session(qtbot, dock):
    panel = dock.correct
    dock.tabs.setCurrentWidget(panel.parent().parent())
    panel.beginning.look()
    qtbot.waitUntil(lambda: panel.beginning._listed, timeout=WAIT)
    form = panel.start_form
    form.choose("nothing")
    form.classes_edit.setText("cell")
    form.changed.emit()
    form.start_button.click()
    qtbot.waitUntil(lambda: panel.link is not None, timeout=WAIT)
    return panel


def slowly(monkeypatch):
    """Each pass of a network takes a moment more, so that much is painted meanwhile."""
    compute = Runner.compute

    def slow(self, *given):
        time.sleep(0.3)
        return compute(self, *given)

    monkeypatch.setattr(Runner, "compute", slow)


def test_painting_during_a_run_and_learning_loses_nothing(
    qtbot, viewer, dock, touched, monkeypatch
):
    panel = begin_session(qtbot, dock)
    painter = Painter(panel.link)
    for value in (1, panel.link.marker, 1, panel.link.marker):
        painter.stroke(value)
    slowly(monkeypatch)
    look_ahead(qtbot, dock)
    during = painter.throughout(qtbot, dock.segment.run, lambda: dock.segment.is_running)
    assert dock.failures == []
    assert during > 2
    painter.assert_all_there(panel)
    for _ in range(2):
        rounds = len(panel.session.rounds)
        assert painter.throughout(qtbot, panel.learn, lambda: panel.is_busy) > 2
        assert len(panel.session.rounds) == rounds + 1
        painter.assert_all_there(panel)
    labels = [layer for layer in viewer.layers if layer._type_string == "labels"]
    assert len(labels) > 1
    assert {"data", "refresh", "attribute", "painted", "insert"} <= set(touched)
    main = threading.main_thread().ident
    assert {name: who for name, who in touched.items() if who != {main}} == {}
