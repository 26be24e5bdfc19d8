"""The Segment tab, over a viewer model and a tiny real network."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from napari.utils.notifications import notification_manager

from napari_attention3d.errors import InputError
from napari_attention3d.progress import Progress
from napari_attention3d.widgets import tasks
from napari_attention3d.widgets.layers import KEY
from napari_attention3d.widgets.notify import summarise


def labels_of(viewer):
    return [layer for layer in viewer.layers if layer._type_string == "labels"]


def maps_of(viewer):
    return [
        layer
        for layer in viewer.layers
        if str(layer.metadata.get(KEY, {}).get("role", "")).startswith("attention:")
    ]


@pytest.fixture
def stepping(monkeypatch):
    """A job whose steps the test opens one by one, in place of the network's run."""
    control = SimpleNamespace(
        gate=threading.Semaphore(0), closed=threading.Event(), begun=threading.Event(), error=None
    )
    real = tasks.run_segmentation

    def job(*args):
        try:
            for i in range(5):
                control.begun.set()
                yield Progress(i, 5, f"tile {i} of 5")
                control.gate.acquire(timeout=10)
                if control.error is not None:
                    raise control.error
            return (yield from real(*args))
        finally:
            control.closed.set()

    monkeypatch.setattr(tasks, "run_segmentation", job)
    return control


def begin(qtbot, dock, stepping):
    dock.segment.run()
    assert dock.segment.is_running
    qtbot.waitUntil(stepping.begun.is_set, timeout=10_000)


def test_without_a_scan_the_button_says_what_to_do(dock):
    button = dock.segment.form.run_button
    assert not button.isEnabled()
    assert "File > Open" in button.toolTip()
    assert "File > Open" in dock.segment.form.outlook_label.text()


def test_both_shipped_models_can_be_chosen(dock, tools):
    for name in ("brain-attention-unet", "brain-guided-attention"):
        tools.choose_model(dock, name)
        assert name in dock.segment.form.model
        assert dock.segment.form.model_channels == 1


def test_run_makes_labels_and_maps_exactly_on_the_scan(dock, viewer, scan_array, qtbot, tools):
    scan = viewer.add_image(
        scan_array, name="cells", scale=(2, 1, 0.5), translate=(5, 6, 7), units=("um",) * 3
    )
    tools.run_to_end(qtbot, dock)
    (labels,) = labels_of(viewer)
    assert labels.data.shape == scan.data.shape
    assert labels.data.dtype == np.uint8
    np.testing.assert_allclose(labels.scale, scan.scale)
    np.testing.assert_allclose(labels.translate, scan.translate)
    assert labels.units == scan.units
    assert list(labels.features["name"]) == ["background", "nucleus", "wall"]
    np.testing.assert_allclose(labels.colormap.map(1), (0.902, 0.624, 0, 1), atol=0.01)
    assert labels.colormap.map(0)[3] == 0
    assert labels.metadata[KEY]["provenance"]["model"]["name"] == "tiny"
    maps = maps_of(viewer)
    assert maps
    for layer in maps:
        spec = dock.segment.last.attention[layer.metadata[KEY]["role"].split(":")[1]]
        stride = np.asarray(spec.metadata["map"]["stride"])
        offset = np.asarray(spec.metadata["map"]["offset"])
        np.testing.assert_allclose(
            layer.data_to_world((1, 1, 1)), scan.data_to_world(tuple(stride + offset)), atol=1e-6
        )
        assert layer.blending == "additive"
        assert layer.colormap.name == "magma"
        assert tuple(layer.contrast_limits) == (0, 1)
    visible = [layer for layer in maps if layer.visible]
    assert len(visible) == 1
    assert visible[0].data.size == max(layer.data.size for layer in maps)
    assert "Done in" in dock.status.text
    assert viewer.layers.index(labels) == len(viewer.layers) - 1
    assert viewer.layers[0] is scan


