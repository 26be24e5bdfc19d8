"""Disks that are really full, folders that really can't be written, names that are too long."""

from __future__ import annotations

import gc
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from napari_attention3d.errors import (
    Attention3DError,
    ModelFileError,
    OutputError,
    VolumeFormatError,
)
from napari_attention3d.models import list_models, load_model, save_model
from napari_attention3d.models.convert_source import read_source
from napari_attention3d.recipe import read_recipe
from napari_attention3d.training.folders import open_training_folder
from napari_attention3d.training.runs import RunFolder
from napari_attention3d.volumes import Volume, read_volume, write_volume
from napari_attention3d.widgets import tasks, tasks_large

from .faults import assert_as_before, picture, run


def mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except OSError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("only root may mount a small disk")


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 100 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=100k")
    yield folder
    gc.collect()
    subprocess.run(["umount", "-l", str(folder)], check=False, timeout=20)


def test_a_disk_that_is_really_full_during_a_run(
    qtbot, viewer, dock, temporary, full_disk, monkeypatch
):
    monkeypatch.setattr(tasks, "is_large", lambda *_: True)
    dock.segment.form.probabilities_box.setChecked(True)  # 160 kB that do not pack
    run(qtbot, dock)
    assert dock.failures == []
    before, files = picture(viewer), sorted(temporary.glob("attention3d*"))
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(full_disk))
        patch.setattr(tasks_large, "result_bytes", lambda *_: 0)  # looked enough beforehand
        run(qtbot, dock)
    assert len(dock.failures) == 1
    assert "disk" in dock.status.text
    assert "full" in dock.status.text
    assert_as_before(viewer, before)
    assert not list(full_disk.iterdir())
    assert sorted(temporary.glob("attention3d*")) == files
    run(qtbot, dock)
    assert len(dock.failures) == 1


@pytest.fixture
def read_only(tmp_path, model):
    """A folder with a scan and a model that nobody may write to, root neither."""
    folder = tmp_path / "read only"
    folder.mkdir()
    mounted = os.geteuid() == 0
    if mounted:
        mount(folder, "size=10m")
    write_volume(folder / "scan.nii.gz", Volume.from_array(np.zeros((4, 5, 6), np.float32)))
    (folder / "tiny.safetensors").write_bytes(model.read_bytes())
    if mounted:
        remount = ["mount", "-o", "remount,ro", str(folder)]
        subprocess.run(remount, check=True, timeout=20, capture_output=True)
    else:
        folder.chmod(0o555)
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False, timeout=20)
    else:
        folder.chmod(0o755)


def test_a_read_only_folder_is_read_and_told_when_something_is_to_be_written(read_only):
    scan = read_volume(read_only / "scan.nii.gz")
    loaded = load_model(read_only / "tiny.safetensors")
    assert [one.problem for one in list_models(user_folder=read_only) if not one.built_in] == [""]
    before = sorted(p.name for p in read_only.iterdir())
    for suffix in ("nii.gz", "ome.tif", "nrrd", "mha", "ome.zarr"):
        with pytest.raises(OutputError, match=r"(?i)may|writ"):
            write_volume(read_only / f"mask.{suffix}", scan)
    with pytest.raises(OutputError, match=r"(?i)may|writ"):
        write_volume(read_only / "scan.nii.gz", scan)
    with pytest.raises(OutputError, match=r"(?i)may|writ"):
        save_model(read_only / "other.safetensors", loaded.network, loaded.card)
    with pytest.raises(OutputError, match=r"(?i)writ"):
        RunFolder(read_only / "trained.safetensors").make()
    assert sorted(p.name for p in read_only.iterdir()) == before


LONG = "ä" * 200
"""400 bytes; Linux takes names of 255."""


@pytest.mark.parametrize(
    ("read", "suffix"),
    [
        (read_volume, ".nii.gz"),
        (read_volume, ".mgz"),
        (read_volume, ".tif"),
        (read_volume, ".nrrd"),
        (read_volume, ".mha"),
        (read_volume, ".dcm"),
        (read_volume, ".ome.zarr"),
        (read_volume, ""),
        (open_training_folder, ""),
        (load_model, ".safetensors"),
        (read_source, ".pt"),
        (read_recipe, ".yaml"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_name_longer_than_the_system_takes_is_told_in_reading(tmp_path, read, suffix):
    with pytest.raises(Attention3DError) as told:
        read(tmp_path / f"{LONG}{suffix}")
    assert isinstance(told.value, VolumeFormatError) or read is not read_volume
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("suffix", ["nii.gz", "ome.tif", "nrrd", "mha", "ome.zarr"])
def test_a_name_longer_than_the_system_takes_is_told_in_writing(tmp_path, suffix):
    with pytest.raises(OutputError, match="too long"):
        write_volume(tmp_path / f"{LONG}.{suffix}", Volume.from_array(np.zeros((2, 3, 4))))
    assert not list(tmp_path.iterdir())


def test_a_model_of_a_name_longer_than_the_system_takes_is_told(tmp_path, model):
    loaded = load_model(model)
    with pytest.raises(OutputError, match="too long"):
        save_model(tmp_path / f"{LONG}.safetensors", loaded.network, loaded.card)
    with pytest.raises(ModelFileError):
        load_model(tmp_path / f"{LONG}.safetensors")
