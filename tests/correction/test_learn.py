from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from napari_attention3d.correction.fast_head import FastHead
from napari_attention3d.correction.features import scan_features
from napari_attention3d.correction.grid import WorkGrid
from napari_attention3d.correction.learn import Patch, Previous, judge, learn_job
from napari_attention3d.correction.strokes import Painted
from napari_attention3d.errors import InputError


@pytest.fixture
def head(scan) -> FastHead:
    *_, features = scan_features(scan.array, (1, 1, 1))
    return FastHead(features, 3, threads=1)


@pytest.fixture
def grid(truth) -> WorkGrid:
    return WorkGrid(truth.shape, (1, 1, 1))


def painted_of(truth, count, seed=0) -> Painted:
    """`count` strokes of four voxels along x, classes in turn."""
    rng = np.random.default_rng(seed)
    voxels, values, numbers = [], [], []
    for number in range(count):
        inner = truth == number % 3
        inner &= np.roll(inner, -3, axis=2)
        inner[..., -4:] = False
        place = rng.permutation(np.argwhere(inner))[0]
        voxels += [place + np.array((0, 0, i)) for i in range(4)]
        values += [number % 3] * 4
        numbers += [number] * 4
    return Painted(np.array(voxels), np.array(values), np.array(numbers))


def test_a_round_learns_and_shows_the_viewed_planes_first(head, grid, truth, monkeypatch):
    monkeypatch.setattr("napari_attention3d.correction.fast_head.SLAB_VOXELS", 2 * 20 * 22)
    patches, job = [], learn_job(head, grid, painted_of(truth, 6), focus=(9, 3, 3))
    while True:
        try:
            step = next(job)
        except StopIteration as stop:
            learned = stop.value
            break
        if isinstance(step.partial, Patch):
            patches.append(step.partial)
    assert [p.start for p in patches if not p.final] == [(8, 0, 0)]
    assert patches[0].labels.shape == (2, 20, 22)
    assert not patches[0].final
    assert (learned.labels == truth).mean() > 0.9
    assert learned.strokes == 6
    assert learned.score is None
    np.testing.assert_allclose(learned.state.probabilities.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 3, 2)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_mask_comes_slab_by_slab_from_the_plane_in_view(
    scan, truth, monkeypatch, factors, axis
):
    """Whichever way the scan is looked at; together the slabs are the round's mask."""
    monkeypatch.setattr("napari_attention3d.correction.fast_head.SLAB_VOXELS", 1)
    monkeypatch.setattr("napari_attention3d.correction.learn.PATCH_VOXELS", 2 * truth.size // 20)
    grid = WorkGrid(truth.shape, factors)
    *_, features = scan_features(grid.reduce(scan.array), factors)
    head = FastHead(features, 3, threads=1)
    focus = (9.0, 3.0, 17.0)
    patches, job = [], learn_job(head, grid, painted_of(truth, 6), focus=focus, axis=axis)
    while True:
        try:
            step = next(job)
        except StopIteration as stop:
            learned = stop.value
            break
        patches += [step.partial] * (step.partial is not None)
    quick, *final = patches
    assert not quick.final
    assert all(one.final for one in final)
    for first in (quick, final[0]):  # they hold all of the plane in view
        stop = first.start[axis] + first.labels.shape[axis]
        assert first.start[axis] <= focus[axis] < stop
        rest = [n for a, n in enumerate(truth.shape) if a != axis]
        assert [n for a, n in enumerate(first.labels.shape) if a != axis] == rest
    middles = [p.start[axis] + p.labels.shape[axis] / 2 for p in final]
    apart = [abs(middle - focus[axis]) for middle in middles]
    assert len(final) > 3
    assert all(b >= a - 2 for a, b in itertools.pairwise(apart))
    built = np.full(truth.shape, 99)
    for patch in final:
        where = tuple(slice(a, a + n) for a, n in zip(patch.start, patch.labels.shape, strict=True))
        assert (built[where] == 99).all()  # none twice
        built[where] = patch.labels
    np.testing.assert_array_equal(built, learned.labels)


def test_the_axis_of_the_view_changes_nothing_in_the_mask(scan, truth, finish):
    grid = WorkGrid(truth.shape, (2, 3, 2))
    rng = np.random.default_rng(0)
    detail = rng.random((3, *truth.shape)).astype(np.float32)
    detail /= detail.sum(0)
    *_, features = scan_features(grid.reduce(scan.array), (2, 3, 2))
    head = FastHead(features, 3, grid.reduce(detail), threads=1)
    masks = [
        finish(learn_job(head, grid, painted_of(truth, 6), detail=detail, axis=axis)).labels
        for axis in range(3)
    ]
    for mask in masks[1:]:
        assert (mask == masks[0]).mean() > 0.999  # ties of rounding


def test_nothing_final_is_shown_of_a_result_that_a_check_calls_lost(head, grid, truth):
    def lose(result):
        result.lost = True

    job = learn_job(head, grid, painted_of(truth, 6), check=lose)
    shown = [step.partial for step in job if step.partial is not None]
    assert [patch.final for patch in shown] == [False]


def test_of_erased_strokes_nothing_is_remembered(head, grid, truth, finish):
    few = painted_of(truth, 6)
    other = np.zeros((3, *truth.shape), np.float32)
    other[2] = 1  # an earlier round that said "bar" everywhere
    fresh = finish(learn_job(head, grid, few)).state.probabilities
    again = finish(learn_job(head, grid, few, Previous(other, 8), erased=True))
    np.testing.assert_array_equal(again.state.probabilities, fresh)
    assert not again.lost  # that much changes is what was asked for


def test_patches_have_strokes_and_approvals_over_them(head, grid, truth):
    job = learn_job(
        head, grid, painted_of(truth, 3), merge=lambda labels, start: np.full_like(labels, 2)
    )
    shown = [step.partial for step in job if step.partial is not None]
    assert (shown[0].labels == 2).all()


def test_nothing_painted(head, grid, truth):
    with pytest.raises(InputError, match="nothing is painted"):
        next(learn_job(head, grid, painted_of(truth, 3).pick(np.zeros(12, bool))))


def test_a_region_alone_is_predicted(head, grid, truth, finish):
    before = finish(learn_job(head, grid, painted_of(truth, 3))).state
    region = ((2, 6), (4, 12), (0, 11))
    after = finish(
        learn_job(head, grid, painted_of(truth, 9, seed=1), before, region=region)
    ).state.probabilities
    inside = np.zeros(truth.shape, bool)
    inside[2:6, 4:12, 0:11] = True
    moved = np.abs(after - before.probabilities).max(0)
    assert moved[inside].max() > 0.05
    assert moved[~inside].max() == 0


def test_earlier_rounds_are_kept_the_more_the_more_they_knew(head, grid, truth, finish):
    painted = painted_of(truth, 6)
    other = np.zeros((3, *truth.shape), np.float32)
    other[2] = 1  # an earlier round that said "bar" everywhere
    young = finish(learn_job(head, grid, painted, Previous(other, 2))).state.probabilities
    old = finish(learn_job(head, grid, painted, Previous(other, 5))).state.probabilities
    none = finish(learn_job(head, grid, painted)).state.probabilities
    assert none[2].mean() < young[2].mean() < old[2].mean() < 1


def test_a_coarse_grid_still_gives_labels_of_the_scan(scan, truth, finish):
    grid = WorkGrid(truth.shape, (2, 2, 2))
    *_, features = scan_features(grid.reduce(scan.array), (2, 2, 2))
    head = FastHead(features, 3, threads=1)
    learned = finish(learn_job(head, grid, painted_of(truth, 6)))
    assert learned.labels.shape == truth.shape
    assert (learned.labels == truth).mean() > 0.75


def test_a_coarse_grid_keeps_the_models_detail_where_nothing_changed(scan, truth, finish):
    grid = WorkGrid(truth.shape, (2, 2, 2))
    rng = np.random.default_rng(0)
    detail = rng.random((3, *truth.shape)).astype(np.float32)  # finer than any block
    detail /= detail.sum(0)
    *_, features = scan_features(grid.reduce(scan.array), (2, 2, 2))
    head = FastHead(features, 3, grid.reduce(detail), threads=1)
    learned = finish(learn_job(head, grid, painted_of(truth, 3), detail=detail))
    agree = (learned.labels == detail.argmax(0)).mean()
    blocks = np.repeat(np.repeat(np.repeat(head.prior.argmax(0), 2, 0), 2, 1), 2, 2)
    assert agree > (blocks == detail.argmax(0)).mean() + 0.05


class _Oracle:
    """A scorer that is right for a given share."""

    def __init__(self, share: float) -> None:
        self.share = share

    def accuracy(self, painted: Painted) -> float:
        return self.share


def test_from_twelve_strokes_on_a_round_is_scored_on_strokes_held_back(head, grid, truth, finish):
    painted = painted_of(truth, 18)
    learned = finish(learn_job(head, grid, painted))
    assert learned.score > 0.7
    assert learned.before is None
    assert not learned.lost
    painted.values[painted.strokes == 4] = 2  # a slip: it lies in class 1
    learned = finish(learn_job(head, grid, painted))
    assert 0 < learned.score < 1
    worse = replace(learned.state, scorer=_Oracle(learned.score + 0.03))
    judged = finish(learn_job(head, grid, painted, worse))
    assert judged.before == learned.score + 0.03
    assert judged.score == learned.score  # the same strokes
    assert judged.lost
    as_good = replace(learned.state, scorer=_Oracle(learned.score + 0.01))
    assert not finish(learn_job(head, grid, painted, as_good)).lost
    better = replace(learned.state, scorer=_Oracle(0.1))
    assert not finish(learn_job(head, grid, painted, better)).lost


def test_a_lost_round_says_so(head, grid, truth, finish):
    painted = painted_of(truth, 18)
    learned = finish(learn_job(head, grid, painted))
    head.scorer = lambda painted, held: _Oracle(0.3)
    judge(learned, head, painted, replace(learned.state, scorer=_Oracle(0.9)))
    assert learned.lost
    assert "held-back strokes" in learned.warnings[-1]
    assert "30%" in learned.warnings[-1]


def test_the_first_round_with_a_score_is_judged_by_drift(head, grid, truth, finish):
    """The one that crosses 12 strokes, or follows a resumed session: nothing to compare with."""
    few, many = painted_of(truth, 11), painted_of(truth, 18)
    before = finish(learn_job(head, grid, few)).state
    assert before.scorer is None
    learned = finish(learn_job(head, grid, many, before))
    assert learned.score is not None
    assert learned.before is None
    assert not learned.lost
    sure = np.zeros((3, *truth.shape), np.float32)
    sure[2] = 1.0
    ruined = replace(learned, lost=False, warnings=[])
    judge(ruined, head, many, Previous(sure, 11))
    assert ruined.score is not None
    assert ruined.before is None
    assert ruined.lost
    assert "certain before" in ruined.warnings[-1]


def test_below_twelve_strokes_drift_is_what_counts(head, grid, truth, finish):
    painted = painted_of(truth, 6)
    learned = finish(learn_job(head, grid, painted))
    sure = np.zeros((3, *truth.shape), np.float32)
    sure[2] = 1.0
    judge(learned, head, painted, Previous(sure, 3))
    assert learned.drift > 0.5
    assert learned.lost
    assert "certain before" in learned.warnings[-1]
    calm = replace(learned, lost=False, warnings=[])
    judge(calm, head, painted, learned.state)
    assert calm.drift == 0
    assert not calm.lost