def test_the_labels_are_those_of_the_python_call(dock, viewer, scan_array, qtbot, tools):
    import napari_attention3d.session as session
    from napari_attention3d.models import load_model
    from napari_attention3d.volumes.volume import Volume

    viewer.add_image(scan_array)
    tools.run_to_end(qtbot, dock)
    model = load_model(dock.segment.form.model)
    expected = session.segment(Volume.from_array(scan_array), model).labels.array
    np.testing.assert_array_equal(labels_of(viewer)[0].data, expected)


def test_the_outlook_tells_what_a_run_would_do_and_lists_the_maps(dock, viewer, scan_array, qtbot):
    viewer.add_image(scan_array)
    form = dock.segment.form
    qtbot.waitUntil(lambda: "tile" in form.outlook_label.text(), timeout=20_000)
    assert form.maps_list.count() >= 2


def test_options_reach_the_run(dock, viewer, scan_array, qtbot, tools):
    viewer.add_image(scan_array)
    form = dock.segment.form
    qtbot.waitUntil(lambda: form.maps_list.count() >= 2, timeout=20_000)
    from qtpy.QtCore import Qt

    form.maps_list.item(0).setCheckState(Qt.CheckState.Unchecked)
    form.probabilities_box.setChecked(True)
    form.uncertainty_box.setChecked(True)
    form.overlap_spin.setValue(50)
    tools.run_to_end(qtbot, dock)
    roles = [layer.metadata[KEY]["role"] for layer in viewer.layers if KEY in layer.metadata]
    assert len(maps_of(viewer)) == form.maps_list.count() - 1
    assert {"probability:1", "probability:2", "uncertainty", "labels"} <= set(roles)
    options = labels_of(viewer)[0].metadata[KEY]["provenance"]["options"]
    assert options["overlap"] == 0.5


def test_running_again_renews_our_layers_and_keeps_how_they_are_shown(
    dock, viewer, scan_array, qtbot, tools
):
    viewer.add_image(scan_array)
    tools.run_to_end(qtbot, dock)
    count = len(viewer.layers)
    (first,) = labels_of(viewer)
    first.opacity, first.name = 0.25, "mine"
    expected = first.data.copy()
    first.data = np.zeros_like(expected)
    dock.segment.form.overlap_spin.setValue(50)
    tools.run_to_end(qtbot, dock)
    (second,) = labels_of(viewer)
    assert len(viewer.layers) == count
    np.testing.assert_array_equal(second.data, expected)
    assert second.metadata[KEY]["provenance"]["options"]["overlap"] == 0.5
    assert (second.opacity, second.name) == (0.25, "mine")


def test_labels_that_were_painted_in_are_kept(dock, viewer, scan_array, qtbot, tools):
    viewer.add_image(scan_array)
    tools.run_to_end(qtbot, dock)
    (first,) = labels_of(viewer)
    first.selected_label = 2
    first.paint((3, 3, 3), 2)
    painted = first.data.copy()
    tools.run_to_end(qtbot, dock)
    assert len(labels_of(viewer)) == 2
    np.testing.assert_array_equal(first.data, painted)


def test_another_scan_gets_its_own_layers(dock, viewer, scan_array, qtbot, tools):
    viewer.add_image(scan_array, name="a")
    tools.run_to_end(qtbot, dock)
    viewer.add_image(scan_array * 2, name="b")
    assert dock.chooser.layer.name == "b"
    tools.run_to_end(qtbot, dock)
    assert len(labels_of(viewer)) == 2


def test_the_scan_itself_is_never_written_to(dock, viewer, scan_array, qtbot, tools):
    before = scan_array.copy()
    layer = viewer.add_image(scan_array, name="cells", metadata={"mine": 1})
    tools.run_to_end(qtbot, dock)
    np.testing.assert_array_equal(layer.data, before)
    assert layer.data is scan_array
    assert layer.metadata == {"mine": 1}
    assert layer.name == "cells"


