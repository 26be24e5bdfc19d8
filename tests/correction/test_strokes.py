from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.correction.strokes import MOST_PER_STROKE, Painted, Strokes, thinned
from napari_attention3d.errors import InputError

NAMES = ("background", "a", "b")


@pytest.fixture
def strokes() -> Strokes:
    return Strokes((4, 5, 6), NAMES)


def add(strokes: Strokes, voxels, value) -> None:
    strokes.add(strokes.checked(np.array(voxels), value))


def test_a_later_stroke_wins_and_an_eraser_takes_away(strokes):
    add(strokes, [[0, 0, 0], [0, 0, 1]], 1)
    add(strokes, [[0, 0, 1]], 255)
    add(strokes, [[0, 0, 0]], 0)
    painted = strokes.painted()
    assert painted.voxels.tolist() == [[0, 0, 1]]
    assert painted.values.tolist() == [0]
    assert painted.strokes.tolist() == [1]
    assert painted.count == 1


def test_difference_finds_what_was_painted_since(strokes):
    add(strokes, [[1, 1, 1]], 2)
    layer = strokes.corrections.copy()
    assert strokes.difference(layer) is None
    layer[1, 1, 1], layer[2, 3, 4] = 0, 255
    found = strokes.difference(layer)
    assert found.voxels.tolist() == [[1, 1, 1], [2, 3, 4]]
    assert found.values.tolist() == [0, 255]
    strokes.add(found)
    np.testing.assert_array_equal(strokes.corrections, layer)


def test_a_wider_layer_type_means_the_same(strokes):
    layer = np.zeros((4, 5, 6), np.uint16)
    layer[0, 0, 0], layer[0, 0, 1] = 65535, 2
    strokes.add(strokes.difference(layer))
    assert strokes.corrections[0, 0, :2].tolist() == [255, 2]


@pytest.mark.parametrize("voxel", [[4, 0, 0], [0, -1, 0]])
def test_a_voxel_outside_is_refused(strokes, voxel):
    with pytest.raises(InputError, match="leaves the scan"):
        strokes.checked(np.array([voxel]), 1)


@pytest.mark.parametrize("value", [3, 254, -1, 256])
def test_an_unknown_class_is_refused(strokes, value):
    with pytest.raises(InputError, match="classes are 1 to 2"):
        strokes.checked(np.array([[0, 0, 0]]), value)


def painted_of(values, numbers) -> Painted:
    voxels = np.stack([np.arange(len(values))] * 3, axis=1)
    return Painted(voxels, np.array(values), np.array(numbers))


def test_every_fifth_stroke_is_held_back_unless_its_class_would_be_lost():
    numbers = list(range(10))
    assert painted_of([0, 1] * 5, numbers).held_back.tolist() == [n in (4, 9) for n in numbers]
    lonely = painted_of([0, 0, 0, 0, 2, 0, 0, 0, 0, 1], numbers)
    assert not lonely.held_back.any()


def test_a_large_stroke_is_thinned_and_small_ones_are_not():
    numbers = [0] * (5 * MOST_PER_STROKE) + [1] * 10
    values = [1] * (5 * MOST_PER_STROKE - 1) + [2] + [0] * 10
    left = thinned(painted_of(values, numbers))
    counts = np.bincount(left.strokes)
    assert 0.8 * MOST_PER_STROKE < counts[0] < 1.2 * MOST_PER_STROKE
    assert counts[1] == 10
    assert (left.values == 2).sum() == 1  # a rare class of the stroke stays
