"""The Train tab over a viewer model: plan, train, stop, go on, with layers and folders."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox

from napari_attention3d.models import list_models, load_model
from napari_attention3d.training import planning
from napari_attention3d.training.runs import RunFolder
from napari_attention3d.volumes import Volume, write_volume
from napari_attention3d.widgets.layers import KEY, volume_to_layer_data
from napari_attention3d.widgets.status_bar import StatusBar
from napari_attention3d.widgets.train_panel import TrainPanel
from napari_attention3d.widgets.worker import JobRunner

PLACE = {"scale": (2.0, 1.0, 1.0), "units": ("um",) * 3}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """A preset that takes a second."""
    tiny = planning.Preset("Quick", "", 4, 2, 16**3, 16**3, 6, "tiny")
    monkeypatch.setitem(planning.PRESETS, "quick", tiny)


@pytest.fixture
def models(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(folder))
    return folder


@pytest.fixture
def panel(qtbot, viewer, models):
    runner, status = JobRunner(), StatusBar()
    from napari_attention3d.widgets.layer_chooser import LayerChooser

    made = TrainPanel(viewer, runner, LayerChooser(viewer), status)
    for widget in (made, status):
        qtbot.addWidget(widget)
    yield made
    made.close_down()
    assert made.runner.join()
    assert runner.join()


def truth():
    labels = np.zeros((16, 20, 18), np.uint8)
    labels[4:12, 5:15, 4:13] = 1
    return labels


def scan_of(labels):
    noise = np.random.default_rng(0).normal(size=labels.shape)
    return ((labels == 1) * 50 + noise * 5).astype(np.float32)


@pytest.fixture
def layers(viewer):
    labels = truth()
    scan = viewer.add_image(scan_of(labels), name="scan", **PLACE)
    return scan, viewer.add_labels(labels, name="cells", **PLACE)


def plan(qtbot, panel):
    if not panel.is_ready:
        panel.look_around()
    qtbot.waitUntil(lambda: panel.has_planned, timeout=180_000)
    return panel.form.plan_label.text()


def click(qtbot, button):
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def to_the_end(qtbot, panel):
    qtbot.waitUntil(lambda: not panel.is_training, timeout=240_000)


def hold(monkeypatch, until):
    """Trainings wait after a step until told to go on, however fast the machine is."""
    from napari_attention3d.training.trainer import Trainer

    advance = Trainer.advance

    def slowly(self):
        if self.step >= 2:
            until.wait(60)
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", slowly)


def test_what_is_planned_is_said_before_it_begins(qtbot, panel, layers):
    assert not panel.form.start_button.isEnabled()
    said = plan(qtbot, panel)
    assert "1 scan; none is kept for validation" in said
    assert "background, class 1" in said
    assert "Voxels of 2 x 1 x 1 um (the scans' own)" in said
    assert "6 steps" in said
    assert "GB of memory" in said
    assert panel.form.start_button.isEnabled()
    assert panel.form.preset_combo.count() == 3
    panel.form.steps_spin.setValue(9)
    assert not panel.form.start_button.isEnabled()  # not what was shown
    assert "9 steps" in plan(qtbot, panel)


def test_a_model_comes_out_of_open_layers_and_finds_them_again(qtbot, panel, layers, models):
    panel.form.name_edit.setText("My Cells")
    plan(qtbot, panel)
    with qtbot.waitSignal(panel.trained, timeout=240_000) as told:
        click(qtbot, panel.form.start_button)
        assert panel.is_training
        assert not panel.form.start_button.isEnabled()
    to_the_end(qtbot, panel)
    assert told.args == [models / "my-cells.safetensors"]
    assert [i.title for i in list_models() if not i.built_in] == ["My Cells"]
    card = load_model(models / "my-cells.safetensors").card
    assert (card.unit, card.spacing) == ("um", (2.0, 1.0, 1.0))
    assert [step for step, _ in panel.curves.points("loss")] == [1, 2, 3, 4, 5, 6]
    assert "Done after 6 steps" in panel.progress.text
    # the same name again is refused
    assert "already" in plan(qtbot, panel)
    assert not panel.form.start_button.isEnabled()


def test_stopping_keeps_the_model_and_resume_goes_on_without_the_layers(
    qtbot, panel, layers, models, monkeypatch, viewer
):
    import threading

    until = threading.Event()
    hold(monkeypatch, until)
    plan(qtbot, panel)
    click(qtbot, panel.form.start_button)
    qtbot.waitUntil(lambda: len(panel.curves.points("loss")) >= 1, timeout=240_000)
    click(qtbot, panel.progress.cancel_button)
    until.set()
    to_the_end(qtbot, panel)
    assert "Stopped" in panel.progress.text
    model = models / "my-model.safetensors"
    assert load_model(model).card.title == "my-model"
    begun = RunFolder(model).info()
    assert 1 <= begun.step < 6
    qtbot.waitUntil(lambda: panel.runs.run is not None, timeout=180_000)
    assert "begun earlier" in plan(qtbot, panel)
    viewer.layers.clear()
    before = panel.curves.points("loss")
    click(qtbot, panel.runs.resume_button)
    to_the_end(qtbot, panel)
    after = panel.curves.points("loss")
    assert [step for step, _ in after] == [1, 2, 3, 4, 5, 6]
    assert np.allclose(after[: len(before)], before, rtol=1e-4)  # the log has six digits
    assert RunFolder(model).info().finished
    qtbot.waitUntil(lambda: panel.runs.run is None, timeout=180_000)


def test_a_stopped_training_can_be_discarded(qtbot, panel, layers, models, monkeypatch):
    import threading

    until = threading.Event()
    hold(monkeypatch, until)
    plan(qtbot, panel)
    click(qtbot, panel.form.start_button)
    qtbot.waitUntil(lambda: len(panel.curves.points("loss")) >= 1, timeout=240_000)
    panel.stop()
    until.set()
    to_the_end(qtbot, panel)
    qtbot.waitUntil(lambda: panel.runs.run is not None, timeout=180_000)
    answers = iter([QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes])
    monkeypatch.setattr(QMessageBox, "question", lambda *_: next(answers))
    click(qtbot, panel.runs.discard_button)
    assert panel.runs.run is not None
    click(qtbot, panel.runs.discard_button)
    qtbot.waitUntil(lambda: panel.runs.run is None, timeout=180_000)
    assert not (models / "my-model.run").exists()
    assert (models / "my-model.safetensors").exists()


def test_strokes_are_enough(qtbot, panel, viewer, models):
    strokes = np.zeros((16, 20, 18), np.uint8)
    strokes[8, 8:12, 6:10] = 1
    strokes[2, 2:8, 2:8] = 255
    viewer.add_image(scan_of(truth()), name="scan", **PLACE)
    viewer.add_labels(strokes, name="strokes", **PLACE)
    panel.form.sparse_combo.setCurrentIndex(1)
    assert "Classes: background, class 1" in plan(qtbot, panel)
    click(qtbot, panel.form.start_button)
    to_the_end(qtbot, panel)
    data = RunFolder(models / "my-model.safetensors").info().config.data
    assert data.values == (255, 1)
    assert data.ignore == 0


def test_names_of_classes_come_from_the_layer(qtbot, panel, viewer):
    viewer.add_image(scan_of(truth()), name="scan", **PLACE)
    features = {"index": [0, 1], "name": ["outside", "nucleus"]}
    viewer.add_labels(truth(), name="cells", features=features, **PLACE)
    assert "Classes: outside, nucleus" in plan(qtbot, panel)


def test_labels_drawn_on_a_turned_scan_lie_on_it(qtbot, panel, viewer, models):
    """The file's axes are permuted and flipped; the person draws on what is shown."""
    labels = truth()
    affine = np.array([[0, -1.0, 0, 40], [1, 0, 0, 3], [0, 0, -1, 9], [0, 0, 0, 1]])
    volume = Volume.from_array(
        scan_of(labels), affine=affine, unit="mm", anatomical=True, name="turned"
    )
    array, keywords, _ = volume_to_layer_data(volume)[0]
    scan = viewer.add_image(array, **keywords)
    place = {k: getattr(scan, k) for k in ("scale", "translate", "units")}
    viewer.add_labels((np.asarray(array) > 25).astype(np.uint8), name="drawn", **place)
    plan(qtbot, panel)
    assert panel.ahead.config.orientation == "SAR"
    click(qtbot, panel.form.start_button)
    to_the_end(qtbot, panel)
    from napari_attention3d.volumes import read_volume

    kept = models / "my-model.run" / "data"
    found = read_volume(kept / "labels" / "case1.zarr")
    assert np.array_equal(np.asarray(found.array), labels)
    assert found.geometry.is_close(read_volume(kept / "images" / "case1.zarr").geometry)


