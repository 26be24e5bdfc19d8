"""The Measure tab over a viewer model: figures, comparison, clean-up."""

from __future__ import annotations

import csv
import threading

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_attention3d import progress
from napari_attention3d.analysis.table import Column, Table
from napari_attention3d.volumes import Volume, write_volume
from napari_attention3d.widgets import measure_tasks
from napari_attention3d.widgets.layer_chooser import LayerChooser
from napari_attention3d.widgets.layers import KEY
from napari_attention3d.widgets.measure_panel import MeasurePanel
from napari_attention3d.widgets.measure_table import FiguresTable
from napari_attention3d.widgets.status_bar import StatusBar
from napari_attention3d.widgets.worker import JobRunner

SPACING = (2.0, 1.0, 0.5)
AT = (10.0, 20.0, 30.0)


def boxes() -> np.ndarray:
    """A small box of class 1 with a hole, a larger one of class 2, and a speck of class 1."""
    array = np.zeros((10, 16, 20), np.uint8)
    array[1:4, 2:6, 3:9] = 1
    array[2, 3, 5] = 0
    array[5:9, 8:14, 10:18] = 2
    array[9, 0, 0] = 1
    return array


@pytest.fixture
def panel(qtbot, viewer):
    runner, status = JobRunner(), StatusBar()
    panel = MeasurePanel(viewer, runner, LayerChooser(viewer), status)
    for widget in (panel, status):
        qtbot.addWidget(widget)
    yield panel
    assert runner.join()


@pytest.fixture
def mask(viewer, panel):
    place = {"scale": SPACING, "translate": AT, "units": ("mm",) * 3}
    scan = np.arange(3200, dtype=np.float32).reshape(10, 16, 20)
    viewer.add_image(scan, name="scan", **place)
    return viewer.add_labels(
        boxes(),
        name="mask",
        features={"index": [0, 1, 2], "name": ["background", "small", "large"]},
        colormap={0: "transparent", 1: "red", 2: "blue", None: "white"},
        **place,
    )


def finish(qtbot, panel):
    assert panel.is_busy
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=60_000)


def click(qtbot, panel, button):
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    finish(qtbot, panel)


def shown(table, heading):
    """Texts of a column of the table on the screen, from top to bottom."""
    view = table.view
    heads = [view.horizontalHeaderItem(i).text() for i in range(view.columnCount())]
    return [view.item(row, heads.index(heading)).text() for row in range(view.rowCount())]


def test_without_a_mask_the_buttons_say_what_to_do(panel):
    for button in (panel.form.button, panel.compare_form.button):
        assert not button.isEnabled()
        assert "mask" in button.toolTip()
    assert not panel.clean.form.apply_button.isEnabled()


def test_labels_are_measured_in_the_scans_unit_and_into_the_features(panel, mask, qtbot):
    click(qtbot, panel, panel.form.button)
    table = panel.form.table.table
    assert table.column("label") == [1, 2]
    assert table.column("name") == ["small", "large"]
    assert table.column("volume (mm3)") == [72.0, 192.0]
    inside = np.arange(3200).reshape(10, 16, 20)[boxes() == 2]
    assert table.column("scan mean")[1] == pytest.approx(inside.mean())
    features = mask.features
    assert list(features["index"]) == [0, 1, 2]
    assert list(features["name"]) == ["background", "small", "large"]
    assert list(features["volume (mm3)"][1:]) == [72.0, 192.0]
    assert np.isnan(features["volume (mm3)"][0])


def test_a_row_moves_the_view_to_a_voxel_of_its_label(panel, mask, viewer, qtbot):
    click(qtbot, panel, panel.form.button)
    panel.form.table.row_chosen.emit(0)
    index = np.round(mask.world_to_data(viewer.dims.point)).astype(int)
    assert mask.data[tuple(index)] == 1  # the middle itself lies in the hole
    assert abs(index - (2, 3, 5)).sum() <= 2
    np.testing.assert_allclose(viewer.camera.center[1:], viewer.dims.point[1:])
    assert mask.selected_label == 1


def test_rows_keep_their_region_when_they_are_sorted(panel, mask, viewer, qtbot):
    click(qtbot, panel, panel.form.button)
    view = panel.form.table.view
    heads = [view.horizontalHeaderItem(i).text() for i in range(view.columnCount())]
    view.sortItems(heads.index("volume\nmm³"), Qt.SortOrder.DescendingOrder)
    assert shown(panel.form.table, "label") == ["2", "1"]
    view.setCurrentCell(0, 0)
    index = np.round(mask.world_to_data(viewer.dims.point)).astype(int)
    assert mask.data[tuple(index)] == 2


