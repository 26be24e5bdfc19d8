"""Tiles by OpenVINO: the same labels and maps, other shapes and failures by the network itself."""

from __future__ import annotations

import pytest
import torch

from napari_attention3d.inference import device, openvino_tiles
from napari_attention3d.inference.device import Precision
from napari_attention3d.inference.openvino_tiles import OpenVinoTiles, is_installed
from napari_attention3d.inference.predict import predict_grid
from napari_attention3d.inference.tiling import plan_tiles
from napari_attention3d.networks import build_network
from napari_attention3d.networks.norm import calibrating

needs_openvino = pytest.mark.skipif(not is_installed(), reason="the extra openvino is not there")


def made():
    torch.manual_seed(4)
    return build_network(
        "guided-attention",
        preset="small",
        num_classes=3,
        widths=(4, 8, 8, 8),
        strides=(2, 1, 1),
        features=4,
        head_width=4,
    ).eval()


@pytest.fixture(scope="module")
def network():
    found = made()
    with torch.no_grad(), calibrating(found):
        found(torch.randn(2, 1, 24, 24, 24))
    return found


class Counting(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, []

    def forward(self, x, return_maps=False):
        self.calls.append(tuple(x.shape))
        return self.network(x, return_maps=return_maps)


@needs_openvino
def test_logits_and_maps_are_those_of_the_network(network):
    maps = list(network.map_specs)[:3]
    otherwise = Counting(network)
    told: list[str] = []
    tiles = OpenVinoTiles(network, otherwise, maps, told.append)
    for seed in range(2):  # compiled, then again
        x = torch.randn(2, 1, 24, 20, 24, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            truth, found = network(x, return_maps=True), tiles(x, return_maps=True)
        assert not told
        scale = truth.logits.std()
        torch.testing.assert_close(found.logits, truth.logits, atol=5e-3 * scale, rtol=0)
        assert list(found.maps) == maps
        for name in maps:
            near = 5e-3 * truth.maps[name].std()
            torch.testing.assert_close(found.maps[name], truth.maps[name], atol=near, rtol=0)
    assert otherwise.calls == []


@needs_openvino
def test_results_of_one_call_outlive_the_next(network):
    tiles = OpenVinoTiles(network, network, (), pytest.fail)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        first = tiles(x).logits
        before = first.clone()
        tiles(-x)
    assert torch.equal(first, before)


@needs_openvino
def test_tiles_of_another_shape_go_the_usual_way(network):
    otherwise = Counting(network)
    tiles = OpenVinoTiles(network, otherwise, (), pytest.fail)
    with torch.inference_mode():
        tiles(torch.randn(2, 1, 16, 16, 16))
        odd = torch.randn(1, 1, 16, 16, 16)
        assert torch.equal(tiles(odd).logits, network(odd).logits)
    assert otherwise.calls == [(1, 1, 16, 16, 16)]


def test_what_openvino_refuses_is_computed_all_the_same(network, monkeypatch):
    def refuse(*given):
        raise RuntimeError("no such operation\nand a long story")

    monkeypatch.setattr(openvino_tiles, "_compile", refuse)
    told: list[str] = []
    tiles = OpenVinoTiles(network, network, (), told.append)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(tiles(x).logits, network(x).logits)
    assert len(told) == 1
    assert "no such operation" in told[0]
    assert "story" not in told[0]


def a_run(precision):
    network = made()
    scan = torch.randn(1, 32, 28, 40, generator=torch.Generator().manual_seed(1))
    job = predict_grid(
        network,
        scan,
        plan_tiles(scan.shape[1:], (24, 24, 24), 0.25, network.tile_multiple),
        device=torch.device("cpu"),
        precision=precision,
        maps=list(network.map_specs)[:1],
    )
    while True:
        try:
            next(job)
        except StopIteration as stop:
            return stop.value


@needs_openvino
def test_a_run_with_it_gives_the_same_labels():
    truth = a_run(Precision("float32", ""))
    found = a_run(Precision("float32", "", openvino=True))
    assert not found.warnings
    assert not torch.equal(found.logits, truth.logits)  # it did compute
    margin = truth.logits.topk(2, 0).values
    sure = margin[0] - margin[1] > 0.01
    assert sure.float().mean() > 0.9
    assert torch.equal(found.logits.argmax(0)[sure], truth.logits.argmax(0)[sure])


def test_a_run_without_it_says_why(monkeypatch):
    def refuse(*given):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(openvino_tiles, "_compile", refuse)
    truth = a_run(Precision("float32", ""))
    found = a_run(Precision("float32", "", openvino=True))
    assert torch.equal(found.logits, truth.logits)
    assert any("no such operation" in one for one in found.warnings)


@pytest.mark.parametrize(
    ("request_", "there", "taken"),
    [("fast", True, True), ("fast", False, False), ("auto", True, False), ("exact", True, False)],
)
def test_it_is_taken_where_speed_is_asked_for(monkeypatch, request_, there, taken):
    monkeypatch.setattr(device, "is_installed", lambda: there)
    monkeypatch.setattr(device, "has_bfloat16", lambda: False)
    chosen = device.choose_precision(request_, torch.device("cpu"))
    assert chosen.name == "float32"
    assert chosen.openvino is taken
    assert ("OpenVINO" in chosen.reason) is taken
