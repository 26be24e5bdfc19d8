"""Layers, models, viewers and disks that go away or change while a run is on its way."""

from __future__ import annotations

import errno
import gc
import subprocess
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attention3d.errors import OutputError
from napari_attention3d.inference import store
from napari_attention3d.progress import Progress
from napari_attention3d.volumes import Volume, atomic, write_volume
from napari_attention3d.widgets import tasks

from .faults import WAIT, assert_as_before, open_dock, picture, run, save_tiny, threads


@pytest.fixture
def held(monkeypatch):
    """Runs stop before their first step until the test lets them go."""
    control = SimpleNamespace(begun=threading.Event(), go=threading.Event(), sources=[])
    real = tasks.run_segmentation

    def job(shelf, reference, source, *rest):
        control.sources.append(source)
        control.begun.set()
        yield Progress(0, 0, "held")
        control.go.wait(20)
        return (yield from real(shelf, reference, source, *rest))

    monkeypatch.setattr(tasks, "run_segmentation", job)
    yield control
    control.go.set()


def begin(qtbot, dock, held):
    held.begun.clear()
    dock.segment.run()
    qtbot.waitUntil(held.begun.is_set, timeout=WAIT)


def end(qtbot, dock, held):
    held.go.set()
    qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=WAIT)


def labels_of(viewer):
    return [layer for layer in viewer.layers if layer._type_string == "labels"]


# ---- layers


def test_the_scans_layer_is_removed_during_the_run(qtbot, viewer, dock, held):
    begin(qtbot, dock, held)
    viewer.layers.remove(viewer.layers["cells"])
    end(qtbot, dock, held)
    assert dock.failures == []
    assert len(labels_of(viewer)) == 1  # what was computed is not thrown away
    assert "removed meanwhile" in dock.status.text
    viewer.add_image(held.sources[0].volume.array, name="again")
    qtbot.waitUntil(dock.segment.form.run_button.isEnabled, timeout=WAIT)
    run(qtbot, dock)
    assert len(labels_of(viewer)) == 2


def test_the_scans_layer_is_renamed_during_the_run(qtbot, viewer, dock, held):
    begin(qtbot, dock, held)
    viewer.layers["cells"].name = "other"
    end(qtbot, dock, held)
    (first,) = labels_of(viewer)
    run(qtbot, dock)
    assert labels_of(viewer) == [first]  # known by object, not by name


def test_the_scans_data_are_replaced_during_the_run(qtbot, viewer, dock, held):
    run_before = np.array(viewer.layers["cells"].data)
    begin(qtbot, dock, held)
    viewer.layers["cells"].data = run_before[:16, :16, :16]
    end(qtbot, dock, held)
    assert dock.failures == []
    (labels,) = labels_of(viewer)
    assert labels.data.shape == run_before.shape  # of the scan that the run was begun with
    run(qtbot, dock)
    assert dock.failures == []
    assert any(layer.data.shape == (16, 16, 16) for layer in labels_of(viewer))


def test_run_pressed_twice_is_one_run(qtbot, viewer, dock, held):
    begin(qtbot, dock, held)
    dock.segment.run()
    dock.segment.run()
    end(qtbot, dock, held)
    qtbot.wait(50)
    assert not dock.segment.is_running
    assert len(held.sources) == 1
    assert len(labels_of(viewer)) == 1


# ---- models


def test_the_model_is_removed_before_the_run_reads_it(qtbot, viewer, dock, held, model):
    run_first(qtbot, dock, held)
    before = picture(viewer)
    kept = model.read_bytes()
    begin_again(qtbot, dock, held)
    model.unlink()
    end(qtbot, dock, held)
    assert len(dock.failures) == 1
    assert str(model.name) in dock.status.text or "tiny" in dock.status.text
    assert_as_before(viewer, before)
    model.write_bytes(kept)
    run(qtbot, dock)
    assert len(dock.failures) == 1
    assert_as_before(viewer, before)


def test_the_model_is_replaced_by_another_one(qtbot, viewer, dock, held, model):
    run_first(qtbot, dock, held)
    (labels,) = labels_of(viewer)
    first = labels.metadata["napari-attention3d"]["provenance"]["model"]["sha256"]
    begin_again(qtbot, dock, held)
    save_tiny(model, seed=7)
    end(qtbot, dock, held)
    assert dock.failures == []
    (labels,) = labels_of(viewer)  # the result tells which one it came from
    assert labels.metadata["napari-attention3d"]["provenance"]["model"]["sha256"] != first


def test_the_model_is_damaged_meanwhile(qtbot, viewer, dock, held, model):
    run_first(qtbot, dock, held)
    before = picture(viewer)
    begin_again(qtbot, dock, held)
    model.write_bytes(model.read_bytes()[:-100])
    end(qtbot, dock, held)
    assert len(dock.failures) == 1
    assert "Unexpected" not in dock.status.text
    assert_as_before(viewer, before)


def run_first(qtbot, dock, held):
    held.go.set()
    run(qtbot, dock)


