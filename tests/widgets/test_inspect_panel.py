"""The probe over a small guided model: from a real click to layers in the right place."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtCore import QObject, QPoint, Qt, Signal
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_attention3d.attention.ask import ALL_SCALES
from napari_attention3d.widgets import inspect_tasks, tasks
from napari_attention3d.widgets.inspect_layers import AnswerLayers
from napari_attention3d.widgets.inspect_panel import InspectPanel
from napari_attention3d.widgets.layer_chooser import LayerChooser
from napari_attention3d.widgets.layers import KEY, layer_to_volume
from napari_attention3d.widgets.status_bar import StatusBar
from napari_attention3d.widgets.worker import JobRunner

SHAPE = (20, 24, 28)


def save_guided(folder, name="glance"):
    """A guided network whose attention chooses, in a file."""
    import torch

    from napari_attention3d.models import Channel, ModelCard, SegmentationClass, save_model
    from napari_attention3d.networks import build_network

    torch.manual_seed(3)
    network = build_network(
        "guided-attention",
        preset="small",
        in_channels=1,
        num_classes=2,
        widths=(4, 8, 8, 8),
        strides=(2, 1, 1),
        features=4,
        head_width=4,
        steps=1,
    ).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("gamma"):
                parameter.fill_(0.5)
            if "position.query" in key or "position.key" in key:
                parameter.mul_(3)
    card = ModelCard(
        name=name,
        title="Looks around",
        network={"name": "guided-attention", **network.config},
        classes=(
            SegmentationClass(name="background", colour="#000000"),
            SegmentationClass(name="cell", colour="#e69f00"),
        ),
        channels=(Channel(name="any"),),
        unit="pixel",
        patch_size=(16, 20, 20),
    )
    return save_model(folder / f"{name}.safetensors", network, card)


class Segment(QObject):
    """What the tab needs of the Segment tab."""

    about_to_show = Signal(object)

    def __init__(self):
        super().__init__()
        self.shelf = tasks.ModelShelf()
        self.source_layer = None
        self.form = SimpleNamespace(model="")


@pytest.fixture(scope="module")
def glance(tmp_path_factory):
    return save_guided(tmp_path_factory.mktemp("models"))


@pytest.fixture
def inspect(qtbot, monkeypatch):
    """Make the panel over a viewer, with a run of a model on a layer remembered."""
    from napari_attention3d.inference import runner as engine

    # Estimating the memory that a network takes costs more than running a tiny one.
    monkeypatch.setattr(engine, "fits_whole", lambda *_: True)
    made = []

    def make(viewer, layer=None, model=None):
        segment, runner = Segment(), JobRunner()
        panel = InspectPanel(viewer, runner, LayerChooser(viewer), StatusBar(), segment)
        qtbot.addWidget(panel)
        made.append((panel, runner))
        if model is not None:
            from napari_attention3d.session import segment as run_model

            source = layer_to_volume(layer, leading=0)
            loaded = segment.shelf.get(str(model))
            result = run_model(
                source.volume, loaded, device="cpu", precision="exact", tile=(16, 20, 20)
            )
            segment.source_layer, segment.form.model = layer, str(model)
            segment.about_to_show.emit(tasks.Finished(result, [], source))
            panel.test_result = result
        return panel

    yield make
    for panel, runner in made:
        panel.close_down()
        assert runner.join()


@pytest.fixture
def scan(viewer, scan_array):
    return viewer.add_image(scan_array, name="cells", scale=(2, 1, 0.5), translate=(5, 6, 7))


def asked_layers(viewer):
    found = {}
    for layer in viewer.layers:
        role = str(layer.metadata.get(KEY, {}).get("role", ""))
        if role.startswith("asked"):
            found.setdefault(role, []).append(layer)
    return found


def add_mask(viewer, labels):
    """The run's mask on its scan."""
    return viewer.add_labels(
        np.asarray(labels.array), scale=(2, 1, 0.5), translate=(5, 6, 7), name="mask"
    )


