"""How long the window is blocked during a run, and by napari itself without us.

Run on a screen, or: xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/responsiveness.py
Prints a table and writes nothing. A timer ticks every 2 ms on the window's thread; the
longest gap between two ticks is the longest block.
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


class Gaps:
    """Longest pauses of the event loop, by phase."""

    def __init__(self):
        from qtpy.QtCore import Qt, QTimer

        self.longest, self.last, self.begun = 0.0, time.perf_counter(), time.perf_counter()
        self.rows = []
        self.timer = QTimer()
        self.timer.setTimerType(Qt.TimerType.PreciseTimer)
        self.timer.timeout.connect(self.tick)
        self.timer.start(2)

    def tick(self):
        now = time.perf_counter()
        self.longest, self.last = max(self.longest, now - self.last), now

    def start(self):
        self.longest, self.last = 0.0, time.perf_counter()
        self.begun = self.last

    def note(self, what):
        self.tick()
        self.rows.append((what, self.last - self.begun, self.longest))
        self.start()


def make_model(folder, classes):
    import torch

    from napari_attention3d.models import Channel, ModelCard, SegmentationClass, save_model
    from napari_attention3d.networks import build_network

    torch.manual_seed(0)
    network = build_network(
        "attention-unet", preset="tiny", in_channels=1, num_classes=classes
    ).eval()
    card = ModelCard(
        name="random",
        title="untrained",
        network={"name": "attention-unet", **network.config},
        classes=tuple(
            SegmentationClass(name=f"class {i}", colour=f"#{30 * i:02x}80c0")
            for i in range(classes)
        ),
        channels=(Channel(name="any"),),
        unit="pixel",
        patch_size=(64, 64, 64),
    )
    return save_model(folder / "random.safetensors", network, card)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="edge of the cube in voxels")
    parser.add_argument("--layers", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["NAPARI_ATTENTION3D_MODELS"] = name
        if asked.layers is None:
            measure(Path(name), asked.size)
        else:
            measure_napari(asked.layers, asked.size)


def open_viewer(size):
    import napari

    from napari_attention3d.widgets.demo import settle

    viewer = napari.Viewer()
    scan = np.random.default_rng(0).random((size,) * 3).astype(np.float32)
    viewer.add_image(scan, name="scan", contrast_limits=(0, 1))
    settle(2000)
    return viewer, Gaps()


def measure(folder, size):
    from napari_attention3d.widgets.demo import settle, wait_until

    viewer, gaps = open_viewer(size)
    settle(2000)
    gaps.note("idle, nothing happens")
    _, widget = viewer.window.add_plugin_dock_widget("napari-attention3d", "Attention 3D")
    settle(50)
    gaps.note("opening the dock")
    panel = widget.segment
    wait_until(lambda: panel.is_ready)
    gaps.note("loading torch in the background")
    panel.form.add_model_file(str(make_model(folder, 8)))
    wait_until(lambda: panel.has_looked_ahead)
    gaps.start()
    at_end = []

    def split(finished):
        at_end.append(finished)
        gaps.note("a run, until its result is there")

    panel.about_to_show.connect(split)
    panel.run()
    wait_until(lambda: not panel.is_running)
    settle(1000)
    gaps.note("its layers appear")
    for round_ in range(2):
        panel.run()
        wait_until(lambda: not panel.is_running)
        settle(1000)
        gaps.note(f"run again, layers renewed ({round_ + 1})")
    report(size, gaps.rows)
    arrays = {
        f"{i}_{p.kind}_{'shown' if p.keywords.get('visible', True) else 'hidden'}": p.array
        for i, p in enumerate(at_end[0].plans)
    }
    np.savez(folder / "layers.npz", **arrays)
    widget.runner.join()
    viewer.close()
    again = [sys.executable, "-W", "ignore", __file__, "--size", str(size)]
    subprocess.run([*again, "--layers", str(folder / "layers.npz")], check=True)


def measure_napari(path, size):
    """The same layers in a napari that never saw us (a process of its own)."""
    from napari_attention3d.widgets.demo import settle

    viewer, gaps = open_viewer(size)
    layers = dict(np.load(path))
    gaps.start()
    settle(1000)
    gaps.note("napari alone: idle")
    for name, array in layers.items():
        scale, visible = np.divide((size,) * 3, array.shape), name.endswith("shown")
        if "labels" in name:
            viewer.add_labels(array, opacity=0.6, scale=scale, colormap=class_colours())
        else:
            viewer.add_image(
                array,
                scale=scale,
                visible=visible,
                opacity=0.4,
                blending="additive",
                contrast_limits=(0, 1),
                colormap="magma",
                interpolation2d="linear",
            )
    settle(1000)
    gaps.note("napari alone: the same layers appear")
    report(None, gaps.rows)
    viewer.close()


def class_colours():
    from napari.utils.colormaps import DirectLabelColormap

    table = {i: f"#{30 * i:02x}80c0" for i in range(1, 8)}
    return DirectLabelColormap(color_dict={0: "transparent", None: "#ffffff", **table})


def report(size, rows):
    if size is not None:
        print(f"scan of {size} x {size} x {size} voxels; {os.cpu_count()} CPU cores")
        print(f"{'phase':<46}{'lasted (ms)':>12}{'longest block (ms)':>20}")
    for what, lasted, longest in rows:
        print(f"{what:<46}{lasted * 1e3:>12.0f}{longest * 1e3:>20.0f}", flush=True)


if __name__ == "__main__":
    main()
