"""A graph that is cut to a part of its planes gives that part's values, for less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from napari_attention3d.inference.stream import StreamGraph, Window, cut, record_graph, stream
from napari_attention3d.networks import build_network, calibrating
from napari_attention3d.networks.base import SegmentationNetwork

NETWORKS: dict[str, dict[str, Any]] = {
    "attention-unet": {"channels": (4, 8, 8, 8), "num_classes": 3},
    "additive-attention-unet": {
        "channels": (4, 8, 8),
        "strides": ((1, 2, 2), (2, 2, 2)),
        "num_classes": 3,
    },
    "oktay-attention-unet": {"channels": (4, 8, 8), "num_classes": 3},
}


def network(name: str) -> SegmentationNetwork:
    torch.manual_seed(0)
    net = build_network(name, **NETWORKS[name]).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
    with torch.no_grad(), calibrating(net):
        net(torch.randn(1, 1, 24, 24, 24))
    return net


def scan(shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def run(graph: StreamGraph, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for output in stream(graph, lambda a, b: x.narrow(graph.axis, a, b - a), 4):
        for name, value in output.items():
            found.setdefault(name, []).append(value.clone())
    return {name: torch.cat(parts, dim=graph.axis) for name, parts in found.items()}


def windows(graph: StreamGraph, part: list[tuple[float, float]]) -> dict[str, Window]:
    """The same share of each output's planes."""
    found: dict[str, Window] = {}
    for name, number in graph.outputs.items():
        sizes = [s for a, s in enumerate(graph.nodes[number].shape) if a >= 2 and a != graph.axis]
        (a, b), (c, d) = (
            (int(lo * size), max(int(lo * size) + 1, int(hi * size)))
            for (lo, hi), size in zip(part, sizes, strict=True)
        )
        found[name] = (a, b), (c, d)
    return found


def inside(graph: StreamGraph, value: Tensor, window: Window) -> Tensor:
    for axis, (lo, hi) in zip([a for a in (2, 3, 4) if a != graph.axis], window, strict=True):
        value = value.narrow(axis, lo, hi - lo)
    return value


def shifted(window: Window, held: Window) -> Window:
    (a, b), (c, d) = window
    (y, _), (x, _) = held
    return (a - y, b - y), (c - x, d - x)


@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize(
    "part",
    [
        [(0.3, 0.5), (0.4, 0.6)],
        [(0.0, 0.2), (0.8, 1.0)],
        [(0.0, 1.0), (0.5, 0.55)],
    ],
    ids=["middle", "corner", "strip"],
)
@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_part_has_the_values_of_the_whole(
    name: str, part: list[tuple[float, float]], axis: int
) -> None:
    net, x = network(name), scan((29, 39, 34))
    graph = record_graph(net, x.shape[2:], maps=list(net.map_specs), axis=axis)
    wanted = windows(graph, part)
    less, held = cut(graph, wanted)
    whole, found = run(graph, x), run(less, x)
    for output, window in wanted.items():
        for (lo, hi), (a, b) in zip(window, held[output], strict=True):
            assert a <= lo
            assert hi <= b
        torch.testing.assert_close(
            inside(graph, found[output], shifted(window, held[output])),
            inside(graph, whole[output], window),
            rtol=1e-4,
            atol=1e-5,
        )


def test_the_part_costs_a_fraction_of_the_whole() -> None:
    net, x = network("attention-unet"), scan((8, 128, 128))
    graph = record_graph(net, x.shape[2:], axis=2)
    less, _ = cut(graph, {"logits": ((56, 72), (56, 72))})
    with FlopCounterMode(display=False) as whole:
        run(graph, x)
    with FlopCounterMode(display=False) as part:
        run(less, x)
    assert part.get_total_flops() < whole.get_total_flops() / 4


def test_all_of_it_is_the_same_graph() -> None:
    net = network("attention-unet")
    graph = record_graph(net, (16, 24, 24), axis=2)
    less, held = cut(graph, {"logits": ((0, 24), (0, 24))})
    assert less is graph
    assert held == {"logits": ((0, 24), (0, 24))}


def test_the_graph_that_was_cut_is_left_as_it_was() -> None:
    net, x = network("oktay-attention-unet"), scan((12, 24, 24))
    graph = record_graph(net, x.shape[2:], axis=2)
    before = run(graph, x)["logits"]
    cut(graph, {"logits": ((3, 9), (4, 8))})
    assert torch.equal(run(graph, x)["logits"], before)
