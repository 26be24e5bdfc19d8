"""A tiny real model in the user's folder, and scans as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_attention3d.progress import finish
from napari_attention3d.volumes import Volume, write_volume


def save_tiny(folder: Path, seed: int = 0) -> Path:
    import torch

    from napari_attention3d.models.card import Channel, ModelCard, SegmentationClass
    from napari_attention3d.models.store import save_model
    from napari_attention3d.networks import build_network

    torch.manual_seed(seed)
    network = build_network(
        "attention-unet", in_channels=1, num_classes=3, channels=[4, 8, 8], norm="instance"
    )
    names = {"background": "#000000", "one": "#e69f00", "two": "#56b4e9"}
    card = ModelCard(
        name="tiny",
        title="A tiny model",
        network={"name": network.name, **network.config},
        classes=tuple(SegmentationClass(name=n, colour=c) for n, c in names.items()),
        channels=(Channel(name="intensity"),),
        patch_size=(16, 16, 16),
    )
    folder.mkdir(parents=True, exist_ok=True)
    return save_model(folder / "tiny.safetensors", network, card)


@pytest.fixture
def models_folder(tmp_path, monkeypatch) -> Path:
    """The user's folder of models, with one tiny model."""
    folder = tmp_path / "models"
    save_tiny(folder)
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(folder))
    return folder


def write_scan(path: Path, seed: int = 0, shape=(12, 14, 16)) -> Path:
    array = np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)
    return write_volume(path, Volume.from_array(array, spacing=(2.0, 1.0, 1.0), anatomical=True))


@pytest.fixture
def tools():
    """Helpers of this file, for tests (they can't import a conftest)."""
    from types import SimpleNamespace

    return SimpleNamespace(save_tiny=save_tiny, write_scan=write_scan, finish=finish)