def test_a_folder_is_trained_on(qtbot, panel, models, tmp_path):
    for name in ("a", "b", "c"):
        for folder, array in (("images", scan_of(truth())), ("labels", truth())):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            volume = Volume.from_array(array, spacing=(2, 1, 1), unit="um")
            write_volume(tmp_path / "set" / folder / f"{name}.tif", volume)
    panel.form.show_page("folder")
    assert "Choose the folder" in plan(qtbot, panel)
    panel.form.folder_edit.setText(str(tmp_path / "set"))
    assert "3 scans; one in five validates" in plan(qtbot, panel)
    click(qtbot, panel.form.start_button)
    to_the_end(qtbot, panel)
    assert "Dice" in panel.progress.text
    assert panel.curves.points("Dice")
    assert not (models / "my-model.run" / "data").exists()  # the folder stays where it is
    panel.form.folder_edit.setText(str(tmp_path / "nowhere"))
    assert "is not a folder" in plan(qtbot, panel)


def test_what_can_not_be_trained_on_is_said(qtbot, panel, viewer):
    assert "Open a scan" in plan(qtbot, panel)
    scan = viewer.add_image(scan_of(truth()), name="scan", **PLACE)
    empty = viewer.add_labels(np.zeros((16, 20, 18), np.uint8), name="empty", **PLACE)
    assert "one background only" in plan(qtbot, panel)
    panel.form.sparse_combo.setCurrentIndex(1)
    assert "no voxel is labelled" in plan(qtbot, panel)
    empty.data = np.ones((4, 20, 18), np.uint8)
    assert "they must be the same" in plan(qtbot, panel)
    viewer.layers.remove(scan)
    assert "Open a scan" in plan(qtbot, panel)
    viewer.layers.insert(0, scan)
    empty.data = truth()
    panel.form.sparse_combo.setCurrentIndex(0)
    empty.translate = (0, 300, 0)
    panel.form.name_edit.setText("x")
    assert "lies elsewhere" in plan(qtbot, panel)
    empty.translate = (0, 0, 0)
    panel.form.name_edit.setText("")
    assert "a name" in plan(qtbot, panel)
    assert not panel.form.start_button.isEnabled()


