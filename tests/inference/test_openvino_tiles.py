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
from napari_attention3d.progress import finish

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
        steps=1,
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


class Compiled:
    """Compiled once for all tests, which takes longest; with what it told and left to others."""

    def __init__(self, network):
        self.network, self.otherwise, self.told = network, Counting(network), []
        self.maps = list(network.map_specs)[:3]
        self.tiles = OpenVinoTiles(network, self.otherwise, self.maps, self.told.append)
        with torch.inference_mode():
            self.tiles(self.batch(0), return_maps=True)

    @staticmethod
    def batch(seed):
        return torch.randn(2, 1, 16, 20, 24, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def compiled(network):
    return Compiled(network)


@needs_openvino
def test_logits_and_maps_are_those_of_the_network(compiled):
    calls = len(compiled.otherwise.calls)
    for seed in range(2):
        x = compiled.batch(seed)
        with torch.inference_mode():
            truth = compiled.network(x, return_maps=True)
            found = compiled.tiles(x, return_maps=True)
        scale = truth.logits.std()
        torch.testing.assert_close(found.logits, truth.logits, atol=5e-3 * scale, rtol=0)
        assert list(found.maps) == compiled.maps
        for name in compiled.maps:
            near = 5e-3 * truth.maps[name].std()
            torch.testing.assert_close(found.maps[name], truth.maps[name], atol=near, rtol=0)
    assert compiled.told == []
    assert len(compiled.otherwise.calls) == calls


@needs_openvino
def test_results_of_one_call_outlive_the_next(compiled):
    x = compiled.batch(2)
    with torch.inference_mode():
        first = compiled.tiles(x, return_maps=True)
        before = [first.logits.clone(), *(one.clone() for one in first.maps.values())]
        compiled.tiles(-x, return_maps=True)
    for kept, copy in zip([first.logits, *first.maps.values()], before, strict=True):
        assert torch.equal(kept, copy)


@needs_openvino
def test_tiles_of_another_shape_go_the_usual_way(compiled):
    odd = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        found = compiled.tiles(odd, return_maps=True)
        assert torch.equal(found.logits, compiled.network(odd).logits)
    assert compiled.otherwise.calls[-1] == (1, 1, 16, 16, 16)
    assert compiled.told == []


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
    return finish(job)


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