def test_a_click_moves_the_view_once(panel, mask, viewer, qtbot):
    click(qtbot, panel, panel.form.button)
    table, told = panel.form.table, []
    table.row_chosen.connect(told.append)
    place = [table.view.visualItemRect(table.view.item(row, 0)).center() for row in (0, 1)]
    for row in (0, 1, 1):  # again on the same row: go there again
        qtbot.mouseClick(table.view.viewport(), Qt.MouseButton.LeftButton, pos=place[row])
    assert told == [0, 1, 1]
    table.view.setFocus()
    qtbot.keyClick(table.view, Qt.Key.Key_Up)
    assert told == [0, 1, 1, 0]


def test_percentiles_and_neighbours_are_chosen_and_told(panel, mask, viewer, qtbot):
    mask.metadata = {KEY: {"provenance": {"model": {"name": "tiny"}}}}
    panel.form.percentiles.setText("10, 90")
    panel.form.components_box.setChecked(True)
    combo = panel.form.connectivity
    combo.setCurrentIndex(combo.findData(6))
    click(qtbot, panel, panel.form.button)
    headings = [c.heading for c in panel.form.table.table.columns]
    assert "scan p10" in headings
    assert "scan p50" not in headings
    measured = mask.metadata[KEY]["provenance"]["measured"]
    assert measured == {
        "components": True,
        "connectivity": 6,
        "percentiles": [10.0, 90.0],
        "image": True,
        "attention": False,
    }
    panel.form.percentiles.setText("10, 900")
    click_nothing(panel)
    assert "between 0 and 100" in panel.status.text
    panel.form.percentiles.setText("a")
    click_nothing(panel)
    assert "no numbers" in panel.status.text


def click_nothing(panel):
    panel.form.button.click()
    assert not panel.is_busy


def test_parts_are_measured_one_by_one_and_do_not_go_into_features(panel, mask, qtbot):
    panel.form.components_box.setChecked(True)
    click(qtbot, panel, panel.form.button)
    assert panel.form.table.table.column("component") == [1, 2, 1]
    assert "volume (mm3)" not in mask.features
    assert "3 parts" in panel.status.text


def test_attention_maps_are_measured_only_when_ticked(panel, mask, viewer, qtbot):
    gate = viewer.add_image(
        np.ones((10, 16, 20), np.float32),
        name="scan · tiny · gate",
        scale=SPACING,
        translate=AT,
        units=("mm",) * 3,
        metadata={KEY: {"role": "attention:gate"}},
    )
    images = panel.form.images
    assert gate not in images.ticked
    images.item(0).setCheckState(Qt.CheckState.Checked)
    assert gate in images.ticked
    click(qtbot, panel, panel.form.button)
    share = panel.form.table.table.column("gate share")
    assert share == pytest.approx([72 / 3200, 192 / 3200])


def test_the_table_is_saved_and_copied_whole(panel, mask, qtbot, tmp_path):
    click(qtbot, panel, panel.form.button)
    path = tmp_path / "figures.csv"
    panel.form.table.save(str(path))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["volume (mm3)"] for row in rows] == ["72.0", "192.0"]
    assert rows[0]["start z (voxel)"] == "1"
    assert str(path) in panel.status.text
    assert panel.form.table.text().splitlines()[1].split("\t")[:2] == ["1", "small"]
    panel.form.table.save(str(tmp_path / "figures.txt"))
    assert "a table goes to" in panel.status.text


def test_empty_cells_and_text_sort(qtbot):
    widget = FiguresTable()
    qtbot.addWidget(widget)
    columns = (Column("label"), Column("size", "mm3"), Column("name"))
    widget.show_table(Table(columns, ((1, 10.0, "b"), (2, None, "a"), (3, 9.0, "c"))))
    widget.view.sortItems(1)
    assert shown(widget, "label") == ["3", "1", "2"]
    widget.view.sortItems(2)
    assert shown(widget, "name") == ["a", "b", "c"]


