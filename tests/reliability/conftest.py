"""A small model, a viewer model with a scan, the dock over them."""

from __future__ import annotations

import importlib.util
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attention3d.inference.runner import Runner
from napari_attention3d.inference.sink import ScanResults

from .faults import open_dock, save_tiny

SOAK = Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder that temporary files go to."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def alive(monkeypatch):
    """Weak references to what holds a run's arrays and tensors."""
    held = []
    for kind in (Runner, ScanResults):
        begin = kind.__init__

        def note(self, *args, _begin=begin, **options):
            held.append(weakref.ref(self))
            _begin(self, *args, **options)

        monkeypatch.setattr(kind, "__init__", note)
    return held


@pytest.fixture
def model_folder(tmp_path, monkeypatch):
    """Where models are looked for; sessions and settings are as fresh."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(folder))
    monkeypatch.setenv("NAPARI_ATTENTION3D_SESSIONS", str(tmp_path / "sessions"))
    from napari_attention3d.widgets.settings import SegmentSettings

    SegmentSettings().save()
    return folder


@pytest.fixture
def model(model_folder):
    return save_tiny(model_folder / "tiny.safetensors")


@pytest.fixture
def soak():
    """The benchmark of that name, which is a script."""
    spec = importlib.util.spec_from_file_location("soak", SOAK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def viewer():
    viewer = ViewerModel()
    scan = np.random.default_rng(1).random((20, 24, 28)).astype(np.float32)
    viewer.add_image(scan, name="cells")
    return viewer


@pytest.fixture
def dock(qtbot, viewer, temporary, model):
    made = open_dock(qtbot, viewer, model)
    yield made
    assert made.runner.join()
