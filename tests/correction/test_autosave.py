from __future__ import annotations

import json

import numpy as np
import pytest

from napari_attention3d.correction.autosave import Autosave
from napari_attention3d.correction.learn import NetworkState
from napari_attention3d.correction.session import CorrectionSession
from napari_attention3d.errors import InputError
from napari_attention3d.volumes.volume import Volume

CLASSES = ("background", "box", "bar")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "phantom.session"


@pytest.fixture
def saved(scan, folder, session):
    """The phantom's session, but saved."""
    made = CorrectionSession(scan, CLASSES, folder=folder, threads=1)
    for stroke in session.strokes.items:
        made.add_stroke(stroke.voxels, stroke.values)
    return made


def same(a: CorrectionSession, b: CorrectionSession) -> None:
    assert a.current == b.current
    assert a.classes == b.classes
    assert [r.record for r in a.rounds] == [r.record for r in b.rounds]
    np.testing.assert_array_equal(a.corrections, b.corrections)
    np.testing.assert_array_equal(a.labels, b.labels)
    assert len(a.strokes) == len(b.strokes)


def test_a_session_goes_on_as_it_was(saved, scan, folder, finish):
    saved.apply(finish(saved.learn_job()))
    saved.add_stroke([[0, 0, 0]], 2)
    layer = saved.corrections.copy()
    layer[1, 2:5, 3] = 1  # a view of strided voxels
    saved.paint(layer)
    saved.apply(finish(saved.learn_job()))
    saved.approve_slice(6)
    saved.undo()
    again = CorrectionSession.resume(folder, scan, threads=1)
    same(again, saved)
    np.testing.assert_array_equal(again.approval.voxels, saved.approval.voxels)
    again.redo()
    saved.redo()
    same(again, saved)
    shares = saved.shown_round.state.probabilities
    np.testing.assert_allclose(again.shown_round.state.probabilities, shares, atol=0.003)
    again.add_stroke([[0, 0, 1]], 1)
    again.apply(finish(again.learn_job()))
    same(CorrectionSession.resume(folder, scan), again)


def test_what_was_undone_and_replaced_is_gone(saved, scan, folder, finish):
    for _ in range(3):
        saved.apply(finish(saved.learn_job()))
    saved.go_to(1)
    saved.apply(finish(saved.learn_job()))
    again = CorrectionSession.resume(folder, scan)
    assert len(again.rounds) == 3
    same(again, saved)


def test_withdrawn_approval_stays_withdrawn(saved, scan, folder):
    saved.approve_slice(6)
    saved.approve_slice(7)
    assert CorrectionSession.resume(folder, scan).approval.voxels.sum() == 2 * 20 * 22
    saved.withdraw_approval()
    assert CorrectionSession.resume(folder, scan).approval is None


def test_model_and_its_probabilities_come_back(scan, model, folder, finish):
    session = finish(CorrectionSession.start_job(scan, model, folder=folder, threads=1))
    session.add_stroke([[6, 8, x] for x in range(5, 12)], 1)
    again = CorrectionSession.resume(folder, scan, threads=1)
    np.testing.assert_allclose(again.start_probabilities, session.start_probabilities, atol=0.004)
    for name, tensor in again.current_model().network.state_dict().items():
        np.testing.assert_array_equal(tensor, model.network.state_dict()[name])


def test_network_of_a_round_comes_back_with_it(saved, scan, folder, finish):
    learned = finish(saved.learn_job())
    shape = (3, *saved.shape)
    state = saved.current_model().network.state_dict()
    weights = {k: v.numpy() + 1 for k, v in state.items()}
    learned.network = NetworkState(weights, np.full(shape, 1 / 3, np.float16))
    learned.kind, learned.losses = "network", [1.5, 1.25]
    saved.apply(learned)
    saved.apply(finish(saved.learn_job()))  # a fast round with that network
    again = CorrectionSession.resume(folder, scan, threads=1)
    assert [r.record.network for r in again.rounds] == [None, 1, 1]
    assert again.rounds[1].record.losses == [1.5, 1.25]
    for made in (again, saved):
        found = made.current_model().network.state_dict()
        for name, value in weights.items():
            np.testing.assert_array_equal(found[name], value)
    assert again.rounds[2].network is again.rounds[1].network
    again.go_to(0)
    assert not again.has_network


def test_a_folder_in_use_is_not_touched(saved, scan, folder, tmp_path):
    with pytest.raises(InputError, match="holds a session already"):
        CorrectionSession(scan, CLASSES, folder=folder)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "me.jpg").write_text("smile")
    with pytest.raises(InputError, match="not empty"):
        CorrectionSession(scan, CLASSES, folder=other)
    assert (other / "me.jpg").read_text() == "smile"
    empty = tmp_path / "empty"
    empty.mkdir()
    CorrectionSession(scan, CLASSES, folder=empty)
    assert Autosave.is_session(empty)


def test_another_scan_is_refused(saved, folder):
    other = Volume.from_array(np.zeros((4, 5, 6), np.float32), name="other")
    with pytest.raises(InputError, match=r"'phantom'.*open that scan"):
        CorrectionSession.resume(folder, other)


def test_no_session_or_a_newer_one(scan, saved, folder, tmp_path):
    with pytest.raises(InputError, match="holds no session"):
        CorrectionSession.resume(tmp_path, scan)
    assert not Autosave.is_session(tmp_path)
    about = json.loads((folder / "session.json").read_text())
    (folder / "session.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(InputError, match="newer version"):
        CorrectionSession.resume(folder, scan)


def test_a_damaged_stroke_is_named(saved, scan, folder):
    path = folder / "strokes" / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match=r"000001\.safetensors is damaged"):
        CorrectionSession.resume(folder, scan)
    path.unlink()
    again = CorrectionSession.resume(folder, scan)
    assert len(again.strokes) == 2
    again.add_stroke([[0, 0, 0]], 1)  # does not overwrite stroke 2
    assert len(CorrectionSession.resume(folder, scan).strokes) == 3


def test_what_was_just_being_written_does_no_harm(saved, scan, folder, finish):
    saved.apply(finish(saved.learn_job()))
    (folder / "strokes" / ".na3d-0123.safetensors").write_bytes(b"half")
    (folder / "rounds" / ".na3d-0123").mkdir()
    (folder / "rounds" / ".gone-0123").mkdir()
    (folder / "approval" / ".na3d-0123.zarr").mkdir()
    same(CorrectionSession.resume(folder, scan), saved)


def test_a_stroke_that_cannot_be_saved_is_not_taken(saved, folder, monkeypatch):
    from napari_attention3d.errors import OutputError

    def full(stroke):
        raise OutputError("the disk is full")

    monkeypatch.setattr(saved.saved, "add_stroke", full)
    with pytest.raises(OutputError):
        saved.add_stroke([[0, 0, 0]], 1)
    assert len(saved.strokes) == 3
    assert saved.corrections[0, 0, 0] == 0


def test_strokes_are_on_the_disk_itself_once_a_round_is_saved(saved, monkeypatch, finish):
    flushed = []
    monkeypatch.setattr(
        "napari_attention3d.correction.autosave.flush_file", lambda path: flushed.append(path.name)
    )
    saved.add_stroke([[0, 0, 0]], 2)
    assert flushed == []  # the window's thread does not wait for the disk
    saved.apply(finish(saved.learn_job()))
    strokes = sorted(path.name for path in (saved.saved.folder / "strokes").iterdir())
    assert sorted(flushed) == strokes
