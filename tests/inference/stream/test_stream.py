"""The exact pass equals a single pass over the whole grid, for every local network."""

from __future__ import annotations

import random

import pytest
import torch

from napari_attention3d.inference.stream import (
    NotStreamable,
    margin,
    peak_bytes,
    record_graph,
    stream,
)
from napari_attention3d.networks import build_network, calibrating, network_names

LOCAL = {
    "attention-unet": {"channels": (4, 8, 8)},
    "attention-unet/thick": {
        "channels": (4, 8, 8),
        "strides": [(1, 2, 2), 3],
        "act": "leakyrelu",
        "deep_supervision": "fused",
    },
    "attention-unet/two-gates": {"channels": (4, 8, 8), "gates_per_level": 2, "norm": "batch"},
    "attention-unet/prelu": {"channels": (4, 8), "act": "prelu", "ungated_levels": 0},
    "additive-attention-unet": {"channels": (4, 8, 8)},
    "oktay-attention-unet": {"channels": (4, 8, 8), "align_corners": True},
}


def build(case):
    torch.manual_seed(0)
    network = build_network(case.split("/")[0], num_classes=3, **LOCAL[case]).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad(), calibrating(network):
        network(torch.randn(1, 1, 24, 24, 24))
    return network


def run(graph, x, planes):
    parts = {name: [] for name in graph.outputs}
    with torch.inference_mode():
        source = lambda a, b: x.narrow(graph.axis, a, b - a)  # noqa: E731
        for step in stream(graph, source, planes):
            for name, value in step.items():
                parts[name].append(value)
    return {name: torch.cat(value, dim=graph.axis) for name, value in parts.items()}


def single(network, x, maps=True):
    with torch.inference_mode():
        output = network(x, return_maps=maps)
    return {"logits": output.logits, **output.maps}


def assert_equal(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].shape == value.shape
        scale = float(value.std()) if value.numel() > 1 else 1.0
        assert float((actual[name] - value).abs().max()) <= 1e-4 * max(scale, 1e-3), name


@pytest.mark.parametrize("case", LOCAL)
@pytest.mark.parametrize(
    ("shape", "planes"), [((37, 20, 17), 8), ((9, 33, 12), 5), ((7, 6, 26), 1)]
)
def test_streamed_equals_the_single_pass(case, shape, planes):
    network = build(case)
    x = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    graph = record_graph(network, shape, maps=list(network.map_specs))
    assert graph.axis == 2 + max(range(3), key=lambda a: shape[a])
    expected = single(network, x)
    assert_equal(run(graph, x, planes), expected)
    streamed = run(graph, x, 100)
    assert_equal(streamed, expected)
    labels = (streamed["logits"].argmax(1) != expected["logits"].argmax(1)).float().mean()
    assert float(labels) <= 1e-3


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_any_axis(axis):
    network = build("attention-unet")
    x = torch.randn(1, 1, 12, 14, 16)
    graph = record_graph(network, (12, 14, 16), maps=["gate-level-2"], axis=axis)
    assert_equal(run(graph, x, 4), single(network, x))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 40])
def test_any_length(size):
    network = build("attention-unet")
    x = torch.randn(1, 1, size, 5, 6)
    graph = record_graph(network, (size, 5, 6), axis=2)
    assert_equal(run(graph, x, 3), single(network, x, maps=False))


def test_each_plane_comes_once_and_in_order():
    network = build("attention-unet")
    x = torch.randn(1, 1, 30, 8, 8)
    graph = record_graph(network, (30, 8, 8), maps=["gate-level-2"])
    counts = {"logits": 0, "gate-level-2": 0}
    asked = []

    def source(a, b):
        asked.append((a, b))
        return x.narrow(2, a, b - a)

    with torch.inference_mode():
        for step in stream(graph, source, 7):
            for name, value in step.items():
                counts[name] += value.shape[2]
    assert counts == {"logits": 30, "gate-level-2": 8}
    assert [a for a, _ in asked] == sorted(a for a, _ in asked)
    assert asked[0][0] == 0
    assert max(b for _, b in asked) == 30


def test_the_scan_is_read_no_further_ahead_than_the_network_sees():
    network = build("attention-unet")
    graph = record_graph(network, (400, 8, 8), axis=2)
    reads = []

    def source(a, b):
        reads.append(b)
        return torch.zeros(1, 1, b - a, 8, 8)

    with torch.inference_mode():
        next(stream(graph, source, 4))
    assert max(reads) < 60


def test_memory_does_not_grow_with_the_length():
    network = build("attention-unet")
    sizes = [peak_bytes(record_graph(network, (n, 16, 16), axis=2), 8) for n in (100, 200, 400)]
    assert sizes[1] == sizes[2]
    whole = peak_bytes(record_graph(network, (400, 16, 16), axis=2), 400)
    assert sizes[2] < whole / 3


def test_rehearsed_planes_are_those_alive(monkeypatch):
    """The run without data holds the same planes as a run with data."""
    from napari_attention3d.inference.stream import run as module

    graph = record_graph(build("attention-unet"), (40, 12, 12), axis=2)
    x, seen, compute = torch.randn(1, 1, 40, 12, 12), [], module.Pass._run

    def noted(self, node, lo, hi):
        out = compute(self, node, lo, hi)
        seen.append(sum(buffer.size() for buffer in self.buffers) + out.nbytes)
        return out

    monkeypatch.setattr(module.Pass, "_run", noted)
    run(graph, x, 8)
    monkeypatch.undo()
    assert max(seen) <= peak_bytes(graph, 8) <= 2 * max(seen)


