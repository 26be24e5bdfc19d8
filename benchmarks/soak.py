"""Open, segment, correct, undo, probe, close, again and again: what grows?

xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/soak.py --cycles 500 --json soak.json

One napari window; in each cycle the dock is opened in it, a small scan is segmented, corrected
by painting, one round taken back, the network asked about a voxel, and the dock closed and all
layers removed. After each cycle memory, threads, Qt widgets and slots of napari's events are
counted. A count grows if the median of the last tenth exceeds that of the first tenth after
the warm-up. Stopped half-way, the same command goes on: a new process warms up anew. Ends with
code 1 if in a process memory grew by more than 5 %, or anything else that is counted at all.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("NAPARI_CONFIG", "")  # the person's settings are left alone

import numpy as np

WARM_UP = 20
"""Cycles until caches of napari, torch and the allocator are full."""
FREEZE_AFTER = 5
"""Cycles after which Python's collector no longer looks at what is there (imported modules, for
the greatest part): napari collects at each layer removed, which took half of a cycle's time."""
LEAST = 10
"""Cycles after the warm-up from which on a process is judged."""
MEMORY = 1.05
PATIENCE = 120.0
SHAPE = (16, 20, 24)


def make_model(
    folder: Path,
    stride: int = 2,
    patch_size: tuple[int, int, int] = (16, 20, 20),
) -> Path:
    """Save a guided network, untrained, that can be asked about voxels."""
    import torch

    from napari_attention3d.models import Channel, ModelCard, SegmentationClass, save_model
    from napari_attention3d.networks import build_network

    torch.manual_seed(3)
    network = build_network(
        "guided-attention",
        preset="small",
        in_channels=1,
        num_classes=2,
        widths=(4, 8, 8, 8),
        strides=(stride, 1, 1),
        features=4,
        head_width=4,
        steps=1,
    ).eval()
    card = ModelCard(
        name="soak",
        title="untrained",
        network={"name": "guided-attention", **network.config},
        classes=(
            SegmentationClass(name="background", colour="#000000"),
            SegmentationClass(name="cell", colour="#e69f00"),
        ),
        channels=(Channel(name="any"),),
        unit="pixel",
        patch_size=patch_size,
    )
    return save_model(folder / "soak.safetensors", network, card)


def make_scan() -> np.ndarray:
    array = np.random.default_rng(0).normal(0, 0.1, SHAPE).astype(np.float32)
    array[4:10, 6:15, 8:18] += 1
    return array


def wait(done, what: str) -> None:
    """Let the window live until `done()`; a wait that does not end is an error."""
    from qtpy.QtCore import QCoreApplication, QEventLoop

    until = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} did not end within {PATIENCE:.0f} s")
        QCoreApplication.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 20)
        time.sleep(0.002)


def cycle(viewer, model: Path) -> None:
    """Open, segment, correct, undo, probe, close."""
    from napari_attention3d.widgets.main_widget import Attention3DWidget

    viewer.add_image(make_scan(), name="scan", contrast_limits=(-0.5, 1.5))
    dock = Attention3DWidget(viewer)
    window = getattr(viewer, "window", None)
    if window is None:
        dock.show()
    else:
        window.add_dock_widget(dock, name="Attention 3D")
    try:
        _segment(dock, model)
        _probe(dock)
        _correct(dock)
    finally:
        if window is not None:
            window.remove_dock_widget(dock)
        dock.close_down()
        if not dock.runner.join(PATIENCE):
            raise TimeoutError("the thread did not end")
        dock.deleteLater()
        viewer.layers.clear()


def _segment(dock, model: Path) -> None:
    panel, failures = dock.segment, []
    panel.failed.connect(failures.append)
    wait(lambda: panel.is_ready, "loading")
    panel.form.add_model_file(str(model))
    wait(lambda: panel.has_looked_ahead and panel.form.run_button.isEnabled(), "the outlook")
    panel.run()
    wait(lambda: not panel.is_running, "the run")
    if failures:
        raise failures[0].error


