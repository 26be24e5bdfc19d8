"""Painting the attention: strokes, a trained copy, layers of what moved, accept or discard."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from napari_attention3d.attention import paint
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes import read_volume
from napari_attention3d.volumes.volume import Volume
from napari_attention3d.widgets import correct_panel, correct_tasks
from napari_attention3d.widgets.layers import KEY, layer_to_volume, volume_to_layer_data
from napari_attention3d.widgets.paint_layers import (
    attention_strokes,
    find_strokes,
    make_strokes,
    painted_counts,
    read_strokes,
    write_strokes,
)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """Large steps, so that a few suffice."""
    few = partial(paint.PaintOptions, steps=8, learning_rate=5e-3, patch=(16, 16, 16))
    monkeypatch.setattr(paint, "PaintOptions", few)


@pytest.fixture
def ran(qtbot, dock, viewer, scan_array, tools):
    """The dock over a scan that the tiny model segmented, and the section."""
    viewer.add_image(scan_array, name="cells", scale=(2, 1, 1), translate=(3, 4, 5))
    tools.run_to_end(qtbot, dock)
    return dock.inspect.paint


def roles(viewer):
    return [str(layer.metadata.get(KEY, {}).get("role", "")) for layer in viewer.layers]


def paint_both(section):
    section.choose(1)
    layer = section.layer()
    layer.data[4:9, 4:20, 4:12] = 1
    section.choose(2)
    layer.data[4:9, 4:20, 16:26] = 2
    return layer


def train(qtbot, section):
    with qtbot.waitSignal(section.moved, timeout=120_000) as got:
        section.start()
    qtbot.waitUntil(lambda: not section.runs.is_busy, timeout=30_000)
    return got.args[0]


def test_strokes_train_a_copy_and_what_moved_lies_on_the_scan(qtbot, ran, viewer):
    layer = paint_both(ran)
    scan, strokes = viewer.layers["cells"], layer.data.copy()
    result = train(qtbot, ran)
    look, away = result.moved.shares(1), result.moved.shares(2)
    assert look[1] - look[0] > away[1] - away[0]
    words = ran.result_label.text()
    assert f"“look here” {look[0]:.3g} % → {look[1]:.3g} %" in words
    assert f"Dice {result.moved.effect.dice:.3f} (" in words
    assert f"{result.moved.effect.changed_voxels:,} voxels changed" in ran.runs.status.text
    moved = [one for one in viewer.layers if role(one).startswith("moved:")]
    assert len(moved) == len(result.moved.before)
    assert [one.visible for one in moved].count(True) == 1
    for one in moved:
        volume = result.moved.change(role(one).removeprefix("moved:"))
        np.testing.assert_array_equal(one.data, volume.array)
        low, high = one.contrast_limits
        assert low == -high  # nothing changed is the colours' middle, which is black
        np.testing.assert_allclose(one.colormap.map([0.5])[0][:3], 0, atol=1e-6)
        # Voxel 0 of a map that is s times coarser is centred on the scan's voxel (s - 1) / 2.
        stride = np.array(one.scale) / np.array(scan.scale)
        first = scan.data_to_world((stride - 1) / 2)
        np.testing.assert_allclose(one.data_to_world((0, 0, 0)), first, atol=1e-6)
        assert one.units == scan.units
    (change,) = (one for one in viewer.layers if role(one) == "change")
    np.testing.assert_array_equal(change.data, result.moved.effect.difference.array)
    assert ran.figures.table is result.moved.table
    assert "What painting moved" in {
        e.group for e in ran.runs.segment.window().inspect.maps.entries
    }
    np.testing.assert_array_equal(layer.data, strokes)


def role(layer):
    return str(layer.metadata.get(KEY, {}).get("role", ""))


def test_discarding_leaves_network_and_layers_as_they_were(qtbot, ran, viewer):
    paint_both(ran)
    before = list(viewer.layers)
    assert viewer.layers["cells"].opacity == pytest.approx(0.55)  # scan and maps are seen
    look = [(one.visible, one.opacity) for one in before]
    model = ran.runs.segment.shelf.get(ran.runs.known().model_ref)
    weights = [p.clone() for p in model.network.parameters()]
    train(qtbot, ran)
    assert ran.accept_button.isVisibleTo(ran)
    assert viewer.layers["cells"].opacity == pytest.approx(0.4)
    ran.discard()
    assert list(viewer.layers) == before
    assert [(one.visible, one.opacity) for one in before] == look
    assert ran.result is None
    assert not ran.accept_button.isVisibleTo(ran)
    assert all((a == b).all() for a, b in zip(weights, model.network.parameters(), strict=True))
    assert "as before" in ran.runs.status.text


def test_an_accepted_network_is_a_model_that_the_next_run_uses(qtbot, ran, viewer, dock, tools):
    paint_both(ran)
    result = train(qtbot, ran)
    path = dock.segment.form.model.replace("tiny", "looks-elsewhere")
    with qtbot.waitSignal(ran.accepted, timeout=30_000):
        ran.accept(Path(path))
    qtbot.waitUntil(lambda: dock.segment.form.model == path, timeout=30_000)
    qtbot.waitUntil(lambda: dock.segment.form.run_button.isEnabled(), timeout=30_000)
    assert not ran.accept_button.isEnabled()
    tools.run_to_end(qtbot, dock)
    assert dock.segment.last.card.name == "looks-elsewhere"
    assert "painted" in dock.segment.last.card.description
    found = np.asarray(dock.segment.last.labels.array)
    assert (found != result.moved.effect.after.array).mean() < 0.01


def test_cancelling_leaves_all_as_it_was(qtbot, ran, viewer):
    paint_both(ran)
    before = list(viewer.layers)
    ran.start()
    dock = ran.runs.segment.window()
    dock.status.cancel_clicked.emit()
    qtbot.waitUntil(lambda: not ran.runs.is_busy, timeout=60_000)
    assert "Cancelled" in ran.runs.status.text
    assert list(viewer.layers) == before
    assert ran.result is None


def test_each_thing_that_is_missing_is_said(qtbot, dock, viewer, scan_array, tools):
    section = dock.inspect.paint
    section.choose(1)
    assert "Open a 3D scan" in section.runs.status.text
    assert section.brushes.checkedButton() is None
    scan = viewer.add_image(scan_array, name="cells")
    section.start()
    assert "press Run" in section.runs.status.text
    tools.run_to_end(qtbot, dock)
    section.start()
    assert "paint on the scan first" in section.runs.status.text
    section.choose(0)
    assert section.layer().mode == "erase"
    section.start()
    assert "Nothing is painted" in section.runs.status.text
    section.layer().data[3, 3, 3] = 7
    section.start()
    assert "holds the label 7" in section.runs.status.text
    section.layer().data[3, 3, 3] = 1
    section.layer().translate = (5, 0, 0)
    section.start()
    assert "was moved" in section.runs.status.text
    viewer.layers.remove(section.layer())
    assert section.layer() is None
    section.choose(1)
    section.layer().data[3, 3, 3] = 1
    scan.translate = (9, 0, 0)
    section.start()
    assert "Out of date" in section.runs.status.text
    assert not section.runs.is_busy


def test_strokes_are_saved_and_opened(qtbot, ran, viewer, tmp_path):
    layer = paint_both(ran)
    strokes = layer.data.copy()
    path = str(tmp_path / "strokes.nii.gz")
    ran.save_strokes(path)
    qtbot.waitUntil(lambda: "Saved" in ran.runs.status.text, timeout=30_000)
    np.testing.assert_array_equal(np.asarray(read_volume(path).array), strokes)
    viewer.layers.remove(layer)
    ran.open_strokes(path)
    qtbot.waitUntil(lambda: "not to look at" in ran.runs.status.text, timeout=30_000)
    np.testing.assert_array_equal(ran.layer().data, strokes)
    assert painted_counts(ran.strokes()) == (5 * 16 * 8, 5 * 16 * 10)
    other = Volume.from_array(np.ones((4, 5, 6), np.uint8), name="other")
    ran._on_opened(other)
    assert "does not lie on the scan's voxels" in ran.runs.status.text


def test_strokes_on_a_turned_scan_go_to_its_own_grid_and_back(viewer, scan_array):
    affine = np.array([[0, 0, -2, 50], [3, 0, 0, 1], [0, -1.5, 0, 9], [0, 0, 0, 1]], float)
    volume = Volume(scan_array, Geometry(scan_array.shape, affine, "mm", True), "turned")
    data, keywords, _ = volume_to_layer_data(volume)[0]
    source = layer_to_volume(viewer.add_image(data, **keywords))
    layer = make_strokes(viewer, source)
    assert find_strokes(viewer, source) is layer
    layer.data[2, 5, 7] = 1
    own = read_strokes(layer, source)
    (where,) = np.argwhere(own.array)
    assert scan_array[tuple(where)] == data[2, 5, 7]
    assert (attention_strokes(viewer, source) == own.array).all()
    layer.data[:] = 0
    assert attention_strokes(viewer, source) is None
    write_strokes(layer, source, own)
    assert np.argwhere(layer.data).tolist() == [[2, 5, 7]]
    layer.visible = False
    assert attention_strokes(viewer, source) is None


def test_training_in_the_correct_tab_follows_visible_strokes(qtbot, ran, viewer, dock, monkeypatch):
    layer = paint_both(ran)
    given = []

    def train_job(session, seconds, focus, axis, lock, attention=None):
        given.append(attention)
        yield from ()

    monkeypatch.setattr(correct_tasks, "train", train_job)

    class Link:
        source = layer_to_volume(viewer.layers["cells"])
        lock = session = None
        begin = staticmethod(lambda: None)

    class Session:
        strokes = ()

    Link.session = Session()
    panel = dock.correct
    monkeypatch.setattr(panel, "collected", lambda: Link)
    monkeypatch.setattr(correct_panel, "looked_at", lambda viewer, link: ((0, 0, 0), 0))
    for visible in (True, False):
        layer.visible = visible
        jobs = []
        monkeypatch.setattr(panel, "submit", lambda job, *rest, jobs=jobs: jobs.append((job, rest)))
        panel.train()
        list(jobs[0][0]())
        assert ("follows the strokes" in jobs[0][1][2]) is visible
    assert (given[0] == layer.data).all()
    assert given[1] is None


def test_strokes_of_a_real_brush_are_undone(make_napari_viewer, qtbot, models_folder, tools):
    viewer = make_napari_viewer(show=True)
    rng = np.random.default_rng(1)
    viewer.add_image(rng.random((12, 20, 24)).astype(np.float32), name="cells")
    dock = tools.open_dock(qtbot, viewer)
    section = dock.inspect.paint
    section.choose(2)
    layer = section.layer()
    assert viewer.layers.selection.active is layer
    assert layer.mode == "paint"
    layer.paint((6, 10, 12), layer.selected_label)
    assert painted_counts(section.strokes())[1] > 0
    layer.undo()
    QApplication.processEvents()
    assert not layer.data.any()
    section.choose(1)
    layer.paint((6, 10, 12), layer.selected_label)
    assert painted_counts(section.strokes())[0] > 0
    assert dock.inspect.minimumSizeHint().width() <= 330
    dock.close_down()
    assert dock.runner.join()