def ask(qtbot, panel, voxel):
    panel.asking.ask(voxel)
    qtbot.waitUntil(lambda: not panel.runs.is_busy, timeout=30_000)


def test_an_answer_lies_on_the_scan_and_is_the_row(qtbot, viewer, scan, glance, inspect):
    panel = inspect(viewer, scan, glance)
    ask(qtbot, panel, (9, 12, 14))
    layers = asked_layers(viewer)
    assert set(layers) == {"asked", "asked-outline", "asked-place"}
    (row,) = layers["asked"]
    volume = panel.asking.last.answer.volumes[panel.asking.form.scale]
    np.testing.assert_array_equal(row.data, volume.array)
    assert row.data.sum() == pytest.approx(1, abs=1e-5)
    for (layer,) in layers.values():  # each says what it answers, and about what
        made = layer.metadata[KEY]["provenance"]
        assert made["asked"]["voxel"] == [9, 12, 14]
        assert made["model"]["name"] == "glance"
        assert made["source"]["name"] == "cells"
        assert made["software"]
    assert row.blending == "additive"
    assert row.contrast_limits == pytest.approx([0, row.data.max()])
    # Voxel j of the row is centred on the scan's voxel start + 4 j.
    start = np.array(panel.asking.last.answer.box.start)
    np.testing.assert_allclose(
        row.data_to_world((1, 1, 1)), scan.data_to_world(start + 4), atol=1e-6
    )
    (place,) = layers["asked-place"]
    np.testing.assert_allclose(place.data_to_world(place.data[0]), scan.data_to_world((9, 12, 14)))
    (outline,) = layers["asked-outline"]
    assert outline.bounding_box.visible
    low = outline.data_to_world((-0.5, -0.5, -0.5))
    np.testing.assert_allclose(low, scan.data_to_world(start - 0.5), atol=1e-6)
    high = outline.data_to_world((0.5, 0.5, 0.5))
    stop = np.array(panel.asking.last.answer.box.stop)
    np.testing.assert_allclose(high, scan.data_to_world(stop - 0.5), atol=1e-6)
    assert panel.runs.chooser.layer is scan  # answers are no scans
    assert "tile that counts most" in panel.asking.form.answer_label.text()


def test_the_second_question_is_answered_at_once_and_in_the_same_layers(
    qtbot, viewer, scan, glance, inspect
):
    panel = inspect(viewer, scan, glance)
    ask(qtbot, panel, (9, 12, 22))
    before = asked_layers(viewer)["asked"][0].data.copy()
    replay, first = panel.asking.last.replay, panel.asking.last.answer
    assert replay.tile_at(replay.on_grid((9, 12, 20))) == first.box  # a tile that is kept
    panel.asking.ask((9, 12, 20))
    assert not panel.runs.is_busy
    (row,) = asked_layers(viewer)["asked"]
    assert not np.array_equal(row.data, before)
    np.testing.assert_array_equal(first.volumes[ALL_SCALES].array, before)  # not written over
    panel.asking.form.lines_box.setChecked(True)
    panel.asking.probe.switch(True)
    panel.asking.ask_again()
    (lines,) = asked_layers(viewer)["asked-lines"]
    assert len(lines.data) == 12
    for voxel in ((9, 12, 20), (9, 12, 21)):  # the second in the same layer: a new one takes long
        panel.asking.ask(voxel)
        assert asked_layers(viewer)["asked-lines"] == [lines]
        # Where the ring is, and so in the slice that was clicked.
        np.testing.assert_allclose(lines.data[:, 0], [voxel] * 12)
        targets = panel.asking.last.targets
        assert list(lines.features["share of attention"]) == list(targets.shares)
        assert np.argmax(lines.edge_color[:, 3]) == 0
        ends = lines.data_to_world(lines.data[3].sum(axis=0))
        np.testing.assert_allclose(ends, targets.places[3])
    panel.asking.form.scale_combo.setCurrentIndex(2)
    np.testing.assert_array_equal(
        row.data, panel.asking.last.answer.volumes[panel.asking.form.scale].array
    )


