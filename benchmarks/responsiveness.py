"""How long the window is blocked while one segments, asks and corrects, and by napari alone.

Run on a screen, or: xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/responsiveness.py
Prints tables, says whether the bounds are kept, and writes nothing. A timer ticks every 2 ms on
the window's thread; the longest gap between two ticks is the longest block. Each slot of ours is
timed without what napari does for the layers it touches (`_slot_clock.py`). Afterwards a napari
that never saw us, in a process of its own, adds the very same layers in the same groups, renews
their data, paints the same strokes, refreshes and removes them. The network is small, untrained.

Bounds, for segmenting, asking and correcting: own slots 10 ms (99 %) and 50 ms (all); a block at
most 50 ms more than napari's own for what the phase does to layers. Opening the dock and torch's
import, in the background, are measured and not judged.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("NAPARI_CONFIG", "")  # the person's settings are left alone

import numpy as np
from _slot_clock import SlotClock, summary
from soak import make_model


class Gaps:
    """Longest pauses of the event loop, by phase."""

    def __init__(self, clock=None):
        from qtpy.QtCore import Qt, QTimer

        self.longest, self.last, self.begun = 0.0, time.perf_counter(), time.perf_counter()
        self.rows, self.clock, self.phase, self.ticks = [], clock, "", 0
        self.timer = QTimer()
        self.timer.setTimerType(Qt.TimerType.PreciseTimer)
        self.timer.timeout.connect(self.tick)
        self.timer.start(2)

    def tick(self):
        now = time.perf_counter()
        self.longest, self.last = max(self.longest, now - self.last), now
        self.ticks += 1

    def start(self, phase=""):
        self.longest, self.last = 0.0, time.perf_counter()
        self.begun, self.phase = self.last, phase
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
    clock = SlotClock()
    clock.install()  # before anything of ours is imported

    from napari_attention3d.widgets.demo import settle, wait_until

    viewer, gaps = open_viewer(size, clock)
    seen = []
    viewer.layers.events.inserted.connect(lambda event: seen.append(seen_layer(event.value, gaps)))
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
    panel.form.add_model_file(str(make_model(folder / "MODELS", 4, (64, 64, 64))))
    gaps.start("looking ahead")
    wait_until(lambda: panel.has_looked_ahead)
    gaps.note("looking ahead")
    segment(panel, gaps)
    probe(widget, gaps, size)
    refine(widget, gaps, size)
    seen = [one for one in seen if one is not None]
    arrays = {f"{i:02}": np.asarray(one.pop("data")) for i, one in enumerate(seen)}
    np.savez(folder / "layers.npz", **arrays)
    (folder / "layers.json").write_text(json.dumps(seen))
    widget.runner.join()
    viewer.close()
    again = [sys.executable, "-W", "ignore", __file__, "--size", str(size)]
    subprocess.run([*again, "--layers", str(folder)], check=True)
    alone = json.loads((folder / "alone.json").read_text())
    print(f"scan of {size} x {size} x {size} voxels; {os.cpu_count()} CPU cores\n")
    print("\n".join(table(gaps.rows)), "\n")
    print("\n".join(alone_table(alone)), "\n")
    own = [seconds for phase, seconds in clock.collections if phase in DOES]
    most = 1e3 * max(own, default=0)
    print(f"Python's own collections within slots: {len(own)}, longest {most:.0f} ms\n")
    slots = [(s, name) for phase, name, s in clock.slots if phase in DOES]
    print("\n".join(verdicts(gaps.rows, slots, alone)), flush=True)


def seen_layer(layer, gaps):
    """What a layer was when it came; not the layer, which may go."""
    if layer._type_string not in ("image", "labels"):
        return None
    about = {"phase": gaps.phase, "turn": gaps.ticks, "kind": layer._type_string}
    return {**about, "visible": bool(layer.visible), "data": layer.data}


def segment(panel, gaps):
    """Two runs, the last into the layers of the first."""
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


def paint(layer, strokes):
    """Paint lines along x, as the mouse moves."""
    from napari_attention3d.widgets.demo import settle

    for z, y, value in strokes:
        layer.selected_label = value
        for x in range(2, 22, 4):
            with layer.block_history():
                layer.data_setitem((np.full(4, z), np.full(4, y), np.arange(x, x + 4)), value)
            settle(30)


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
    marker = panel.link.marker
    paint(layer, [(middle, middle, 1), (middle, 2, marker), (middle // 2, middle, marker)])
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


def measure_napari(folder, size):
    """The same with the same layers in a napari that never saw us (a process of its own)."""
    from napari_attention3d.widgets.demo import settle

    viewer, gaps = open_viewer(size)
    arrays, seen = (
        dict(np.load(folder / "layers.npz")),
        json.loads((folder / "layers.json").read_text()),
    )
    found, shown = {}, []

    def timed(what, act):
        gaps.start()
        act()
        settle(500)
        gaps.tick()
        found[what] = max(found.get(what, 0.0), gaps.longest)

    settle(1000)
    timed("idle", lambda: settle(500))
    rows = [(one, arrays[f"{i:02}"]) for i, one in enumerate(seen)]
    for (phase, _), group in itertools.groupby(rows, key=lambda r: (r[0]["phase"], r[0]["turn"])):
        wanted = list(group)

        def add(wanted=wanted):
            shown.extend(add_layer(viewer, size, about, array) for about, array in wanted)

        timed(f"{APPEAR}{phase}", add)
    arrays.clear()
    full = [layer for layer in shown if layer.data.shape == (size,) * 3]

    def renew():
        for layer in full:
            layer.data = layer.data.copy()

    labels = [layer for layer in full if layer._type_string == "labels" and layer.visible]
    middle = size // 2
    timed("renewed", renew)
    timed("refreshed", lambda: [layer.refresh() for layer in full])
    timed("painted", lambda: paint(labels[-1], [(middle, middle, 1), (middle // 2, middle, 2)]))
    timed("hidden", lambda: [setattr(layer, "visible", False) for layer in shown])
    timed("shown", lambda: [setattr(layer, "visible", True) for layer in full])
    timed("removed", lambda: [viewer.layers.remove(layer) for layer in shown])
    (folder / "alone.json").write_text(json.dumps(found))
    viewer.close()


def add_layer(viewer, size, about, array):
    """Add a layer as it was seen."""
    options = {"scale": np.divide((size,) * 3, array.shape), "visible": about["visible"]}
    if about["kind"] == "labels":
        from napari.utils.colormaps import DirectLabelColormap

        table = {0: "transparent", 1: "#e69f00", None: "#ffffff"}  # of the kind that ours has
        colours = DirectLabelColormap(color_dict=table)
        return viewer.add_labels(array, opacity=0.6, colormap=colours, **options)
    colours = {"opacity": 0.4, "blending": "additive", "colormap": "magma"}
    return viewer.add_image(array, contrast_limits=(0, 1), **colours, **options)


APPEAR = "appear: "
OWN = f"{APPEAR}the phase's own"
DOES = {
    "segment: a first run": (OWN,),
    "segment: run again": (OWN, "renewed"),
    "probe: a first voxel": (OWN,),
    "probe: another voxel": (OWN, "renewed"),
    "probe: layers taken away": ("removed",),
    "refine: beginning": (OWN, "hidden"),
    "refine: painting": ("painted",),
    "refine: learning": (OWN, "renewed", "refreshed"),
    "refine: taking back": ("renewed", "refreshed"),
    "refine: ending": ("removed", "shown"),
}
"""What phases that are judged do to layers, as napari alone does it."""
MOST, P99, MORE = 50.0, 10.0, 50.0
"""Milliseconds: of a slot; of 99 % of the slots; of a block beyond napari's own."""


