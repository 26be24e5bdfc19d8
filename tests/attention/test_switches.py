"""Forcing gates, position attention and channels: what the network then computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.attention.channels import channel_bench
from napari_attention3d.attention.parts import channel_parts, gate_parts, position_parts
from napari_attention3d.attention.switches import (
    Change,
    changed_network,
    effect_of,
    switchable,
)
from napari_attention3d.errors import InputError
from napari_attention3d.networks import build_network


def additive_network():
    torch.manual_seed(1)
    return build_network(
        "additive-attention-unet", in_channels=1, num_classes=2, channels=(4, 8, 8)
    ).eval()


@pytest.mark.parametrize("make", ["grid", "additive"])
@pytest.mark.parametrize(("how", "value"), [("one", 1.0), ("zero", 0.0)])
def test_a_forced_gate_passes_all_or_nothing(build, make, how, value):
    network = build.gate_network().eval() if make == "grid" else additive_network()
    name, gates = next(iter(gate_parts(network).items()))
    gates = {name: gates}
    seen = []
    hook = gates[name][0].register_forward_hook(lambda _, given, out: seen.append((given, out)))
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode(), changed_network(network, [Change(name, how)]):
        maps = network(x, return_maps=True).maps
    hook.remove()
    assert float((maps[name] - value).abs().max()) == 0
    (skip, _), (out, _) = seen[0]
    expected = value * skip
    if make == "grid":
        with torch.inference_mode():
            expected = gates[name][0].out(expected)
    torch.testing.assert_close(out, expected)
    with torch.inference_mode():
        assert float((network(x, return_maps=True).maps[name] - value).abs().max()) > 1e-3


def test_scaling_multiplies_alpha_and_stops_at_1(build):
    network = build.gate_network().eval()
    name = next(iter(gate_parts(network)))
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        plain = network(x, return_maps=True).maps[name]
        with changed_network(network, [Change(name, "scaled", 0.25)]):
            quarter = network(x, return_maps=True).maps[name]
        with changed_network(network, [Change(name, "scaled", 1.0)]):
            same = network(x, return_maps=True).maps[name]
        with changed_network(network, [Change(name, "scaled", 50.0)]):
            much = network(x, return_maps=True).maps[name]
    torch.testing.assert_close(quarter, plain / 4, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(much, (50 * plain).clamp(max=1), atol=1e-4, rtol=1e-4)


def test_position_attention_switched_off_adds_nothing(build):
    network = build.guided_network().eval()
    name, module = next(iter(position_parts(network).items()))
    seen = []
    x = torch.randn(1, 1, 16, 20, 20)
    # Ours is registered last, so that it sees what the change made of the output.
    with torch.inference_mode(), changed_network(network, [Change(name, "zero")]):
        hook = module.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
        network(x)
        hook.remove()
    torch.testing.assert_close(seen[0][1], seen[0][0])
    with torch.inference_mode(), changed_network(network, [Change(name, "scaled", 2.0)]):
        hook = module.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
        network(x)
        hook.remove()
    with torch.inference_mode():
        hook = module.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
        network(x)
        hook.remove()
    twice, once = seen[1][1] - seen[1][0], seen[2][1] - seen[2][0]
    assert float(once.abs().max()) > 1e-4
    torch.testing.assert_close(twice, 2 * once, atol=1e-5, rtol=1e-3)


def test_the_effect_is_that_of_the_forced_network_tile_by_tile(gated, build):
    """A run of one tile, where the mask is the argmax of one pass."""
    run = build.replayed(build.tiny_model(build.gate_network()), build.scan((16, 16, 16)))
    replay = run.replay
    name = next(iter(gate_parts(replay.network)))
    effect = build.finish(effect_of(replay, [Change(name, "zero")]))
    x = replay.read(replay.plan.tiles[0])
    before = replay.forward(x).logits[0].argmax(0).numpy()
    with changed_network(replay.network, [Change(name, "zero")]):
        after = replay.forward(x).logits[0].argmax(0).numpy()
    # Another order of sums may turn a tie.
    assert np.mean(effect.before.array == before) > 0.999
    assert np.mean(effect.after.array == after) > 0.999
    before, after = np.asarray(effect.before.array), np.asarray(effect.after.array)
    assert effect.changed_voxels == (before != after).sum() > 0
    a, b = before > 0, after > 0
    assert effect.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    difference = np.asarray(effect.difference.array)
    assert ((difference == 1) == (a & ~b)).all()
    assert ((difference == 2) == (b & ~a)).all()
    assert ((difference == 3) == (a & b & (before != after))).all()
    assert effect.difference.geometry.is_close(run.volume.geometry)
    # What was computed before is taken again, and nothing stays forced.
    again = build.finish(effect_of(replay, [], before=effect.before))
    assert again.changed_voxels == 0
    assert again.dice == 1


def test_before_is_the_mask_of_the_run(guided, build):
    """Over several tiles, with the run's statistics: the very labels."""
    effect = build.finish(effect_of(guided.replay, [Change("guided-scale-1-step-1", "zero")]))
    assert np.mean(effect.before.array == np.asarray(guided.result.labels.array)) > 0.999
    assert effect.changed_voxels > 0
    assert effect.table.rows[-1][1] == "foreground"
    assert effect.changes[0].text == "guided-scale-1-step-1 forced to 0"


