from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attention3d.volumes import Volume, write_volume


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys):
    """Run the command line; give exit code, standard output and standard error."""
    from napari_attention3d.cli import main

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        caught = capsys.readouterr()
        return Outcome(end.value.code or 0, caught.out, caught.err)

    return call


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A small network with random weights, three classes, for one channel in mm."""
    import torch

    from napari_attention3d.models.card import Channel, ModelCard, SegmentationClass
    from napari_attention3d.models.store import save_model
    from napari_attention3d.networks import build_network

    torch.manual_seed(0)
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
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    save_model(path, network, card)
    return path


def make_scan(path: Path, seed: int = 0, shape=(12, 14, 16), dtype=np.int16) -> Path:
    array = np.random.default_rng(seed).integers(0, 1000, shape).astype(dtype)
    scan = Volume.from_array(
        array, spacing=(2.0, 1.0, 1.0), unit="mm", anatomical=path.suffix != ".tif"
    )
    return write_volume(path, scan)


@pytest.fixture
def scan(tmp_path) -> Path:
    return make_scan(tmp_path / "scan.nii.gz")


@pytest.fixture
def scan_maker():
    return make_scan
