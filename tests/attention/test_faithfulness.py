"""Curves that say whether a map shows what a network uses, on networks whose use is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_attention3d.attention.faithfulness import (
    LEAST,
    MOST,
    RANDOM,
    FaithfulnessOptions,
    faithfulness,
    passes_needed,
)
from napari_attention3d.attention.occlusion import fill_in, values_in_blocks
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.inference.tiling import Box
from napari_attention3d.volumes.volume import Volume

QUICK = FaithfulnessOptions(block=4, fractions=(0.0, 0.1, 0.3, 1.0), orders=2, sigma=3)


@pytest.fixture
def looker(gated, monkeypatch):
    """A run whose network says "nucleus" where one known block is bright, everywhere at once."""
    replay, box = gated.replay, Box((0, 0, 0), (16, 16, 16))
    x = torch.zeros(1, 1, 16, 16, 16)
    x[:, :, 4:8, 8:12, 0:4] = 5

    def forward(given, **_):
        from napari_attention3d.networks.base import NetworkOutput

        bright = given[0, 0, 4:8, 8:12, 0:4].mean()
        nucleus = torch.full_like(given, float(bright) - 2.5)
        rest = torch.full_like(given, -9.0)
        return NetworkOutput(torch.cat((-nucleus, nucleus, rest), 1), {}, ())

    monkeypatch.setattr(replay, "forward", forward)
    monkeypatch.setattr(replay, "read", lambda _: x)
    return replay, box


def block_map(value=1.0):
    means = np.zeros((4, 4, 4), np.float32)
    means[1, 2, 0] = value
    return means


def test_the_map_of_what_is_used_wins_and_its_opposite_loses(looker, build):
    replay, box = looker
    options = replace(QUICK, fractions=(0.0, 0.1, 0.3, 0.8, 1.0), orders=8)
    maps = {"right": block_map(), "wrong": block_map(-1.0)}
    right, wrong = build.finish(faithfulness(replay, box, maps, options))
    assert right.gain > 0.2
    assert wrong.gain < -0.02
    deletion = right.curve(MOST, "deletion")
    assert deletion.scores[0] > 0.99
    assert max(deletion.scores[1:]) < 0.2  # gone with the first blocks
    assert right.curve(LEAST, "deletion").scores[2] > 0.99  # gone with the last ones only
    insertion = right.curve(MOST, "insertion")
    assert insertion.scores[0] < 0.2
    assert min(insertion.scores[1:]) > 0.8
    assert "follows what the network uses" in right.verdict
    assert "less than chance" in wrong.verdict


def test_ends_are_shared_and_curves_have_their_areas(looker, build):
    replay, box = looker
    steps = []
    job = faithfulness(replay, box, {"right": block_map()}, QUICK)
    while True:
        try:
            steps.append(next(job))
        except StopIteration as end:
            (found,) = end.value
            break
    assert len(steps) == passes_needed(QUICK) == 2 + 2 * 2 * 4
    for order in (MOST, LEAST, RANDOM):
        deletion, insertion = found.curve(order, "deletion"), found.curve(order, "insertion")
        assert deletion.scores[0] == insertion.scores[-1]
        assert deletion.scores[-1] == insertion.scores[0]
        expected = sum(
            (b - a) * (s + t) / 2
            for a, b, s, t in zip(
                QUICK.fractions,
                QUICK.fractions[1:],
                deletion.scores,
                deletion.scores[1:],
                strict=False,
            )
        )
        assert deletion.area == pytest.approx(expected)
    assert len(found.table.rows) == 6
    assert found.table.column("order").count(RANDOM) == 2
    assert found.voxels == 16**3


def test_fillings_keep_the_local_mean_and_spread():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (1, 30, 30, 30)).astype(np.float32)
    blur, noise = fill_in(x, "blur", 4), fill_in(x, "noise", 4, seed=7)
    assert blur.mean() == pytest.approx(3, abs=0.1)
    assert blur.std() < 0.3
    assert noise.mean() == pytest.approx(3, abs=0.1)
    assert noise.std() == pytest.approx(2, abs=0.2)
    assert abs(np.corrcoef(noise.ravel(), x.ravel())[0, 1]) < 0.15
    np.testing.assert_array_equal(noise, fill_in(x, "noise", 4, seed=7))
    with pytest.raises(InputError, match="use blur or noise"):
        fill_in(x, "zero", 4)


def test_a_map_on_a_coarse_grid_is_laid_into_the_blocks(gated):
    """A map that is the z index of the world: each block's mean is its centre's."""
    geometry = Geometry.from_spacing((12, 14, 18), (2, 2, 2), unit="pixel", origin=(0.5, 0.5, 0.5))
    world = 2 * np.arange(12) + 0.5
    array = np.broadcast_to(world[:, None, None], (12, 14, 18)).astype(np.float32)
    values = Volume(array, geometry, "height")
    means = values_in_blocks(values, gated.replay, Box((4, 4, 4), (18, 16, 16)), 4)
    assert means.shape == (4, 3, 3)
    np.testing.assert_allclose(means[:, 0, 0], [5.5, 9.5, 13.5, 16.5], atol=1e-4)
    far = Volume(array, geometry.strided((12, 14, 18), (1, 1, 1), (500, 0, 0)), "far")
    with pytest.raises(InputError, match="does not reach"):
        values_in_blocks(far, gated.replay, Box((4, 4, 4), (18, 16, 16)), 4)
    other = Volume(array, Geometry.from_spacing((12, 14, 18), (2, 2, 2), unit="mm"), "mm map")
    with pytest.raises(InputError, match="is in mm"):
        values_in_blocks(other, gated.replay, Box((4, 4, 4), (18, 16, 16)), 4)


def test_the_mask_itself_as_map_of_a_real_network(gated, build):
    """End to end over a small window: scores are the network's own."""
    box = Box((0, 0, 0), (16, 16, 16))
    logits = gated.replay.look(box).logits
    p = torch.softmax(logits, 0)
    own = p.gather(0, logits.argmax(0)[None])[0]
    where = logits.argmax(0) > 0
    means = np.random.default_rng(0).random((4, 4, 4)).astype(np.float32)
    (found,) = build.finish(faithfulness(gated.replay, box, {"any": means}, QUICK))
    assert found.curve(MOST, "deletion").scores[0] == pytest.approx(
        float(own[where].mean()), abs=1e-4
    )


def test_what_can_not_be_tested_says_why(looker, build, gated):
    replay, box = looker
    for options, words in (
        (FaithfulnessOptions(label=2), "finds no wall in this window"),
        (FaithfulnessOptions(label=7), "finds no label in this window"),
        (FaithfulnessOptions(fractions=(0.1, 1.0)), "rise from 0 to 1"),
        (FaithfulnessOptions(block=0), "1 or more"),
    ):
        with pytest.raises(InputError, match=words):
            build.finish(faithfulness(replay, box, {"x": block_map()}, options))
