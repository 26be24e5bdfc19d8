"""Tiny models of both kinds and a run of each over a small scan."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_attention3d.attention.replay import Replay
from napari_attention3d.inference import runner
from napari_attention3d.models import Channel, Model, ModelCard, SegmentationClass
from napari_attention3d.networks import build_network
from napari_attention3d.progress import finish
from napari_attention3d.session import segment
from napari_attention3d.volumes.volume import Volume

TILE = (16, 20, 20)


def tiny_model(network, **changes):
    settings = {
        "name": "tiny",
        "title": "A tiny model",
        "network": {"name": network.name, **network.config},
        "classes": (
            SegmentationClass(name="background", colour="#000000"),
            SegmentationClass(name="nucleus", colour="#e69f00"),
            SegmentationClass(name="wall", colour="#56b4e9"),
        ),
        "channels": (Channel(name="any"),),
        "spacing": None,
        "unit": "pixel",
        "patch_size": TILE,
        "sha256": "0" * 64,
    }
    return Model(ModelCard(**(settings | changes)), network.eval().requires_grad_(False))


def guided_network(**changes):
    torch.manual_seed(3)
    config = {
        "preset": "small",
        "in_channels": 1,
        "num_classes": 3,
        "widths": (4, 8, 8, 8),
        "strides": (2, 1, 1),
        "features": 4,
        "head_width": 4,
        "steps": 2,
    }
    network = build_network("guided-attention", **(config | changes))
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(0.5)  # attention that counts
        if "position.query" in name or "position.key" in name:
            parameter.data.mul_(3)  # and that chooses
    return network


def gate_network():
    torch.manual_seed(3)
    return build_network("attention-unet", preset="tiny", in_channels=1, num_classes=3)


def scan(shape=(24, 28, 36), **geometry):
    rng = np.random.default_rng(2)
    array = rng.random(shape).astype(np.float32)
    array[6:14, 8:20, 10:26] += 1.5
    return Volume.from_array(array, name="cells", **geometry)


def replayed(model, volume, **options):
    """A run over a volume, and what asks it."""
    with pytest.MonkeyPatch.context() as patch:
        # Estimating the memory that a network takes costs more than running a tiny one.
        patch.setattr(runner, "fits_whole", lambda *_: True)
        result = segment(volume, model, device="cpu", precision="exact", **options)
    return SimpleNamespace(
        result=result,
        replay=finish(Replay.open(volume, model, result.provenance)),
        volume=volume,
        model=model,
    )


@pytest.fixture(scope="module")
def guided():
    """A run of a guided network over 24 x 28 x 36 voxels, in tiles."""
    return replayed(tiny_model(guided_network()), scan(), tile=TILE)


@pytest.fixture(scope="module")
def gated():
    """A run of an attention U-Net over the same scan."""
    return replayed(tiny_model(gate_network()), scan(), attention=True)


@pytest.fixture(scope="session")
def build():
    """Builders of this file, for tests (they can't import a conftest)."""
    return SimpleNamespace(
        finish=finish,
        tiny_model=tiny_model,
        guided_network=guided_network,
        gate_network=gate_network,
        scan=scan,
        replayed=replayed,
    )
