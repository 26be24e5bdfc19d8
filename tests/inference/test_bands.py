"""Blended sums against sums over the whole grid, and the order of the tiles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attention3d.inference.bands import BandSums, rolling_axis, rolling_order
from napari_attention3d.inference.tiling import Box, plan_tiles

SIZES = st.tuples(*[st.integers(1, 17)] * 3)
TILES = st.tuples(*[st.sampled_from([4, 6, 8, 12])] * 3)
OVERLAPS = st.sampled_from([0.0, 0.25, 0.5])


@st.composite
def plans(draw, stride=(1, 1, 1)):
    """A plan for a part of a grid."""
    shape = draw(SIZES)
    plan = plan_tiles(shape, draw(TILES), draw(OVERLAPS), stride)
    corners = [sorted(draw(st.tuples(*[st.integers(0, n - 1)] * 2))) for n in shape]
    return plan.within(Box(tuple(a for a, _ in corners), tuple(b + 1 for _, b in corners)))


def blended(plan, stride, values):
    """Sums over the whole grid, with weights of one axis at a time."""
    shape = tuple(-(-n // s) for n, s in zip(plan.shape, stride, strict=True))
    total = np.zeros((2, *shape))
    for tile in plan.tiles:
        z, y, x = (w.astype(float) for w in plan.weights(tile, stride))
        share = np.einsum("i,j,k->ijk", z, y, x)
        total[(slice(None), *tile.on_stride(stride).slices)] += share * values[tile].numpy()
    return total[(slice(None), *plan.box.on_stride(stride).slices)]


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 4), (3, 1, 2)])
@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 2), st.randoms(use_true_random=False))
def test_bands_put_together_are_the_blend_of_the_whole(stride, data, axis, random):
    plan = data.draw(plans(stride))
    torch.manual_seed(0)
    values = {t: torch.rand(2, *t.on_stride(stride).shape) for t in plan.tiles}
    tiles = list(plan.tiles)
    random.shuffle(tiles)
    sums, want = BandSums(plan, axis, stride), plan.box.on_stride(stride)
    found = np.full((2, *want.shape), np.nan)
    for number, tile in enumerate(tiles, 1):
        kept = values[tile].clone()
        for start, slab in sums.add(tile, values[tile]):
            where = [slice(None)] * 4
            where[1 + axis] = slice(start, start + slab.shape[1 + axis])
            assert np.isnan(found[tuple(where)]).all()  # given out once
            found[tuple(where)] = slab.numpy()
        assert torch.equal(values[tile], kept)  # the tile's own values are left as they are
        # What no tile to come touches has been given out, and nothing else.
        for plane in range(want.start[axis], want.stop[axis]):
            spans = [t.on_stride(stride) for t in tiles[number:]]
            waits = any(s.start[axis] <= plane < s.stop[axis] for s in spans)
            given_out = ~np.isnan(np.take(found, plane - want.start[axis], 1 + axis))
            assert given_out.all() != waits
            assert given_out.any() != waits
    np.testing.assert_allclose(found, blended(plan, stride, values), atol=1e-5)
    assert not sums.sums  # nothing is held at the end


def test_a_lone_tile_is_given_out_without_a_copy():
    plan = plan_tiles((6, 5, 4), (8, 8, 8))
    values = torch.rand(3, 6, 5, 4)
    ((start, slab),) = BandSums(plan, 0).add(plan.tiles[0], values)
    assert start == 0
    assert slab.data_ptr() == values.data_ptr()


def test_a_tile_beside_the_wanted_part_adds_nothing():
    plan = plan_tiles((16, 8, 8), (8, 8, 8), 0).within(Box((0, 0, 0), (8, 8, 8)))
    sums = BandSums(plan, 0)
    assert sums.add(Box((8, 0, 0), (16, 8, 8)), torch.ones(1, 8, 8, 8)) == []
    ((_, slab),) = sums.add(plan.tiles[0], torch.ones(1, 8, 8, 8))
    assert torch.equal(slab, torch.ones(1, 8, 8, 8))


@given(plans())
def test_the_axis_is_that_of_the_smallest_share(plan):
    shares = [t / n for t, n in zip(plan.tile, plan.shape, strict=True)]
    assert rolling_axis(plan) == int(np.argmin(shares))


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 2))
def test_without_a_focus_rows_come_one_after_the_other(plan, axis):
    order = rolling_order(plan, axis)
    assert sorted(order, key=lambda t: t.start) == sorted(plan.tiles, key=lambda t: t.start)
    assert [t.start[axis] for t in order] == sorted(t.start[axis] for t in plan.tiles)
    for _, row in itertools.groupby(order, key=lambda t: t.start[axis]):
        starts = [t.start for t in row]
        assert starts == sorted(starts)


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 2), st.tuples(*[st.floats(-5, 20)] * 3))
def test_with_a_focus_the_nearest_row_is_first_and_its_neighbours_follow(plan, axis, focus):
    order = rolling_order(plan, axis, focus)
    assert sorted(order, key=lambda t: t.start) == sorted(plan.tiles, key=lambda t: t.start)

    def distance(tile):
        middle = np.add(tile.start, tile.stop) / 2 - 0.5
        return float(np.sum((middle - focus) ** 2))

    assert distance(order[0]) == pytest.approx(min(map(distance, plan.tiles)), abs=1e-6)
    rows = [row for row, _ in itertools.groupby(t.start[axis] for t in order)]
    all_rows = sorted({t.start[axis] for t in plan.tiles})
    begin = order[0].start[axis]
    upwards = [r for r in all_rows if r >= begin]
    assert rows == upwards + [r for r in reversed(all_rows) if r < begin]
    for _, row in itertools.groupby(order, key=lambda t: t.start[axis]):
        distances = [distance(t) for t in row]
        assert distances == pytest.approx(sorted(distances), abs=1e-6)


def test_no_tiles_have_an_order_too():
    plan = plan_tiles((8, 8, 8), (4, 4, 4)).within(Box((0, 0, 0), (1, 1, 1)))
    none = type(plan)(plan.shape, plan.tile, plan.starts, (), plan.box)
    assert rolling_order(none, 0, (0, 0, 0)) == () == rolling_order(none, 0)