def test_an_oblique_turned_scan_is_measured_truly_and_found_again(panel, viewer, qtbot, tmp_path):
    """Stored with turned axes and tilted: the view shows it upright, figures are the file's."""
    from napari_attention3d._napari import get_reader

    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.array([[0, 0, -1, 5], [0, 2 * c, -s, 9], [3, 0, 0, 1], [0, 0, 0, 1.0]])
    affine[1:3] = [[0, 2 * c, s, 9], [3 * 1.0, 0, 0, 1]]
    volume = Volume.from_array(
        boxes(), affine=affine, unit="mm", anatomical=True, metadata={"kind": "labels"}
    )
    path = write_volume(tmp_path / "turned_labels.nii.gz", volume)
    for data, keywords, _ in get_reader(str(path))(str(path)):
        layer = viewer.add_labels(data, **keywords)
    click(qtbot, panel, panel.form.button)
    table = panel.form.table.table
    assert table.column("voxels") == [72, 192]
    assert table.column("volume (mm3)")[1] == pytest.approx(192 * volume.geometry.voxel_volume)
    centre = volume.geometry.to_world((6.5, 10.5, 13.5))
    found = [table.column(f"centroid {axis} (mm)")[1] for axis in "zyx"]
    assert found == pytest.approx(centre, abs=1e-4)
    panel.form.table.row_chosen.emit(1)
    index = np.round(layer.world_to_data(viewer.dims.point)).astype(int)
    assert layer.data[tuple(index)] == 2


# ---- compare


def test_two_masks_are_compared_and_a_layer_shows_where_they_differ(panel, mask, viewer, qtbot):
    moved = boxes()
    moved[5:9, 8:14, 10:18] = 0
    moved[5:9, 8:14, 11:19] = 2
    truth = viewer.add_labels(moved, name="truth", scale=SPACING, translate=AT, units=("mm",) * 3)
    panel.mask.choose(mask)
    panel.compare_form.truth.choose(truth)
    click(qtbot, panel, panel.compare_form.button)
    table = panel.compare_form.table.table
    assert table.column("dice") == pytest.approx([1.0, 7 / 8])
    (layer,) = [one for one in viewer.layers if "against" in one.name]
    expected = np.where(boxes() == moved, 0, np.where(moved == 0, 1, 2))
    np.testing.assert_array_equal(layer.data, expected)
    np.testing.assert_allclose(layer.scale, SPACING)
    np.testing.assert_allclose(layer.translate, AT)
    assert layer not in panel.mask._layers
    click(qtbot, panel, panel.compare_form.button)
    assert sum("against" in one.name for one in viewer.layers) == 1


def test_masks_of_other_grids_are_refused_openly_or_resampled(panel, mask, viewer, qtbot):
    truth = viewer.add_labels(
        boxes()[:5], name="half", scale=SPACING, translate=AT, units=("mm",) * 3
    )
    panel.mask.choose(mask)
    panel.compare_form.truth.choose(truth)
    click(qtbot, panel, panel.compare_form.button)
    assert "different grids" in panel.status.text
    panel.compare_form.resample_box.setChecked(True)
    click(qtbot, panel, panel.compare_form.button)
    assert panel.compare_form.table.table.column("dice")[0] == pytest.approx(1.0)
    assert "resampled" in panel.compare_form.note.text()


def test_a_mask_is_not_compared_with_itself(panel, mask):
    panel.compare_form.truth.choose(mask)
    assert not panel.compare_form.button.isEnabled()
    assert "two different" in panel.compare_form.button.toolTip()


# ---- clean up


def add_step(form, rule, number=None, classes=""):
    form.kind.setCurrentIndex(form.kind.findData(rule))
    if number is not None:
        form.number.setValue(number)
    form.classes.setText(classes)
    form.add()


def test_a_clean_up_is_previewed_applied_and_taken_back(panel, mask, viewer, qtbot):
    form = panel.clean.form
    add_step(form, "fill_holes")
    add_step(form, "minimum_size", 1.5)
    assert form.list.item(1).text() == "Remove parts smaller than 1.5 mm³"
    click(qtbot, panel, form.preview_button)
    np.testing.assert_array_equal(mask.data, boxes())
    (preview,) = [one for one in viewer.layers if one.name == "clean-up preview"]
    assert preview.data[9, 0, 0] == 1
    assert preview.data[2, 3, 5] == 2
    assert np.count_nonzero(preview.data) == 2
    click(qtbot, panel, form.apply_button)
    assert preview not in viewer.layers
    clean = boxes()
    clean[2, 3, 5], clean[9, 0, 0] = 1, 0
    np.testing.assert_array_equal(mask.data, clean)
    steps = mask.metadata[KEY]["provenance"]["clean_up"]
    assert [one["rule"]["rule"] for one in steps] == ["fill_holes", "minimum_size"]
    mask.data_setitem((np.array([0]), np.array([0]), np.array([0])), 2)  # painted since
    qtbot.mouseClick(form.undo_button, Qt.MouseButton.LeftButton)
    before = boxes()
    before[0, 0, 0] = 2
    np.testing.assert_array_equal(mask.data, before)
    assert KEY not in mask.metadata
    assert not form.undo_button.isEnabled()