def begin_again(qtbot, dock, held):
    held.go.clear()
    begin(qtbot, dock, held)


# ---- windows


def test_two_viewers_at_once_give_the_same_and_keep_apart(qtbot, viewer, dock, model):
    second = ViewerModel()
    second.add_image(viewer.layers["cells"].data.copy(), name="cells")
    other = open_dock(qtbot, second, model)
    try:
        dock.segment.run()
        other.segment.run()
        for one in (dock, other):
            qtbot.waitUntil(lambda one=one: not one.segment.is_running, timeout=WAIT)
        assert dock.failures == other.failures == []
        (first,), (copy,) = labels_of(viewer), labels_of(second)
        np.testing.assert_array_equal(first.data, copy.data)
        assert first.data is not copy.data
    finally:
        assert other.runner.join()


def test_the_dock_is_closed_during_the_run_and_another_one_works(
    qtbot, viewer, dock, held, model, temporary
):
    run_first(qtbot, dock, held)
    before = picture(viewer)
    begin_again(qtbot, dock, held)
    dock.close_down()
    held.go.set()
    assert dock.runner.join()
    qtbot.wait(20)
    assert_as_before(viewer, before)
    assert not list(temporary.glob("attention3d*"))
    again = open_dock(qtbot, viewer, model)
    run(qtbot, again)
    assert again.failures == []
    assert again.runner.join()
    assert threads() == []


def test_the_viewer_is_closed_during_the_run(
    qtbot, make_napari_viewer, viewer, held, model, temporary
):
    window = make_napari_viewer()
    window.add_image(viewer.layers["cells"].data, name="cells")
    shown = open_dock(qtbot, window, model, owned=True)
    window.window.add_dock_widget(shown, name="Attention 3D")
    run_first(qtbot, shown, held)
    begin_again(qtbot, shown, held)
    window.close()
    held.go.set()
    assert shown.runner.join()
    qtbot.wait(20)
    assert shown.failures == []
    assert not list(temporary.glob("attention3d*"))
    assert threads() == []
    again = open_dock(qtbot, viewer, model)  # the program goes on with another window
    run(qtbot, again)
    assert again.failures == []
    assert len(labels_of(viewer)) == 1
    assert again.runner.join()


# ---- disks


@pytest.fixture
def to_disk(monkeypatch):
    """Results go to a temporary OME-Zarr, as those of scans larger than memory."""
    monkeypatch.setattr(tasks, "is_large", lambda *_: True)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES], ids=["full", "forbidden"])
def test_the_disk_refuses_while_results_are_written(
    qtbot, viewer, dock, temporary, to_disk, monkeypatch, error
):
    run(qtbot, dock)
    assert dock.failures == []
    before, files = picture(viewer), sorted(temporary.glob("attention3d*"))
    assert len(files) == 1
    with monkeypatch.context() as patch:

        def refuse(*_):
            raise OSError(error, "refused")

        patch.setattr(store.ZarrStore, "flush", refuse)
        run(qtbot, dock)
    assert len(dock.failures) == 1
    assert ("free some space" if error == errno.ENOSPC else "write") in dock.status.text
    assert_as_before(viewer, before)
    assert sorted(temporary.glob("attention3d*")) == files
    run(qtbot, dock)
    assert len(dock.failures) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, timeout=20, check=False)
    except OSError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    gc.collect()
    subprocess.run(["umount", "-l", str(folder)], check=False, timeout=20)


def test_a_disk_that_is_really_full_keeps_the_older_file(small_disk):
    target = small_disk / "mask.nii"
    small = Volume.from_array(np.arange(1000, dtype=np.uint8).reshape(10, 10, 10))
    write_volume(target, small)
    kept = target.read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 60)).astype(np.uint8)
    with pytest.raises(OutputError, match=r"(?i)full|space"):
        write_volume(target, Volume.from_array(noise))
    assert target.read_bytes() == kept
    assert [p.name for p in small_disk.iterdir()] == ["mask.nii"]


def test_a_disk_that_says_it_is_full_keeps_the_older_file(tmp_path, monkeypatch):
    target = tmp_path / "mask.nii"
    volume = Volume.from_array(np.zeros((4, 4, 4), np.uint8))
    write_volume(target, volume)
    kept = target.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "flush_file", full)
    with pytest.raises(OutputError, match=r"(?i)full|space"):
        write_volume(target, volume)
    assert target.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["mask.nii"]


def test_a_real_small_disk_refuses_a_large_result_beforehand(
    qtbot, viewer, dock, small_disk, to_disk, monkeypatch
):
    import tempfile

    from napari_attention3d.widgets import tasks_large

    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    monkeypatch.setattr(tasks_large, "result_bytes", lambda *_: 200_000)
    before = picture(viewer)
    run(qtbot, dock)
    assert len(dock.failures) == 1
    assert "set TMPDIR to a larger disk" in dock.status.text
    assert_as_before(viewer, before)
    assert not list(small_disk.iterdir())
