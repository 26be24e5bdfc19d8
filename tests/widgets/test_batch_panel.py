"""The Batch tab: a folder by a recipe, a result once more, what was done recorded and replayed."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_attention3d.cli import main
from napari_attention3d.recipe import read_recipe
from napari_attention3d.volumes import Volume, read_volume, write_volume
from napari_attention3d.widgets import batch_tasks
from napari_attention3d.widgets.layers import layer_to_volume
from napari_attention3d.widgets.measure_choosers import role_of


def write_scan(path, seed=0):
    path.parent.mkdir(exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 1000, (12, 14, 16)).astype(np.int16)
    array = array[:, ::-1]  # the file's rows run towards Posterior: shown flipped
    affine = np.diag([2.0, -1.0, 1.0, 1.0])
    return write_volume(path, Volume.from_array(array, affine=affine, anatomical=True))


@pytest.fixture
def panel(dock):
    return dock.batch


@pytest.fixture
def scan(viewer, dock, tmp_path):
    """A scan file, open in the viewer."""
    path = write_scan(tmp_path / "scans" / "a.nii.gz")
    viewer.open(str(path), plugin="napari-attention3d")
    return path


def add(qtbot, panel, *sources):
    panel.form.add_sources([str(one) for one in sources])
    qtbot.waitUntil(lambda: panel.form.count_label.text() != "Looking …", timeout=20_000)


def click(qtbot, panel, button):
    assert button.isEnabled(), button.toolTip()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=60_000)


def segmented(qtbot, dock, viewer, tools):
    qtbot.waitUntil(dock.segment.form.run_button.isEnabled, timeout=20_000)
    tools.run_to_end(qtbot, dock)
    return next(one for one in viewer.layers if role_of(one) == "labels")


def test_without_scans_or_results_the_buttons_say_what_to_do(panel):
    assert not panel.form.button.isEnabled()
    assert "Add a folder" in panel.form.button.toolTip()
    for button in (panel.form.take_button, panel.form.again_button):
        assert not button.isEnabled()
        assert "No result" in button.toolTip()


def test_a_folder_is_segmented_a_broken_scan_stops_nothing_and_what_is_done_is_skipped(
    panel, tmp_path, qtbot, viewer
):
    folder = tmp_path / "scans"
    for number, name in enumerate(("a", "b", "c")):
        write_scan(folder / f"{name}.nii.gz", number)
    (folder / "b.nii.gz").write_bytes(b"no scan at all")
    add(qtbot, panel, folder)
    assert "3 scans" in panel.form.count_label.text()
    panel.form.out.setText(str(tmp_path / "masks"))
    click(qtbot, panel, panel.form.button)
    table = panel.form.table.table
    assert table.column("status") == ["done", "failed", "done"]
    assert "2 done, 1 failed" in panel.status.text
    assert "b.nii.gz" in table.column("warnings")[1]
    assert (tmp_path / "masks" / "c_labels.nii.gz").is_file()
    write_scan(folder / "b.nii.gz", 1)
    click(qtbot, panel, panel.form.button)
    assert panel.form.table.table.column("status") == ["skipped", "done", "skipped"]
    assert panel.form.table.table.column("nucleus (mL)")[0] == table.column("nucleus (mL)")[0]
    panel.form.table.row_chosen.emit(1)
    qtbot.mouseClick(panel.form.open_button, Qt.MouseButton.LeftButton)
    assert [layer.name for layer in viewer.layers] == ["b", "b_labels"]
    assert list(viewer.layers[1].features["name"]) == ["background", "nucleus", "wall"]


def test_what_was_done_in_the_window_is_recorded_and_replayed_headless(
    panel, dock, scan, viewer, qtbot, tmp_path, tools
):
    mask = segmented(qtbot, dock, viewer, tools)
    raw = np.array(mask.data)
    measure = dock.measure
    measure.mask.choose(mask)
    measure.clean.form.set_rules([{"rule": "minimum_size", "size": 50}, {"rule": "fill_holes"}])
    for button in (measure.clean.form.apply_button, measure.form.button):
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: not measure.is_busy, timeout=60_000)
    assert np.count_nonzero(raw != mask.data)  # the rules had something to do
    panel.form.result.choose(mask)
    qtbot.mouseClick(panel.form.take_button, Qt.MouseButton.LeftButton)
    assert "minimum size" in panel.form.recipe_label.text()
    assert not panel.form.clean_box.isEnabled()
    panel.save(str(tmp_path / "recipe.yaml"))
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert [rule.rule for rule in recipe.clean_up] == ["minimum_size", "fill_holes"]
    assert recipe.measure is not None
    target = tmp_path / "headless.nii.gz"
    arguments = ["segment", str(scan), "-o", str(target), "--recipe"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, str(tmp_path / "recipe.yaml")])
    assert end.value.code in (0, None)
    here = layer_to_volume(mask).volume.array
    np.testing.assert_array_equal(read_volume(target).array, here)
    table = (tmp_path / "headless_measures.csv").read_text().splitlines()
    assert len(table) == 1 + len(measure.form.table.table.rows)


def test_a_layer_that_shows_one_channel_of_its_file_gives_a_recipe_for_the_file(
    panel, dock, viewer, qtbot, tools, tmp_path
):
    array = np.random.default_rng(0).integers(0, 900, (2, 12, 14, 16)).astype(np.uint16)
    two = Volume.from_array(array, spacing=(2.0, 1.0, 1.0), unit="um", name="two")
    path = write_volume(tmp_path / "two.tif", two.replace(channel_names=("DAPI", "GFP")))
    viewer.open(str(path), plugin="napari-attention3d")
    dock.chooser.choose(viewer.layers["two · GFP"])
    mask = segmented(qtbot, dock, viewer, tools)
    panel.form.result.choose(mask)
    panel.take()
    assert panel.recipe.channel == 1
    panel.save(str(tmp_path / "recipe.yaml"))
    target = tmp_path / "headless.tif"
    with pytest.raises(SystemExit) as end:
        main(["segment", str(path), "-o", str(target), "--recipe", str(tmp_path / "recipe.yaml")])
    assert end.value.code in (0, None)
    np.testing.assert_array_equal(read_volume(target).array, mask.data)
    click(qtbot, panel, panel.form.again_button)  # of the layer that is open
    assert "identical" in panel.status.text
    where = np.array([0, 1]), np.array([0, 0]), np.array([0, 0])
    mask.data_setitem(where, (mask.data[where] + 1) % 3)
    panel.take()
    qtbot.waitUntil(lambda: "was painted on" in panel.status.text, timeout=60_000)


def test_a_recipe_is_opened_forgotten_and_wrong_ones_are_told(panel, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {name: tiny}\nmeasure: {}\n")
    panel.load(str(path))
    assert panel.form.recipe_label.text() == "tiny → measure labels"
    assert panel.current_recipe().measure is not None
    panel.forget()
    assert panel.form.recipe_label.text().startswith("As the Segment tab says")
    panel.form.measure_box.setChecked(True)
    assert panel.current_recipe().measure is not None
    panel.form.clean_box.setChecked(True)
    panel.save(str(path))
    assert "no rules are stored" in panel.status.text
    path.write_text("model: {name: tiny}\npolish: true\n")
    panel.load(str(path))
    assert "polish" in panel.status.text


def test_a_result_is_made_again_and_what_was_painted_is_counted(
    panel, dock, scan, viewer, qtbot, tools
):
    mask = segmented(qtbot, dock, viewer, tools)
    panel.form.result.choose(mask)
    click(qtbot, panel, panel.form.again_button)
    assert "identical" in panel.status.text
    again = [one for one in viewer.layers if one.name.endswith("labels (again)")]
    np.testing.assert_array_equal(again[0].data, mask.data)
    np.testing.assert_allclose(again[0].extent.world, mask.extent.world)
    mask.data[:2] = (mask.data[:2] + 1) % 3
    viewer.layers.remove("a")  # closed: it is read from the disk
    panel.form.result.choose(mask)
    click(qtbot, panel, panel.form.again_button)
    assert f"{2 * 14 * 16} voxels differ" in panel.status.text


def test_a_scan_that_is_nowhere_is_told(panel, dock, viewer, qtbot, tools, scan_array):
    viewer.add_image(scan_array, name="in memory")
    mask = segmented(qtbot, dock, viewer, tools)
    panel.form.result.choose(mask)
    click(qtbot, panel, panel.form.again_button)
    assert "identical" in panel.status.text
    viewer.layers.remove("in memory")
    panel.form.result.choose(mask)
    panel.run_again()
    assert not panel.is_busy
    assert "neither open nor on the disk" in panel.status.text


def test_cancel_keeps_what_is_done(panel, tmp_path, qtbot, monkeypatch):
    from napari_attention3d.batch import Outcome, Plan
    from napari_attention3d.progress import Progress

    write_scan(tmp_path / "scans" / "a.nii.gz")
    plan = Plan(tmp_path / "a.nii.gz", tmp_path / "a_labels.nii.gz")

    def forever(*args, **keywords):
        yield Progress(1, 3, "a", Outcome(plan, "done", 1.0, "cpu"))
        while True:
            yield Progress(1, 3, "b: tile 1 of 9")

    monkeypatch.setattr(batch_tasks, "batch_job", forever)
    add(qtbot, panel, tmp_path / "scans")
    qtbot.mouseClick(panel.form.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(panel.outcomes) == 1, timeout=20_000)
    qtbot.mouseClick(panel.status.cancel_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=20_000)
    assert "Cancelled; 1 scan done" in panel.status.text
    assert panel.form.table.table.column("status") == ["done"]


def test_sources_that_hold_no_scan_are_told(panel, tmp_path, qtbot):
    (tmp_path / "empty").mkdir()
    add(qtbot, panel, tmp_path / "empty")
    assert "holds no scan" in panel.form.count_label.text()
    assert not panel.form.button.isEnabled()
    qtbot.mouseClick(panel.form.remove_button, Qt.MouseButton.LeftButton)
    assert panel.form.sources == []
    panel.form.pattern.setText(str(tmp_path / "*.nii"))
    qtbot.keyClick(panel.form.pattern, Qt.Key.Key_Return)
    assert panel.form.sources == [str(tmp_path / "*.nii")]
