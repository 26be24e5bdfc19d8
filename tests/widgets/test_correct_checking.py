"""Approving, going to doubtful places, brushes and saving: also where nothing can be done."""

from __future__ import annotations

import correct_helpers
import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog

from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes import Volume

WAIT = 60_000
SHAPE = (8, 10, 12)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTENTION3D_SESSIONS", str(tmp_path / "sessions"))
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(tmp_path / "models"))


@pytest.fixture
def make_panel(qtbot, viewer):
    """Make the panel over a scan; with the axes' signs as given."""
    made = []

    def make(signs=(1, 1, 1)):
        array = np.random.default_rng(0).normal(0, 0.1, SHAPE).astype(np.float32)
        affine = np.diag([*signs, 1.0])
        volume = Volume(array, Geometry(SHAPE, affine, "mm", anatomical=True), name="cells")
        correct_helpers.add_scan(viewer, volume)
        panel = correct_helpers.make_panel(qtbot, viewer)
        made.append(panel)
        return panel

    yield make
    for panel in made:
        panel.close_down()
        panel.runner.stop()
        assert panel.runner.join()


def begin(qtbot, panel, classes="cell, wall"):
    correct_helpers.begin(qtbot, panel, classes)
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)
    return panel.link


@pytest.fixture
def panel(make_panel):
    return make_panel()


def said(panel):
    return panel.status.label.text()


def approve(qtbot, panel, what):
    panel.checking.approve(what)
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)


def approved(panel):
    """Which voxels are; none before the first approval and after all were withdrawn."""
    approval = panel.session.approval
    return np.zeros(SHAPE, bool) if approval is None else np.asarray(approval.voxels)


# ---- approving


def test_approving_is_worked_out_and_saved_beside_the_window(qtbot, panel):
    """A large scan takes seconds; nothing holds before the window takes it."""
    import threading

    from napari_attention3d.correction.session import CorrectionSession
    from napari_attention3d.widgets.correct_sessions import sessions_folder

    begin(qtbot, panel)
    threads = []
    saved = panel.session.saved
    real = saved.write_approval

    def look(*args):
        threads.append(threading.current_thread())
        return real(*args)

    saved.write_approval = look
    approve(qtbot, panel, "all")
    assert threads
    assert threading.main_thread() not in threads
    assert approved(panel).all()
    (folder,) = sessions_folder().iterdir()
    again = CorrectionSession.resume(folder, panel.session.scan)
    assert again.approval.voxels.all()


def test_all_is_approved_and_withdrawn(qtbot, panel):
    begin(qtbot, panel)
    approve(qtbot, panel, "all")
    assert approved(panel).all()
    assert said(panel) == "The whole mask is approved and stays; only a stroke changes it"
    approve(qtbot, panel, "withdraw")
    assert not approved(panel).any()
    assert "Nothing is approved any more" in said(panel)


def test_the_label_that_is_painted_is_approved(qtbot, panel):
    link = begin(qtbot, panel)
    labels = np.asarray(panel.session.labels)
    link.layers.strokes.selected_label = link.marker
    approve(qtbot, panel, "label")
    assert said(panel).startswith("Every voxel of “background” is approved")
    np.testing.assert_array_equal(approved(panel), labels == 0)
    approve(qtbot, panel, "withdraw")
    link.layers.strokes.selected_label = 2
    approve(qtbot, panel, "label")
    assert said(panel).startswith("Every voxel of “wall” is approved")
    np.testing.assert_array_equal(approved(panel), labels == 2)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("hidden", [0, 1, 2])
def test_the_slice_in_view_is_approved_on_the_scans_own_grid(
    qtbot, viewer, make_panel, hidden, signs
):
    panel = make_panel(signs)
    link = begin(qtbot, panel)
    viewer.dims.order = (hidden, *({0, 1, 2} - {hidden}))
    own = 2
    voxel = [4, 4, 4]
    voxel[hidden] = own
    world = panel.link.source.volume.geometry.to_world(voxel)
    viewer.dims.set_point(hidden, float(world[hidden]))
    approve(qtbot, panel, "slice")
    expected = np.zeros(SHAPE, bool)
    expected[(slice(None),) * hidden + (own,)] = True
    np.testing.assert_array_equal(approved(panel), expected)
    assert link is panel.link


def test_beside_the_scan_there_is_no_slice_to_approve(qtbot, viewer, panel):
    begin(qtbot, panel)
    viewer.add_image(np.zeros((40, 10, 12), np.float32), name="longer")
    viewer.dims.set_point(0, 30)
    approve(qtbot, panel, "slice")
    assert "outside the scan" in said(panel)
    assert not approved(panel).any()


@pytest.mark.parametrize("what", ["slice", "region"])
def test_in_3d_there_is_no_slice_in_view(qtbot, viewer, panel, what):
    begin(qtbot, panel)
    viewer.dims.ndisplay = 3
    approve(qtbot, panel, what)
    assert "2D view" in said(panel)
    assert not approved(panel).any()


