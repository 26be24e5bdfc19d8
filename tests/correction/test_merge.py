from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.correction.merge import (
    Approval,
    approved_too,
    differing,
    flipped,
    mask_edits,
    merge,
)


def arrays():
    predicted = np.arange(8, dtype=np.uint8).reshape(2, 2, 2) % 3
    return predicted, np.zeros((2, 2, 2), np.uint8)


def test_paint_wins_over_approval_and_approval_over_prediction():
    predicted, corrections = arrays()
    corrections[0, 0, 0], corrections[0, 0, 1] = 2, 255
    voxels = np.zeros((2, 2, 2), bool)
    voxels[0] = True
    found = merge(predicted, corrections, Approval(voxels, np.ones((2, 2, 2), np.uint8)))
    assert found[0].tolist() == [[2, 0], [1, 1]]
    np.testing.assert_array_equal(found[1], predicted[1])
    assert predicted[0, 0, 0] == 0


def test_a_part_is_merged_with_its_own_place():
    predicted, corrections = arrays()
    corrections[1, 1, 1] = 1
    where = (slice(1, 2), slice(None), slice(None))
    whole = merge(predicted, corrections)
    np.testing.assert_array_equal(merge(predicted[1:], corrections, None, where), whole[1:])


NOTHING = np.zeros((2, 2, 2), np.uint8)


def test_flips_are_listed():
    predicted, _ = arrays()
    approval = Approval(np.ones((2, 2, 2), bool), predicted.copy())
    assert len(flipped(predicted, approval, NOTHING)) == 0
    assert len(flipped(predicted, None, NOTHING)) == 0
    predicted[1, 0, 1] = 9
    assert flipped(predicted, approval, NOTHING).tolist() == [[1, 0, 1]]


def test_what_the_person_painted_over_an_approval_is_not_forgotten():
    predicted, corrections = arrays()
    approval = Approval(np.ones((2, 2, 2), bool), predicted.copy())
    predicted[1, 0] = 9
    corrections[1, 0, 1] = 255
    assert flipped(predicted, approval, corrections).tolist() == [[1, 0, 0]]


def test_edits_of_the_mask_are_found():
    predicted, _ = arrays()
    edited = predicted.astype(np.int64)
    edited[0, 1, 0], edited[1, 1, 1] = 0, 2
    voxels, values = mask_edits(predicted, edited)
    assert voxels.tolist() == [[0, 1, 0], [1, 1, 1]]
    assert values.tolist() == [0, 2]


def test_approving_again_keeps_what_was_approved():
    first, second = np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    first[0], second[1] = True, True
    one = approved_too(None, first, np.full((2, 2, 2), 1, np.uint8))
    both = approved_too(one, second, np.full((2, 2, 2), 2, np.uint8))
    assert both.voxels.all()
    assert both.labels[0].tolist() == [[1, 1], [1, 1]]
    assert both.labels[1].tolist() == [[2, 2], [2, 2]]
    assert not one.voxels[1].any()


@pytest.mark.parametrize("order", ["C", "F"])
def test_differing_voxels_are_all_that_differ(order):
    rng = np.random.default_rng(0)
    one = np.asarray(rng.integers(0, 3, (7, 6, 5)), np.uint8, order=order)
    other = one.copy()
    other[3] = rng.integers(0, 3, (6, 5))
    other[5, 2, 1] += 1
    np.testing.assert_array_equal(differing(one, other), np.argwhere(one != other))
    assert differing(one, one).shape == (0, 3)
