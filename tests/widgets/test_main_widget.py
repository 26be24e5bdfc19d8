"""The dock in a real window: opening, closing, leaking nothing."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from napari_attention3d.widgets import tasks


@pytest.fixture
def forever(monkeypatch):
    """A run that goes on until it is cancelled."""
    begun, closed = threading.Event(), threading.Event()

    def job(*args):
        from napari_attention3d.progress import Progress

        try:
            while True:
                begun.set()
                yield Progress(1, 9, "tile 1 of 9")
        finally:
            closed.set()

    monkeypatch.setattr(tasks, "run_segmentation", job)
    return begun, closed


def dock_of(viewer, qtbot):
    _, widget = viewer.window.add_plugin_dock_widget("napari-attention3d", "Attention 3D")
    qtbot.waitUntil(lambda: widget.segment.is_ready, timeout=60_000)
    return widget


def test_the_whole_way_in_a_real_window(make_napari_viewer, qtbot, models_folder, tools):
    viewer = make_napari_viewer()
    widget = dock_of(viewer, qtbot)
    viewer.open_sample("napari-attention3d", "phantom_nuclei")
    tools.choose_model(widget, "tiny")
    qtbot.waitUntil(widget.segment.form.run_button.isEnabled, timeout=20_000)
    before = len(viewer.layers)
    tools.run_to_end(qtbot, widget)
    assert len(viewer.layers) > before
    assert widget.runner.join()


def test_closing_the_dock_cancels_the_run_and_ends_the_thread(
    make_napari_viewer, qtbot, models_folder, forever, tools
):
    begun, closed = forever
    viewer = make_napari_viewer()
    widget = dock_of(viewer, qtbot)
    viewer.add_image(np.random.default_rng(0).random((8, 8, 8)))
    tools.choose_model(widget, "tiny")
    widget.segment.run()
    qtbot.waitUntil(begun.is_set, timeout=10_000)
    viewer.window.remove_dock_widget(widget)
    assert closed.wait(10)
    qtbot.waitUntil(lambda: not _threads(), timeout=10_000)
    viewer.layers.clear()  # no slot of the closed dock is in the way
    viewer.add_image(np.zeros((4, 4, 4)))


def test_closing_the_viewer_ends_the_thread(
    make_napari_viewer, qtbot, models_folder, forever, tools
):
    begun, closed = forever
    viewer = make_napari_viewer()
    widget = dock_of(viewer, qtbot)
    viewer.add_image(np.random.default_rng(0).random((8, 8, 8)))
    tools.choose_model(widget, "tiny")
    widget.segment.run()
    qtbot.waitUntil(begun.is_set, timeout=10_000)
    viewer.close()
    assert closed.wait(10)
    qtbot.waitUntil(lambda: not _threads(), timeout=10_000)


def _threads():
    return [t for t in threading.enumerate() if t.name == "attention3d"]


def test_a_dock_opened_and_closed_often_leaves_nothing_behind(qtbot, viewer, models_folder, tools):
    from napari_attention3d.widgets.main_widget import Attention3DWidget

    viewer.add_image(np.zeros((4, 4, 4)))
    alive = []

    def once():
        dock = Attention3DWidget(viewer)
        alive.append(weakref.ref(dock))
        qtbot.waitUntil(lambda: dock.segment.is_ready, timeout=60_000)
        dock.close_down()
        assert dock.runner.join()
        dock.deleteLater()

    once()
    _settle(qtbot)
    widgets = len(QApplication.allWidgets())
    for _ in range(4):
        once()
    _settle(qtbot)
    assert [ref for ref in alive if ref() is not None] == []
    assert len(QApplication.allWidgets()) <= widgets


def _settle(qtbot):
    from qtpy.QtCore import QEvent

    for _ in range(3):
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        qtbot.wait(20)
        gc.collect()


def test_a_deleted_layer_is_freed(dock, viewer, qtbot, tools):
    layer = viewer.add_image(np.random.default_rng(0).random((12, 12, 12)).astype(np.float32))
    tools.run_to_end(qtbot, dock)
    gone = weakref.ref(layer)
    viewer.layers.selection.active = viewer.layers[-1]  # napari itself keeps the active one
    viewer.layers.remove(layer)
    del layer
    dock.segment.last = None
    _settle(qtbot)
    assert gone() is None


def test_the_chooser_knows_layers_by_object(dock, viewer):
    first = viewer.add_image(np.zeros((4, 4, 4)), name="same")
    second = viewer.add_image(np.zeros((4, 4, 4)), name="other")
    viewer.add_labels(np.zeros((4, 4, 4), int))
    chooser = dock.chooser
    assert chooser.layer is second
    chooser.choose(first)
    second.name = "renamed"
    viewer.layers.reverse()
    assert chooser.layer is first
    assert [chooser.itemText(i) for i in range(chooser.count())] == ["same", "renamed"]
    viewer.layers.remove(first)
    assert chooser.layer is second
    viewer.layers.clear()
    assert chooser.layer is None
    assert not chooser.isEnabled()


def test_a_mask_corrected_in_one_tab_makes_its_maps_old_in_the_other(dock, viewer):
    from types import SimpleNamespace

    from napari_attention3d.widgets.inspect_tasks import RunRecord
    from napari_attention3d.widgets.layers import KEY, layer_to_volume

    scan = viewer.add_image(np.zeros((4, 5, 6)), name="scan")
    provenance = {"model": {"name": "tiny"}}
    dock.inspect.runs.history[scan] = [RunRecord(layer_to_volume(scan), "tiny", provenance)]
    entry = {"role": "attention:gate-level-2", "provenance": dict(provenance)}
    gate = viewer.add_image(np.zeros((4, 5, 6)), metadata={KEY: entry})
    assert dock.inspect.runs.stale_of(gate) == ""
    rounds = [
        SimpleNamespace(record=SimpleNamespace(number=i, kind=kind))
        for i, kind in enumerate(("start", "fast", "network"))
    ]
    session = SimpleNamespace(rounds=rounds, current=0)
    dock.correct.link = SimpleNamespace(session=session, source=layer_to_volume(scan))
    try:
        for current, words in ((0, ""), (1, "corrected"), (2, "network was trained"), (0, "")):
            session.current = current
            reason = dock.inspect.runs.stale_of(gate)
            assert (words in reason) if words else reason == ""
    finally:
        dock.correct.link = None


def test_making_the_dock_loads_no_torch():
    code = (
        "import sys\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "from napari.components import ViewerModel\n"
        "from napari_attention3d._napari import Attention3DWidget\n"
        "dock = Attention3DWidget(ViewerModel())\n"
        "print(sorted(m for m in ('torch', 'monai', 'scipy') if m in sys.modules))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, timeout=120
    )
    assert "torch" not in out.stdout
    assert "monai" not in out.stdout
