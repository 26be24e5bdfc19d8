"""Maps made on request: numbers, place in the world, cost, and what a network can't show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_attention3d.attention.agreement import ScaleAgreement
from napari_attention3d.attention.entropy import Entropy
from napari_attention3d.attention.flips import FlipSpread
from napari_attention3d.attention.kinds import WithMap, available_kinds, disagreement
from napari_attention3d.attention.reconstruction import ReconstructionError
from napari_attention3d.attention.request import expected_seconds, kind_named, request_map
from napari_attention3d.errors import InputError


def test_disagreement_is_0_where_all_say_the_same_and_1_where_each_is_sure_of_another():
    sure = torch.eye(3).reshape(3, 1, 3, 1, 1, 1)
    assert float(disagreement(iter(sure), 3)) == pytest.approx(1, abs=1e-6)
    assert float(disagreement(iter(sure[:1].expand(3, -1, -1, -1, -1, -1)), 3)) == 0
    halves = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).reshape(2, 1, 2, 1, 1, 1)
    mean = np.array([0.75, 0.25])
    expected = (-(mean * np.log(mean)).sum() - math.log(2) / 2) / math.log(2)
    assert float(disagreement(iter(halves), 2)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_disagreement_is_the_jensen_shannon_divergence(count):
    """By scipy: pairs from the distance, several from entropies; as a share of the largest."""
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import entropy

    rng = np.random.default_rng(count)
    shares = rng.dirichlet(np.full(5, 0.4), size=(count, 3, 4, 2))  # (count, z, y, x, K)
    given = torch.from_numpy(np.moveaxis(shares, -1, 1).astype(np.float32))[:, None]
    found = disagreement(iter(given), count)[0, 0].numpy()
    mean = shares.mean(axis=0)
    expected = (entropy(mean, axis=-1) - entropy(shares, axis=-1).mean(axis=0)) / np.log(count)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    if count == 2:
        distance = jensenshannon(shares[0], shares[1], axis=-1, base=2)
        np.testing.assert_allclose(found, distance**2, atol=2e-5)


def test_entropy_is_that_of_the_tile(gated):
    replay = gated.replay
    network = WithMap(replay.network, Entropy())
    x = replay.read(replay.plan.tiles[0])
    with torch.inference_mode():
        found = network(x, return_maps=True)
        p = torch.softmax(replay.network(x).logits[0], 0).double().numpy()
    expected = -(p * np.log(p)).sum(0) / np.log(len(p))
    np.testing.assert_allclose(found.maps["entropy"][0, 0].numpy(), expected, atol=1e-5)
    assert network(x).maps == {}


def test_flips_are_undone_before_they_are_compared(build):
    class Centre(torch.nn.Module):
        """Says of each voxel what its own value is: mirror images agree."""

        num_classes = 2

        def forward(self, x):
            from napari_attention3d.networks.base import NetworkOutput

            return NetworkOutput(torch.cat((x, -x), 1), {}, ())

    x = torch.randn(1, 1, 4, 5, 6)
    _, value = FlipSpread().compute(Centre(), x)
    assert float(value.max()) == pytest.approx(0, abs=1e-6)
    network = build.gate_network().eval()
    with torch.inference_mode():
        _, value = FlipSpread().compute(network, torch.randn(1, 1, 16, 16, 16))
    assert float(value.max()) > 1e-4


def test_agreement_compares_the_heads_of_the_last_step(guided):
    network = guided.replay.network
    x = guided.replay.read(guided.replay.plan.tiles[0])
    with torch.inference_mode():
        _, value = ScaleAgreement().compute(network, x)
        for head in network.attention_heads:
            assert not head._forward_hooks
    assert value.shape[2:] == tuple(-(-n // 4) for n in x.shape[2:])
    assert 0 <= float(value.min()) <= float(value.max()) <= 1
    first, saved = network.attention_heads[0], []
    for head in list(network.attention_heads)[1:]:
        saved.append((head.weight, head.bias))
        head.weight, head.bias = first.weight, first.bias
    with torch.inference_mode():
        _, same_heads = ScaleAgreement().compute(network, x)
    for head, (weight, bias) in zip(list(network.attention_heads)[1:], saved, strict=True):
        head.weight, head.bias = weight, bias
    assert float(same_heads.mean()) != float(value.mean())


def test_a_perfect_autoencoder_has_no_error(guided, monkeypatch):
    network = guided.replay.network
    x = guided.replay.read(guided.replay.plan.tiles[0])
    with torch.inference_mode():
        _, value = ReconstructionError().compute(network, x)
        assert float(value.min()) > 0
        last = network.autoencoders[-1]
        monkeypatch.setattr(last, "forward", lambda t: (t, t))
        _, perfect = ReconstructionError().compute(network, x)
        monkeypatch.setattr(last, "forward", lambda t: (t, torch.zeros_like(t)))
        _, blind = ReconstructionError().compute(network, x)
    assert float(perfect.max()) == 0
    np.testing.assert_allclose(blind.numpy(), 1, atol=1e-5)


@pytest.mark.parametrize("kind", available_kinds(), ids=lambda kind: kind.name)
def test_a_map_covers_the_scan_in_its_place(guided, build, kind):
    volume = build.finish(request_map(guided.replay, kind))
    spec = kind.spec(guided.replay.network)
    shape = guided.replay.grid.shape
    assert volume.array.shape == tuple(-(-n // s) for n, s in zip(shape, spec.stride, strict=True))
    assert np.isfinite(volume.array).all()
    j = (2, 3, 1)
    expected = guided.volume.geometry.to_world(np.multiply(j, spec.stride) + spec.offset)
    np.testing.assert_allclose(volume.geometry.to_world(j), expected, atol=1e-6)
    assert volume.metadata["map"]["name"] == kind.name
    assert kind_named(kind.name).name == kind.name


def test_entropy_of_the_scan_is_that_of_its_tiles_blended(gated, build):
    """One tile: then nothing is blended and each voxel can be compared."""
    result = build.replayed(build.tiny_model(build.gate_network()), build.scan((16, 16, 16)))
    volume = build.finish(request_map(result.replay, Entropy()))
    p = torch.softmax(result.replay.look(result.replay.plan.tiles[0]).logits, 0).double().numpy()
    expected = -(p * np.log(p)).sum(0) / np.log(3)
    np.testing.assert_allclose(np.asarray(volume.array), expected, atol=1e-4)


def test_a_map_of_a_region_covers_the_region(build):
    run = build.replayed(
        build.tiny_model(build.gate_network()), build.scan(), region=((4, 12), (8, 20), (0, 10))
    )
    volume = build.finish(request_map(run.replay, Entropy()))
    start = run.volume.geometry.to_index(volume.geometry.to_world((0, 0, 0)))
    np.testing.assert_allclose(start, (4, 8, 0), atol=1e-6)
    assert volume.array.shape == (8, 12, 10)


@pytest.mark.parametrize("kind", [ScaleAgreement(), ReconstructionError()], ids=lambda k: k.name)
def test_a_network_without_the_map_says_so(gated, kind):
    with pytest.raises(InputError, match=f"can't show {kind.name}: only guided"):
        next(request_map(gated.replay, kind))


def test_unknown_map_is_refused():
    with pytest.raises(InputError, match="there are: agreement"):
        kind_named("aura")


def test_the_cost_follows_the_runs_own_time(guided, gated):
    about = guided.result.provenance
    once = expected_seconds(about, Entropy())
    assert once == pytest.approx(about["seconds"])
    assert expected_seconds(about, FlipSpread()) == pytest.approx(4 * once)
    plan = {"engine": "exact", "tile": [8, 8, 8], "overlap": 0.5, "box": [[0, 0, 0], [16, 16, 16]]}
    exact = {"plan": plan, "grid": {"shape": [16, 16, 16]}, "seconds": 2.0}
    assert expected_seconds(exact, Entropy()) == 2
    assert expected_seconds(exact, FlipSpread()) == pytest.approx(4 * 2 * (3 * 8 / 16) ** 3)
