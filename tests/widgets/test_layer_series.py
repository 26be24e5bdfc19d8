"""Series in time: opened as one layer, segmented at a point, recorded, replayed, made again."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import tifffile

from napari_attention3d.cli import main
from napari_attention3d.recipe import read_recipe
from napari_attention3d.volumes import Volume, read_volume, write_volume
from napari_attention3d.widgets.layer_series import is_time_series
from napari_attention3d.widgets.layers import layer_to_volume
from napari_attention3d.widgets.measure_choosers import role_of

NAME = "napari-attention3d"
TIMES = 3


def voxels(channels=0):
    lead = (TIMES, channels) if channels else (TIMES,)
    return np.random.default_rng(0).integers(0, 900, (*lead, 12, 14, 16)).astype(np.uint16)


def write_nifti(path):
    """Rows run towards Posterior, so that the layer shows them flipped; seconds between points."""
    array = voxels()[:, :, ::-1]
    image = nib.Nifti1Image(array.T, np.diag([1.0, -1.0, 2.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def write_tiff(path):
    """Two channels."""
    array = voxels(2).transpose(0, 2, 1, 3, 4)
    about = {"axes": "TZCYX", "spacing": 2.0, "unit": "um"}
    tifffile.imwrite(path, array, imagej=True, resolution=(1, 1), metadata=about)
    return path


def write_zarr(path):
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group(str(path), zarr_format=3)
    array = voxels()
    group.create_array("0", data=array, chunks=(1, 4, 14, 16))
    axes = [{"name": "t", "type": "time"}]
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 2.0, 1.0, 1.0]}]
    level = {"path": "0", "coordinateTransformations": scale}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    return path


WRITERS = {".nii.gz": write_nifti, ".tif": write_tiff, ".ome.zarr": write_zarr}


@pytest.fixture(params=WRITERS)
def series(request, tmp_path):
    return WRITERS[request.param](tmp_path / f"series{request.param}")


def command(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(one) for one in arguments])
    return end.value.code or 0


def segment_at(time, dock, viewer, qtbot, tools, layer):
    dock.chooser.choose(layer)
    viewer.dims.set_point(0, time)
    qtbot.waitUntil(dock.segment.form.run_button.isEnabled, timeout=20_000)
    tools.run_to_end(qtbot, dock)
    return next(one for one in viewer.layers if role_of(one) == "labels")


def test_a_series_opens_as_one_layer_per_channel_with_all_points(series, viewer):
    layers = viewer.open(str(series), plugin=NAME)
    two = series.suffix == ".tif"
    assert len(layers) == 1 + two
    for index, layer in enumerate(layers):
        assert is_time_series(layer)
        assert layer.data.shape == (TIMES, 12, 14, 16)
        np.testing.assert_allclose(layer.scale, (1, 2, 1, 1))
        expected = voxels(2)[:, index] if two else voxels()
        np.testing.assert_array_equal(np.asarray(layer.data), expected)
        for time in range(TIMES):
            file = read_volume(series, time=time)
            here = layer_to_volume(layer, leading=time).volume
            assert here.geometry.is_close(file.geometry)
            np.testing.assert_array_equal(here.array, file.channel(index).array)


def test_a_point_in_time_is_recorded_replayed_and_made_again(
    series, dock, viewer, qtbot, tools, tmp_path
):
    layer = viewer.open(str(series), plugin=NAME)[-1]
    mask = segment_at(2, dock, viewer, qtbot, tools, layer)
    here = layer_to_volume(mask).volume
    panel = dock.batch
    panel.form.result.choose(mask)
    panel.take()
    assert "time point 2" in panel.form.recipe_label.text()
    panel.save(str(tmp_path / "recipe.yaml"))
    assert read_recipe(tmp_path / "recipe.yaml").time == 2
    target = tmp_path / "headless.nii.gz"
    assert command("segment", series, "-o", target, "--recipe", tmp_path / "recipe.yaml") == 0
    np.testing.assert_array_equal(read_volume(target).array, here.array)

    (saved,) = mask.save(str(tmp_path / "mask.nii.gz"), plugin=NAME)
    assert command("rerun", saved, "-o", tmp_path / "again.nii.gz") == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "again.nii.gz").array, here.array)

    for _ in ("of the layer that is open", "of the file"):
        panel.form.result.choose(mask)
        panel.run_again()
        qtbot.waitUntil(lambda: not panel.is_busy, timeout=60_000)
        assert "identical" in panel.status.text
        for one in [one for one in viewer.layers if one.ndim == 4]:
            viewer.layers.remove(one)


def test_what_is_measured_is_the_masks_point_in_time(dock, viewer, qtbot, tools, tmp_path):
    (layer,) = viewer.open(str(write_nifti(tmp_path / "series.nii.gz")), plugin=NAME)
    mask = segment_at(1, dock, viewer, qtbot, tools, layer)
    viewer.dims.set_point(0, 2)
    measure = dock.measure
    measure.mask.choose(mask)
    measure.measure()
    qtbot.waitUntil(lambda: not measure.is_busy, timeout=60_000)
    table = measure.form.table.table
    (heading,) = (one.heading for one in table.columns if one.heading.endswith("mean"))
    for label, mean in zip(table.column("label"), table.column(heading), strict=True):
        there = voxels()[1][np.asarray(mask.data) == label]
        assert mean == pytest.approx(there.mean(), rel=1e-6)


def test_a_layer_without_a_file_says_which_axis_or_the_replay_refuses(
    dock, viewer, qtbot, tools, tmp_path
):
    array = voxels()
    plain = viewer.add_image(array, name="plain")
    mask = segment_at(2, dock, viewer, qtbot, tools, plain)
    panel = dock.batch
    panel.form.result.choose(mask)
    panel.take()
    assert (panel.recipe.time, panel.recipe.channel) == (2, None)
    panel.save(str(tmp_path / "recipe.yaml"))
    stack = Volume.from_array(array, unit="pixel")
    channels = write_volume(tmp_path / "channels.tif", stack)  # an axis that is no time
    target = tmp_path / "headless.tif"
    recipe = tmp_path / "recipe.yaml"
    assert command("segment", channels, "-o", target, "--recipe", recipe) != 0
    assert not target.exists()

    viewer.layers.clear()
    labelled = viewer.add_image(array, name="labelled", axis_labels=("c", "z", "y", "x"))
    mask = segment_at(2, dock, viewer, qtbot, tools, labelled)
    panel.form.result.choose(mask)
    panel.take()
    assert (panel.recipe.time, panel.recipe.channel) == (None, 2)
    panel.save(str(recipe))
    assert command("segment", channels, "-o", target, "--recipe", recipe) == 0
    np.testing.assert_array_equal(read_volume(target).array, mask.data)


def test_a_scan_that_was_rescaled_in_the_window_is_told(dock, viewer, qtbot, tools, tmp_path):
    (layer,) = viewer.open(str(write_nifti(tmp_path / "series.nii.gz")), plugin=NAME)
    layer.scale = (1, 3, 1, 1)
    mask = segment_at(0, dock, viewer, qtbot, tools, layer)
    dock.batch.form.result.choose(mask)
    dock.batch.take()
    qtbot.waitUntil(lambda: "another voxel size" in dock.batch.status.text, timeout=20_000)
