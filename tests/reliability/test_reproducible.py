"""The same file, model and settings give the same labels, to the bit, whichever way they go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from napari.components import ViewerModel

from napari_attention3d import cli
from napari_attention3d.geometry import Geometry
from napari_attention3d.inference import memory
from napari_attention3d.models import Channel, ModelCard, SegmentationClass, save_model
from napari_attention3d.networks import build_network
from napari_attention3d.session import segment
from napari_attention3d.volumes import Volume, read_volume, write_volume
from napari_attention3d.widgets.layers import volume_to_layer_data

WAIT = 60_000


def oblique():
    """Voxels of 2 x 1 x 0.8 mm, turned by 20 degrees in the plane."""
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = 4, 5, 6
    affine = turn @ np.diag([2, 1, 0.8, 1])
    return Geometry((14, 22, 26), affine, unit="mm")


@pytest.fixture
def scan(tmp_path):
    array = np.random.default_rng(3).random((14, 22, 26)).astype(np.float32)
    path = tmp_path / "scan.nii.gz"
    write_volume(path, Volume(array, oblique(), "scan"))
    return path


@pytest.fixture
def model(model_folder):
    torch.manual_seed(0)
    network = build_network("attention-unet", preset="tiny", in_channels=1, num_classes=3).eval()
    card = ModelCard(
        name="tiny",
        title="tiny",
        network={"name": "attention-unet", **network.config},
        classes=tuple(SegmentationClass(name=n, colour="#56b4e9") for n in ("none", "a", "b")),
        channels=(Channel(name="any"),),
        spacing=(1.0, 1.0, 1.0),
        unit="mm",
        patch_size=(16, 16, 16),
    )
    return save_model(model_folder / "tiny.safetensors", network, card)


@pytest.mark.parametrize("engine", ["tiles", "planes"])
def test_twice_the_same_with_maps(scan, model, monkeypatch, engine):
    if engine == "planes":
        monkeypatch.setattr(memory, "WHOLE_GRID_VOXELS", 10)
    volume = read_volume(scan)
    options = {"device": "cpu", "uncertainty": True, "probabilities": True, "attention": True}
    first, second = (segment(volume, str(model), **options) for _ in range(2))
    assert len(np.unique(first.labels.array)) > 1
    for name in ("labels", "uncertainty", "probabilities"):
        one, other = getattr(first, name), getattr(second, name)
        np.testing.assert_array_equal(one.array, other.array)
    assert first.attention.keys() == second.attention.keys() != set()
    for name, one in first.attention.items():
        np.testing.assert_array_equal(one.array, second.attention[name].array)


def test_window_command_line_and_python_give_the_same(qtbot, tmp_path, scan, model):
    from napari_attention3d.widgets.main_widget import Attention3DWidget

    expected = segment(read_volume(scan), str(model), device="cpu").labels
    assert len(np.unique(expected.array)) > 1
    written = tmp_path / "mask.nii.gz"
    words = ["segment", str(scan), "-m", str(model), "-o", str(written), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    by_command = read_volume(written)
    np.testing.assert_array_equal(by_command.array, expected.array)
    assert by_command.geometry.is_close(expected.geometry)
    viewer = ViewerModel()
    ((data, keywords, _),) = volume_to_layer_data(read_volume(scan))
    viewer.add_image(data, **keywords)
    dock = Attention3DWidget(viewer)
    qtbot.addWidget(dock)
    try:
        qtbot.waitUntil(lambda: dock.segment.is_ready, timeout=WAIT)
        dock.segment.form.add_model_file(str(model))
        dock.segment._on_changed()
        dock.segment.run()
        assert dock.segment.is_running
        qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=WAIT)
        in_window = dock.segment.last.labels
    finally:
        assert dock.runner.join()
    np.testing.assert_array_equal(in_window.array, expected.array)
    shown = [layer for layer in viewer.layers if layer._type_string == "labels"]
    np.testing.assert_array_equal(shown[0].data, expected.array)