def test_results_of_models_are_not_ticked_and_scans_are_guessed(qtbot, panel, viewer):
    """A mask that a model made is no truth unless the person says so."""
    other = viewer.add_image(np.zeros((16, 20, 18), np.float32), name="brain t2", **PLACE)
    scan = viewer.add_image(scan_of(truth()), name="heart ct", **PLACE)
    small = viewer.add_image(np.zeros((8, 8, 8), np.float32), name="small", **PLACE)
    mine = viewer.add_labels(truth(), name="brain labels", **PLACE)
    made = viewer.add_labels(truth(), name="made", metadata={KEY: {"role": "labels"}}, **PLACE)
    pairs = panel.form.pairs
    assert pairs.pairs == [(other, mine)]
    pairs.tick(made)
    assert [labels for _, labels in pairs.pairs] == [mine, made]
    assert pairs.pairs[1][0] is scan
    viewer.layers.remove(small)  # the ticks are remembered
    assert [labels for _, labels in pairs.pairs] == [mine, made]
    viewer.layers.remove(mine)
    assert [labels for _, labels in pairs.pairs] == [made]


def test_running_out_of_memory_is_said_and_the_tab_goes_on(qtbot, panel, layers, monkeypatch):
    from napari_attention3d.training.trainer import Trainer

    monkeypatch.setattr("napari_attention3d.widgets.train_panel.notify_failure", _quietly)

    def full(self, rate):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", full)
        plan(qtbot, panel)
        click(qtbot, panel.form.start_button)
        to_the_end(qtbot, panel)
        assert "does not fit the memory" in panel.progress.text
    panel.form.name_edit.setText("second")
    plan(qtbot, panel)
    click(qtbot, panel.form.start_button)
    to_the_end(qtbot, panel)
    assert "Done" in panel.progress.text


def _quietly(failure):
    return str(failure.error)


def test_in_a_real_window_the_model_comes_into_the_segment_tabs_list(
    make_napari_viewer, qtbot, models
):
    viewer = make_napari_viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-attention3d", "Attention 3D")
    qtbot.waitUntil(lambda: dock.segment.is_ready, timeout=180_000)
    viewer.add_image(scan_of(truth()), name="scan", **PLACE)
    viewer.add_labels(truth(), name="cells", **PLACE)
    panel = dock.train
    plan(qtbot, panel)
    assert panel.form.pairs.pairs == [(viewer.layers["scan"], viewer.layers["cells"])]
    viewer.layers["cells"].selected_label = 2
    viewer.layers["cells"].paint((8, 2, 2), 2)  # a class more: the plan follows
    assert "class 2" in plan(qtbot, panel)
    panel.train()
    to_the_end(qtbot, panel)
    combo = dock.segment.form.model_combo

    def listed():
        return combo.findData(str(models / "my-model.safetensors")) >= 0

    qtbot.waitUntil(listed, timeout=180_000)
    qtbot.waitUntil(lambda: panel.has_planned, timeout=180_000)
    viewer.window.remove_dock_widget(dock)
    assert panel.runner.join()
    assert dock.runner.join()
