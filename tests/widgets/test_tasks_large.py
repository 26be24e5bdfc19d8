"""Results larger than memory: on the disk, shown from there, the same as in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dask.array
import numpy as np
import pytest

from napari_attention3d.errors import InputError
from napari_attention3d.volumes import read_volume
from napari_attention3d.widgets import batch_tasks, tasks_large
from napari_attention3d.widgets.measure_choosers import role_of


@pytest.fixture
def short_of_memory(monkeypatch, tmp_path):
    """No memory for results; temporary folders go to one of this test's."""
    monkeypatch.setattr(tasks_large, "_SHARE", 0.0)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(tasks_large, "_KEPT", [])
    return folder


def masks(viewer):
    return [layer for layer in viewer.layers if role_of(layer) == "labels"]


def run(dock, qtbot, tools):
    qtbot.waitUntil(dock.segment.form.run_button.isEnabled, timeout=20_000)
    tools.run_to_end(qtbot, dock)


def test_results_that_do_not_fit_lie_on_the_disk_and_are_the_same(
    dock, viewer, qtbot, tools, scan_array, short_of_memory, tmp_path
):
    viewer.add_image(scan_array, name="scan")
    run(dock, qtbot, tools)
    (here,) = masks(viewer)
    assert isinstance(here.data, np.ndarray)  # a scan in memory: so are its results
    expected = np.array(here.data)
    viewer.layers.clear()
    dock.segment.form.uncertainty_box.setChecked(True)
    viewer.add_image(dask.array.from_array(scan_array, chunks=8), name="scan")
    qtbot.waitUntil(lambda: dock.segment.has_looked_ahead, timeout=20_000)
    assert "temporary OME-Zarr" in dock.segment.form.outlook_label.text()
    run(dock, qtbot, tools)
    (mask,) = masks(viewer)
    assert not isinstance(mask.data, np.ndarray)
    np.testing.assert_array_equal(np.asarray(mask.data), expected)
    assert list(short_of_memory.iterdir())
    assert "uncertainty" in [role_of(layer) for layer in viewer.layers]
    assert any(role_of(layer).startswith("attention:") for layer in viewer.layers)
    (written,) = mask.save(str(tmp_path / "saved.ome.zarr"), plugin="napari-attention3d")
    np.testing.assert_array_equal(np.asarray(read_volume(written).array), expected)
    run(dock, qtbot, tools)  # a newer result takes the place of the older one
    assert len(masks(viewer)) == 1


def test_a_mask_on_the_disk_says_how_it_was_made_and_is_made_again(
    dock, viewer, qtbot, tools, scan_array, short_of_memory, tmp_path
):
    from napari_attention3d.cli import main
    from napari_attention3d.provenance import fingerprint
    from napari_attention3d.volumes import Volume, write_volume
    from napari_attention3d.widgets.layers import KEY, layer_to_volume

    scan = write_volume(tmp_path / "scan.ome.zarr", Volume.from_array(scan_array))
    viewer.open(str(scan), plugin="napari-attention3d")
    run(dock, qtbot, tools)
    (mask,) = masks(viewer)
    assert not isinstance(mask.data, np.ndarray)
    expected = np.asarray(layer_to_volume(mask).volume.array)
    provenance = mask.metadata[KEY]["provenance"]
    assert provenance["fingerprint"] == fingerprint(expected)
    assert len(provenance["model"]["sha256"]) == 64

    panel = dock.batch
    panel.form.result.choose(mask)
    panel.run_again()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=60_000)
    assert "identical" in panel.status.text
    again = next(one for one in masks(viewer) if one.name.endswith("(again)"))
    assert not isinstance(again.data, np.ndarray)  # it would not fit this time either
    assert again.metadata[KEY]["provenance"]["fingerprint"] == provenance["fingerprint"]
    assert batch_tasks.not_in_recipe(layer_to_volume(mask)) == []

    for suffix in (".ome.zarr", ".nii.gz"):
        target = tmp_path / f"again{suffix}"
        (saved,) = mask.save(str(tmp_path / f"mask{suffix}"), plugin="napari-attention3d")
        with pytest.raises(SystemExit) as end:
            main(["rerun", saved, "-o", str(target)])
        assert end.value.code in (0, None)
        np.testing.assert_array_equal(np.asarray(read_volume(target).array), expected)
        told = read_volume(target).metadata["provenance"]
        assert told["fingerprint"] == provenance["fingerprint"]


def test_a_cancelled_run_leaves_nothing_on_the_disk(
    dock, viewer, qtbot, short_of_memory, scan_array, tools
):
    from napari_attention3d.models import load_model
    from napari_attention3d.session import SegmentOptions
    from napari_attention3d.widgets.layers import layer_to_volume

    layer = viewer.add_image(dask.array.from_array(scan_array, chunks=8), name="scan")
    source, options = layer_to_volume(layer), SegmentOptions()
    job = tasks_large.segment_to_disk(source, load_model("tiny"), options)
    for _ in range(3):
        next(job)
    assert list(short_of_memory.iterdir())
    job.close()
    assert not list(Path(short_of_memory).iterdir())


def test_a_full_disk_is_told_before_the_run(short_of_memory, monkeypatch):
    monkeypatch.setattr(
        tasks_large.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})
    )
    with pytest.raises(InputError, match="TMPDIR"):
        tasks_large._make_room(1000)
    assert not list(short_of_memory.iterdir())


def test_on_the_disk_they_are_multiscale_so_that_3d_view_reads_little(tmp_path, viewer):
    from types import SimpleNamespace

    from napari_attention3d.volumes import Volume, write_volume
    from napari_attention3d.widgets.layers import layer_to_volume
    from napari_attention3d.widgets.results import LayerPlan, make_layer

    array = np.random.default_rng(0).integers(0, 3, (300, 70, 20)).astype(np.uint8)
    layer = viewer.add_image(dask.array.from_array(array, chunks=64), scale=(2, 1, 1))
    source = layer_to_volume(layer)
    mask = Volume(array, source.volume.geometry, metadata={"kind": "labels"})
    written = write_volume(tmp_path / "labels.ome.zarr", mask)
    labels = tasks_large._lazy(source.volume, written)
    keywords = {**source.transform, "name": "mask", "colours": ["#000000", "#e69f00", "#56b4e9"]}
    plan = LayerPlan("labels", "labels", source.show(labels.array), keywords)
    other = LayerPlan("attention:gate", "image", np.zeros((3, 3, 3), np.float32), {})
    result = SimpleNamespace(labels=labels, uncertainty=None)
    kept, found = tasks_large.with_levels([other, plan], result, source)
    assert kept is other
    made = make_layer(found)
    assert made.multiscale
    assert made.data[-1].shape[0] < 300
    np.testing.assert_array_equal(np.asarray(made.data[0]), array)
    np.testing.assert_allclose(made.extent.world, layer.extent.world)
