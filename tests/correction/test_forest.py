from __future__ import annotations

import numpy as np

from napari_attention3d.correction.forest import StrokeForest


def blobs(seed: int, strokes: int = 6, per_stroke: int = 8):
    """Two classes apart in the first feature; the second tells strokes apart and means nothing."""
    rng = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(strokes), per_stroke)
    values = numbers % 2
    inputs = np.stack([values + rng.normal(0, 0.15, len(values)), numbers + 0.0], axis=1)
    return inputs.astype(np.float32), values, numbers


def test_classes_apart_are_told_apart():
    inputs, values, numbers = blobs(0)
    forest = StrokeForest(30).fit(inputs, values, numbers)
    found = forest.probabilities(inputs, 2)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert (found.argmax(0) == values).mean() > 0.95


def test_same_seed_same_answer_on_any_number_of_threads():
    inputs, values, numbers = blobs(1)
    a, b = (StrokeForest(9, threads, seed=3).fit(inputs, values, numbers) for threads in (1, 2))
    other = StrokeForest(9, 1, seed=4).fit(inputs, values, numbers)
    pa, pb = a.probabilities(inputs, 2), b.probabilities(inputs, 2)
    np.testing.assert_allclose(pa, pb, atol=1e-6)
    assert not np.allclose(pa, other.probabilities(inputs, 2))


def test_class_numbers_stay_where_some_are_not_painted():
    inputs, values, numbers = blobs(2)
    found = StrokeForest(10).fit(inputs, values * 3, numbers).probabilities(inputs, 5)
    assert found.shape == (5, len(inputs))
    assert not found[[1, 2, 4]].any()
    assert found[3].any()


def test_every_tree_knows_every_class_even_if_one_stroke_holds_several():
    inputs, values, _ = blobs(3)
    numbers = np.array([0] * (len(values) - 4) + [1] * 4)
    forest = StrokeForest(40).fit(inputs, values, numbers)
    assert all(len(tree.classes_) == 2 for tree in forest.trees)


def test_weight_zero_is_not_learned():
    inputs, values, numbers = blobs(4)
    wrong = np.concatenate((values, 1 - values))
    twice = np.concatenate((inputs, inputs))
    weights = np.repeat([1.0, 0.0], len(values))
    forest = StrokeForest(30).fit(twice, wrong, np.concatenate((numbers, numbers + 6)), weights)
    assert (forest.probabilities(inputs, 2).argmax(0) == values).mean() > 0.95


def test_what_looks_like_no_stroke_is_background_where_voxels_from_anywhere_are_taken():
    inputs, values, numbers = blobs(5)
    inputs, values, numbers = inputs[:, :1], values + 1, numbers  # no background is painted
    anywhere = np.random.default_rng(0).uniform(-5, 6, (500, 1)).astype(np.float32)
    far = np.array([[-3.0], [4.0]], np.float32)
    without = StrokeForest(40).fit(inputs, values, numbers).probabilities(far, 3)
    taken = StrokeForest(40).fit(inputs, values, numbers, None, anywhere, 6)
    assert not without[0].any()
    assert (taken.probabilities(far, 3).argmax(0) == 0).all()
    found = taken.probabilities(np.array([[0.0], [1.0]], np.float32), 3).argmax(0)
    np.testing.assert_array_equal(found, [1, 2])  # strokes outvote them
