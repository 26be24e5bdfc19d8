"""Faults while tiles are computed and blended: of what is on its way nothing is kept.

Memory that runs out there makes the run go on with smaller tiles: see
tests/inference/test_out_of_memory.py. What else fails ends it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from napari_attention3d.inference.bands import BandSums
from napari_attention3d.inference.runner import Runner
from napari_attention3d.models import Channel, ModelCard, SegmentationClass, save_model
from napari_attention3d.networks import build_network

_spec = importlib.util.spec_from_file_location(
    "faults_run", Path(__file__).with_name("test_faults_run.py")
)
faults_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(faults_run)
from_call = faults_run.from_call
# fixtures
temporary, viewer, dock, alive = (
    faults_run.temporary,
    faults_run.viewer,
    faults_run.dock,
    faults_run.alive,
)

FAULTS = (faults_run.DEVICE_LOST, faults_run.READING_FAILS, faults_run.DISK_FULL)
POINTS = {
    "first tile": from_call(Runner, "compute"),
    "middle tile": from_call(Runner, "compute", 4),
    "first tile blended": from_call(BandSums, "add"),
    "middle tile blended": from_call(BandSums, "add", 3),
}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """One that sees the whole of a tile, so that a scan is always cut into several."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(folder))
    monkeypatch.setenv("NAPARI_ATTENTION3D_SESSIONS", str(tmp_path / "sessions"))
    from napari_attention3d.widgets.settings import SegmentSettings

    SegmentSettings().save()
    torch.manual_seed(3)
    network = build_network(
        "guided-attention",
        preset="small",
        in_channels=1,
        num_classes=2,
        widths=(4, 8, 8, 8),
        strides=(2, 1, 1),
        features=4,
        head_width=4,
        steps=1,
    ).eval()
    card = ModelCard(
        name="tiles",
        title="In tiles",
        network={"name": "guided-attention", **network.config},
        classes=(
            SegmentationClass(name="background", colour="#000000"),
            SegmentationClass(name="cell", colour="#e69f00"),
        ),
        channels=(Channel(name="any"),),
        unit="pixel",
        patch_size=(16, 16, 16),
    )
    return save_model(folder / "tiles.safetensors", network, card)


def test_a_run_has_several_tiles(qtbot, viewer, dock, monkeypatch):
    calls, add = [], BandSums.add
    monkeypatch.setattr(BandSums, "add", lambda *given: calls.append(given[1]) or add(*given))
    faults_run.run(qtbot, dock)
    assert dock.failures == []
    assert len(set(calls)) > 5


@pytest.mark.parametrize(
    ("point", "faults"),
    [pytest.param(p, FAULTS[n % 2 : n % 2 + 1], id=p) for n, p in enumerate(POINTS)]
    + [pytest.param(p, FAULTS, id=f"{p}-all", marks=pytest.mark.long) for p in POINTS],
)
def test_after_a_fault_among_tiles_all_is_as_before_and_a_next_run_works(
    qtbot, viewer, dock, temporary, alive, monkeypatch, point, faults
):
    faults_run.inject_and_look(
        qtbot, viewer, dock, temporary, alive, monkeypatch, POINTS[point], faults
    )
