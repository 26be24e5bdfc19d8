"""What a voxel attends to, from the tile that made the mask there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.attention.ask import (
    ALL_SCALES,
    ask,
    box_to_ask,
    gate_values,
    lines,
    values_at,
)
from napari_attention3d.attention.replay import Replay
from napari_attention3d.errors import InputError
from napari_attention3d.networks.norm import load_calibration
from napari_attention3d.volumes.volume import Volume

VOXEL = (9, 12, 20)


def naive_rows(run, box, index):
    """Softmax of the dense products, from a pass of the model's own network."""
    network = run.model.network
    keep = {}
    load_calibration(network, run.result.provenance["calibration"])
    try:
        network(run.replay.prepared.tensor[(slice(None), *box.slices)][None], keep=keep)
    finally:
        from napari_attention3d.networks.norm import clear_calibration

        clear_calibration(network)
    rows = {}
    for name, record in keep.items():
        q = record.queries[(0, slice(None), *index)].double()
        keys = record.keys[0].double()
        share = torch.softmax((q @ keys.flatten(1)), 0).reshape(keys.shape[1:]).numpy()
        grid = record.queries.shape[2:]
        spread = np.zeros(grid)
        for place in np.ndindex(*share.shape):
            cell = tuple(
                slice(p * f, min((p + 1) * f, n))
                for p, f, n in zip(place, record.kv_pool, grid, strict=True)
            )
            spread[cell] = share[place] / spread[cell].size
        rows[name] = spread
    return rows


def test_the_row_is_the_naive_softmax_of_the_tile_that_counts_most(guided):
    answer = ask(guided.replay, VOXEL)
    expected = naive_rows(guided, answer.box, answer.index)
    assert set(expected) == set(answer.volumes) - {ALL_SCALES}
    for name, row in expected.items():
        shown = answer.volumes[name].array
        np.testing.assert_allclose(shown, row, atol=1e-5 * row.max())
        assert shown.sum() == pytest.approx(1, abs=1e-5)
        assert row.max() > 1.5 / row.size  # the test can tell rows apart
    assert answer.lost == pytest.approx(0, abs=1e-5)


def test_all_scales_is_the_mean_of_the_last_step(guided):
    volumes = ask(guided.replay, VOXEL).volumes
    last = [v.array for n, v in volumes.items() if n.endswith("step-2")]
    assert len(last) == 4
    np.testing.assert_allclose(volumes[ALL_SCALES].array, np.mean(last, 0), atol=1e-7)


@pytest.mark.parametrize("voxel", [(0, 0, 0), (23, 27, 35), (10, 14, 17), (12, 3, 30)])
def test_the_tile_is_the_one_with_the_largest_weight_in_the_blend(guided, voxel):
    plan = guided.replay.plan
    assert len(plan.tiles) > 3
    found = box_to_ask(guided.replay, voxel)
    weights = {}
    for tile in plan.tiles:
        local = [p - a for p, a in zip(voxel, tile.start, strict=True)]
        if all(0 <= p < n for p, n in zip(local, tile.shape, strict=True)):
            lines_ = plan.weights(tile)
            weights[tile] = np.prod([w[p] for w, p in zip(lines_, local, strict=True)])
    assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
    assert weights[found] == max(weights.values())


def test_the_replayed_tiles_blend_into_the_mask_of_the_run(guided):
    """What is asked is what made the mask: its tiles give the mask's labels."""
    replay, plan = guided.replay, guided.replay.plan
    total = torch.zeros((3, *plan.shape))
    for tile in plan.tiles:
        z, y, x = (torch.from_numpy(w) for w in plan.weights(tile))
        weight = z[:, None, None] * y[:, None] * x
        total[(slice(None), *tile.slices)] += weight * replay.look(tile).logits
    np.testing.assert_array_equal(total.argmax(0).numpy(), guided.result.labels.array)


def test_volumes_lie_where_the_grid_of_the_attention_lies(build):
    """Spacing 2 x 1 x 0.5 um, stride 4: voxel j of the row is centred on scan voxel 4 j."""
    volume = build.scan(spacing=(2.0, 1.0, 0.5), unit="um")
    model = build.tiny_model(build.guided_network(steps=1))
    run = build.replayed(model, volume, tile=(16, 20, 20))
    answer = ask(run.replay, (20, 26, 34))
    row = answer.volumes["guided-scale-1-step-1"]
    start = np.array(answer.box.start)
    assert (start > 0).all()
    np.testing.assert_allclose(row.geometry.to_world((0, 0, 0)), start * (2, 1, 0.5))
    np.testing.assert_allclose(row.geometry.spacing, (8, 4, 2))
    assert answer.support.shape == answer.box.shape
    np.testing.assert_allclose(answer.support.origin, start * (2, 1, 0.5))
    at = answer.index
    world = row.geometry.to_world(at)
    assert values_at({"row": row}, world) == {"row": pytest.approx(float(row.array[at]))}
    assert values_at({"row": row}, (-50, 0, 0)) == {}


def test_column_label_and_hubs_agree_with_the_rows(guided):
    replay = guided.replay
    answer = ask(replay, VOXEL)
    name = "guided-scale-2-step-2"
    column = ask(replay, VOXEL, "column").volumes[name].array
    assert column[answer.index] == pytest.approx(
        float(answer.volumes[name].array[answer.index]), rel=1e-4
    )
    hubs = ask(replay, VOXEL, "hubs").volumes[name].array
    assert hubs.sum() == pytest.approx(1, abs=1e-5)
    # The mean of a column over all who look is what the voxel receives.
    assert column.mean() == pytest.approx(float(hubs[answer.index]), rel=1e-4)
    everything = Volume.from_array(np.ones(guided.volume.array.shape, np.uint8))
    to_all = ask(replay, VOXEL, "label", mask=everything).volumes[name].array
    np.testing.assert_allclose(to_all, 1, atol=1e-5)
    half = np.zeros(guided.volume.array.shape, np.uint8)
    half[:, :14] = 1
    low, high = (
        ask(replay, VOXEL, "label", mask=Volume.from_array(m)).volumes[name].array
        for m in (half, 1 - half)
    )
    np.testing.assert_allclose(low + high, 1, atol=1e-5)
    assert low.std() > 0


