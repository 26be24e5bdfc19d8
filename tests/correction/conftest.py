"""A phantom that can be learned from a few strokes, and a tiny network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from napari_attention3d.correction.session import CorrectionSession
from napari_attention3d.progress import finish
from napari_attention3d.volumes.volume import Volume

CLASSES = ("background", "box", "bar")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The phantom needs no more, and it is faster."""
    monkeypatch.setattr("napari_attention3d.correction.fast_head.TREES", 30)
    monkeypatch.setattr("napari_attention3d.correction.fast_head.SCORING_TREES", 15)


@pytest.fixture(name="finish")
def finish_fixture() -> Callable[[Any], Any]:
    """Drive a job to its end and return its result."""
    return finish


@pytest.fixture
def truth() -> np.ndarray:
    """A bright box (1) and a dark bar (2) on grey; (12, 20, 22)."""
    labels = np.zeros((12, 20, 22), np.uint8)
    labels[3:9, 4:12, 4:13] = 1
    labels[2:10, 14:19, 8:20] = 2
    return labels


@pytest.fixture
def scan(truth: np.ndarray) -> Volume:
    rng = np.random.default_rng(0)
    image = np.array([0.0, 5.0, -5.0])[truth] + rng.normal(0, 0.7, truth.shape)
    return Volume.from_array(
        image.astype(np.float32), spacing=(1.0, 1.0, 1.0), unit="mm", name="phantom"
    )


def line(z: int, y: int, x: slice) -> np.ndarray:
    """Voxels (N, 3) of a straight stroke along x."""
    columns = np.arange(x.start, x.stop)
    return np.stack([np.full_like(columns, z), np.full_like(columns, y), columns], axis=1)


STROKES = [
    (line(6, 8, slice(5, 12)), 1),
    (line(6, 16, slice(9, 18)), 2),
    (line(6, 2, slice(2, 20)), 255),
]


@pytest.fixture
def session(scan: Volume) -> CorrectionSession:
    """From nothing, one stroke per class."""
    made = CorrectionSession(scan, CLASSES, threads=1)
    for voxels, value in STROKES:
        made.add_stroke(voxels, value)
    return made


def dice(mask: np.ndarray, truth: np.ndarray, value: int) -> float:
    a, b = mask == value, truth == value
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.fixture
def model():
    """An untrained network of the phantom's classes."""
    from napari_attention3d.models.card import Channel, ModelCard, SegmentationClass
    from napari_attention3d.models.store import Model
    from napari_attention3d.networks import build_network

    torch.manual_seed(0)
    network = build_network(
        "attention-unet", in_channels=1, num_classes=3, channels=(4, 8), deep_supervision="none"
    )
    card = ModelCard(
        name="tiny",
        title="Tiny",
        network={"name": network.name, **network.config},
        classes=tuple(
            SegmentationClass(name=n, colour=c)
            for n, c in zip(CLASSES, ("#000000", "#ff0000", "#00ff00"), strict=True)
        ),
        channels=(Channel(name="any"),),
        spacing=None,
        patch_size=(16, 16, 16),
    )
    return Model(card, network.eval().requires_grad_(False))
