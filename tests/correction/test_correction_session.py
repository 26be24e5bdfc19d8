"""A person's whole session, without a window."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.correction import learn
from napari_attention3d.correction import session as session_module
from napari_attention3d.correction.learn import NetworkState
from napari_attention3d.correction.session import CorrectionSession
from napari_attention3d.errors import InputError, OutOfMemory
from napari_attention3d.volumes.volume import Volume

CLASSES = ("background", "box", "bar")


def dice(mask, truth, value):
    a, b = mask == value, truth == value
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def learn_once(session, finish, **options):
    return session.apply(finish(session.learn_job(**options)))


def test_three_strokes_make_a_mask(session, truth, finish):
    assert not session.labels[truth == 0][session.corrections[truth == 0] == 0].any()
    made = learn_once(session, finish)
    assert dice(session.labels, truth, 1) > 0.5
    assert dice(session.labels, truth, 2) > 0.5
    assert made.record.number == session.current == 1
    assert made.record.strokes == 3
    assert made.record.kind == "fast"


def test_same_strokes_same_mask(scan, session, finish):
    again = CorrectionSession(scan, CLASSES, threads=2)
    for stroke in session.strokes.items:
        again.add_stroke(stroke.voxels, stroke.values)
    learn_once(session, finish)
    learn_once(again, finish)
    np.testing.assert_array_equal(session.labels, again.labels)


def test_painted_voxels_always_win(session, finish):
    session.add_stroke([[6, 8, 8], [0, 0, 0]], 2)  # against all reason
    learn_once(session, finish)
    assert session.labels[6, 8, 8] == session.labels[0, 0, 0] == 2


def test_strokes_layer_is_taken_over_once(session):
    before = len(session.strokes)
    layer = session.corrections.copy()
    assert session.paint(layer) is None
    layer[1, 1, 1:4] = 1
    assert len(session.paint(layer).voxels) == 3
    assert session.paint(layer) is None
    layer[1, 1, 2] = 0
    session.paint(layer)
    assert len(session.strokes) == before + 2
    assert session.corrections[1, 1].tolist()[:4] == [0, 1, 0, 1]


def test_strokes_made_while_it_learns_are_kept_and_used_next(session, finish):
    job = session.learn_job()
    next(job)
    session.add_stroke([[0, 0, 0]], 1)
    learned = finish(job)
    assert learned.strokes == 3
    session.apply(learned)
    assert session.labels[0, 0, 0] == 1
    assert learn_once(session, finish).record.strokes == 4


def test_edits_of_the_mask_count_as_strokes(session, finish):
    learn_once(session, finish)
    mask = session.labels.astype(np.int32)  # napari's layers have any integer type
    assert session.take_mask_edits(mask) is None
    inside = tuple(np.argwhere(mask == 1)[0])
    mask[inside] = 0  # the eraser
    mask[0, 0, :3] = 2
    stroke = session.take_mask_edits(mask)
    assert len(stroke.voxels) == 4
    assert session.corrections[inside] == 255
    assert session.corrections[0, 0, :3].tolist() == [2, 2, 2]
    assert session.take_mask_edits(mask) is None
    learn_once(session, finish)
    assert session.labels[inside] == 0


def test_parts_written_while_it_learns_are_no_edits(session, finish):
    learn_once(session, finish)
    mask = session.labels
    mask[3:5] = 2
    session.note_written(mask[3:5], (3, 0, 0))
    assert session.take_mask_edits(mask) is None
    mask[7:9, 2:4, 5:] = 1
    session.note_written(mask[7:9, 2:4, 5:], (7, 2, 5))
    assert session.take_mask_edits(mask) is None


def test_edits_are_looked_for_in_a_part_alone(session, finish):
    learn_once(session, finish)
    mask = session.labels
    mask[3, 4, 5] = mask[8, 4, 5] = 2
    part = (slice(2, 5), slice(0, 20), slice(1, 22))
    assert session.take_mask_edits(mask, part).voxels.tolist() == [[3, 4, 5]]
    assert session.take_mask_edits(mask, part) is None
    assert session.take_mask_edits(mask).voxels.tolist() == [[8, 4, 5]]


def test_edits_with_an_unknown_label_or_of_another_layer_change_nothing(session, finish):
    learn_once(session, finish)
    count, mask = len(session.strokes), session.labels
    with pytest.raises(InputError, match="replaced by another layer"):
        session.take_mask_edits(mask[1:])
    mask[0, 0, 0] = 9
    with pytest.raises(InputError, match="label 9"):
        session.take_mask_edits(mask)
    assert len(session.strokes) == count
    mask[0, 0, 0] = 1
    assert session.take_mask_edits(mask) is not None


def test_a_patch_gets_the_strokes_of_now(session):
    session.add_stroke([[4, 0, 0]], 2)
    assert session.merged(np.zeros((2, 20, 22), np.uint8), (4, 0, 0))[0, 0, 0] == 2
    assert session.merged(np.zeros((2, 3, 4), np.uint8), (3, 0, 0))[1, 0, 0] == 2


def test_late_strokes_are_told_with_what_the_mask_shows_there(session, finish):
    learn_once(session, finish)
    session.approve_slice(6)
    before = len(session.strokes)
    session.add_stroke([[6, 0, 0], [6, 0, 1], [2, 0, 0], [2, 0, 1]], [2, 255, 1, 255])
    session.add_stroke([[6, 0, 0], [2, 0, 0]], 0)  # erased again
    voxels, values = session.strokes_since(before)
    assert len(voxels) == 6
    np.testing.assert_array_equal(session.labels[tuple(voxels.T)], values)
    assert len(session.strokes_since(before + 2)[0]) == 0


# approvals


def test_approved_voxels_stay_and_flips_are_told(session, truth, finish):
    learn_once(session, finish)
    kept = session.labels
    assert session.approve_slice(6) == truth[6].size
    session.add_stroke([[5, y, x] for y in range(4, 12) for x in range(4, 13)], 2)
    session.add_stroke([[7, y, x] for y in range(4, 12) for x in range(4, 13)], 2)
    made = learn_once(session, finish)
    np.testing.assert_array_equal(session.labels[6], kept[6])
    flips = session.forgotten()
    assert made.record.flipped == len(flips) > 0
    assert set(flips[:, 0]) == {6}
    assert "approved voxels" in made.record.warnings[-1]


def test_flips_are_found_group_by_group(session, finish):
    learn_once(session, finish)
    session.approve_slice(6)
    assert session.flips() == []
    predicted = session.predicted
    for z, y, x in ((6, 1, 1), (6, 1, 2), (6, 1, 3), (6, 18, 20)):
        predicted[z, y, x] = (predicted[z, y, x] + 1) % 3
    assert session.flips() == [(6, 1, 2), (6, 18, 20)]


def test_repainting_what_was_approved_is_no_flip(session, finish):
    learn_once(session, finish)
    session.approve_slice(6)
    over = session.labels[6] == 1
    assert over.any()
    session.add_stroke([(6, *place) for place in np.argwhere(over)], 2)
    made = learn_once(session, finish)
    assert (session.predicted[6][over] == 2).any()  # where another class was approved
    flips = session.forgotten()
    assert made.record.flipped == len(flips)
    assert not over[tuple(flips[:, 1:].T)].any()


def test_ways_to_approve(session, finish):
    learn_once(session, finish)
    mask = session.labels
    assert session.approve_region(((0, 2), (0, 3), (0, 4))) == 24
    assert session.approve_slice(3, axis=1) > 24
    count = session.approve_label(1)
    assert (session.approval.voxels[mask == 1]).all()
    assert count == session.approval.voxels.sum()
    session.withdraw_approval()
    assert session.approval is None
    for wrong in (
        lambda: session.approve_label(3),
        lambda: session.approve_slice(12),
        lambda: session.approve_region(((2, 1), (0, 3), (0, 4))),
        lambda: session.approve(np.ones((2, 2, 2), bool)),
    ):
        with pytest.raises(InputError):
            wrong()


def test_paint_wins_over_approval(session, finish):
    learn_once(session, finish)
    session.approve_slice(6)
    session.add_stroke([[6, 8, 8]], 2)
    assert session.labels[6, 8, 8] == 2


# rounds


def test_undo_and_redo(session, finish):
    with pytest.raises(InputError, match="no round to undo"):
        session.undo()
    learn_once(session, finish)
    first = session.predicted.copy()
    session.add_stroke([[2, 2, x] for x in range(2, 20)], 1)
    learn_once(session, finish)
    second = session.predicted.copy()
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(session.undo().labels, first)
    assert session.can_redo
    assert session.take_mask_edits(session.labels) is None  # what was written went back too
    np.testing.assert_array_equal(session.redo().labels, second)
    with pytest.raises(InputError, match="no round to redo"):
        session.redo()
    with pytest.raises(InputError, match="no round 7"):
        session.go_to(7)
    assert len(session.strokes) == 4


def test_learning_after_an_undo_forgets_what_was_undone(session, finish):
    for _ in range(3):
        learn_once(session, finish)
    session.go_to(1)
    made = learn_once(session, finish)
    assert made.record.number == 2
    assert len(session.rounds) == 3
    assert not session.can_redo


def test_best_is_the_latest_that_did_not_lose(session, finish):
    learn_once(session, finish)
    worse = finish(session.learn_job())
    worse.lost = True
    assert session.apply_if_better(worse) is None
    session.apply(worse)
    assert session.current == 2
    assert session.best == 1
    session.restore_best()
    assert session.current == 1


def test_old_rounds_keep_labels_only(session, finish, monkeypatch):
    monkeypatch.setattr("napari_attention3d.correction.rounds.KEPT_ROUNDS", 1)
    for _ in range(3):
        learn_once(session, finish)
    assert session.rounds[1].state is None
    assert session.rounds[3].state is not None
    session.go_to(1)
    learn_once(session, finish)  # still works from there


def test_old_rounds_drop_their_networks_too_unless_a_later_one_uses_them(
    session, finish, monkeypatch
):
    monkeypatch.setattr("napari_attention3d.correction.rounds.KEPT_ROUNDS", 1)
    state = {k: v.numpy() for k, v in session.current_model().network.state_dict().items()}
    shares = np.full((3, *session.shape), 1 / 3, np.float16)
    for trained in (True, False, True, False, False):
        learned = finish(session.learn_job())
        learned.network = NetworkState(state, shares) if trained else None
        session.apply(learned)
    assert [r.record.network for r in session.rounds] == [None, 1, 1, 3, 3, 3]
    held = [r.network is not None for r in session.rounds]
    assert held == [False, False, False, True, True, True]


def test_of_an_erased_stroke_nothing_is_left(session, finish):
    learn_once(session, finish)
    fresh = session.shown_round.state.probabilities
    wrong = [[z, y, x] for z in range(3, 9) for y in range(4, 12) for x in range(4, 13)]
    session.add_stroke(wrong, 2)
    learn_once(session, finish)
    assert (session.predicted[5, 6:10, 6:11] == 2).all()
    over = session.corrections.copy()
    over[3:9, 4:12, 4:13] = 0
    over[6, 8, 5:12] = 1
    session.paint(over)
    made = learn_once(session, finish)
    left = np.abs(made.state.probabilities - fresh)[:, 3:9, 4:12, 4:13]
    assert left.mean() < 0.1  # as at first, but that its strokes have other numbers
    assert (session.predicted[5, 6:10, 6:11] == 1).all()
    assert session.strokes.counts() == {1: 1, 2: 1, 255: 1}


# where to look


def test_next_place_goes_round_and_avoids_what_was_seen(session, finish):
    assert session.next_place() is None
    learn_once(session, finish)
    places = []
    while (place := session.next_place()) is not None and len(places) < 50:
        places.append(place)
    assert places
    assert len(places) < 50
    assert len(set(places)) == len(places)
    for place in places:
        assert all(0 <= p < n for p, n in zip(place, session.shape, strict=True))


def test_nothing_to_check_where_all_is_approved(session, finish):
    learn_once(session, finish)
    session.approve(np.ones(session.shape, bool))
    assert session.next_place() is None


# bad input


def test_one_class_alone_is_refused_and_nothing_changes(scan, finish):
    session = CorrectionSession(scan, CLASSES, threads=1)
    with pytest.raises(InputError, match="nothing is painted"):
        finish(session.learn_job())
    session.add_stroke([[6, 8, 8]], 1)
    with pytest.raises(InputError, match="all strokes are of one class"):
        finish(session.learn_job())
    session.add_stroke([[6, 0, 0]], 255)
    learn_once(session, finish)


@pytest.mark.parametrize(
    ("voxels", "value", "message"),
    [
        ([[12, 0, 0]], 1, "leaves the scan"),
        ([[0, 0, -1]], 1, "leaves the scan"),
        ([[0, 0, 0]], 3, "the label 3"),
    ],
)
def test_bad_strokes_leave_the_session_as_it_was(session, voxels, value, message):
    before = session.corrections.copy()
    with pytest.raises(InputError, match=message):
        session.add_stroke(voxels, value)
    np.testing.assert_array_equal(session.corrections, before)
    assert len(session.strokes) == 3


def test_layers_of_another_scan_are_refused(session, truth):
    with pytest.raises(InputError, match="shape"):
        session.paint(np.zeros((3, 3, 3), np.uint8))
    wrong = np.zeros(truth.shape, np.uint8)
    wrong[0, 0, 0] = 77
    with pytest.raises(InputError, match="label 77"):
        session.paint(wrong)
    with pytest.raises(InputError, match="uint8 or uint16"):
        session.paint(wrong.astype(float))
    assert len(session.strokes) == 3


def test_what_does_not_fit_the_scan_is_refused_at_the_start(scan, truth):
    with pytest.raises(InputError, match="at least one class"):
        CorrectionSession(scan, ("background",))
    with pytest.raises(InputError, match="the mask has the shape"):
        CorrectionSession(scan, CLASSES, labels=truth[1:])
    with pytest.raises(InputError, match="label 2"):
        CorrectionSession(scan, CLASSES[:2], labels=truth)
    with pytest.raises(InputError, match="probabilities have the shape"):
        CorrectionSession(scan, CLASSES, probabilities=np.zeros((2, *truth.shape)))


def test_memory_that_runs_out_leaves_the_session_as_it_was(session, finish, monkeypatch):
    learn_once(session, finish)
    kept, real = session.labels, learn.FastHead.probabilities

    def full(*args):
        raise MemoryError

    monkeypatch.setattr(learn.FastHead, "probabilities", full)
    with pytest.raises(OutOfMemory, match="Your strokes are kept"):
        finish(session.learn_job())
    monkeypatch.setattr(learn.FastHead, "probabilities", real)
    np.testing.assert_array_equal(session.labels, kept)
    assert (session.current, len(session.strokes)) == (1, 3)
    learn_once(session, finish)


def test_other_errors_are_not_called_memory(session, finish, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(session_module, "learn_job", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        finish(session.learn_job())


def test_a_cancelled_job_changes_nothing(session):
    job = session.learn_job()
    next(job)
    next(job)
    job.close()
    assert session.current == 0


# start modes


def test_a_mask_to_start_from_is_shown_until_something_is_learned(scan, truth):
    session = CorrectionSession(scan, CLASSES, labels=truth)
    np.testing.assert_array_equal(session.labels, truth)


def test_probabilities_to_start_from_are_corrected(scan, truth, finish):
    shares = np.full((3, *truth.shape), 0.02, np.float32)
    for value in range(3):
        shares[value][truth == value] = 0.96
    session = CorrectionSession(scan, CLASSES, probabilities=shares, threads=1)
    np.testing.assert_array_equal(session.labels, truth)
    session.add_stroke([[1, 1, x] for x in range(3)], 1)  # one class is enough with a model
    learn_once(session, finish)
    assert session.labels[1, 1, 1] == 1
    assert (session.labels == truth).mean() > 0.98


def test_a_model_starts_the_session_with_its_mask(scan, model, finish):
    session = finish(CorrectionSession.start_job(scan, model, threads=1))
    assert session.classes == CLASSES
    assert session.start_probabilities.shape == (3, *session.shape)
    np.testing.assert_array_equal(session.labels, session.start_probabilities.argmax(0))


def test_a_model_with_other_classes_starts_with_an_empty_mask(scan, model, finish):
    session = finish(CorrectionSession.start_job(scan, model, ["background", "box", "new", "b"]))
    assert session.start_probabilities is None
    assert not session.labels.any()
    assert not session.has_network
    assert session.current_model().network.num_classes == 4


def test_neither_model_nor_classes(scan, finish):
    with pytest.raises(InputError, match="name the classes"):
        finish(CorrectionSession.start_job(scan))


def test_channels_are_used(truth, finish):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, truth.shape)
    told = np.stack((noise, truth * 3.0 + rng.normal(0, 0.3, truth.shape))).astype(np.float32)
    session = CorrectionSession(Volume.from_array(told), CLASSES, threads=1)
    session.add_stroke([[6, 8, x] for x in range(5, 12)], 1)
    session.add_stroke([[6, 16, x] for x in range(9, 18)], 2)
    session.add_stroke([[6, 2, x] for x in range(2, 20)], 255)
    learn_once(session, finish)
    assert dice(session.labels, truth, 1) > 0.5
