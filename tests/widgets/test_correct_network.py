"""Models in the Correct tab: started from, trained for real, judged, saved."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from correct_helpers import WAIT, begin, learn, paint_both, said

from napari_attention3d.correction import learn as learn_module
from napari_attention3d.correction import refine, refine_round
from napari_attention3d.models import list_models

pytestmark = pytest.mark.usefixtures("correct_folders")


@pytest.fixture
def short(monkeypatch):
    """A training of a few steps."""
    few = partial(refine.RefineOptions, steps=4, patch=(8, 16, 16), device="cpu")
    monkeypatch.setattr(refine, "RefineOptions", few)


def start_from_model(qtbot, panel, path, classes):
    panel.beginning.add_model_file(path)
    assert panel.start_form.start == f"model:{path}"
    assert panel.start_form.classes == ["background", "nucleus", "wall"]
    panel.start_form.classes_edit.setText(classes)
    panel.start_form.changed.emit()
    with qtbot.waitSignal(panel.started, timeout=WAIT):
        panel.start_form.start_button.click()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)


def train(qtbot, panel):
    with qtbot.waitSignal(panel.learned, timeout=WAIT):
        panel.form.train_button.click()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=WAIT)


def test_a_model_with_other_classes_is_started_from_trained_and_saved(
    qtbot, panel, tools, tmp_path, short, monkeypatch
):
    monkeypatch.setattr(refine_round, "MOVED", 2.0)  # whatever it says, it is taken
    monkeypatch.setattr(learn_module, "DRIFT", 2.0)
    path = tools.save_tiny(tmp_path)
    start_from_model(qtbot, panel, path, "nucleus, cell")
    session = panel.session
    assert session.classes == ("background", "nucleus", "cell")
    assert not session.labels.any()  # it never heard of these classes together
    assert not panel.form.save_button.isEnabled()
    paint_both(panel)
    learn(qtbot, panel)
    train(qtbot, panel)
    assert session.shown_round.record.kind == "network"
    losses = panel.form.rounds.loss_plot.points("loss")
    assert losses
    assert {loss for _, loss in losses} <= set(session.shown_round.record.losses)
    assert not panel.form.rounds.loss_plot.isHidden()
    assert panel.form.save_button.isEnabled()
    saved = tmp_path / "models" / "mine.safetensors"
    saved.parent.mkdir(exist_ok=True)
    with qtbot.waitSignal(panel.model_saved, timeout=WAIT):
        panel.checking.save_model_as(saved)
    (mine,) = [info for info in list_models() if info.path == saved]
    assert mine.card.class_names == ["background", "nucleus", "cell"]
    panel.form.close_button.click()
    panel.beginning.look()
    qtbot.waitUntil(
        lambda: any(info.path == saved for info in panel.beginning._models), timeout=WAIT
    )
    panel.start_form.choose(f"model:{saved}")
    assert panel.start_form.start == f"model:{saved}"


def test_a_network_that_measures_worse_changes_nothing(qtbot, panel, short, monkeypatch):
    monkeypatch.setattr(refine_round, "MOVED", -1.0)  # whatever it says, it lost
    link = begin(qtbot, panel)
    paint_both(panel)
    learn(qtbot, panel)
    before = link.layers.read("mask").copy()
    train(qtbot, panel)
    assert "measured worse" in said(panel)
    assert panel.session.current == 1
    assert not panel.form.save_button.isEnabled()
    np.testing.assert_array_equal(link.layers.read("mask"), before)
    assert link.collect() == []
    assert len(panel.session.strokes) == 5
    rounds = panel.session.saved.folder / "rounds"
    assert sorted(path.name for path in rounds.iterdir()) == ["000000", "000001"]