@pytest.mark.parametrize("kind", ["column", "label", "hubs"])
def test_other_questions_go_through_the_worker(qtbot, viewer, scan, glance, inspect, kind):
    panel = inspect(viewer, scan, glance)
    labels = panel.test_result.labels
    add_mask(viewer, labels)
    voxel = tuple(float(i) for i in np.argwhere(labels.array > 0)[0])
    combo = panel.asking.form.question_combo
    combo.setCurrentIndex(combo.findData(kind))
    assert "network pass comes first" in panel.asking.form.answer_label.text()
    ask(qtbot, panel, voxel)
    combo.setCurrentIndex(0)
    combo.setCurrentIndex(combo.findData(kind))
    assert not panel.runs.is_busy  # the cost is told before it is paid
    assert "all voxels of the tile: about" in panel.asking.form.answer_label.text()
    assert panel.asking.last.answer.kind == kind
    (row,) = asked_layers(viewer)["asked"]
    assert row.data.max() > 0


def test_background_is_no_label(qtbot, viewer, scan, glance, inspect):
    panel = inspect(viewer, scan, glance)
    labels = panel.test_result.labels
    add_mask(viewer, labels)
    voxel = tuple(float(i) for i in np.argwhere(labels.array == 0)[0])
    combo = panel.asking.form.question_combo
    combo.setCurrentIndex(combo.findData("label"))
    panel.asking.ask(voxel)
    assert "background" in panel.runs.status.text
    assert "asked" not in asked_layers(viewer)


def test_pins_stay_and_clear_removes_all_and_lights_the_scan_again(
    qtbot, viewer, scan, glance, inspect
):
    panel = inspect(viewer, scan, glance)
    ask(qtbot, panel, (9, 12, 14))
    assert scan.opacity == pytest.approx(0.55)
    panel.asking.pin()
    ask(qtbot, panel, (4, 6, 8))
    layers = asked_layers(viewer)
    assert len(layers["asked"]) == 2
    colours = {tuple(one.border_color[0]) for one in layers["asked-place"]}
    assert len(colours) == 2
    panel.asking.form.pins_list.item(0).setCheckState(Qt.CheckState.Unchecked)
    assert [one.visible for one in layers["asked"]] == [False, True]
    panel.asking.clear()
    assert not asked_layers(viewer)
    assert scan.opacity == 1


@pytest.mark.parametrize("first", ["dark", "asked"])
@pytest.mark.parametrize("last", ["dark", "asked"])
def test_scan_and_mask_look_as_before_whichever_goes_first(
    qtbot, viewer, scan, glance, inspect, first, last
):
    panel = inspect(viewer, scan, glance)
    mask = add_mask(viewer, panel.test_result.labels)
    mask.opacity = 0.6
    ways = {
        "dark": (lambda: panel.view.dark_box.setChecked(True),
                 lambda: panel.view.dark_box.setChecked(False)),
        "asked": (lambda: ask(qtbot, panel, (9, 12, 14)), panel.asking.clear),
    }  # fmt: skip
    second = next(name for name in ways if name != first)
    for name in (first, second):
        ways[name][0]()
        assert scan.opacity == pytest.approx(0.55)
        assert mask.contour == 1
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    for name in (next(name for name in ways if name != last), last):
        ways[name][1]()
    assert (scan.opacity, scan.visible) == (1, True)
    assert (mask.opacity, mask.contour) == (0.6, 0)


