"""Whatever a session folder holds, it is resumed from what is whole or refused in our words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from safetensors.numpy import save_file

from napari_attention3d.correction.learn import NetworkState
from napari_attention3d.correction.session import CorrectionSession
from napari_attention3d.errors import Attention3DError, InputError

CLASSES = ("background", "box", "bar")


_BUILT: list[Path] = []


@pytest.fixture
def folder(scan, session, finish, tmp_path, tmp_path_factory):
    """Three rounds (the second with a network), three strokes, an approval; a copy to damage."""
    if not _BUILT:
        whole = tmp_path_factory.mktemp("session") / "s"
        made = CorrectionSession(scan, CLASSES, folder=whole, threads=1)
        for stroke in session.strokes.items:
            made.add_stroke(stroke.voxels, stroke.values)
        weights = {k: v.numpy() for k, v in made.current_model().network.state_dict().items()}
        learned = finish(made.learn_job())
        for number in range(3):
            shares = np.full((3, *made.shape), 1 / 3, np.float16)
            learned.network = NetworkState(weights, shares) if number == 1 else None
            made.apply(learned)
        made.approve_slice(6)
        _BUILT.append(whole)
    return Path(shutil.copytree(_BUILT[0], tmp_path / "s"))


def resumed(folder, scan):
    return CorrectionSession.resume(folder, scan, threads=1)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def another(path, shape, dtype=np.uint8):
    shutil.rmtree(path)
    chunks = tuple(min(n, 64) for n in shape)
    zarr.create_array(path, shape=shape, dtype=dtype, chunks=chunks)


HUGE = (10**7, 10**7, 10**7)
ROUND = "rounds/000002"


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: cut(f / ROUND / "round.json"),
        lambda f: (f / ROUND / "round.json").write_text("[1]"),
        lambda f: (f / ROUND / "round.json").write_text("[" * 100_000),
        lambda f: change(f / ROUND / "round.json", number="two"),
        lambda f: change(f / ROUND / "round.json", number=7),
        lambda f: change(f / ROUND / "round.json", warnings=[3]),
        lambda f: change(f / ROUND / "round.json", score="much"),
        lambda f: change(f / ROUND / "round.json", unknown=1),
        lambda f: change(f / ROUND / "round.json", network=9),
        lambda f: shutil.rmtree(f / ROUND / "labels.zarr"),
        lambda f: another(f / ROUND / "labels.zarr", HUGE),
        lambda f: another(f / ROUND / "labels.zarr", (12, 20, 22), np.float64),
        lambda f: another(f / ROUND / "labels.zarr", (12, 20)),
        lambda f: (f / ROUND / "labels.zarr" / "zarr.json").write_text("{}"),
        lambda f: shutil.rmtree(f / ROUND / "probabilities.zarr"),
        lambda f: another(f / ROUND / "probabilities.zarr", HUGE),
        lambda f: cut(f / ROUND / "weights.safetensors"),
        lambda f: save_file({"a": np.zeros(2)}, f / ROUND / "weights.safetensors"),
        lambda f: another(f / ROUND / "network.zarr", HUGE),
        lambda f: shutil.rmtree(f / ROUND),
    ],
)
def test_a_damaged_round_ends_the_rounds_before_it(folder, scan, damage, finish):
    damage(folder)
    session = resumed(folder, scan)
    assert [made.record.number for made in session.rounds] == [0, 1]
    assert session.current == 1
    assert session.saved.problems
    assert "000002" in session.saved.problems[0]
    assert len(session.strokes) == 3
    assert session.approval.voxels[6].all()
    session.add_stroke([[0, 0, 0]], 1)
    session.apply(finish(session.learn_job()))  # goes on from there
    assert len(resumed(folder, scan).rounds) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: cut(f / "current.json"),
        lambda f: (f / "current.json").write_text('{"current": "x"}'),
        lambda f: (f / "current.json").write_text('{"current": -4}'),
        lambda f: (f / "current.json").write_text("[]"),
        lambda f: (f / "current.json").unlink(),
        lambda f: (f / "current.json").write_text('{"current": 99}'),
    ],
)
def test_without_a_current_round_it_is_the_last(folder, scan, damage):
    damage(folder)
    assert resumed(folder, scan).current == 3


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: cut(f / "session.json"), "holds no session"),
        (lambda f: (f / "session.json").write_text("[]"), "holds no session"),
        (lambda f: change(f / "session.json", classes=[1, 2, 3]), "holds no session"),
        (lambda f: change(f / "session.json", shape=[12, 20]), "holds no session"),
        (lambda f: change(f / "session.json", shape=[True, 20, 22]), "holds no session"),
        (lambda f: change(f / "session.json", format="x"), "holds no session"),
        (lambda f: shutil.rmtree(f / "rounds" / "000000"), "lost its first round"),
        (lambda f: another(f / "rounds/000000/labels.zarr", HUGE), "lost its first round"),
        (
            lambda f: save_file(
                {"voxels": np.array([[99, 0, 0]]), "values": np.array([1])},
                f / "strokes" / "000001.safetensors",
            ),
            r"000001\.safetensors is damaged.*outside",
        ),
        (
            lambda f: save_file(
                {"voxels": np.array([[1, 0, 0]]), "values": np.array([9])},
                f / "strokes" / "000001.safetensors",
            ),
            r"000001\.safetensors is damaged.*label 9",
        ),
        (
            lambda f: save_file(
                {"voxels": np.array([[1.5, 0, 0]]), "values": np.array([1])},
                f / "strokes" / "000001.safetensors",
            ),
            r"000001\.safetensors is damaged.*integers",
        ),
        (
            lambda f: save_file(
                {"voxels": np.array([[1, 0, 0]]), "values": np.array([1, 1])},
                f / "strokes" / "000001.safetensors",
            ),
            r"000001\.safetensors is damaged",
        ),
        (
            lambda f: save_file({"voxels": np.zeros((2, 3))}, f / "strokes/000001.safetensors"),
            r"000001\.safetensors is damaged",
        ),
    ],
)
def test_what_cannot_be_resumed_is_refused_in_words(folder, scan, damage, says):
    damage(folder)
    with pytest.raises(InputError, match=says):
        resumed(folder, scan)


def test_a_lost_approval_is_told(folder, scan):
    (path,) = (folder / "approval").iterdir()
    another(path / "a", HUGE, np.uint32)
    session = resumed(folder, scan)
    assert session.approval is None
    assert "approved" in session.saved.problems[0]


def test_damaged_start_is_refused(scan, model, finish, tmp_path):
    made = CorrectionSession.start_job(scan, model, folder=tmp_path / "s", threads=1)
    finish(made)
    another(tmp_path / "s" / "start" / "probabilities.zarr", HUGE)
    with pytest.raises(InputError, match=r"probabilities\.zarr"):
        resumed(tmp_path / "s", scan)


@pytest.mark.parametrize("seed", range(12))
def test_random_damage_never_ends_in_a_foreign_error(folder, scan, seed):
    rng = np.random.default_rng(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in rng.choice(np.array(files, object), 2, replace=False):
        content = bytearray(path.read_bytes())
        if rng.random() < 0.3 or not content:
            path.unlink()
            continue
        for at in rng.integers(len(content), size=3):
            content[at] = rng.integers(256)
        path.write_bytes(bytes(content[: rng.integers(1, len(content) + 1)]))
    try:
        session = resumed(folder, scan)
    except Attention3DError:
        return
    session.add_stroke([[0, 0, 0]], 1)
    assert session.labels[0, 0, 0] == 1
    for index in range(len(session.rounds)):
        session.go_to(index)


def test_old_rounds_are_read_when_they_are_needed(folder, scan, monkeypatch):
    whole = resumed(folder, scan)
    monkeypatch.setattr("napari_attention3d.correction.autosave_rounds.KEPT_ROUNDS", 0)
    session = resumed(folder, scan)
    assert session.current == 3
    assert [made.state is not None for made in session.rounds] == [False, False, False, True]
    assert session.rounds[1].network is None
    assert session.rounds[3].network is not None  # of round 2; used by the current one
    made = session.go_to(2)
    assert made.state is not None
    np.testing.assert_array_equal(made.state.probabilities, whole.rounds[2].state.probabilities)
    assert made.network is not None
    assert session.has_network


def test_a_stroke_that_was_on_no_disk_yet_when_the_power_went_is_told(folder, scan):
    """Its file is there and empty; the others, and the rounds that count them, stay."""
    whole = resumed(folder, scan)
    last = sorted((folder / "strokes").iterdir())[-1]
    last.write_bytes(b"")
    made = resumed(folder, scan)
    assert any("stroke is lost" in one and last.name in one for one in made.saved.problems)
    assert len(made.strokes) == len(whole.strokes)
    assert [r.record for r in made.rounds] == [r.record for r in whole.rounds]
    lost = whole.strokes.items[-1].voxels
    assert (made.corrections != whole.corrections).sum() <= len(lost)
    made.add_stroke(lost, 1)
    assert len(resumed(folder, scan).strokes) == len(whole.strokes) + 1
