"""A tiny real model, a viewer model and the dock over them."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))


def tiny_card(name="tiny", **changes):
    from napari_attention3d.models import Channel, ModelCard, SegmentationClass

    settings = {
        "name": name,
        "title": f"A {name} model",
        "network": {"name": "attention-unet"},
        "classes": (
            SegmentationClass(name="background", colour="#000000"),
            SegmentationClass(name="nucleus", colour="#e69f00"),
            SegmentationClass(name="wall", colour="#56b4e9"),
        ),
        "channels": (Channel(name="any"),),
        "spacing": None,
        "unit": "pixel",
        "patch_size": (16, 16, 16),
    }
    settings.update(changes)
    return ModelCard(**settings)


def save_tiny(folder, name="tiny", **changes):
    """Save an untrained network with a card that fits it; returns the file."""
    import torch

    from napari_attention3d.models import save_model
    from napari_attention3d.networks import build_network

    torch.manual_seed(0)
    card = tiny_card(name, **changes)
    network = build_network(
        "attention-unet",
        preset="tiny",
        in_channels=len(card.channels),
        num_classes=len(card.classes),
    ).eval()
    card = card.model_copy(update={"network": {"name": "attention-unet", **network.config}})
    return save_model(folder / f"{name}.safetensors", network, card)


@pytest.fixture(scope="session", autouse=True)
def _plugins_known():
    import torch  # noqa: F401
    from npe2 import PluginManager

    PluginManager.instance().discover()
    gc.collect()
    gc.freeze()  # what is there now stays: later collections have little to look at


@pytest.fixture(autouse=True)
def _garbage_of_a_test_ends_with_it(_plugins_known):
    """Windows that a test left in cycles go at its end, on this thread."""
    yield
    gc.collect()


@pytest.fixture
def models_folder(tmp_path, monkeypatch):
    """The user's folder of models, with one tiny model."""
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    from napari_attention3d.widgets.settings import SegmentSettings

    SegmentSettings().save()  # what an earlier test chose is forgotten
    save_tiny(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def viewer():
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def scan_array():
    rng = np.random.default_rng(1)
    return rng.random((20, 24, 28)).astype(np.float32)


def open_dock(qtbot, viewer, model="tiny"):
    """The dock, once torch is there, with the tiny model chosen."""
    from napari_attention3d.widgets.main_widget import Attention3DWidget

    dock = Attention3DWidget(viewer)
    qtbot.addWidget(dock)
    qtbot.waitUntil(lambda: dock.segment.is_ready, timeout=60_000)
    choose_model(dock, model)
    return dock


def choose_model(dock, name):
    combo = dock.segment.form.model_combo
    for index in range(combo.count()):
        if name in str(combo.itemData(index)):
            combo.setCurrentIndex(index)
            return
    raise AssertionError(f"no model {name} in the combo")


@pytest.fixture
def dock(qtbot, viewer, models_folder):
    made = open_dock(qtbot, viewer)
    yield made
    assert made.runner.join()


def run_to_end(qtbot, dock):
    """Click Run and wait for the outcome."""
    from qtpy.QtCore import Qt

    qtbot.mouseClick(dock.segment.form.run_button, Qt.MouseButton.LeftButton)
    assert dock.segment.is_running
    qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=60_000)


@pytest.fixture
def tools():
    """Helpers of this file, for tests (they can't import a conftest)."""
    from types import SimpleNamespace

    return SimpleNamespace(
        save_tiny=save_tiny, open_dock=open_dock, run_to_end=run_to_end, choose_model=choose_model
    )


@pytest.fixture
def correct_folders(tmp_path, monkeypatch):
    """Sessions and models of the Correct tab in folders of the test's own."""
    monkeypatch.setenv("NAPARI_ATTENTION3D_SESSIONS", str(tmp_path / "sessions"))
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(tmp_path / "models"))


@pytest.fixture
def panel(qtbot, viewer, correct_folders):
    """The Correct tab over a small scan."""
    from correct_helpers import add_scan, cell_scan, make_panel

    add_scan(viewer, cell_scan())
    made = make_panel(qtbot, viewer)
    yield made
    made.cancel()
    made.close_down()
    made.runner.stop()
    assert made.runner.join()