def test_global_networks_are_refused():
    for name in network_names():
        network = build_network(name).eval()
        if network.locality == "global":
            with pytest.raises(NotStreamable, match="whole tile"):
                record_graph(network, (32, 32, 32))


def test_norms_without_statistics_are_refused():
    network = build_network("attention-unet", channels=(4, 8)).eval()
    with pytest.raises(NotStreamable, match="statistics"):
        record_graph(network, (16, 16, 16))
    network = build_network("attention-unet", channels=(4, 8), norm="group").eval()
    with pytest.raises(NotStreamable):
        record_graph(network, (16, 16, 16))


def ranged(graph, x, planes, ranges):
    """Outputs over ranges, and the planes of the scan that were read."""
    parts, reads = {name: [] for name in graph.outputs}, []

    def source(a, b):
        reads.append((a, b))
        return x.narrow(graph.axis, a, b - a)

    with torch.inference_mode():
        for step in stream(graph, source, planes, ranges=ranges):
            for name, value in step.items():
                parts[name].append(value)
    joined = {name: torch.cat(v, dim=graph.axis) for name, v in parts.items() if v}
    return joined, reads


@pytest.mark.parametrize("case", LOCAL)
@pytest.mark.parametrize("shape", [(45, 9, 11), (7, 38, 10), (10, 12, 33)])
def test_any_range_is_the_slice_of_the_whole(case, shape):
    network = build(case)
    x = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(2))
    graph = record_graph(network, shape, maps=list(network.map_specs))
    whole = single(network, x)
    dice = random.Random(f"{case} {shape}")
    for _ in range(6):
        ranges = {}
        for name, value in whole.items():
            ends = sorted(dice.sample(range(value.shape[graph.axis] + 1), 2))
            ranges[name] = (ends[0], ends[1])
        found, _ = ranged(graph, x, dice.choice([1, 3, 8, 100]), ranges)
        expected = {
            n: v.narrow(graph.axis, ranges[n][0], ranges[n][1] - ranges[n][0])
            for n, v in whole.items()
        }
        assert_equal(found, expected)


def test_a_range_reads_only_what_it_is_made_of():
    network = build("attention-unet")
    x = torch.randn(1, 1, 200, 8, 8)
    graph = record_graph(network, (200, 8, 8), maps=["gate-level-2"], axis=2)
    ranges = {"logits": (101, 119), "gate-level-2": (0, 0)}
    found, reads = ranged(graph, x, 5, ranges)
    assert set(found) == {"logits"}
    assert found["logits"].shape[2] == 18
    z, _, _ = margin(network)
    assert min(a for a, _ in reads) >= 101 - z
    assert max(b for _, b in reads) <= 119 + z
    changed = x.clone()
    changed[:, :, : min(a for a, _ in reads)] = torch.nan
    changed[:, :, max(b for _, b in reads) :] = torch.nan
    again, _ = ranged(graph, changed, 5, ranges)
    assert torch.equal(again["logits"], found["logits"])


def test_going_on_where_a_pass_was_cut_off():
    network = build("attention-unet")
    x = torch.randn(1, 1, 50, 10, 8)
    graph = record_graph(network, (50, 10, 8), maps=["gate-level-2"])
    whole, done = run(graph, x, 50), dict.fromkeys(graph.outputs, 0)
    parts = {name: [] for name in graph.outputs}
    with torch.inference_mode():
        for step in stream(graph, lambda a, b: x[:, :, a:b], 20):
            for name, value in step.items():
                parts[name].append(value)
                done[name] += value.shape[2]
            if done["logits"] == 20:
                break
    rest = {name: (n, graph.nodes[graph.outputs[name]].shape[2]) for name, n in done.items()}
    found, _ = ranged(graph, x, 7, rest)
    assert_equal(
        {n: torch.cat((*parts[n], *([found[n]] if n in found else [])), dim=2) for n in parts},
        whole,
    )


@pytest.mark.parametrize(
    "ranges", [{"logits": (3, 3)}, {"logits": (-1, 3)}, {"logits": (0, 31)}, {"gate": (0, 1)}]
)
def test_wrong_ranges_are_refused(ranges):
    graph = record_graph(build("attention-unet"), (30, 8, 8))
    with pytest.raises(ValueError, match="logits"):
        next(stream(graph, lambda a, b: torch.zeros(1, 1, b - a, 8, 8), 4, ranges=ranges))


def test_a_short_range_holds_less():
    graph = record_graph(build("attention-unet"), (200, 16, 16))
    assert peak_bytes(graph, 8, {"logits": (90, 98)}) < peak_bytes(graph, 8)


def test_every_registered_local_network_is_among_them() -> None:
    """A new one must be added to the cases above."""
    from napari_attention3d.networks import registry

    names = registry.network_names()
    local = {name for name in names if registry._known(name).locality == "local"}
    assert local == {case.split("/")[0] for case in LOCAL}
