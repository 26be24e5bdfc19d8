from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.correction.grid import WorkGrid, choose_work_grid


def test_a_small_scan_keeps_its_grid():
    grid = choose_work_grid((10, 11, 12), np.ones(3), limit=2000)
    assert not grid.is_coarser
    x = np.random.default_rng(0).random((2, 10, 11, 12), np.float32)
    np.testing.assert_array_equal(grid.reduce(x), x)
    np.testing.assert_array_equal(grid.expand(x, 3, 7), x[:, 3:7])


def test_fine_axes_are_joined_first():
    assert choose_work_grid((20, 40, 40), np.array([4.0, 1, 1]), 20 * 20 * 20).factors == (1, 2, 2)
    assert choose_work_grid((20, 20, 20), np.ones(3), 10**3).factors == (2, 2, 2)


def test_blocks_are_means_and_the_last_may_be_cut():
    grid = WorkGrid((3, 4, 5), (2, 2, 2))
    x = np.random.default_rng(1).random((3, 4, 5))
    small = grid.reduce(x)
    assert small.shape == grid.work_shape == (2, 2, 3)
    np.testing.assert_allclose(small[0, 1, 1], x[:2, 2:4, 2:4].mean(), rtol=1e-6)
    np.testing.assert_allclose(small[1, 0, 2], x[2:, :2, 4:].mean(), rtol=1e-6)


def test_expanding_parts_gives_what_expanding_all_gives():
    grid = WorkGrid((9, 8, 7), (3, 2, 2))
    small = np.random.default_rng(2).random((2, *grid.work_shape)).astype(np.float32)
    whole = grid.expand(small, 0, 9)
    assert whole.shape == (2, 9, 8, 7)
    for first, last in ((0, 2), (2, 7), (5, 9)):
        np.testing.assert_allclose(grid.expand(small, first, last), whole[:, first:last], atol=1e-6)
    np.testing.assert_allclose(whole[:, 4, 0, 0], small[:, 1, 0, 0], atol=0.6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_expanding_across_any_axis_gives_what_expanding_all_gives(axis):
    grid = WorkGrid((9, 8, 7), (3, 2, 2))
    small = np.random.default_rng(2).random((2, *grid.work_shape)).astype(np.float32)
    whole = grid.expand(small, 0, 9)
    for first, last in ((0, 2), (2, 7), (5, grid.shape[axis])):
        wanted = np.take(whole, range(first, last), axis=1 + axis)
        np.testing.assert_allclose(grid.expand(small, first, last, axis), wanted, atol=1e-6)
        low, high = grid.blocks_between(first, last, axis)
        part = np.take(small, range(low, high), axis=1 + axis)
        np.testing.assert_allclose(grid.expand(part, first, last, axis, low), wanted, atol=1e-6)


def test_voxels_find_their_blocks():
    grid = WorkGrid((9, 8, 7), (3, 2, 2))
    assert grid.blocks_of(np.array([[8, 7, 6], [0, 1, 2]])).tolist() == [[2, 3, 3], [0, 0, 1]]
