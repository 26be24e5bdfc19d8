"""How long from a click with the probe to layers in the viewer, within a tile that is kept.

    scripts/with-screen.sh python benchmarks/probe.py [--clicks 20] [--model brain-guided-attention]

Opens napari with the MNI152 template, runs the model, switches the probe on and presses the mouse
on the canvas; prints a table and writes nothing. "Asked" ends when the layers hold the answer,
"drawn" when napari has drawn them, here without a graphics card. Median and largest; processor
time beside wall time, as other work may run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

JITTER = 12
"""Clicks fall so many pixels around the middle of the canvas, at most."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--model", default="brain-guided-attention")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = str(Path(folder, "settings.yaml"))
        os.environ.setdefault("NAPARI_ATTENTION3D_MODELS", str(Path(folder, "models")))
        measure(asked.model, asked.clicks)


def measure(model, clicks):
    import napari
    from napari.settings import get_settings

    from napari_attention3d.widgets.demo import _segment, arrange_view, settle, wait_until
    from napari_attention3d.widgets.probe import voxel_to_shown

    get_settings().application.confirm_close_window = False
    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    _, dock = viewer.window.add_plugin_dock_widget("napari-attention3d", "Attention 3D")
    viewer.open_sample("napari-attention3d", "mni152")
    _segment(dock, model)
    arrange_view(viewer)
    panel = dock.inspect
    dock.tabs.setCurrentIndex([dock.tabs.tabText(i) for i in range(6)].index("Inspect"))
    layer = panel.runs.chooser.layer
    panel.asking.form.probe_button.setChecked(True)
    wait_until(lambda: not panel.runs.is_busy)
    _, record = panel.runs.record()
    replay = panel.runs.desk._open[1]
    middle = middle_of_a_tile(replay, record.source.volume.geometry.shape)
    panel.asking.ask(middle)
    wait_until(lambda: panel.asking.last is not None and not panel.runs.is_busy)
    print("| view | lines | asked (ms): processor, wall, most | drawn: processor, wall, most |")
    print("|---|---|---|---|")
    rng = np.random.default_rng(0)
    world = layer.data_to_world(voxel_to_shown(record.source, middle))
    for ndisplay in (2, 3):
        viewer.dims.ndisplay = ndisplay
        viewer.dims.point = world
        viewer.reset_view()
        viewer.scene.camera.center = tuple(world[axis] for axis in viewer.dims.order)
        viewer.scene.camera.zoom *= 4
        for lines in (False, True):
            panel.asking.form.lines_box.setChecked(lines)
            settle(1500)
            rows = []
            while len(rows) < clicks:
                times = click(panel, rng.integers(-JITTER, JITTER + 1, 2))
                rows += [] if times is None else [times]
            rows = 1e3 * np.array(rows)
            mid, most = np.median(rows, axis=0), rows.max(axis=0)
            cells = [f"{mid[i]:.0f}, {mid[i + 1]:.0f}, {most[i + 1]:.0f}" for i in (0, 2)]
            print(f"| {ndisplay}D | {'yes' if lines else 'no'} | {' | '.join(cells)} |", flush=True)
    dock.runner.join()
    viewer.close()


def middle_of_a_tile(replay, shape):
    """Return the voxel in the middle of those that the same tile answers for."""
    from napari_attention3d.attention.ask import box_to_ask

    axes = [np.arange(4, n - 4, 8) for n in shape]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    boxes = [box_to_ask(replay, voxel) for voxel in voxels.astype(float)]
    most = max(set(boxes), key=boxes.count)
    own = voxels[[box == most for box in boxes]]
    return tuple(map(float, own[np.abs(own - own.mean(0)).sum(1).argmin()]))


def click(panel, offset):
    """Press the mouse; processor and wall time until asked, and until drawn.

    None: the voxel lies in a tile that was not kept; it is now.
    """
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    from napari_attention3d.widgets.demo import settle, wait_until

    native = panel.runs.viewer.window._qt_viewer.canvas.native
    x, y = (int(v) for v in offset)
    at = QPoint(native.width() // 2 + x, native.height() // 2 + y)
    QTest.mouseMove(native, at)
    settle(300)  # what the mouse's moving starts is over
    before = panel.asking.last
    left, plain = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    begin = time.process_time(), time.perf_counter()
    QTest.mousePress(native, left, plain, at)
    QTest.mouseRelease(native, left, plain, at)
    asked = time.process_time(), time.perf_counter()
    if panel.asking.last is before:
        assert panel.runs.is_busy, f"no answer: {panel.runs.status.text}"
        wait_until(lambda: not panel.runs.is_busy)
        return None
    native.repaint()
    QApplication.processEvents()
    drawn = time.process_time(), time.perf_counter()
    return [b - a for end in (asked, drawn) for a, b in zip(begin, end, strict=True)]


if __name__ == "__main__":
    main()
