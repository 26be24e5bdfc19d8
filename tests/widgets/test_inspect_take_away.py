"""What is taken away from the tab: figures per label, pictures of the view, the report."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as PicturePIL
from qtpy.QtCore import QObject, Signal
from qtpy.QtGui import QColor, QImage

from napari_attention3d.errors import OutputError
from napari_attention3d.widgets import tasks
from napari_attention3d.widgets.inspect_look import map_layers
from napari_attention3d.widgets.inspect_panel import InspectPanel
from napari_attention3d.widgets.inspect_snapshot import _keys, canvas_picture, compose, save_image
from napari_attention3d.widgets.layer_chooser import LayerChooser
from napari_attention3d.widgets.layers import KEY
from napari_attention3d.widgets.status_bar import StatusBar
from napari_attention3d.widgets.worker import JobRunner

SCALE = (2.0, 1.0, 1.0)


class Segment(QObject):
    """What the tab needs of the Segment tab."""

    about_to_show = Signal(object)

    def __init__(self):
        super().__init__()
        self.shelf, self.source_layer = tasks.ModelShelf(), None
        self.form = SimpleNamespace(model="")


@pytest.fixture
def panel(qtbot, viewer, scan_array):
    """The tab over a scan, a map on half its resolution and a mask."""
    runner = JobRunner()
    viewer.add_image(scan_array, name="cells", scale=SCALE)
    made = InspectPanel(viewer, runner, LayerChooser(viewer), StatusBar(), Segment())
    qtbot.addWidget(made)
    values = np.zeros((10, 12, 14), np.float32)
    values[3:5] = 0.5
    about = {"role": "attention:gate-level-2", "map": {"description": "how much passes"}}
    viewer.add_image(
        values,
        name="cells · net · attention gate",
        colormap="magma",
        contrast_limits=(0, 1),
        scale=(4, 2, 2),
        translate=(1, 0.5, 0.5),
        metadata={KEY: about},
    )
    labels = np.zeros(scan_array.shape, np.uint8)
    labels[6:10] = 1
    viewer.add_labels(labels, name="mask", scale=SCALE)
    qtbot.waitUntil(lambda: len(made.maps.entries) == 1)
    made.maps.refresh()
    yield made
    made.close_down()
    assert runner.join()


def test_the_chosen_map_is_counted_within_the_mask(qtbot, panel):
    with qtbot.waitSignal(panel.numbers.counted, timeout=30_000):
        panel.numbers.count()
    table = panel.numbers.figures.table
    assert table.column("label") == [0, 1] or tuple(table.column("label")) == (0, 1)
    assert table.column("mean")[1] == pytest.approx(0.5)
    assert table.column("share of map (%)")[1] == pytest.approx(100)
    assert table.column("times even")[1] == pytest.approx(5)


def test_shares_are_those_of_the_command_line(qtbot, panel, viewer, tmp_path):
    from napari_attention3d.attention.localise import attention_shares
    from napari_attention3d.widgets.inspect_numbers import in_view
    from napari_attention3d.widgets.layers import layer_to_volume

    panel.numbers.what_combo.setCurrentIndex(panel.numbers.what_combo.findData("shares"))
    with qtbot.waitSignal(panel.numbers.counted, timeout=30_000):
        panel.numbers.count()
    table = panel.numbers.figures.table
    names = ("cells · net · attention gate", "mask")
    values, labels = (in_view(layer_to_volume(viewer.layers[name])) for name in names)
    assert table.rows == attention_shares(values, labels, {}).rows
    assert table.column("largest value")[0] == "inside"
    assert table.column("share inside (%)")[0] == pytest.approx(100)
    assert not panel.numbers.plot.isHidden()
    assert panel.numbers.plot.renderer.isValid()
    for name in ("shares.png", "shares.svg"):
        panel.numbers.save_plot(str(tmp_path / name))
        assert "Saved" in panel.runs.status.text
    bar = np.asarray(PicturePIL.open(tmp_path / "shares.png").convert("RGB")).reshape(-1, 3)
    inside = (np.abs(bar.astype(int) - (213, 94, 0)).max(axis=1) <= 8).sum()
    assert inside > 0.5 * 2 * 720 * 36  # both rows lie inside all along; drawn twice as large
    panel.numbers.save_plot(str(tmp_path / "shares.gif"))
    assert "use .png or .svg" in panel.runs.status.text
    saved = table.write(tmp_path / "shares.csv").read_text()
    assert "share near" in saved
    panel.save_report(str(tmp_path / "report.html"))
    assert "Where the map lies about each label" in (tmp_path / "report.html").read_text("utf-8")
    assert "share outside" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("what", ["within", "shares"])
def test_figures_and_report_say_that_the_mask_was_painted_on(qtbot, panel, viewer, tmp_path, what):
    """A brush on the mask changes no map, but what is counted in it; the map is not marked."""
    from napari_attention3d.provenance import fingerprint

    mask, gate = viewer.layers["mask"], panel.maps.entries[0].layer
    made = {"model": {"name": "net"}, "fingerprint": fingerprint(mask.data)}
    mask.metadata = {KEY: {"role": "labels", "provenance": made}}
    panel.numbers.what_combo.setCurrentIndex(panel.numbers.what_combo.findData(what))

    def told():
        with qtbot.waitSignal(panel.numbers.counted, timeout=30_000):
            panel.numbers.count()
        panel.save_report(str(tmp_path / "report.html"))
        words = "changed by hand"
        report = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert (words in report) == (words in panel.numbers.caption.text())
        table = panel.numbers.figures.table
        assert any(words in note for note in table.notes) == (words in report)
        return words in report

    assert not told()
    mask.selected_label = 2
    mask.paint((12, 5, 5), 2)
    assert told()
    assert panel.runs.stale_of(gate) == ""
    mask.undo()
    assert not told()


def test_counting_without_map_or_mask_says_what_is_missing(panel, viewer):
    viewer.layers["mask"].visible = False
    panel.numbers.count()
    assert "No mask is shown" in panel.runs.status.text
    viewer.layers.remove("cells · net · attention gate")
    panel.numbers.count()
    assert "Choose a map" in panel.runs.status.text


def test_maps_stand_out_on_a_dark_scan_and_all_comes_back(panel, viewer):
    scan, gate, mask = viewer.layers["cells"], panel.maps.entries[0].layer, viewer.layers["mask"]
    scan.opacity, gate.opacity = 0.8, 0.4
    before = [(one.opacity, getattr(one, "contour", None)) for one in viewer.layers]
    panel.view.dark_box.setChecked(True)
    assert scan.opacity == pytest.approx(0.44)
    assert (mask.contour, mask.opacity, gate.opacity) == (1, 1, 0.5)
    viewer.dims.set_point(0, 9.0)
    viewer.dims.ndisplay = 3
    assert (mask.contour, mask.opacity, scan.visible) == (0, 0.45, False)
    assert str(gate.depiction) == "plane"
    assert gate.plane.normal == pytest.approx((1, 0, 0))
    # The plane lies where the slice was.
    assert gate.data_to_world(gate.plane.position)[0] == pytest.approx(viewer.dims.point[0])
    viewer.dims.ndisplay = 2
    assert str(gate.depiction) == "volume"
    assert scan.visible
    gate.opacity = 0.7  # the person's own choice stays
    panel.view.dark_box.setChecked(False)
    assert gate.opacity == 0.7
    gate.opacity = 0.4
    assert [(one.opacity, getattr(one, "contour", None)) for one in viewer.layers] == before


def test_colours_are_stretched_over_what_a_map_holds_and_back(panel):
    gate = panel.maps.layer
    gate.data = np.linspace(0.9, 1, gate.data.size, dtype=np.float32).reshape(gate.data.shape)
    panel.view.stretch_box.setChecked(True)
    assert gate.contrast_limits == pytest.approx([0.901, 0.9998], abs=1e-3)
    panel.view.stretch_box.setChecked(False)
    assert gate.contrast_limits == [0, 1]


def test_a_picture_has_the_maps_colours_beside_it(panel, viewer, tmp_path):
    canvas = np.zeros((300, 400, 4), np.uint8)
    canvas[..., :] = (10, 20, 30, 255)
    maps = map_layers(viewer)
    image = compose(canvas, maps, [], "cells, at z = 4")
    assert image.width() > 400
    assert image.height() > 300
    assert QColor(image.pixel(100, 100)).getRgb()[:3] == (10, 20, 30)
    # Down the middle of the bar: the colormap from its last colour to its first.
    column = [QColor(image.pixel(400 + 18 + 13, y)).getRgb()[:3] for y in range(image.height())]
    last = tuple(np.round(255 * maps[0].layer.colormap.map([1.0])[0]).astype(int)[:3])
    distance = [np.abs(np.subtract(c, last)).max() for c in column]
    assert min(distance) <= 3
    saved = save_image(image, tmp_path / "view.png")
    assert QImage(str(saved)).width() == image.width()
    with pytest.raises(OutputError, match=r"a snapshot is a \.png file"):
        save_image(image, tmp_path / "view.jpg")


def test_the_legend_names_the_labels_that_are_in_the_mask(viewer):
    data = np.zeros((4, 5, 6), np.uint8)
    data[1, 2, 3], data[2, 2, 2] = 2, 5
    mask = viewer.add_labels(
        data,
        metadata={KEY: {"role": "labels"}},
        features={"index": [0, 1, 2, 5], "name": ["none", "liver", "spleen", "lungs"]},
    )
    keys = _keys(mask)
    assert [key.name for key in keys] == ["spleen", "lungs"]
    for key, value in zip(keys, (2, 5), strict=True):
        expected = np.round(255 * np.asarray(mask.get_color(value)))[:3]
        np.testing.assert_allclose(key.colour.getRgb()[:3], expected, atol=1)
    image = compose(np.zeros((300, 400, 4), np.uint8), [], keys, "")
    pixels = [QColor(image.pixel(x, y)).getRgb()[:3] for x in range(401, image.width(), 3)
              for y in range(0, image.height(), 3)]  # fmt: skip
    for key in keys:
        assert key.colour.getRgb()[:3] in pixels


def test_the_legend_reads_only_the_coarsest_level_or_the_slice_in_view(viewer):
    dask = pytest.importorskip("dask.array")
    read = []

    def block(block_info=None):
        read.append(block_info[None]["chunk-location"])
        return np.ones((4, 8, 8), np.uint8)

    fine = dask.map_blocks(block, chunks=((4, 4), (8,), (8,)), dtype=np.uint8,
                           meta=np.empty((0, 0, 0), np.uint8))  # fmt: skip
    names = {"features": {"index": [0, 1], "name": ["none", "liver"]},
             "metadata": {KEY: {"role": "labels"}}}  # fmt: skip
    pyramid = viewer.add_labels([fine, np.ones((4, 4, 4), np.uint8)], multiscale=True, **names)
    flat = viewer.add_labels(fine, **names)
    viewer.dims.set_point(0, 1)
    read.clear()
    assert [key.name for key in _keys(pyramid)] == ["liver"]
    assert not read
    assert [key.name for key in _keys(flat)] == ["liver"]
    assert (1, 0, 0) not in read


def test_the_report_holds_pictures_and_figures_and_needs_no_other_file(qtbot, panel, tmp_path):
    with qtbot.waitSignal(panel.numbers.counted, timeout=30_000):
        panel.numbers.count()
    panel.save_report(str(tmp_path / "report.html"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 3  # a slice along each axis
    assert "Where the network looked: cells" in text
    assert "how much passes" in text
    assert "times even" in text
    assert "Saved" in panel.runs.status.text
    panel.save_report(str(tmp_path / "missing" / "report.html"))
    assert "Saved" not in panel.runs.status.text


def test_a_real_view_is_saved_with_a_scale_bar_that_is_gone_afterwards(
    make_napari_viewer, qtbot, scan_array, tmp_path
):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(scan_array, scale=SCALE, name="cells")
    runner = JobRunner()
    panel = InspectPanel(viewer, runner, LayerChooser(viewer), StatusBar(), Segment())
    qtbot.addWidget(panel)
    zoom = viewer.scene.camera.zoom
    viewer.layers["cells"].visible = False  # what is drawn then is the scale bar
    drawn = canvas_picture(viewer)[..., :3].max(axis=2) > 128
    viewer.layers["cells"].visible = True
    rows = np.flatnonzero(drawn.sum(axis=1) > 0.05 * drawn.shape[1])
    assert rows.size
    assert rows.min() > 0.8 * drawn.shape[0]  # a line, low in the picture
    panel.save_snapshot(str(tmp_path / "view.png"))
    assert QImage(str(tmp_path / "view.png")).width() > 100
    assert not viewer.canvas.overlays["scale_bar"].visible
    assert viewer.scene.camera.zoom == pytest.approx(zoom)
    panel.close_down()
    assert runner.join()