def test_pins_have_their_own_colours_and_can_be_compared(qtbot, viewer, scan, glance, inspect):
    panel = inspect(viewer, scan, glance)
    for voxel in ((9, 12, 14), (4, 6, 8)):
        ask(qtbot, panel, voxel)
        panel.asking.pin()
    ask(qtbot, panel, (9, 12, 20))
    rows = asked_layers(viewer)["asked"]
    assert len({row.colormap.name for row in rows}) == 3
    black = [np.asarray(row.colormap.map([0.0]))[0, :3].max() for row in rows]
    assert max(black) < 0.02  # nothing is added where nothing is looked at
    own = [float(row.data.max()) for row in rows]
    assert [row.contrast_limits[1] for row in rows] == pytest.approx(own)
    panel.asking.form.same_box.setChecked(True)
    assert [row.contrast_limits for row in rows] == [[0, pytest.approx(max(own))]] * 3
    panel.maps.refresh()
    titles = [entry.title for entry in panel.maps.entries]
    assert [title[:3] for title in titles] == ["Row", "📌 2", "📌 1"]
    panel.asking.form.same_box.setChecked(False)
    assert [row.contrast_limits[1] for row in rows] == pytest.approx(own)


def rest(panel, layer, voxel):
    """The mouse comes to rest over a voxel in 2D."""
    event = SimpleNamespace(
        position=layer.data_to_world(voxel), view_direction=None, dims_displayed=[1, 2]
    )
    panel.asking._on_move(event)
    panel.asking._rest.stop()
    panel.asking._on_rest()


def test_the_mouse_is_followed_within_a_kept_tile(qtbot, viewer, scan, glance, inspect):
    panel = inspect(viewer, scan, glance)
    form = panel.asking.form
    form.hover_box.setChecked(True)
    panel.asking.probe.switch(True)
    rest(panel, scan, (9, 12, 22))
    assert "Click once here" in panel.runs.status.text
    assert not asked_layers(viewer)
    ask(qtbot, panel, (9, 12, 22))
    before = asked_layers(viewer)["asked"][0].data.copy()
    rest(panel, scan, (9, 12, 20))  # in the same tile
    assert panel.asking.last.question.voxel == pytest.approx((9, 12, 20))
    assert not np.array_equal(asked_layers(viewer)["asked"][0].data, before)
    form.hover_box.setChecked(False)
    panel.asking._on_move(SimpleNamespace(dims_displayed=[1, 2]))
    assert not panel.asking._rest.isActive()


def test_following_the_mouse_over_a_model_without_rows_says_why(
    qtbot, viewer, scan, models_folder, inspect
):
    panel = inspect(viewer, scan, models_folder / "tiny.safetensors")
    panel.asking.form.hover_box.setChecked(True)
    panel.asking.probe.switch(True)
    for _ in range(2):
        rest(panel, scan, (9, 12, 14))
        assert "no position attention" in panel.runs.status.text
        assert "Click once" not in panel.runs.status.text
        ask(qtbot, panel, (9, 12, 14))
    # What was looked at for the gates' values tells the classes, too.
    found = panel.runs.desk.probabilities(panel.runs.known(), (9, 12, 15))
    assert set(found) == {"background", "nucleus", "wall"}
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)


def test_a_question_about_all_voxels_tells_its_cost_before_the_first_one(
    qtbot, viewer, scan, glance, inspect
):
    panel = inspect(viewer, scan, glance)
    panel.asking.form.probe_button.setChecked(True)  # looks at the tile in view beforehand
    qtbot.waitUntil(lambda: not panel.runs.is_busy, timeout=30_000)
    combo = panel.asking.form.question_combo
    for kind in ("column", "hubs"):
        combo.setCurrentIndex(combo.findData(kind))
        assert panel.asking.last is None
        assert "all voxels of the tile: about" in panel.asking.form.answer_label.text()