def test_what_the_canvas_shows_is_approved(qtbot, viewer, panel, monkeypatch):
    from napari_attention3d.widgets import correct_view

    begin(qtbot, panel)
    seen = ((1, 4), (2, 6), (0, 12))
    monkeypatch.setattr(correct_view, "region_in_view", lambda *_: seen)
    approve(qtbot, panel, "region")
    expected = np.zeros(SHAPE, bool)
    expected[1:4, 2:6] = True
    np.testing.assert_array_equal(approved(panel), expected)
    assert said(panel).startswith("What the canvas shows is approved")
    approve(qtbot, panel, "withdraw")
    # All of the scan in view: no region, but a place.
    monkeypatch.setattr(correct_view, "region_in_view", lambda *_: None)
    monkeypatch.setattr(correct_view, "focus_in_view", lambda *_: None)
    approve(qtbot, panel, "region")
    assert "press Home" in said(panel)
    assert not approved(panel).any()
    monkeypatch.setattr(correct_view, "focus_in_view", lambda *_: (1, 1, 1))
    approve(qtbot, panel, "region")
    assert approved(panel).all()


@pytest.mark.parametrize("call", ["approve", "next_place"])
def test_without_a_session_it_is_said_what_comes_first(panel, call):
    getattr(panel.checking, call)(*(["all"] if call == "approve" else []))
    assert said(panel) == "Start correcting first"
    assert not panel.is_busy


def test_without_a_session_brushes_and_saving_do_nothing(panel, viewer, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: pytest.fail("asked"))
    before = said(panel)
    panel.checking.save_model()
    panel.checking.save_model_as(None)
    panel.painting.choose(1)
    panel.painting.choose_background()
    panel.painting.choose_next_class()
    assert said(panel) == before
    assert [layer.name for layer in viewer.layers] == ["cells"]


# ---- doubtful places


def test_before_the_first_round_there_are_no_doubts(qtbot, panel):
    begin(qtbot, panel)
    panel.checking.next_place()
    assert "Learn once first" in said(panel)
    assert not panel.is_busy


def test_the_view_goes_to_the_place_and_says_when_none_is_left(qtbot, viewer, panel, monkeypatch):
    begin(qtbot, panel)
    session = panel.session
    session.rounds.append(session.rounds[0])  # as after a first round
    session.current = 1
    places = [(2, 3, 4), None]
    monkeypatch.setattr(session, "next_place", lambda: places.pop(0), raising=False)
    panel.checking.next_place()
    qtbot.waitUntil(lambda: not panel.is_busy and len(places) == 1, timeout=WAIT)
    qtbot.waitUntil(lambda: "in the middle" in said(panel), timeout=WAIT)
    np.testing.assert_allclose(viewer.dims.point, (2, 3, 4))
    np.testing.assert_allclose(viewer.camera.center[-2:], (3, 4))
    panel.checking.next_place()
    qtbot.waitUntil(lambda: "No doubtful place is left" in said(panel), timeout=WAIT)


# ---- brushes


def test_the_next_class_is_the_one_after_and_the_first_after_the_last(qtbot, panel):
    link = begin(qtbot, panel)
    panel.painting.choose(1)
    chosen = []
    for _ in range(4):
        panel.painting.choose_next_class()
        chosen.append(link.layers.strokes.selected_label)
    assert chosen == [2, link.marker, 1, 2]
    panel.painting.choose(0)
    assert link.layers.strokes.mode == "erase"
    panel.painting.choose_background()
    assert link.layers.strokes.selected_label == link.marker


def test_a_deleted_layer_of_strokes_comes_back_with_the_next_brush(qtbot, viewer, panel):
    link = begin(qtbot, panel)
    panel.painting.choose(2)
    viewer.layers.remove(link.layers.strokes)
    assert "comes back" in said(panel)
    panel.painting.choose_next_class()
    assert link.layers.strokes in viewer.layers
    assert link.layers.strokes.selected_label == link.marker  # what follows "wall"


# ---- saving the model


def test_the_dialog_is_asked_where_to_and_no_answer_saves_nothing(qtbot, panel, monkeypatch):
    begin(qtbot, panel)
    asked = []

    def answer(*args):
        asked.append(args[2])
        return "", ""

    monkeypatch.setattr(QFileDialog, "getSaveFileName", answer)
    panel.checking.save_model()
    assert asked
    assert asked[0].endswith("my-model.safetensors")
    assert not panel.is_busy


def test_a_model_is_saved_under_its_right_ending(qtbot, panel, monkeypatch, tmp_path):
    begin(qtbot, panel)
    saved = []

    def save(path):
        saved.append(path)
        return path

    monkeypatch.setattr(panel.session, "save_model", save, raising=False)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "mine.v2"), ""))
    with qtbot.waitSignal(panel.model_saved, timeout=WAIT):
        panel.checking.save_model()
    assert saved == [tmp_path / "mine.v2.safetensors"]
    assert f"Saved {saved[0]}" in said(panel)
    again = tmp_path / "mine.safetensors"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(again), ""))
    with qtbot.waitSignal(panel.model_saved, timeout=WAIT):
        panel.checking.save_model()
    assert saved[1:] == [again]  # an ending that is right stays