def test_cancel_leaves_the_layers_alone_and_the_buttons_come_back(
    dock, viewer, scan_array, qtbot, stepping
):
    viewer.add_image(scan_array)
    begin(qtbot, dock, stepping)
    assert not dock.segment.form.run_button.isEnabled()
    assert dock.status.cancel_button.isEnabled()
    dock.status.cancel_button.click()
    stepping.gate.release()
    qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=10_000)
    assert stepping.closed.is_set()
    assert "Cancelled" in dock.status.text
    assert dock.segment.form.run_button.isEnabled()
    assert len(viewer.layers) == 1


def _errors():
    import torch

    return [
        (lambda: RuntimeError("bang"), "Copy report"),
        (lambda: torch.OutOfMemoryError("CUDA out of memory"), "Not enough memory"),
        (lambda: ValueError("bad"), "Copy report"),
        (lambda: InputError("the scan is empty; open another"), "open another"),
        (lambda: FileNotFoundError(2, "No such file", "m.safetensors"), "can be read"),
    ]


@pytest.mark.parametrize("index", range(5))
def test_an_error_says_what_to_do_and_the_buttons_come_back(
    dock, viewer, scan_array, qtbot, stepping, tools, index
):
    make, words = _errors()[index]
    viewer.add_image(scan_array)
    stepping.error = make()
    begin(qtbot, dock, stepping)
    notification_manager.records.clear()
    stepping.gate.release()
    qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=10_000)
    assert words in dock.status.text
    assert [words in r.message for r in notification_manager.records] == [True]
    assert dock.segment.form.run_button.isEnabled()
    assert not dock.status.details_button.isHidden()
    stepping.error = None
    for _ in range(9):
        stepping.gate.release()
    tools.run_to_end(qtbot, dock)
    assert labels_of(viewer)
    assert dock.status.details_button.isHidden()


def test_an_error_keeps_the_older_result(dock, viewer, scan_array, qtbot, tools, monkeypatch):
    viewer.add_image(scan_array)
    tools.run_to_end(qtbot, dock)
    (before,) = labels_of(viewer)

    def broken(*args):
        raise RuntimeError("bang")
        yield

    monkeypatch.setattr(tasks, "run_segmentation", broken)
    dock.segment.run()
    qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=10_000)
    assert labels_of(viewer) == [before]


def test_a_scan_deleted_during_the_run_does_no_harm(dock, viewer, scan_array, qtbot, stepping):
    scan = viewer.add_image(scan_array, name="gone")
    begin(qtbot, dock, stepping)
    viewer.layers.remove(scan)
    for _ in range(9):
        stepping.gate.release()
    qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=60_000)
    assert "removed meanwhile" in dock.status.text
    assert len(labels_of(viewer)) == 1


def test_a_scan_renamed_and_moved_during_the_run_is_still_known(
    dock, viewer, scan_array, qtbot, stepping, tools
):
    scan = viewer.add_image(scan_array, name="old name")
    viewer.add_points([[1, 1, 1]])
    begin(qtbot, dock, stepping)
    scan.name = "new name"
    viewer.layers.reverse()
    for _ in range(30):
        stepping.gate.release()
    qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=60_000)
    count = len(viewer.layers)
    tools.run_to_end(qtbot, dock)
    assert len(viewer.layers) == count
    assert dock.chooser.currentText() == "new name"


def test_results_deleted_before_the_next_run_come_back(dock, viewer, scan_array, qtbot, tools):
    viewer.add_image(scan_array)
    tools.run_to_end(qtbot, dock)
    for layer in [*labels_of(viewer), maps_of(viewer)[0]]:
        viewer.layers.remove(layer)
    tools.run_to_end(qtbot, dock)
    assert len(labels_of(viewer)) == 1


