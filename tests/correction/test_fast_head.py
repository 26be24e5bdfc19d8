from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.correction.fast_head import FastHead
from napari_attention3d.correction.features import scan_features
from napari_attention3d.correction.forest import StrokeForest
from napari_attention3d.correction.strokes import Painted
from napari_attention3d.errors import InputError


@pytest.fixture
def features(scan):
    *_, found = scan_features(scan.array, (1, 1, 1))
    return found


def painted_at(truth, places) -> Painted:
    voxels = np.array(places)
    return Painted(voxels, truth[tuple(voxels.T)].astype(np.intp), np.arange(len(voxels)))


def rows(truth, count=8, seed=0):
    """Some voxels of each class."""
    rng = np.random.default_rng(seed)
    return [
        place
        for value in range(3)
        for place in rng.permutation(np.argwhere(truth == value))[:count].tolist()
    ]


def test_a_few_voxels_teach_the_rest(features, truth):
    head = FastHead(features, 3, threads=1)
    forest = head.fit(painted_at(truth, rows(truth)))
    found = np.zeros((3, *truth.shape), np.float32)
    for first, slab in head.probabilities(forest):
        found[:, first : first + slab.shape[1]] = slab
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert (found.argmax(0) == truth).mean() > 0.9


def test_a_box_is_predicted_as_it_is_in_the_whole(features, truth, monkeypatch):
    monkeypatch.setattr("napari_attention3d.correction.fast_head.SLAB_VOXELS", 1000)
    head = FastHead(features, 3, threads=1)
    forest = head.fit(painted_at(truth, rows(truth)))
    whole = {z: slab[:, 0] for z, slab in planes(head.probabilities(forest))}
    box = (slice(3, 7), slice(2, 9), slice(5, 20))
    part = {z: slab[:, 0] for z, slab in planes(head.probabilities(forest, 5, box))}
    assert sorted(part) == [3, 4, 5, 6]
    for z, plane in part.items():
        np.testing.assert_array_equal(plane, whole[z][:, 2:9, 5:20])


def planes(slabs):
    for first, slab in slabs:
        for z in range(slab.shape[1]):
            yield first + z, slab[:, z : z + 1]


def test_the_viewed_planes_come_first(features, truth, monkeypatch):
    monkeypatch.setattr("napari_attention3d.correction.fast_head.SLAB_VOXELS", 20 * 22)
    head = FastHead(features, 3, threads=1)
    forest = head.fit(painted_at(truth, rows(truth)))
    order = [first for first, _ in head.probabilities(forest, focus=9)]
    assert order[0] == 9
    assert sorted(order) == list(range(12))


def test_one_class_alone_teaches_nothing(features, truth):
    head = FastHead(features, 3, threads=1)
    with pytest.raises(InputError, match="one class"):
        head.fit(painted_at(truth, [[6, 8, 8], [6, 8, 9]]))


def test_a_model_is_kept_where_nobody_objected(features, truth):
    prior = np.full((3, *truth.shape), 0.02, np.float32)
    for value in range(3):
        prior[value][truth == value] = 0.96
    wrong = truth == 1  # the model calls the box bar
    prior[1][wrong], prior[2][wrong] = 0.02, 0.96
    head = FastHead(features, 3, prior, threads=1)
    corrections = [place for place in rows(truth) if truth[tuple(place)] == 1]
    forest = head.fit(painted_at(truth, corrections))
    found = np.concatenate([slab for _, slab in sorted(head.probabilities(forest))], axis=1)
    labels = found.argmax(0)
    assert (labels[truth == 1] == 1).mean() > 0.8  # learned
    assert (labels[truth != 1] == truth[truth != 1]).mean() > 0.95  # kept


def test_score_is_of_strokes_that_were_not_seen(features, truth):
    head = FastHead(features, 3, threads=1)
    painted = painted_at(truth, rows(truth))
    held = np.arange(len(painted.values)) % 4 == 0
    scorer = head.scorer(painted, held)
    assert scorer.accuracy(painted.pick(held)) > 0.7
    lied = Painted(painted.voxels, (painted.values + 1) % 3, painted.strokes)
    assert head.scorer(lied, held).accuracy(painted.pick(held)) < 0.3


def test_unpainted_voxels_stand_for_background_only_without_a_model(features, truth, monkeypatch):
    taken = []
    real = StrokeForest.fit

    def spy(self, inputs, values, strokes, weights=None, anywhere=None, few=0):
        taken.append(few)
        return real(self, inputs, values, strokes, weights, anywhere, few)

    monkeypatch.setattr(StrokeForest, "fit", spy)
    painted = painted_at(truth, rows(truth))
    twenty = Painted(
        np.repeat(painted.voxels, 20, axis=0),
        np.repeat(painted.values, 20),
        np.repeat(painted.strokes, 20),
    )
    FastHead(features, 3, threads=1).fit(twenty)
    prior = np.full((3, *truth.shape), 1 / 3, np.float32)
    FastHead(features, 3, prior, threads=1).fit(twenty)
    assert taken == [15, 0]  # three quarters of a stroke


def test_half_of_the_voxels_from_anywhere_lie_where_strokes_are(features, truth):
    painted = painted_at(truth, [[6, 8, 8], [6, 16, 10]])
    elsewhere, few = FastHead(features, 3, threads=1)._elsewhere(painted)
    assert few == 1
    places = {tuple(place) for place in elsewhere[: len(elsewhere) // 2, -3:].astype(int)}
    assert places == {(6, 8, 8), (6, 16, 10)}
    others = elsewhere[len(elsewhere) // 2 :, -3:]
    assert len(np.unique(others[:, 2])) == truth.shape[2]
