"""Rounds in which the network is trained, in a session."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.correction import session as session_module
from napari_attention3d.correction.learn import Learned, Previous, learn_job
from napari_attention3d.correction.refine import RefineOptions
from napari_attention3d.correction.refine_round import _guard
from napari_attention3d.correction.session import CorrectionSession
from napari_attention3d.errors import InputError, OutOfMemory
from napari_attention3d.models.store import load_model

FEW = RefineOptions(steps=3, patch=(8, 16, 16), device="cpu")


@pytest.fixture
def small(monkeypatch):
    """A network that is quick to train, where one is made from nothing."""
    from napari_attention3d.correction import working_copy
    from napari_attention3d.networks import build_network

    def build(name, **config):
        return build_network(name, **{**config, "channels": (4, 8), "strides": [(2, 2, 2)]})

    monkeypatch.setattr(working_copy, "build_network", build)


def learned(session, finish):
    session.apply(finish(session.learn_job()))
    made = session.apply(finish(session.refine_job(FEW)))
    return made


@pytest.mark.usefixtures("small")
def test_from_nothing_a_network_is_trained_undone_and_saved(session, scan, finish, tmp_path):
    with pytest.raises(InputError, match="no network was trained"):
        session.save_model(tmp_path / "early.safetensors")
    made = learned(session, finish)
    assert made.record.kind == "network"
    assert len(made.record.losses) == 3
    assert made.record.network == session.current == 2
    assert made.network.probabilities.shape == (3, *session.shape)
    np.testing.assert_allclose(made.network.probabilities.sum(0), 1, atol=0.01)
    assert session.has_network
    path = session.save_model(tmp_path / "mine.safetensors", "Mine")
    saved = load_model(path)
    assert saved.card.class_names == list(session.classes)
    assert saved.card.title == "Mine"
    for name, tensor in saved.network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), made.network.weights[name])
    session.undo()
    assert not session.has_network
    session.redo()
    assert session.has_network


@pytest.mark.usefixtures("small")
def test_the_next_fast_round_takes_the_network_for_what_is_to_be_corrected(session, finish):
    learned(session, finish)
    made = session.apply(finish(session.learn_job()))
    assert made.record.kind == "fast"
    assert made.record.network == 2
    assert session._head[1].prior is not None


def test_weights_and_labels_go_back_together(scan, model, finish):
    session = finish(CorrectionSession.start_job(scan, model, threads=1))
    session.add_stroke([[6, 8, x] for x in range(5, 12)], 1)
    start = {k: v.clone() for k, v in session.current_model().network.state_dict().items()}
    labels = session.labels
    made = learned(session, finish)
    moved = session.current_model().network.state_dict()
    assert any(not np.array_equal(moved[k], start[k]) for k in start)
    session.undo()
    session.undo()
    for name, tensor in session.current_model().network.state_dict().items():
        np.testing.assert_array_equal(tensor, start[name])
    painted = session.corrections != 0
    np.testing.assert_array_equal(session.labels[~painted], labels[~painted])
    session.go_to(2)
    for name, tensor in session.current_model().network.state_dict().items():
        np.testing.assert_array_equal(tensor, made.network.weights[name])


def test_a_network_of_a_round_that_lost_is_not_taken(session, finish, monkeypatch):
    session.apply(finish(session.learn_job()))

    def worse(model, scan, head, grid, painted, *args, **kwargs):
        result = yield from learn_job(head, grid, painted)
        result.lost = True
        return result

    monkeypatch.setattr(session_module, "refine_round_job", worse)
    assert session.apply_if_better(finish(session.refine_job(FEW))) is None
    assert session.current == 1
    assert not session.has_network


def test_memory_that_runs_out_while_it_trains_leaves_the_session_as_it_was(
    session, finish, monkeypatch
):
    session.apply(finish(session.learn_job()))

    def full(*args, **kwargs):
        raise MemoryError
        yield

    monkeypatch.setattr(session_module, "refine_round_job", full)
    with pytest.raises(OutOfMemory, match="Your strokes are kept"):
        finish(session.refine_job(FEW))
    assert (session.current, len(session.strokes)) == (1, 3)


def test_cancelled_training_changes_nothing(session):
    job = session.refine_job(FEW)
    for step in job:
        if step.metrics:
            break
    job.close()
    assert session.current == 0
    assert not session.has_network


def test_a_network_whose_small_class_spreads_is_lost_though_few_voxels_change():
    before = np.zeros((2, 10, 20, 20), np.float32)
    before[0] = 1
    before[:, 5, 9:11, 5:15], before[1, 5, 9:11, 5:15] = 0, 1  # 20 voxels of 4,000
    after = before.copy()
    after[:, 5, 7:13, 5:15], after[1, 5, 7:13, 5:15] = 0, 1  # three times as many
    for certain in (1, 0.7):  # after few strokes nothing of it is certain
        before[1, 5, 9:11, 5:15], before[0, 5, 9:11, 5:15] = certain, 1 - certain
        result = Learned(after[0], Previous(after, 6), after, 6, 1.0)
        _guard(result, before)
        assert result.lost


def test_a_network_that_forgets_a_class_is_lost_whatever_a_few_strokes_say():
    before = np.zeros((3, 4, 10, 10), np.float32)
    before[0] = 1
    before[:, 1, :5], before[1, 1, :5] = 0, 1  # 50 voxels of class 1
    before[:, 2, :5], before[2, 2, :5] = 0, 1
    after = before.copy()
    after[:, 2, :5], after[0, 2, :5] = 0, 1  # one class of three is gone, 12 % of the voxels

    def told(score=None, was=None, new=after):
        result = Learned(new[0], Previous(new, 20), new, 20, 1.0, score=score, before=was)
        _guard(result, before)
        return result

    assert told().lost
    assert "36%" in told(0.9, 0.9).warnings[0]  # (1 - 600 / 650 + 0 + 1) / 3
    assert told(0.95, 0.9).lost
    assert not told(new=before).lost
    unsure = np.full_like(before, 1 / 3)
    result = Learned(after[0], Previous(after, 20), after, 20, 1.0)
    _guard(result, unsure)
    assert not result.lost
