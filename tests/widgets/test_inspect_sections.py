"""Maps on request, tests of maps, forced attention and channels: from buttons to layers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import QObject, QPoint, Qt, Signal
from qtpy.QtTest import QTest

from napari_attention3d.attention.svg import framed
from napari_attention3d.attention.switches import Change
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes.volume import Volume
from napari_attention3d.widgets import inspect_jobs, tasks
from napari_attention3d.widgets.inspect_channels import MatrixView
from napari_attention3d.widgets.inspect_curves import SvgView
from napari_attention3d.widgets.inspect_panel import InspectPanel
from napari_attention3d.widgets.inspect_section import onto_scan
from napari_attention3d.widgets.inspect_switches import effect_words
from napari_attention3d.widgets.layer_chooser import LayerChooser
from napari_attention3d.widgets.layers import KEY, layer_to_volume, volume_to_layer_data
from napari_attention3d.widgets.status_bar import StatusBar
from napari_attention3d.widgets.worker import JobRunner


class Segment(QObject):
    """What the tab needs of the Segment tab."""

    about_to_show = Signal(object)

    def __init__(self):
        super().__init__()
        self.shelf, self.source_layer = tasks.ModelShelf(), None
        self.form = SimpleNamespace(model="")


def save_guided(folder):
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
    for key, parameter in network.named_parameters():
        if key.endswith("gamma"):
            parameter.data.fill_(2.0)
    card = ModelCard(
        name="glance",
        title="Looks around",
        network={"name": "guided-attention", **network.config},
        classes=(
            SegmentationClass(name="background", colour="#000000"),
            SegmentationClass(name="cell", colour="#e69f00"),
        ),
        channels=(Channel(name="any"),),
        unit="pixel",
        patch_size=(20, 24, 28),
    )
    return save_model(folder / "glance.safetensors", network, card)


@pytest.fixture(scope="module")
def glance(tmp_path_factory):
    return save_guided(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def known():
    """Results of runs of a model over the one scan: computed once."""
    return {}


@pytest.fixture
def tab(qtbot, viewer, scan_array, monkeypatch, known):
    """Make the tab over a viewer with a run of a model on a scan."""
    from napari_attention3d.inference import runner as engine
    from napari_attention3d.session import segment as run_model
    from napari_attention3d.widgets.results import make_layer, plan_layers

    # Estimating the memory that a network takes costs more than running a tiny one.
    monkeypatch.setattr(engine, "fits_whole", lambda *_: True)
    made = []

    def make(model, layer=None):
        segment, runner = Segment(), JobRunner()
        if layer is None:
            layer = viewer.add_image(scan_array, name="cells", scale=(2, 1, 1))
        panel = InspectPanel(viewer, runner, LayerChooser(viewer), StatusBar(), segment)
        qtbot.addWidget(panel)
        made.append((panel, runner))
        source = layer_to_volume(layer, leading=0)
        if model.name not in known:
            known[model.name] = run_model(
                source.volume,
                segment.shelf.get(str(model)),
                device="cpu",
                precision="exact",
                tile=(20, 24, 28),
                attention=True,
            )
        result = known[model.name]
        segment.source_layer, segment.form.model = layer, str(model)
        segment.about_to_show.emit(tasks.Finished(result, [], source))
        for plan in plan_layers(result, source):
            viewer.add_layer(make_layer(plan))
        panel.maps.refresh()
        return panel

    yield make
    for panel, runner in made:
        panel.close_down()
        assert runner.join()


def roles(viewer):
    return [str(layer.metadata.get(KEY, {}).get("role", "")) for layer in viewer.layers]


def wait(qtbot, panel):
    qtbot.waitUntil(lambda: not panel.runs.is_busy, timeout=120_000)


def choose(combo, data):
    combo.setCurrentIndex(combo.findData(data))


def test_a_map_on_request_shows_its_cost_first_and_is_listed(qtbot, viewer, tab, glance):
    panel = tab(glance)
    section = panel.requests
    choose(section.kind_combo, "flip-spread")
    assert "4 passes" in section.button.text()
    assert "s" in section.button.text()
    choose(section.kind_combo, "agreement")
    with qtbot.waitSignal(section.shown, timeout=120_000):
        section.compute()
    assert "request:agreement" in roles(viewer)
    assert panel.maps.layer.metadata[KEY]["role"] == "request:agreement"
    assert panel.maps.layer.metadata[KEY]["provenance"]["asked"] == {"map": "agreement"}
    for layer in viewer.layers:  # all that was made says with what
        if layer.name != "cells":
            assert layer.metadata[KEY]["provenance"]["software"]
    assert panel.maps.layer.contrast_limits == [0, 1]
    assert "alike" in next(e.meaning for e in panel.maps.entries if e.group == "On request")
    viewer.layers["cells"].translate = (5, 0, 0)
    section.compute()
    assert "moved or rescaled" in panel.runs.status.text
    assert not panel.runs.is_busy


def test_a_map_that_the_model_lacks_says_why(qtbot, viewer, tab, models_folder):
    panel = tab(models_folder / "tiny.safetensors")
    choose(panel.requests.kind_combo, "reconstruction-error")
    panel.requests.compute()
    wait(qtbot, panel)
    assert "only guided-attention networks" in panel.runs.status.text
    assert not any(role.startswith("request") for role in roles(viewer))


def test_without_a_run_each_section_says_what_to_do(viewer, qtbot, scan_array):
    runner = JobRunner()
    panel = InspectPanel(viewer, runner, LayerChooser(viewer), StatusBar(), Segment())
    qtbot.addWidget(panel)
    presses = (
        panel.requests.compute,
        panel.switches.start,
        panel.channels.start,
        panel.trust.test,
    )
    for press in presses:
        panel.runs.status.idle("")
        press()
        assert "Open a 3D scan" in panel.runs.status.text
    viewer.add_image(scan_array, name="cells")
    for press in presses:
        panel.runs.status.idle("")
        press()
        assert "press Run" in panel.runs.status.text
    panel.close_down()
    assert runner.join()


def test_a_forced_gate_changes_the_mask_and_is_measured(qtbot, viewer, tab, models_folder):
    panel = tab(models_folder / "tiny.safetensors")
    section = panel.switches
    section.start()
    wait(qtbot, panel)
    assert section.combos
    assert all(name.startswith("gate-level") for name in section.combos)
    # Nothing in the tab may be wider than the dock (350 pixels, less the frames).
    assert panel.minimumSizeHint().width() <= 330
    section.start()
    assert "force one of them first" in panel.runs.status.text
    for combo in section.combos.values():
        combo.setCurrentText("forced to 0: nothing passes")
    choose(section.where_combo, "all")
    with qtbot.waitSignal(section.changed, timeout=120_000) as got:
        section.start()
    effect = got.args[0]
    layer = next(one for one in viewer.layers if one.metadata.get(KEY, {}).get("role") == "change")
    np.testing.assert_array_equal(layer.data, effect.difference.array)
    np.testing.assert_allclose(layer.scale, (2, 1, 1))
    if effect.changed_voxels:
        assert f"{effect.dice:.3f}" in section.result_label.text()
    else:
        assert "not a voxel" in section.result_label.text()
    assert panel.runs.mask_layer() is not layer  # a change is no mask
    assert section.figures.table is effect.table
    with qtbot.waitSignal(section.changed, timeout=120_000):
        section.start()
    assert roles(viewer).count("change") == 1


def test_channels_are_clicked_shown_and_switched_off(qtbot, viewer, tab, glance, monkeypatch):
    panel = tab(glance)
    section = panel.channels
    section.start()
    qtbot.waitUntil(lambda: section.bench is not None, timeout=120_000)
    wait(qtbot, panel)
    assert section.matrix.matrix.shape == (4, 4)
    section.matrix.choose(1, 2)
    layer = next(one for one in viewer.layers if one.metadata.get(KEY, {}).get("role") == "feature")
    volume = section.bench.found.feature(section.bench.replay, 2)
    np.testing.assert_array_equal(layer.data, volume.array)
    assert "channel 3 of" in layer.name
    section.matrix.choose(0, 3)
    assert roles(viewer).count("feature") == 1
    viewer.dims.set_point(0, 0.0)  # the change is that of the matrix's tile, wherever the view is
    seen = []
    job = inspect_jobs.effect_job
    monkeypatch.setattr(
        inspect_jobs, "effect_job", lambda *given: (seen.append(given[3]), job(*given))[1]
    )
    assert "channel 4" in section.off_button.text()
    with qtbot.waitSignal(section.changed, timeout=120_000) as got:
        section.switch_off()
    assert got.args[0].changes[0].channel == 3
    assert seen == [section.bench.box]
    assert "channel 4 off" in section.result_label.text()


def test_a_click_finds_its_cell(qtbot):
    view = MatrixView()
    qtbot.addWidget(view)
    view.resize(300, 222)
    view.show()
    view.show_matrix(np.arange(16, dtype=np.float32).reshape(4, 4))
    got = []
    view.clicked.connect(lambda i, j: got.append((i, j)))
    area = view._area()
    at = QPoint(int(area.left() + 0.6 * area.width()), int(area.top() + 0.1 * area.height()))
    QTest.mouseClick(view, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)
    QTest.mouseClick(view, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, QPoint(2, 2))
    assert got == [(0, 2)]


def test_the_matrix_takes_the_keyboard(qtbot):
    view = MatrixView()
    qtbot.addWidget(view)
    view.resize(300, 222)
    view.show()
    QTest.keyClick(view, Qt.Key.Key_Right)  # nothing is there yet
    view.show_matrix(np.arange(12, dtype=np.float32).reshape(3, 4))
    assert view.focusPolicy() == Qt.FocusPolicy.StrongFocus
    got = []
    view.clicked.connect(lambda i, j: got.append((i, j)))
    down, right, up = Qt.Key.Key_Down, Qt.Key.Key_Right, Qt.Key.Key_Up
    for key in (down, right, right, down, down, down, up, Qt.Key.Key_Return):
        QTest.keyClick(view, key)
    assert got == [(1, 2)]
    assert "channel 2 gathers 6.000 from channel 3" in view.accessibleDescription()
    for _ in range(9):
        QTest.keyClick(view, Qt.Key.Key_Left)
    QTest.keyClick(view, Qt.Key.Key_Space)
    assert got[-1] == (1, 0)


def test_a_gate_is_scaled_by_any_factor(qtbot, viewer, tab, models_folder):
    panel = tab(models_folder / "tiny.safetensors")
    section = panel.switches
    section.start()
    wait(qtbot, panel)
    name, combo = next(iter(section.combos.items()))
    spin = section.factors[name]
    assert spin.isHidden()
    combo.setCurrentText("scaled by …")
    assert not spin.isHidden()
    spin.setValue(0.37)
    (change,) = section.changes
    assert (change.part, change.how, change.factor) == (name, "scaled", 0.37)
    with qtbot.waitSignal(section.changed, timeout=120_000) as got:
        section.start()
    assert "0.37" in got.args[0].changes[0].text
    combo.setCurrentIndex(0)
    assert spin.isHidden()


def test_maps_in_view_are_tested_and_the_best_is_drawn(qtbot, viewer, tab, glance, tmp_path):
    panel = tab(glance)
    shown = panel.maps.shown
    assert shown
    with qtbot.waitSignal(panel.trust.tested, timeout=120_000) as got:
        panel.trust.test()
    results = got.args[0]
    assert [found.name for found in results] == [entry.title for entry in shown]
    best = max(results, key=lambda found: found.gain)
    assert panel.trust.verdict_label.text() == best.verdict
    curve = best.curve("most attended first", "deletion")
    points = panel.trust.plot.points("most")
    expected = [(100 * f, s) for f, s in zip(curve.fractions, curve.scores, strict=True)]
    np.testing.assert_allclose(points, expected)
    choose(panel.trust.way_combo, "insertion")
    assert panel.trust.plot.points("most") != points
    assert len(panel.trust.tables) == len(results)
    assert len(panel.trust.figures.table.rows) == 6 * len(results)
    for name in ("curves.png", "curves.svg"):
        panel.trust.save_curves(str(tmp_path / name))
        assert "Saved" in panel.runs.status.text
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).reshape(-1, 3)
    for colour in ((213, 94, 0), (0, 114, 178)):  # most attended first, least attended first
        assert (np.abs(pixels.astype(int) - colour).max(axis=1) <= 40).sum() > 50
    assert results[0].name in (tmp_path / "curves.svg").read_text()
    panel.trust.save_curves(str(tmp_path / "curves.gif"))
    assert "use .png or .svg" in panel.runs.status.text
    panel.save_report(str(tmp_path / "report.html"))
    assert "Deletion and insertion curves" in (tmp_path / "report.html").read_text()
    for entry in panel.maps.entries:
        entry.layer.visible = False
    panel.trust.test()
    wait(qtbot, panel)
    assert "open the eye" in panel.runs.status.text


def test_a_layer_on_a_turned_scan_is_found_in_the_scans_own_world(viewer, scan_array):
    """The viewer shows such a scan upright: the map must go back to where it was computed."""
    affine = np.array([[0, 0, -2, 50], [3, 0, 0, 1], [0, -1.5, 0, 9], [0, 0, 0, 1]], float)
    volume = Volume(scan_array, Geometry(scan_array.shape, affine, "mm", True), "turned")
    data, keywords, _ = volume_to_layer_data(volume)[0]
    layer = viewer.add_image(data, **keywords)
    source = layer_to_volume(layer)
    back = onto_scan(layer, source)
    index = (3, 5, 7)
    world = back.geometry.to_world(index)
    own = np.round(source.volume.geometry.to_index(world)).astype(int)
    assert back.array[index] == source.volume.array[tuple(own)]
    assert back.geometry.unit == "mm"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("gate-2",), "gate 2 forced to 0"),
        (("gate-2", "gate-3"), "gate 2 forced to 0; gate 3 forced to 0"),
        (("gate-2", "gate-3", "gate-4"), "3 maps forced to 0"),
    ],
)
def test_what_was_forced_is_told_in_few_words(names, words):
    effect = SimpleNamespace(changes=[Change(name, "zero") for name in names], changed_voxels=0)
    assert effect_words(effect).startswith(f"{words}:")


def test_a_picture_of_figures_is_on_white_in_the_dock_too(qtbot):
    view = SvgView()
    qtbot.addWidget(view)
    view.resize(300, 100)
    view.show_svg(framed(500, 240, ""))
    shown = view.grab().toImage()
    for x, y in ((3, 3), (shown.width() - 4, shown.height() - 4)):
        assert shown.pixelColor(x, y).name() == "#ffffff"