@pytest.mark.parametrize(
    ("add", "words"),
    [
        (lambda v: v.add_image(np.zeros((20, 20))), "2D layer"),
        (lambda v: v.add_image(np.zeros((4, 20, 20, 3), np.uint8), rgb=True), "RGB"),
        (lambda v: v.add_image(np.zeros((8, 8, 8), np.complex64).real, name="flat"), ""),
    ],
)
def test_a_layer_that_is_no_scan_blocks_the_button_with_the_reason(dock, viewer, qtbot, add, words):
    add(viewer)
    form = dock.segment.form
    if not words:  # a constant scan is only seen in the run: it ends in an error, not a crash
        qtbot.waitUntil(lambda: form.run_button.isEnabled(), timeout=10_000)
        dock.segment.run()
        qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=30_000)
        assert not labels_of(viewer)
        assert "flat" in dock.status.text or "constant" in dock.status.text
        return
    qtbot.waitUntil(lambda: words in form.run_button.toolTip(), timeout=10_000)
    assert not form.run_button.isEnabled()
    assert words in form.outlook_label.text()


def test_a_model_in_mm_on_a_scan_without_spacing_says_to_set_it(
    dock, viewer, scan_array, qtbot, tools, models_folder
):
    tools.save_tiny(models_folder, "millimetres", spacing=(1.0, 1.0, 1.0), unit="mm")
    dock.segment.start()
    combo = dock.segment.form.model_combo
    path = str(models_folder / "millimetres.safetensors")
    qtbot.waitUntil(lambda: combo.findData(path) >= 0, timeout=30_000)
    viewer.add_image(scan_array)
    tools.choose_model(dock, "millimetres")
    form = dock.segment.form
    qtbot.waitUntil(lambda: "spacing" in form.run_button.toolTip(), timeout=20_000)
    assert not form.run_button.isEnabled()
    viewer.layers[0].units = ("mm",) * 3
    qtbot.waitUntil(form.run_button.isEnabled, timeout=10_000)


def test_a_damaged_model_is_shown_as_such_and_another_can_be_opened(
    dock, models_folder, qtbot, tools, tmp_path
):
    (models_folder / "broken.safetensors").write_bytes(b"not a model")
    combo = dock.segment.form.model_combo
    before = combo.count()
    dock.segment.form.refresh_button.click()
    qtbot.waitUntil(lambda: combo.count() == before + 1, timeout=10_000)
    index = next(i for i in range(combo.count()) if "broken" in combo.itemText(i))
    assert not combo.model().item(index).isEnabled()
    path = tools.save_tiny(tmp_path, "elsewhere")
    dock.segment.form.add_model_file(str(path))
    assert dock.segment.form.model == str(path)


def test_settings_are_remembered(dock, qtbot, viewer, models_folder, tools):
    from napari_attention3d.widgets.settings import SegmentSettings

    dock.segment.form.attention_box.setChecked(False)
    dock.segment.form.overlap_spin.setValue(40)
    stored = SegmentSettings.load()
    assert (stored.attention, stored.overlap) == (False, 40)
    assert "tiny" in stored.model
    again = tools.open_dock(qtbot, viewer)
    assert again.segment.form.overlap_spin.value() == 40
    assert again.runner.join()
    dock.segment.form.attention_box.setChecked(True)
    dock.segment.form.overlap_spin.setValue(-1)


def test_the_report_can_be_copied(dock, viewer, scan_array, qtbot, tools):
    from qtpy.QtGui import QGuiApplication

    viewer.add_image(scan_array)
    tools.run_to_end(qtbot, dock)
    dock.status.copy_button.click()
    assert '"tiny"' in QGuiApplication.clipboard().text()