def _probe(dock) -> None:
    dock.tabs.setCurrentWidget(dock.inspect.parent().parent())
    answers = []
    dock.inspect.asking.answered.connect(answers.append)
    dock.inspect.asking.ask((7, 10, 12))
    wait(lambda: bool(answers) and not dock.inspect.runs.is_busy, "the question")
    dock.inspect.asking.clear()


def _correct(dock) -> None:
    panel = dock.correct
    dock.tabs.setCurrentWidget(panel.parent().parent())
    panel.beginning.look()
    wait(lambda: panel.beginning._listed, "listing the sessions")
    form = panel.start_form
    form.choose("nothing")
    form.classes_edit.setText("cell")
    form.changed.emit()
    form.start_button.click()
    wait(lambda: panel.link is not None, "beginning the session")
    layer = panel.link.layers.strokes
    for (z, y, x0, x1), value in (
        ((7, 10, 9, 17), 1),
        ((7, 2, 2, 22), panel.link.marker),
        ((12, 10, 2, 22), panel.link.marker),
        ((5, 17, 2, 22), panel.link.marker),
    ):
        layer.selected_label = value
        count = x1 - x0
        with layer.block_history():
            layer.data_setitem((np.full(count, z), np.full(count, y), np.arange(x0, x1)), value)
    panel.learn()
    wait(lambda: not panel.is_busy and len(panel.session.rounds) > 1, "learning")
    panel.history.undo()
    panel.close_session()
    panel.start_form.discard_button.click()
    wait(lambda: not list(Path(os.environ["NAPARI_ATTENTION3D_SESSIONS"]).iterdir()), "discarding")


def settle() -> None:
    """What was given up is gone: events, deferred deletions, cycles."""
    from qtpy.QtCore import QCoreApplication, QEvent

    for _ in range(3):
        QCoreApplication.processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        gc.collect()


def slots(viewer) -> int:
    """How many callbacks hang on the events of the viewer and its parts."""
    count = 0
    for owner in (viewer, viewer.dims, viewer.scene.camera, viewer.cursor, viewer.layers):
        for emitter in getattr(owner.events, "emitters", {}).values():
            count += len(getattr(emitter, "callbacks", ()))
    selection = getattr(viewer.layers.selection.events, "emitters", {})
    count += sum(len(getattr(e, "callbacks", ())) for e in selection.values())
    callbacks = (viewer.mouse_move_callbacks, viewer.mouse_drag_callbacks)
    return count + sum(map(len, callbacks)) + len(viewer.mouse_wheel_callbacks)


def count(viewer) -> dict[str, int]:
    """What must not grow."""
    import psutil
    from napari.layers import Layer
    from qtpy.QtCore import QObject
    from qtpy.QtWidgets import QApplication

    process, objects = psutil.Process(), gc.get_objects()
    return {
        "rss": process.memory_info().rss,
        "threads": threading.active_count(),
        "widgets": len(QApplication.allWidgets()),
        "qt_objects": sum(issubclass(type(one), QObject) for one in objects),
        "layers": sum(issubclass(type(one), Layer) for one in objects),
        "our_objects": sum(_is_ours(type(one)) for one in objects),
        "slots": slots(viewer),
        "files": process.num_fds() if hasattr(process, "num_fds") else 0,
    }


def _is_ours(kind: type) -> bool:
    return str(getattr(kind, "__module__", "")).startswith("napari_attention3d")


def threads() -> dict[str, int]:
    """How many threads there are of each name, numbers left out."""
    names = ("".join(c for c in t.name if not c.isdigit()) for t in threading.enumerate())
    return dict(Counter(names))


