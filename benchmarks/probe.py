"""How long from a click with the probe to layers in the viewer, within a tile that is kept.

    scripts/with-screen.sh python benchmarks/probe.py [--clicks 20] [--model brain-guided-attention]

Opens napari with the MNI152 template, looks at one window of the model and asks about voxels in
it; prints a table and writes nothing. "Asked" ends when the layers hold the answer, "drawn" when
napari has drawn them. Medians; processor time beside wall time, as other work may run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np


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

    from napari_attention3d.widgets.demo import settle, wait_until
    from napari_attention3d.widgets.inspect_tasks import RunRecord

    viewer = napari.Viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-attention3d", "Attention 3D")
    viewer.open_sample("napari-attention3d", "mni152")
    wait_until(lambda: dock.segment.is_ready)
    panel = dock.inspect
    dock.tabs.setCurrentWidget(panel.parent().parent())
    layer = panel.runs.chooser.layer
    # The window alone is looked at: a whole run would change nothing about an answer's time.
    panel.runs.records[layer] = RunRecord(panel.runs.source(), model, None)
    # Off the middle, where tiles meet: all clicks shall fall into one tile.
    middle = np.array(layer.data.shape) // 2 + 12
    panel.asking.ask(tuple(map(float, middle)))
    wait_until(lambda: panel.asking.last is not None and not panel.runs.is_busy)
    print("| view | lines | asked: processor, wall (ms) | drawn: processor, wall (ms) |")
    print("|---|---|---|---|")
    rng = np.random.default_rng(0)
    for ndisplay in (2, 3):
        viewer.dims.ndisplay = ndisplay
        for lines in (False, True):
            panel.asking.form.lines_box.setChecked(lines)
            settle(1500)
            rows = [click(panel, middle + rng.integers(-8, 9, 3)) for _ in range(clicks)]
            cells = [f"{1e3 * v:.0f}" for v in np.median(rows, axis=0)]
            words = "yes" if lines else "no"
            print(f"| {ndisplay}D | {words} | {', '.join(cells[:2])} | {', '.join(cells[2:])} |")
    dock.runner.join()
    viewer.close()


def click(panel, voxel):
    """Ask about a voxel as a click does; processor and wall time until asked, and until drawn."""
    from qtpy.QtWidgets import QApplication

    begin = time.process_time(), time.perf_counter()
    panel.asking.ask(tuple(map(float, voxel)))
    asked = time.process_time(), time.perf_counter()
    assert not panel.runs.is_busy, "the voxel lies in another tile"
    panel.runs.viewer.window._qt_viewer.canvas.native.repaint()
    QApplication.processEvents()
    drawn = time.process_time(), time.perf_counter()
    return [b - a for end in (asked, drawn) for a, b in zip(begin, end, strict=True)]


if __name__ == "__main__":
    main()