def bound_of(phase, alone):
    """Milliseconds that a block may last."""
    ways = [f"{APPEAR}{phase}" if what == OWN else what for what in DOES[phase]]
    return MORE + 1e3 * max(alone.get(what, alone["idle"]) for what in ways)


def verdicts(rows, slots, alone):
    """Whether each bound is kept, in words."""
    count, p99, longest, name = summary(slots)
    lines = [
        _verdict(p99 < P99, f"{count} slots of ours: 99 % within {p99:.1f} ms ({P99:.0f} allowed)"),
        _verdict(longest < MOST, f"longest {longest:.1f} ms, {name} ({MOST:.0f} allowed)"),
    ]
    for phase, _, block, _, p99, longest, name in rows:
        if phase in DOES:
            bound = bound_of(phase, alone)
            words = f"{phase}: block of {1e3 * block:.0f} ms ({bound:.0f} allowed)"
            lines.append(_verdict(1e3 * block <= bound, words))
            words = f"{phase}: slots 99 % {p99:.1f} ms, longest {longest:.1f} ms, {name}"
            lines.append(_verdict(p99 < P99 and longest < MOST, words))
    return lines


def _verdict(kept, words):
    return f"{'kept  ' if kept else 'MISSED'} {words}"


def table(rows):
    """For RESULTS.md."""
    yield "| phase | lasted (s) | longest block (ms) | slots | p99 (ms) | longest (ms) | |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    for what, lasted, longest, slots, p99, slot, name in rows:
        own = f"{slots} | {p99:.1f} | {slot:.1f} | {name}" if slots else "| | |"
        yield f"| {what} | {lasted:.1f} | {longest * 1e3:.0f} | {own} |"


def alone_table(alone):
    """For RESULTS.md."""
    yield "| napari alone | longest block (ms) |"
    yield "|---|---:|"
    yield from (f"| {what} | {1e3 * longest:.0f} |" for what, longest in alone.items())


if __name__ == "__main__":
    main()
