"""Faults, the points of a run where they come, and what must be true after one.

For the tests of this folder, and for faults_memory.py.
"""

from __future__ import annotations

import errno
import gc
import threading

import numpy as np
import torch

from napari_attention3d.inference.preprocess import Preprocessor
from napari_attention3d.inference.runner import Runner
from napari_attention3d.inference.sink import ScanResults, ScanSink
from napari_attention3d.models import Channel, ModelCard, SegmentationClass, save_model
from napari_attention3d.networks import build_network
from napari_attention3d.widgets import results as result_layers
from napari_attention3d.widgets import tasks

WAIT = 240_000
OUT_OF_MEMORY = (
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
)
DEVICE_LOST = RuntimeError("CUDA error: unspecified launch failure")
DISK_FULL = OSError(errno.ENOSPC, "No space left on device")
FORBIDDEN = PermissionError(errno.EACCES, "Permission denied", "/data/scan.nii")
READING_FAILS = OSError(errno.EIO, "Input/output error")
BROKEN = "can be read, then try again"
FAULTS = (*OUT_OF_MEMORY, DEVICE_LOST, DISK_FULL, FORBIDDEN)
ADVICE = {
    MemoryError: "memory",
    torch.OutOfMemoryError: "memory",
    OSError: "free some space",
    PermissionError: "may read and write",
}


def save_tiny(path, name="tiny", seed=0):
    torch.manual_seed(seed)
    network = build_network("attention-unet", preset="tiny", in_channels=1, num_classes=3).eval()
    card = ModelCard(
        name=name,
        title=f"A {name} model",
        network={"name": "attention-unet", **network.config},
        classes=tuple(
            SegmentationClass(name=n, colour=c)
            for n, c in (("background", "#000000"), ("cell", "#e69f00"), ("wall", "#56b4e9"))
        ),
        channels=(Channel(name="any"),),
        spacing=None,
        unit="pixel",
        patch_size=(16, 16, 16),
    )
    return save_model(path, network, card)


def open_dock(qtbot, viewer, model, *, owned=False):
    """Open the dock; one that a window owns goes with the window."""
    from napari_attention3d.widgets.main_widget import Attention3DWidget

    dock = Attention3DWidget(viewer)
    if not owned:
        qtbot.addWidget(dock)
    qtbot.waitUntil(lambda: dock.segment.is_ready, timeout=WAIT)
    dock.segment.form.add_model_file(str(model))
    dock.segment._on_changed()
    dock.failures = []
    dock.segment.failed.connect(dock.failures.append)
    return dock


def run(qtbot, dock):
    look_ahead(qtbot, dock)
    dock.segment.run()
    assert dock.segment.is_running
    qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=WAIT)
    look_ahead(qtbot, dock)


def look_ahead(qtbot, dock):
    """Wait for what the panel does on its own, which takes memory and a thread too."""
    qtbot.waitUntil(lambda: dock.segment.has_looked_ahead, timeout=WAIT)


def threads():
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("attention3d"))


def picture(viewer):
    """What the layers hold."""
    return {layer: np.array(layer.data) for layer in viewer.layers}


def assert_as_before(viewer, before):
    assert list(viewer.layers) == list(before)
    for layer, data in before.items():
        np.testing.assert_array_equal(layer.data, data)


# ---- where a fault may come


def at_reading(monkeypatch, error):
    def fail(*_, **__):
        raise error
        yield

    monkeypatch.setattr(Preprocessor, "open", fail)


def at_model(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(tasks.ModelShelf, "get", fail)


def at_place_of_results(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ScanResults, "__init__", fail)


def from_call(kind, name, number=0):
    """Every call of a method from this one on fails."""

    def inject(monkeypatch, error):
        method, calls = getattr(kind, name), []

        def fail(self, *args):
            calls.append(name)
            if len(calls) > number:
                raise error
            return method(self, *args)

        monkeypatch.setattr(kind, name, fail)

    return inject


def at_preparing_layers(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(tasks, "plan_layers", fail)


def at_adding_layers(monkeypatch, error):
    make, calls = result_layers.make_layer, []

    def fail(plan):
        calls.append(plan)
        if len(calls) > 1:  # in the middle: one was made already
            raise error
        return make(plan)

    monkeypatch.setattr(result_layers, "make_layer", fail)
    monkeypatch.setattr(result_layers, "_fits_into", lambda *_: False)


POINTS = {
    "reading": at_reading,
    "model": at_model,
    "results": at_place_of_results,
    "measuring": from_call(Runner, "measure"),
    "first planes": from_call(ScanSink, "push"),
    "middle planes": from_call(ScanSink, "push", 1),
    "writing the mask": from_call(ScanResults, "write"),
    "preparing layers": at_preparing_layers,
    "adding layers": at_adding_layers,
}


def inject_and_look(qtbot, viewer, dock, temporary, alive, monkeypatch, inject, faults):
    """Run; run with each fault; run again: see the module for what must be true."""
    run(qtbot, dock)
    before, names = picture(viewer), threads()
    assert len(before) > 1
    for number, error in enumerate(faults, 1):
        with monkeypatch.context() as patch:
            inject(patch, error)
            run(qtbot, dock)
        assert len(dock.failures) == number, error
        assert_as_before(viewer, before)
        words = dock.status.text
        advice = ADVICE.get(type(error), "memory" if "allocate" in str(error) else "GPU")
        assert (BROKEN if error is READING_FAILS else advice) in words, (error, words)
        assert dock.segment.form.run_button.isEnabled()
        error.__traceback__ = error.__context__ = None
        dock.failures[-1] = None  # the failure, too, holds the traceback's frames
        gc.collect()
        assert [ref() for ref in alive if ref() is not None] == [], error
        assert not list(temporary.glob("attention3d*"))
        assert threads() == names
    run(qtbot, dock)
    assert len(dock.failures) == len(faults)
    assert_as_before(viewer, before)  # the same again, to the bit