def test_naparis_own_undo_takes_a_clean_up_back_too(panel, mask, qtbot):
    add_step(panel.clean.form, "keep_largest")
    click(qtbot, panel, panel.clean.form.apply_button)
    assert mask.data[9, 0, 0] == 0
    mask.undo()
    np.testing.assert_array_equal(mask.data, boxes())


def rules_told(mask):
    told = mask.metadata.get(KEY, {}).get("provenance", {}).get("clean_up", [])
    return [one["rule"]["rule"] for one in told]


def test_what_the_mask_says_follows_naparis_undo_and_redo(panel, mask, viewer, qtbot):
    form = panel.clean.form
    mask.features = {"index": [0, 1, 2], "name": ["background", "shell", "box"]}
    add_step(form, "fill_holes")
    click(qtbot, panel, form.apply_button)
    form.set_rules([])
    add_step(form, "components")
    click(qtbot, panel, form.apply_button)
    assert rules_told(mask) == ["fill_holes", "components"]
    assert "name" not in mask.features
    mask.undo()
    assert rules_told(mask) == ["fill_holes"]
    assert list(mask.features["name"]) == ["background", "shell", "box"]
    mask.redo()
    assert rules_told(mask) == ["fill_holes", "components"]
    assert "name" not in mask.features
    mask.undo()
    mask.undo()
    assert rules_told(mask) == []
    np.testing.assert_array_equal(mask.data, boxes())
    panel.clean.update()
    assert not form.undo_button.isEnabled()  # nothing is left to be taken back
    mask.redo()
    panel.clean.undo()  # by our button: the same step of napari's history
    assert rules_told(mask) == []
    mask.redo()
    mask.data_setitem((np.array([0]), np.array([0]), np.array([0])), 2)  # painted since
    panel.clean.undo()
    assert rules_told(mask) == []
    mask.undo()  # takes back what the button did, and not what was painted
    assert rules_told(mask) == ["fill_holes"]
    assert mask.data[2, 3, 5] == 1
    assert mask.data[0, 0, 0] == 2


def test_all_settings_of_the_steps_can_be_chosen(panel, mask):
    form = panel.clean.form

    def step(rule, number=None, choice=None, inside="", classes=""):
        form.kind.setCurrentIndex(form.kind.findData(rule))
        if choice is not None:
            form.choice.setCurrentIndex(form.choice.findData(choice))
        form.inside.setText(inside)
        add_step(form, rule, number, classes)

    step("fill_holes", choice="z")
    step("minimum_size", 2.0, choice=6)
    step("smooth", 1.5, choice="median")
    step("remove_outside", 3.0, inside="1", classes="2")
    step("keep_largest", 1)
    assert form.rules == [
        {"rule": "fill_holes", "plane": "z"},
        {"rule": "minimum_size", "size": 2.0, "connectivity": 6},
        {"rule": "smooth", "width": 1.5, "method": "median"},
        {"rule": "remove_outside", "margin": 3.0, "classes": [2], "inside": [1]},
        {"rule": "keep_largest", "count": 1},
    ]
    from napari_attention3d.analysis.cleanup import rules_from

    assert len(rules_from(form.rules)) == 5
    assert form.list.item(3).text() == "Remove farther than 3 mm from 1 (classes 2)"
    step("remove_outside", 3.0)
    assert "from which classes" in form.note.text()


def test_the_window_compares_only_the_box_that_changed(panel, mask, qtbot):
    source = measure_tasks.read_labels(mask)
    from napari_attention3d.analysis.cleanup import rules_from

    job = measure_tasks.clean_job(source, rules_from([{"rule": "fill_holes"}]), True)
    cleaned = progress.finish(job)
    assert cleaned.before.shape == cleaned.after.shape == (1, 1, 1)
    assert cleaned.box == (slice(2, 3), slice(3, 4), slice(5, 6))
    assert cleaned.preview.keywords["metadata"][KEY]["provenance"]["clean_up"]