def test_a_scan_with_negative_scales_is_asked_where_it_is_clicked(
    qtbot, viewer, scan_array, glance, inspect
):
    layer = viewer.add_image(scan_array, scale=(2, -1, -0.5), translate=(5, 30, 20))
    panel = inspect(viewer, layer, glance)
    event = SimpleNamespace(
        position=layer.data_to_world((9, 12, 14)), view_direction=None, dims_displayed=[1, 2]
    )
    voxel = panel.asking.voxel_at(event)
    source = panel.runs.source()
    own = tuple(round(v) for v in voxel)
    assert np.asarray(source.volume.array)[own] == scan_array[9, 12, 14]
    ask(qtbot, panel, voxel)
    (place,) = asked_layers(viewer)["asked-place"]
    np.testing.assert_allclose(
        place.data_to_world(place.data[0]), layer.data_to_world((9, 12, 14)), atol=1e-5
    )
    (row,) = asked_layers(viewer)["asked"]
    low, high = (np.sort(np.asarray(one.extent.world), axis=0) for one in (layer, row))
    assert (high[0] >= low[0] - 4).all()
    assert (high[1] <= low[1] + 4).all()
    panel.maps.refresh()  # with its picture in the list
    assert panel.maps.layer is row


def test_the_view_goes_to_the_peak(qtbot, viewer, scan, glance, inspect):
    panel = inspect(viewer, scan, glance)
    ask(qtbot, panel, (9, 12, 14))
    panel.asking.go_to_peak()
    (row,) = asked_layers(viewer)["asked"]
    index = np.round(row.world_to_data(viewer.dims.point)).astype(int)
    near = row.data[tuple(slice(max(0, i - 1), i + 2) for i in index)]
    assert near.max() == row.data.max()


def test_without_a_run_the_tab_says_what_to_do_and_the_guided_model_answers(
    qtbot, viewer, scan, glance, inspect, monkeypatch
):
    panel = inspect(viewer)
    panel.asking.ask((9.0, 12.0, 14.0))
    assert "press Run" in panel.runs.status.text
    assert not panel.asking.form.guided_button.isHidden()
    monkeypatch.setattr(inspect_tasks, "find_guided", lambda: str(glance))
    panel.asking.ask_guided()
    qtbot.waitUntil(lambda: not panel.runs.is_busy, timeout=30_000)
    assert "did not make this mask" in panel.asking.form.answer_label.text()
    assert panel.asking.last.answer.centred


def test_a_model_with_gates_shows_their_values_and_offers_the_guided_one(
    qtbot, viewer, scan, models_folder, inspect
):
    panel = inspect(viewer, scan, models_folder / "tiny.safetensors")
    ask(qtbot, panel, (9, 12, 14))
    text = panel.asking.form.answer_label.text()
    assert "attention gate, level 2: 0." in text
    assert "no position attention" in text
    assert not panel.asking.form.guided_button.isHidden()
    assert not asked_layers(viewer)


def test_a_removed_scan_layer_changes_nothing_else(qtbot, viewer, scan, glance, inspect):
    panel = inspect(viewer, scan, glance)
    ask(qtbot, panel, (9, 12, 14))
    row = asked_layers(viewer)["asked"][0]
    viewer.layers.remove(row)  # the person may remove answers, too
    ask(qtbot, panel, (9, 12, 16))
    assert len(asked_layers(viewer)["asked"]) == 1
    viewer.layers.remove(scan)
    panel.asking.ask((9.0, 12.0, 14.0))
    assert "Open a 3D scan" in panel.runs.status.text
    panel.asking.clear()


def test_a_model_that_changed_since_the_run_is_refused(qtbot, viewer, scan, glance, inspect):
    panel = inspect(viewer, scan, glance)
    record = panel.runs.records[scan]
    model = dict(record.provenance["model"], sha256="0" * 64)
    stale = inspect_tasks.RunRecord(
        record.source, record.model_ref, {**record.provenance, "model": model}
    )
    panel.runs.records[scan] = stale
    ask(qtbot, panel, (9, 12, 14))
    assert "out of date" in panel.runs.status.text
    assert not asked_layers(viewer)