@pytest.mark.parametrize(
    ("error", "may_run"),
    [(MemoryError(), True), (OSError("No space left on device"), True), (InputError("no"), False)],
    ids=["memory", "disk", "input"],
)
def test_what_may_be_over_soon_does_not_take_the_run_button_away(
    dock, viewer, scan_array, qtbot, tools, monkeypatch, error, may_run
):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "look_ahead", fail)
        viewer.add_image(scan_array)
        dock.segment._on_changed()
        qtbot.waitUntil(lambda: dock.segment.has_looked_ahead, timeout=60_000)
    assert summarise(error) in dock.segment.form.outlook_label.text()
    assert dock.segment.form.run_button.isEnabled() == may_run
    if may_run:
        tools.run_to_end(qtbot, dock)
        assert len(labels_of(viewer)) == 1


@pytest.fixture
def outlooks(monkeypatch):
    """Outlooks that end only by being cancelled, until `let` is set; and what ran when."""
    real = tasks.look_ahead
    kept = SimpleNamespace(begun=threading.Event(), let=threading.Event(), order=[])

    def look_ahead(*given):
        kept.order.append("outlook")
        kept.begun.set()
        while not kept.let.wait(0.005):
            yield Progress(0, 0)
        return (yield from real(*given))

    monkeypatch.setattr(tasks, "look_ahead", look_ahead)
    return kept


def test_the_outlook_makes_room_for_another_job_and_comes_again(
    dock, viewer, scan_array, qtbot, outlooks
):
    viewer.add_image(scan_array)
    qtbot.waitUntil(outlooks.begun.is_set, timeout=60_000)
    assert not dock.segment.has_looked_ahead
    other = dock.runner.call(lambda: outlooks.order.append("other"))
    with qtbot.waitSignal(other.finished, timeout=60_000):
        pass
    assert not dock.segment.has_looked_ahead
    outlooks.let.set()
    qtbot.waitUntil(lambda: dock.segment.has_looked_ahead, timeout=60_000)
    assert outlooks.order.count("other") == 1
    assert outlooks.order[0] == outlooks.order[-1] == "outlook"
    assert "float32" in dock.segment.form.outlook_label.text()


def test_the_outlook_comes_after_a_run_that_was_begun_before_it(
    dock, viewer, scan_array, qtbot, tools, outlooks
):
    viewer.add_image(scan_array)
    qtbot.waitUntil(outlooks.begun.is_set, timeout=60_000)
    tools.run_to_end(qtbot, dock)
    assert len(labels_of(viewer)) == 1
    assert not dock.segment.has_looked_ahead
    outlooks.let.set()
    qtbot.waitUntil(lambda: dock.segment.has_looked_ahead, timeout=60_000)
    assert "float32" in dock.segment.form.outlook_label.text()


def test_an_outlook_that_can_not_be_asked_for_is_no_outlook(
    dock, viewer, scan_array, qtbot, outlooks, monkeypatch
):
    viewer.add_image(scan_array)
    qtbot.waitUntil(outlooks.begun.is_set, timeout=60_000)

    def refuse():
        raise InputError("this layer can't be read")

    monkeypatch.setattr(dock.segment, "_read_layer", refuse)
    for _ in range(2):  # nothing is left of the one that was given up
        dock.segment._look_ahead()
        assert dock.segment.has_looked_ahead
        assert "can't be read" in dock.segment.form.outlook_label.text()
    monkeypatch.undo()


def test_an_outlook_that_fails_late_does_not_block_what_was_chosen_since(
    dock, viewer, scan_array, qtbot, monkeypatch
):
    begun, let, real = threading.Event(), threading.Event(), tasks.look_ahead

    def look_ahead(*given):
        if not begun.is_set():
            begun.set()
            let.wait(60)
            raise InputError("the scan is too small for the first model")
        return (yield from real(*given))

    monkeypatch.setattr(tasks, "look_ahead", look_ahead)
    viewer.add_image(scan_array)
    qtbot.waitUntil(begun.is_set, timeout=60_000)
    dock.segment._on_changed()  # as another model does
    let.set()
    qtbot.waitUntil(lambda: dock.segment.has_looked_ahead, timeout=60_000)
    assert dock.segment.form.run_button.isEnabled()
    assert "first model" not in dock.segment.form.outlook_label.text()