def test_targets_are_the_strongest_places_of_the_row(guided):
    answer = ask(guided.replay, VOXEL)
    name = "guided-scale-1-step-2"
    targets = lines(guided.replay, answer, name, 5)
    assert targets.places.shape == (5, 3)
    assert (np.diff(targets.shares) <= 0).all()
    row = answer.volumes[name]
    best = row.geometry.to_world(np.unravel_index(row.array.argmax(), row.array.shape))
    # A cell of pooled keys is two voxels wide: its middle is half a voxel from each.
    assert np.abs(targets.places[0] - best).max() <= 0.5 * max(row.geometry.spacing) + 1e-6
    scan = guided.replay.volume.geometry
    np.testing.assert_allclose(targets.origin, scan.to_world(answer.voxel))
    near = row.geometry.to_world(answer.index) - targets.origin
    assert (np.abs(near) <= 0.5 * np.array(row.geometry.spacing) + 1e-6).all()
    assert len(lines(guided.replay, answer, ALL_SCALES, 7).shares) == 7


def test_a_centred_window_is_another_tile_and_says_so(guided):
    answer = ask(guided.replay, VOXEL)
    centred = ask(guided.replay, VOXEL, centred=True)
    assert centred.centred
    assert not answer.centred
    assert centred.box.shape == guided.replay.plan.tile
    middle = np.add(centred.box.start, centred.box.stop) / 2
    inner = [
        4 <= s <= n - t - 4
        for s, n, t in zip(
            centred.box.start, guided.replay.plan.shape, centred.box.shape, strict=True
        )
    ]
    for axis in np.flatnonzero(inner):
        assert abs(middle[axis] - VOXEL[axis]) <= 2
    assert all(a % 4 == 0 for a in centred.box.start)


def test_position_attention_that_is_switched_off_adds_nothing(build):
    network = build.guided_network(steps=1)
    for name, parameter in network.named_parameters():
        if name.endswith("position.gamma"):
            parameter.data.zero_()
    run = build.replayed(build.tiny_model(network), build.scan((16, 16, 16)))
    assert set(ask(run.replay, (8, 8, 8)).additions.values()) == {0.0}


def test_additions_tell_how_much_attention_matters(guided):
    additions = ask(guided.replay, VOXEL).additions
    assert len(additions) == 8
    assert min(additions.values()) > 0.01


def test_a_kept_tile_is_not_computed_again(guided, monkeypatch):
    first = ask(guided.replay, VOXEL)
    monkeypatch.setattr(guided.replay, "forward", None)
    again = ask(guided.replay, [v + 0.2 for v in VOXEL], "column")
    assert again.box == first.box


def test_places_outside_models_without_position_attention_and_empty_labels_say_why(guided, gated):
    with pytest.raises(InputError, match="outside the scan"):
        ask(guided.replay, (0, 0, 40))
    with pytest.raises(InputError, match="no position attention"):
        ask(gated.replay, VOXEL)
    nothing = Volume.from_array(np.zeros(guided.volume.array.shape, np.uint8))
    with pytest.raises(InputError, match="no voxel in the tile"):
        ask(guided.replay, VOXEL, "label", mask=nothing)
    with pytest.raises(InputError, match="choose a label"):
        ask(guided.replay, VOXEL, "label")


def test_another_model_or_scan_is_refused(guided, build):
    provenance = guided.result.provenance
    changed = build.tiny_model(guided.model.network, sha256="1" * 64)
    with pytest.raises(InputError, match="changed since"):
        build.finish(Replay.open(guided.volume, changed, provenance))
    with pytest.raises(InputError, match="press Run again"):
        build.finish(Replay.open(build.scan((16, 16, 16)), guided.model, provenance))


def test_without_a_run_the_tile_measures_its_own_statistics(guided, build):
    replay = build.finish(Replay.open(guided.volume, guided.model))
    row = ask(replay, VOXEL, centred=True).volumes[ALL_SCALES].array
    assert row.sum() == pytest.approx(1, abs=1e-5)
    assert replay.calibration is None


def test_what_falls_on_the_filling_of_a_small_tile_is_told(build):
    """Stride 32: the network computes at least 33 voxels, of which the scan has 16."""
    network = build.guided_network(steps=1, strides=(2, 2, 2))
    run = build.replayed(build.tiny_model(network), build.scan((16, 16, 16)))
    answer = ask(run.replay, (8, 8, 8))
    least = min(float(v.array.sum()) for v in answer.volumes.values())
    assert answer.lost > 0.1
    assert least + answer.lost == pytest.approx(1, abs=1e-5)
    assert answer.volumes[ALL_SCALES].array.shape == (4, 4, 4)


def test_gates_of_a_model_without_position_attention_have_the_values_of_the_maps(gated):
    maps = gated.result.attention
    voxel = (9, 12, 20)
    world = gated.volume.geometry.to_world(voxel)
    values = gate_values(gated.replay, voxel)
    assert set(values) == set(maps)
    for name, value in values_at(maps, world).items():
        assert values[name] == pytest.approx(value, abs=1e-4)
    with pytest.raises(InputError, match="outside the scan"):
        gate_values(gated.replay, (-3, 0, 0))