def run(
    cycles: int, journal: Path | None = None, *, window: bool = True, freeze: bool = True
) -> list[dict[str, int]]:
    """Do so many cycles, with napari's window or the dock alone.

    Returns the counts after each, and the threads `by_name`.
    """
    import napari
    from napari.components import ViewerModel

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["NAPARI_ATTENTION3D_MODELS"] = str(folder / "models")
        os.environ["NAPARI_ATTENTION3D_SESSIONS"] = str(folder / "sessions")
        for kind in ("models", "sessions"):
            (folder / kind).mkdir()
        model = make_model(folder / "models")
        viewer = napari.Viewer() if window else ViewerModel()
        rows: list[dict[str, int]] = []
        try:
            for number in range(cycles):
                cycle(viewer, model)
                settle()
                if freeze and number + 1 == FREEZE_AFTER:
                    gc.freeze()
                head = {"process": os.getpid(), "cycle": number}
                rows.append({**head, **count(viewer), "by_name": threads()})
                if journal is not None:
                    with journal.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
        finally:
            if freeze:
                gc.unfreeze()
            if window:
                viewer.close()
            settle()
    return rows


def growth(rows: list[dict[str, int]], warm_up: int = WARM_UP) -> dict[str, tuple[float, float]]:
    """Medians of the first and the last tenth after the warm-up, by what was counted."""
    rows = rows[warm_up:]
    part = max(1, len(rows) // 10)
    return {
        key: (
            statistics.median(row[key] for row in rows[:part]),
            statistics.median(row[key] for row in rows[-part:]),
        )
        for key in rows[0]
        if key not in ("process", "cycle", "by_name")
    }


def grown(rows: list[dict[str, int]]) -> list[str]:
    """What grew, in words, judged per process after its warm-up.

    Threads are counted without those of zarr's pool, which grows to its bound and not beyond.
    """
    found = []
    for pid in dict.fromkeys(row["process"] for row in rows):
        own = [row for row in rows if row["process"] == pid]
        if len(own) < WARM_UP + LEAST:
            continue
        own = [{**row, "threads": _threads(row)} for row in own]
        for key, (first, last) in growth(own).items():
            if last > (MEMORY * first if key == "rss" else first):
                found.append(f"process {pid}: {key.replace('_', ' ')} {first:g} to {last:g}")
    return found


def _threads(row: dict[str, Any]) -> int:
    names = row.get("by_name", {"": row.get("threads", 0)})
    return sum(n for name, n in names.items() if not name.startswith("asyncio"))


def table(rows: list[dict[str, int]]) -> str:
    """For RESULTS.md: per process, as each warms up anew."""
    lines = ["| process | cycles | what | after warm-up | at the end |", "|---|---|---|---|---|"]
    for number, pid in enumerate(dict.fromkeys(row["process"] for row in rows), 1):
        own = [row for row in rows if row["process"] == pid]
        if len(own) <= WARM_UP:
            lines.append(f"| {number} | {len(own)} | too few to judge | | |")
            continue
        for key, (first, last) in growth(own).items():
            scale, unit = (1e6, " MB") if key == "rss" else (1, "")
            name = key.replace("_", " ")
            figures = f"{first / scale:.1f}{unit} | {last / scale:.1f}{unit}"
            lines.append(f"| {number} | {len(own)} | {name} | {figures} |")
    return "\n".join(lines)


def read_journal(path: Path | None) -> list[dict[str, Any]]:
    """Lines of the journal; one that was cut off in writing is taken out."""
    rows: list[dict[str, Any]] = []
    if path is not None and path.exists():
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=30)
    parser.add_argument("--json", type=Path, help="journal, a line per cycle; goes on with it")
    parser.add_argument("--quick", action="store_true", help="3 cycles, too few to judge")
    given = parser.parse_args()
    cycles = 3 if given.quick else given.cycles
    rows = read_journal(given.json)
    if len(rows) < cycles:
        rows += run(cycles - len(rows), given.json)
    print(table(rows))
    for what in (found := grown(rows)):
        print(f"grew: {what}")
    sys.stdout.flush()
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
