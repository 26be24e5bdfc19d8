"""Strokes on attention train a copy: attention moves, the mask stays, the model is untouched."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_attention3d.attention.guide import LOOK, NOT
from napari_attention3d.attention.moved import around_strokes, moved_job
from napari_attention3d.attention.paint import PaintOptions, check_paintable, paint_job
from napari_attention3d.errors import InputError

OPTIONS = PaintOptions(steps=15, seconds=600, learning_rate=5e-3, patch=(16, 16, 16))


def strokes(scan):
    array = np.zeros(scan.geometry.shape, np.uint8)
    array[4:8, 4:20, 4:20] = LOOK
    array[14:18, 4:20, 4:20] = NOT
    return scan.replace(array=array)


def test_attention_follows_the_strokes_and_the_given_model_stays(gated, build):
    before = [p.clone() for p in gated.model.network.parameters()]
    found = build.finish(paint_job(gated.replay, strokes(gated.volume), OPTIONS))
    assert np.mean(found.guide[-3:]) < 0.9 * np.mean(found.guide[:3])
    assert len(found.keep) == OPTIONS.steps
    for old, now in zip(before, gated.model.network.parameters(), strict=True):
        assert torch.equal(old, now)
    assert any(
        not torch.equal(old, new)
        for old, new in zip(before, found.model.network.parameters(), strict=True)
    )
    assert not any(p.requires_grad for p in found.model.network.parameters())
    assert found.model.card.name == gated.model.card.name


def share(array, under):
    return 100 * float(array[under].sum(dtype=float) / array.sum(dtype=float))


def test_attention_and_mask_are_compared_before_and_after(gated, build):
    painted = strokes(gated.volume)
    found = build.finish(paint_job(gated.replay, painted, OPTIONS))
    moved = build.finish(moved_job(gated.replay, found.model, painted))
    look, away = moved.shares(LOOK), moved.shares(NOT)
    assert look[1] > look[0]
    assert away[1] < away[0]
    # Before is the run itself, map by map and voxel by voxel.
    for name, before in moved.before.items():
        np.testing.assert_allclose(before.array, gated.result.attention[name].array, atol=1e-5)
        assert moved.change(name).geometry.is_close(before.geometry)
    assert (moved.effect.before.array != gated.result.labels.array).mean() < 1e-3
    changed = moved.effect.before.array != moved.effect.after.array
    assert moved.effect.changed_voxels == changed.sum()
    # The shares are the plain ones: a level of 2 x 2 x 2 cells under strokes of whole cells.
    name, spec = next(iter(gated.model.network.map_specs.items()))
    under = np.zeros(moved.before[name].array.shape, bool)
    z, y, x = spec.stride
    under[4 // z : 8 // z, 4 // y : 20 // y, 4 // x : 20 // x] = True
    row = moved.table.rows[0]
    assert row[1] == pytest.approx(share(moved.before[name].array, under), rel=1e-5)
    assert row[2] == pytest.approx(share(moved.after[name].array, under), rel=1e-5)


def test_a_part_around_the_strokes_suffices_and_one_kind_alone_does(gated, build):
    array = np.zeros(gated.volume.geometry.shape, np.uint8)
    array[2:4, 2:6, 2:6] = NOT
    painted = gated.volume.replace(array=array)
    box = around_strokes(gated.replay, painted)
    assert box.start == (0, 0, 0)
    assert box.stop == (24, 24, 24)
    few = PaintOptions(steps=2, patch=(16, 16, 16))
    found = build.finish(paint_job(gated.replay, painted, few))
    moved = build.finish(moved_job(gated.replay, found.model, painted, box))
    assert moved.shares(LOOK) is None
    assert moved.shares(NOT)[0] > 0
    np.testing.assert_array_equal(moved.effect.before.array, gated.result.labels.array[box.slices])


def test_the_untouched_model_moves_nothing(gated, build):
    moved = build.finish(moved_job(gated.replay, gated.model, strokes(gated.volume)))
    assert moved.effect.changed_voxels == 0
    assert moved.effect.dice == 1
    for name in moved.before:
        assert np.abs(moved.change(name).array).max() < 1e-4
    assert moved.shares(LOOK)[0] == pytest.approx(moved.shares(LOOK)[1], rel=1e-3)


def test_what_can_not_be_painted_says_why(gated, build):
    nothing = gated.volume.replace(array=np.zeros(gated.volume.geometry.shape, np.uint8))
    with pytest.raises(InputError, match="nothing is painted"):
        next(paint_job(gated.replay, nothing, OPTIONS))
    other = build.scan((8, 8, 8))
    bare = SimpleNamespace(card=gated.model.card, network=SimpleNamespace(map_specs={}))
    with pytest.raises(InputError, match="has no attention to paint"):
        check_paintable(bare)
    with pytest.raises(InputError, match="do not lie on the scan's grid"):
        next(paint_job(gated.replay, other, OPTIONS))