def test_only_the_last_of_several_clicks_counts(qtbot, viewer, scan, glance, inspect):
    panel = inspect(viewer, scan, glance)
    panel.asking.ask((2, 2, 2))
    panel.asking.ask((18, 20, 24))
    qtbot.waitUntil(lambda: not panel.runs.is_busy, timeout=30_000)
    assert panel.asking.last.question.voxel == (18, 20, 24)
    assert len(asked_layers(viewer)["asked"]) == 1


def test_layers_of_an_answer_follow_a_flipped_and_turned_scan(viewer, scan_array):
    """Whatever is laid on the scan goes through its own place."""
    from napari_attention3d.geometry import Geometry
    from napari_attention3d.volumes.volume import Volume
    from napari_attention3d.widgets.layers import volume_to_layer_data

    affine = np.array([[0, 0, -2, 50], [3, 0, 0, 1], [0, -1.5, 0, 9], [0, 0, 0, 1]], float)
    volume = Volume(scan_array, Geometry(scan_array.shape, affine, "mm", True), "turned")
    data, keywords, _ = volume_to_layer_data(volume)[0]
    layer = viewer.add_image(data, **keywords)
    source = layer_to_volume(layer)
    answers = AnswerLayers(viewer, source, "model", "#ffffff")
    answers.show_place((3, 4, 5))
    place = answers.layer("place")
    index = np.round(layer.world_to_data(place.data_to_world(place.data[0]))).astype(int)
    assert layer.data[tuple(index)] == scan_array[3, 4, 5]


def odd_layer(viewer, array, kind):
    """The scan as a pyramid, as one point of a time series, or stored turned and flipped."""
    if kind == "multiscale":
        return viewer.add_image([array, array[::2, ::2, ::2]], multiscale=True, scale=(2, 1, 1))
    if kind == "time":
        return viewer.add_image(np.stack([array]), scale=(1, 2, 1, 1))
    from napari_attention3d.geometry import Geometry
    from napari_attention3d.volumes.volume import Volume
    from napari_attention3d.widgets.layers import volume_to_layer_data

    affine = np.array([[0, 0, -2, 50], [3, 0, 0, 1], [0, -1.5, 0, 9], [0, 0, 0, 1]], float)
    volume = Volume(array, Geometry(array.shape, affine, "mm", True), "turned")
    data, keywords, _ = volume_to_layer_data(volume)[0]
    return viewer.add_image(data, **keywords)


@pytest.mark.parametrize("kind", ["multiscale", "time", "turned"])
def test_everything_works_on_odd_scans(qtbot, viewer, scan_array, glance, inspect, kind):
    layer = odd_layer(viewer, scan_array, kind)
    panel = inspect(viewer, layer, glance)
    assert panel.runs.stale() == ""
    source = panel.runs.source()
    array = layer.data[0] if kind in ("multiscale", "time") else layer.data
    # Corners of the scan, and both sides of where its first tile ends.
    for voxel in ((0, 0, 0), (15, 19, 19), (16, 20, 20), (19, 23, 27)):
        ask(qtbot, panel, voxel)
        assert panel.asking.last.question.voxel == voxel
        (place,) = asked_layers(viewer)["asked-place"]
        at = np.round(layer.world_to_data(place.data_to_world(place.data[0])))[-3:].astype(int)
        assert np.asarray(array)[tuple(at)] == np.asarray(source.volume.array)[voxel]
        (row,) = asked_layers(viewer)["asked"]
        assert row.data.sum() == pytest.approx(1, abs=1e-5)
    with qtbot.waitSignal(panel.requests.shown, timeout=60_000) as got:
        panel.requests.compute()
    low = np.asarray(got.args[0].extent.world[0])[-3:]
    high = np.asarray(got.args[0].extent.world[1])[-3:]
    spread = np.asarray(layer.extent.world)[:, -3:]
    step = np.abs(np.asarray(layer.scale)[-3:])
    assert (np.abs(np.array([low, high]) - spread) <= step).all()
    panel.paint.choose(1)
    strokes = panel.paint.layer()
    assert strokes.data.shape == tuple(source.shown.shape)
    strokes.data[(0, 0, 0)] = 1
    assert panel.paint.strokes().array.sum() == 1


