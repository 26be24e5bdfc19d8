"""How long the window is blocked while one segments, asks and corrects, and by napari alone.

Run on a screen, or: xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/responsiveness.py
Prints tables and writes nothing. A timer ticks every 2 ms on the window's thread; the longest
gap between two ticks is the longest block. Each slot of ours is timed without what napari does
for the layers it touches (`_slot_clock.py`). The network is small and untrained.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("NAPARI_CONFIG", "")  # the person's settings are left alone

import numpy as np
from _slot_clock import SlotClock
from soak import make_model


class Gaps:
    """Longest pauses of the event loop, by phase."""

    def __init__(self, clock=None):
        from qtpy.QtCore import Qt, QTimer

        self.longest, self.last, self.begun = 0.0, time.perf_counter(), time.perf_counter()
        self.rows, self.clock = [], clock
        self.timer = QTimer()
        self.timer.setTimerType(Qt.TimerType.PreciseTimer)
        self.timer.timeout.connect(self.tick)
        self.timer.start(2)

    def tick(self):
        now = time.perf_counter()
        self.longest, self.last = max(self.longest, now - self.last), now

    def start(self, phase=""):
        self.longest, self.last = 0.0, time.perf_counter()
        self.begun = self.last
        if self.clock is not None:
            self.clock.phase = phase

    def note(self, what):
        self.tick()
        own = self.clock.row(what) if self.clock is not None else (0, 0.0, 0.0, "")
        self.rows.append((what, self.last - self.begun, self.longest, *own))
        self.start()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="edge of the cube in voxels")
    parser.add_argument("--quick", action="store_true", help="a cube of 64 voxels")
    parser.add_argument("--layers", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = 64 if asked.quick else asked.size
    if asked.layers is not None:
        measure_napari(asked.layers, size)
        return
    with tempfile.TemporaryDirectory() as name:
        for kind in ("MODELS", "SESSIONS"):
            os.environ[f"NAPARI_ATTENTION3D_{kind}"] = str(Path(name, kind))
            Path(name, kind).mkdir()
        measure(Path(name), size)


def open_viewer(size, clock=None):
    import napari

    from napari_attention3d.widgets.demo import settle

    viewer = napari.Viewer()
    scan = np.random.default_rng(0).random((size,) * 3, dtype=np.float32)
    viewer.add_image(scan, name="scan", contrast_limits=(0, 1))
    settle(2000)
    return viewer, Gaps(clock)


def measure(folder, size):
    from napari_attention3d.widgets.demo import settle, wait_until

    clock = SlotClock()
    clock.install()
    viewer, gaps = open_viewer(size, clock)
    seen = []
    viewer.layers.events.inserted.connect(lambda event: seen.append(event.value))
    gaps.start("idle")
    settle(2000)
    gaps.note("idle")
    gaps.start("opening the dock")
    _, widget = viewer.window.add_plugin_dock_widget("napari-attention3d", "Attention 3D")
    settle(50)
    gaps.note("opening the dock")
    panel = widget.segment
    gaps.start("loading torch in the background")
    wait_until(lambda: panel.is_ready)
    gaps.note("loading torch in the background")
    panel.form.add_model_file(str(make_model(folder / "MODELS")))
    gaps.start("looking ahead")
    wait_until(lambda: panel.has_looked_ahead)
    gaps.note("looking ahead")
    segment(panel, gaps)
    probe(widget, gaps, size)
    refine(widget, gaps, size)
    report(size, gaps.rows)
    kinds = {
        f"{i:02}_{layer._type_string}_{'shown' if layer.visible else 'hidden'}": layer.data
        for i, layer in enumerate(seen)
        if layer._type_string in ("image", "labels")
    }
    np.savez(folder / "layers.npz", **{name: np.asarray(data) for name, data in kinds.items()})
    widget.runner.join()
    viewer.close()
    again = [sys.executable, "-W", "ignore", __file__, "--size", str(size)]
    subprocess.run([*again, "--layers", str(folder / "layers.npz")], check=True)


def segment(panel, gaps):
    """Three runs, the last two into the layers of the first."""
    from napari_attention3d.widgets.demo import settle, wait_until

    for what in ("segment: a first run", "segment: run again"):
        gaps.start(what)
        panel.run()
        wait_until(lambda: not panel.is_running)
        settle(1000)
        gaps.note(what)


def probe(widget, gaps, size):
    """Ask about two voxels, then take the answer's layers away."""
    from napari_attention3d.widgets.demo import settle, wait_until

    asking, answers = widget.inspect.asking, []
    asking.answered.connect(answers.append)
    widget.tabs.setCurrentWidget(widget.inspect.parent().parent())
    settle(1000)
    for number, what in enumerate(("probe: a first voxel", "probe: another voxel"), 1):
        gaps.start(what)
        asking.ask((size // 2, size // 2, size // (2 * number)))
        wait_until(lambda n=number: len(answers) >= n and not widget.inspect.runs.is_busy)
        settle(500)
        gaps.note(what)
    gaps.start("probe: layers taken away")
    asking.clear()
    settle(500)
    gaps.note("probe: layers taken away")


def refine(widget, gaps, size):
    """Begin a correction session, paint, learn, take back, end."""
    from napari_attention3d.widgets.demo import settle, wait_until

    panel = widget.correct
    widget.tabs.setCurrentWidget(panel.parent().parent())
    panel.beginning.look()
    wait_until(lambda: panel.beginning._listed)
    form = panel.start_form
    form.choose("nothing")
    form.classes_edit.setText("cell")
    form.changed.emit()
    settle(500)
    gaps.start("refine: beginning")
    form.start_button.click()
    wait_until(lambda: panel.link is not None)
    settle(500)
    gaps.note("refine: beginning")
    gaps.start("refine: painting")
    layer, middle = panel.link.layers.strokes, size // 2
    for (z, y), value in (
        ((middle, middle), 1),
        ((middle, 2), panel.link.marker),
        ((middle // 2, middle), panel.link.marker),
    ):
        layer.selected_label = value
        for x in range(2, 22, 4):  # as the mouse moves
            with layer.block_history():
                layer.data_setitem((np.full(4, z), np.full(4, y), np.arange(x, x + 4)), value)
            settle(30)
    gaps.note("refine: painting")
    gaps.start("refine: learning")
    panel.learn()
    wait_until(lambda: not panel.is_busy and len(panel.session.rounds) > 1)
    settle(500)
    gaps.note("refine: learning")
    gaps.start("refine: taking back")
    panel.history.undo()
    settle(500)
    gaps.note("refine: taking back")
    gaps.start("refine: ending")
    panel.close_session()
    settle(500)
    gaps.note("refine: ending")


def measure_napari(path, size):
    """The same layers in a napari that never saw us (a process of its own)."""
    from napari_attention3d.widgets.demo import settle

    viewer, gaps = open_viewer(size)
    layers = dict(np.load(path))
    gaps.start()
    settle(1000)
    gaps.note("napari alone: idle")
    for name, array in layers.items():
        gaps.start()
        scale, visible = np.divide((size,) * 3, array.shape), name.endswith("shown")
        if "labels" in name:
            viewer.add_labels(array, opacity=0.6, scale=scale, visible=visible)
        else:
            viewer.add_image(
                array,
                scale=scale,
                visible=visible,
                opacity=0.4,
                blending="additive",
                contrast_limits=(0, 1),
                colormap="magma",
            )
        settle(500)
        gaps.note(f"napari alone: {' '.join(name.split('_')[1:])}, {array.dtype} appears")
    gaps.start()
    for layer in list(viewer.layers)[1:]:
        viewer.layers.remove(layer)
        settle(100)
    gaps.note("napari alone: they go, one by one")
    report(None, gaps.rows)
    viewer.close()


def report(size, rows):
    if size is not None:
        print(f"scan of {size} x {size} x {size} voxels; {os.cpu_count()} CPU cores\n")
        print("| phase | lasted (s) | longest block (ms) | slots | p99 (ms) | longest (ms) | |")
        print("|---|---:|---:|---:|---:|---:|---|")
    for what, lasted, longest, slots, p99, slot, name in rows:
        own = f"{slots} | {p99:.1f} | {slot:.1f} | {name}" if slots else "| | |"
        print(f"| {what} | {lasted:.1f} | {longest * 1e3:.0f} | {own} |", flush=True)


if __name__ == "__main__":
    main()
