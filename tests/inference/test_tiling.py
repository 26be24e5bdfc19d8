from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attention3d.inference.tiling import Box, plan_tiles

SIZES = st.tuples(*[st.integers(1, 70)] * 3)
TILES = st.tuples(*[st.integers(1, 40)] * 3)
STRIDES = st.tuples(*[st.sampled_from([1, 2, 3, 4, 8])] * 3)
OVERLAPS = st.sampled_from([0.0, 0.25, 0.5, 0.8])


@settings(max_examples=60, deadline=None)
@given(SIZES, TILES, OVERLAPS, STRIDES)
def test_shares_of_all_tiles_sum_to_1(shape, tile, overlap, stride) -> None:  # type: ignore[no-untyped-def]
    plan = plan_tiles(shape, tile, overlap, stride)
    for axis in range(3):
        total = np.zeros(shape[axis])
        coarse = np.zeros(-(-shape[axis] // stride[axis]))
        for start in plan.starts[axis]:
            other = tuple(start if a == axis else plan.starts[a][0] for a in range(3))
            box = next(t for t in plan.tiles if t.start == other)
            total[box.slices[axis]] += plan.weights(box)[axis]
            coarse[box.on_stride(stride).slices[axis]] += plan.weights(box, stride)[axis]
        np.testing.assert_allclose(total, 1, atol=1e-5)
        np.testing.assert_allclose(coarse, 1, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(SIZES, TILES, OVERLAPS, STRIDES)
def test_tiles_cover_overlap_and_lie_on_strides(shape, tile, overlap, stride) -> None:  # type: ignore[no-untyped-def]
    plan = plan_tiles(shape, tile, overlap, stride)
    for axis in range(3):
        starts, size = plan.starts[axis], plan.tile[axis]
        assert starts[0] == 0
        assert starts[-1] + size >= shape[axis]
        assert list(starts) == sorted(set(starts))
        assert all(s % stride[axis] == 0 for s in starts)
        assert all(s < shape[axis] for s in starts)
        if len(starts) > 1:
            assert size % stride[axis] == 0
            allowed = max(stride[axis], size * (1 - overlap))
            assert max(np.diff(starts)) <= allowed + 1e-6
    assert all(all(b <= n for b, n in zip(t.stop, plan.shape, strict=True)) for t in plan.tiles)


def test_no_fewer_tiles_would_do() -> None:
    # 100 voxels, tiles of 40 with half in common: steps of at most 20, from 0 to 60.
    plan = plan_tiles((100, 40, 10), (40, 40, 40), 0.5, (4, 4, 4))
    assert plan.starts == ((0, 20, 40, 60), (0,), (0,))
    assert plan.tile == (40, 40, 10)


def fewest(size: int, tile: int, overlap: float, multiple: int) -> int:
    """Tiles along an axis, by trying all: steps on the grid that overlap by the share."""
    tile = tile if size <= tile else max(tile // multiple, 1) * multiple
    ends, count = {tile}, 1  # how far that many tiles can reach
    while max(ends) < size:
        steps = range(multiple, tile + multiple, multiple)
        allowed = [s for s in steps if s == multiple or tile - s >= overlap * tile - 1e-6]
        ends = {end + step for end in ends for step in allowed}
        count += 1
    return count


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 24), OVERLAPS, st.sampled_from([1, 2, 4, 8]))
def test_the_fewest_tiles_by_trying_all(size, tile, overlap, multiple) -> None:  # type: ignore[no-untyped-def]
    plan = plan_tiles((size, 1, 1), (tile, 1, 1), overlap, (multiple, 1, 1))
    assert len(plan.starts[0]) == fewest(size, tile, overlap, multiple)


def test_single_tile_counts_exactly_once() -> None:
    plan = plan_tiles((9, 10, 11), (96, 96, 96))
    assert [t.shape for t in plan.tiles] == [(9, 10, 11)]
    assert all((w == 1).all() for w in plan.weights(plan.tiles[0]))


def test_part_keeps_every_tile_that_touches_it() -> None:
    plan = plan_tiles((64, 64, 64), (32, 32, 32), 0.25, (8, 8, 8))
    part = plan.within(Box((0, 0, 0), (8, 64, 8)))
    assert {t.start for t in part.tiles} == {
        t.start for t in plan.tiles if t.start[0] == 0 and t.start[2] == 0
    }
    assert part.starts == plan.starts


@pytest.mark.parametrize(
    ("shape", "tile", "overlap"),
    [((0, 4, 4), (2, 2, 2), 0.1), ((4, 4, 4), (0, 2, 2), 0.1), ((4, 4, 4), (2, 2, 2), 1.0)],
)
def test_senseless_plans_are_refused(shape, tile, overlap) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="must be"):
        plan_tiles(shape, tile, overlap)