# ---- real clicks


def centre_click(viewer, dx=0, dy=0):
    native = viewer.window._qt_viewer.canvas.native
    at = QPoint(native.width() // 2 + dx, native.height() // 2 + dy)
    QTest.mouseMove(native, at)
    QTest.mousePress(native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)
    QTest.mouseRelease(native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)
    QApplication.processEvents()


def test_real_clicks_in_all_three_slices_and_in_3d(
    make_napari_viewer, qtbot, glance, inspect, scan_array
):
    """In each view the click's world position is the asked voxel's."""
    viewer = make_napari_viewer(show=True)
    array = scan_array.copy()
    array[12, 13, 14] = 9  # the brightest voxel along a ray through the middle
    layer = viewer.add_image(array, scale=(2, 1, 1), translate=(3, 4, 5), rotate=(0, 0, 20))
    panel = inspect(viewer, layer, glance)
    panel.asking.form.probe_button.setChecked(True)
    qtbot.waitUntil(lambda: not panel.runs.is_busy, timeout=30_000)
    for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        panel.asking.last = None
        viewer.dims.order = order
        viewer.dims.set_point(order[0], float(layer.data_to_world((12, 13, 14))[order[0]]))
        viewer.reset_view()
        QApplication.processEvents()
        centre_click(viewer, 6, 4)
        qtbot.waitUntil(
            lambda: panel.asking.last is not None and not panel.runs.is_busy, timeout=30_000
        )
        expected = layer.world_to_data(viewer.cursor.position)
        np.testing.assert_allclose(panel.asking.last.question.voxel, expected, atol=0.51)
    viewer.dims.order = (0, 1, 2)
    viewer.dims.ndisplay = 3
    viewer.camera.center = tuple(layer.data_to_world((12, 13, 14)))
    viewer.camera.zoom = 12
    QApplication.processEvents()
    panel.asking.last = None
    centre_click(viewer)
    qtbot.waitUntil(
        lambda: panel.asking.last is not None and not panel.runs.is_busy, timeout=30_000
    )
    np.testing.assert_allclose(panel.asking.last.question.voxel, (12, 13, 14), atol=1)
    panel.close_down()
    panel.asking.last = None
    centre_click(viewer)
    assert panel.asking.last is None
    assert panel.asking.probe._clicked not in viewer.mouse_drag_callbacks


def test_dragging_and_painting_ask_nothing(make_napari_viewer, qtbot, inspect, scan_array):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(scan_array)
    panel = inspect(viewer)
    panel.asking.form.probe_button.setChecked(True)
    asked = []
    panel.asking.ask = asked.append
    native = viewer.window._qt_viewer.canvas.native
    middle = QPoint(native.width() // 2, native.height() // 2)
    left, plain = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QTest.mousePress(native, left, plain, middle)
    QTest.mouseMove(native, middle + QPoint(30, 0))
    QApplication.processEvents()
    QTest.mouseRelease(native, left, plain, middle + QPoint(30, 0))
    assert not asked
    labels = viewer.add_labels(np.zeros(SHAPE, np.uint8))
    labels.mode = "paint"
    centre_click(viewer)
    assert not asked
    assert "being edited" in panel.runs.status.text
    labels.mode = "pan_zoom"
    centre_click(viewer)
    assert len(asked) == 1
    viewer.camera.center = (0, 500, 500)
    centre_click(viewer)
    assert len(asked) == 1
    assert "outside the scan" in panel.runs.status.text
