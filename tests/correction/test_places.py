from __future__ import annotations

import numpy as np

from napari_attention3d.correction.places import APART, doubt, group_voxels, worst_place

NOWHERE = np.empty((0, 3), np.intp)


def sure(shape=(12, 24, 24)) -> np.ndarray:
    p = np.zeros((2, *shape), np.float32)
    p[0] = 1
    return p


def set_share(p: np.ndarray, box, share: float) -> None:
    p[(1, *box)], p[(0, *box)] = share, 1 - share


def test_uncertain_and_disputed_places_come_first():
    shown, other = sure(), sure()
    agreed, disputed = np.s_[4:8, 2:8, 2:8], np.s_[4:8, 15:21, 15:21]
    for box in (agreed, disputed):
        set_share(shown, box, 0.5)
    set_share(other, agreed, 0.5)
    doubts = doubt(shown, other)
    z, y, x = worst_place(doubts, NOWHERE, NOWHERE)
    assert 3 <= z <= 8
    assert 14 <= y <= 21
    assert 14 <= x <= 21
    z, y, x = worst_place(doubts, np.array([[z, y, x]]), NOWHERE)
    assert 1 <= y <= 8
    assert 1 <= x <= 8


def test_no_place_is_left_where_all_is_seen_or_painted():
    flat = np.ones((4, APART, APART), np.float32)
    assert worst_place(flat, np.array([[0, 0, 0]]), NOWHERE) is None
    assert worst_place(flat, NOWHERE, np.argwhere(flat)) is None
    flat[0, 0, 0] = 2
    assert worst_place(flat, NOWHERE, NOWHERE) == (0, 0, 0)
    assert worst_place(flat, NOWHERE, np.array([[1, 1, 1]])) != (0, 0, 0)


def test_touching_voxels_are_one_group_and_the_largest_comes_first():
    assert group_voxels(np.empty((0, 3), np.intp)) == []
    voxels = np.array([[9, 9, 9], [2, 3, 4], [2, 4, 5], [2, 5, 6], [9, 9, 7]])
    first, *others = group_voxels(voxels)
    assert first == (2, 4, 5)
    assert sorted(others) == [(9, 9, 7), (9, 9, 9)]