def test_a_tile_alone_can_be_looked_at(guided, build):
    box = guided.replay.plan.tiles[-1]
    effect = build.finish(effect_of(guided.replay, [Change("guided-scale-2-step-2", "zero")], box))
    assert effect.after.array.shape == box.shape
    start = guided.volume.geometry.to_index(effect.after.geometry.to_world((0, 0, 0)))
    np.testing.assert_allclose(start, box.start, atol=1e-6)


def test_a_channel_that_is_off_is_zero_and_changes_the_mask(guided, build):
    replay = guided.replay
    name, module = next(iter(channel_parts(replay.network).items()))
    change = Change(name, "channel-off", channel=1)
    seen = []
    with changed_network(replay.network, [change]):
        hook = module.register_forward_hook(lambda _, given, out: seen.append(given[0]))
        replay.forward(replay.read(replay.plan.tiles[0]))
        hook.remove()
    assert float(seen[0][:, 1].abs().max()) == 0
    assert float(seen[0][:, 0].abs().max()) > 0
    assert build.finish(effect_of(replay, [change])).changed_voxels > 0
    with pytest.raises(InputError, match="no channel 100; there are 4"):
        build.finish(effect_of(replay, [Change(name, "channel-off", channel=99)]))


def test_the_bench_shows_the_matrix_and_the_features_of_the_tile(guided):
    replay, box = guided.replay, guided.replay.plan.tiles[1]
    bench = channel_bench(replay, box, "guided-scale-2-step-2")
    np.testing.assert_allclose(bench.matrix.sum(1), 1, atol=1e-5)
    assert bench.gamma == pytest.approx(0.5)
    flat = bench.features.reshape(4, -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    tau = float(channel_parts(replay.network)["guided-scale-2-step-2"].log_tau.exp())
    energy = np.exp(tau * flat @ flat.T)
    np.testing.assert_allclose(bench.matrix, energy / energy.sum(1, keepdims=True), atol=1e-4)
    volume = bench.feature(replay, 2)
    z, y, x = volume.array.shape
    np.testing.assert_array_equal(volume.array, bench.features[2, :z, :y, :x])
    start = guided.volume.geometry.to_index(volume.geometry.to_world((0, 0, 0)))
    np.testing.assert_allclose(start, box.start, atol=1e-6)
    with pytest.raises(InputError, match="no channel 9; there are 4"):
        bench.feature(replay, 8)


def test_what_can_not_be_forced_says_why(gated, guided, build):
    assert set(switchable(gated.replay.network)) == set(gate_parts(gated.replay.network))
    assert switchable(guided.replay.network)["guided-scale-1-step-1"] == ("zero", "scaled")
    for replay, change, words in (
        (gated.replay, Change("gate-level-9", "zero"), "no attention to force called"),
        (gated.replay, Change("gate-level-2", "scaled", -1), "negative"),
        (gated.replay, Change("gate-level-2", "channel-off"), "no channel attention called"),
        (guided.replay, Change("guided-scale-1-step-1", "one"), "is no gate"),
    ):
        with pytest.raises(InputError, match=words):
            build.finish(effect_of(replay, [change]))
    with pytest.raises(InputError, match="only guided-attention networks do"):
        channel_bench(gated.replay, gated.replay.plan.tiles[0], "gate-level-2")