def test_what_is_painted_while_it_runs_stays(panel, mask, qtbot, monkeypatch):
    gate, begun = threading.Event(), threading.Event()
    real = measure_tasks.clean_job

    def slow(*args):
        job = real(*args)
        yield next(job)
        yield next(job)  # the mask is read by now
        begun.set()
        gate.wait(10)
        return (yield from job)

    monkeypatch.setattr(measure_tasks, "clean_job", slow)
    add_step(panel.clean.form, "fill_holes")
    qtbot.mouseClick(panel.clean.form.apply_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(begun.is_set, timeout=10_000)
    mask.data_setitem((np.array([2]), np.array([3]), np.array([5])), 2)
    gate.set()
    finish(qtbot, panel)
    assert mask.data[2, 3, 5] == 2


def test_more_objects_than_the_type_holds_widen_it_and_undo_narrows_it(panel, viewer, qtbot):
    array = np.zeros((4, 40, 40), np.uint8)
    array[::2, ::2, ::2] = 1  # 800 single voxels
    layer = viewer.add_labels(array.copy(), name="dots")
    add_step(panel.clean.form, "components")
    click(qtbot, panel, panel.clean.form.apply_button)
    assert layer.data.dtype == np.uint16
    assert layer.data.max() == 800
    assert "name" not in layer.features
    panel.clean.undo()
    assert layer.data.dtype == np.uint8
    np.testing.assert_array_equal(layer.data, array)


def test_wrong_classes_are_told(panel, mask):
    form = panel.clean.form
    add_step(form, "fill_holes", classes="liver")
    assert "whole numbers" in form.note.text()
    add_step(form, "fill_holes", classes="0")
    assert "background" in form.note.text()
    assert form.rules == []


def test_steps_are_saved_opened_and_removed(panel, mask, tmp_path):
    from napari_attention3d.analysis.cleanup import read_rules

    form = panel.clean.form
    add_step(form, "smooth", 1.5, "1, 2")
    add_step(form, "keep_largest", 2)
    path = tmp_path / "rules.yaml"
    panel.clean.save(str(path))
    assert [rule.rule for rule in read_rules(path)] == ["smooth", "keep_largest"]
    form.remove()
    form.remove()
    assert not form.apply_button.isEnabled()
    panel.clean.load(str(path))
    assert form.list.item(0).text() == "Smooth by 1.5 mm (classes 1, 2)"
    panel.clean.load(str(tmp_path / "none.yaml"))
    assert "can't read" in panel.status.text


def test_the_models_own_steps_are_taken(qtbot, panel, mask, models_folder, monkeypatch):
    from napari_attention3d.analysis.cleanup import card_with_rules, rules_from
    from napari_attention3d.models import load_model
    from napari_attention3d.models.store import update_card

    model = load_model(models_folder / "tiny.safetensors")
    provenance = {"model": {"sha256": model.card.sha256}}
    mask.metadata = {KEY: {"provenance": provenance}}
    panel.mask.choose(mask)
    panel.clean.take_models()
    assert "No steps are stored with tiny" in panel.status.text
    assert not panel.clean.form.store_button.isEnabled()
    add_step(panel.clean.form, "keep_largest", classes="1")
    panel.clean.form.store_button.click()
    finish(qtbot, panel)
    assert "1 steps are stored with tiny" in panel.status.text
    stored = load_model(models_folder / "tiny.safetensors").card.clean_up
    assert [one["rule"] for one in stored] == ["keep_largest"]
    add_step(panel.clean.form, "fill_holes", classes="7")  # the model has no such class
    panel.clean.store()
    assert "class 7" in panel.status.text
    model = load_model(models_folder / "tiny.safetensors")
    update_card(model, card_with_rules(model.card, rules_from([{"rule": "fill_holes"}])))
    panel.clean.take_models()
    assert [rule["rule"] for rule in panel.clean.form.rules] == ["fill_holes"]


def test_a_failing_job_gives_the_buttons_back(panel, mask, qtbot, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("broken on purpose")
        yield

    monkeypatch.setattr(measure_tasks, "measure_job", broken)
    click(qtbot, panel, panel.form.button)
    assert panel.form.button.isEnabled()
    assert "broken on purpose" in panel.status.text


def test_a_mask_that_is_removed_meanwhile_does_no_harm(panel, mask, viewer, qtbot):
    add_step(panel.clean.form, "fill_holes")
    qtbot.mouseClick(panel.clean.form.apply_button, Qt.MouseButton.LeftButton)
    viewer.layers.remove(mask)
    finish(qtbot, panel)
    assert "removed meanwhile" in panel.status.text
    assert not panel.form.button.isEnabled()
    panel.form.table.row_chosen.emit(0)  # nothing to go to
    panel.close_down()
    viewer.add_labels(boxes())
    assert panel.mask.layer is None
    panel.start()
    assert panel.mask.layer is not None


def test_pages(panel):
    states = []
    for name in ("measure", "compare", "clean"):
        panel.show_page(name)
        states.append([not p.isHidden() for _, p in panel._pages.values()])
    assert states == np.eye(3, dtype=bool).tolist()
