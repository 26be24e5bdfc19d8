"""Training files that want to do harm, or are damaged: nothing runs, the message is ours."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from napari_attention3d.errors import InputError, ModelFileError
from napari_attention3d.training import TrainConfig
from napari_attention3d.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from napari_attention3d.training.folders import open_training_folder
from napari_attention3d.training.runs import RunFolder, list_runs


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def state(**changes):
    found = Checkpoint(3, {"w": torch.ones(2)}, {"w": torch.ones(2)}, 1, {"a": 1}, 0.5, "same")
    for key, value in changes.items():
        setattr(found, key, value)
    return found


@pytest.mark.parametrize("kind", ["raw", "in a state", "in torch's archive", "named outside"])
def test_checkpoints_run_nothing(tmp_path, kind):
    path, owned = tmp_path / "checkpoint.pt", tmp_path / "owned"
    if kind == "raw":
        path.write_bytes(pickle.dumps(Harm(owned)))
    elif kind == "in a state":
        save_checkpoint(path, state(optimiser={"state": {0: [Harm(owned)]}}))
    else:
        name = "archive/data.pkl" if kind == "in torch's archive" else "../../owned/data.pkl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, pickle.dumps(Harm(owned)))
            archive.writestr(name.replace("data.pkl", "version"), "3\n")
    with pytest.raises(ModelFileError, match=r"can't be read.*--restart"):
        load_checkpoint(path, "same")
    assert not owned.exists()
    assert not (tmp_path.parent.parent / "owned").exists()


def test_damaged_checkpoints_are_told(tmp_path):
    """60 with changed bytes, 10 cut short."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state())
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    for number in range(70):
        damaged = bytearray(sound)
        if number < 10:
            damaged = damaged[: int(rng.integers(len(sound)))]
        else:
            for place in rng.integers(len(sound), size=int(rng.integers(1, 20))):
                damaged[place] = int(rng.integers(256))
        path.write_bytes(bytes(damaged))
        try:
            found = load_checkpoint(path, "same")
        except ModelFileError:
            continue
        assert found is not None
        assert found.fingerprint == "same"


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.mkdir ['{owned}']",
        "name: !!python/object/apply:os.mkdir ['{owned}']",
        "a: &a [*a]",
        "\x00",
        "- 1",
        "name: [1",
        "name: x\nname: y",
    ],
)
def test_recipes_run_nothing(tmp_path, text):
    owned, path = tmp_path / "owned", tmp_path / "recipe.yaml"
    path.write_text(text.replace("{owned}", str(owned)))
    with pytest.raises(InputError):
        TrainConfig.from_yaml(path)
    assert not owned.exists()


def test_kept_runs_with_harm_in_them_are_left_out(tmp_path):
    files = RunFolder(tmp_path / "a.safetensors")
    files.make()
    files.checkpoint.write_bytes(pickle.dumps(Harm(tmp_path / "owned")))
    files.write_progress(1, 2, False)
    text = f"!!python/object/apply:os.mkdir ['{tmp_path / 'owned'}']"
    (files.path / "config.yaml").write_text(text)
    assert list_runs(tmp_path) == []
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", ["[]", "null", "3", '"x"', '{"labels": []}', "{" * 100_000])
def test_descriptions_of_folders(tmp_path, content):
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(InputError):
        open_training_folder(tmp_path)


@pytest.mark.parametrize("name", ["-rf", "a b", "ünïcödé 細胞", "x" * 120, "a..b", "'; rm *"])
def test_odd_names_of_cases(tmp_path, name):
    from napari_attention3d.volumes import Volume, write_volume

    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        volume = Volume.from_array(np.zeros((3, 3, 3), np.uint8))
        write_volume(tmp_path / folder / f"{name}_.nii.gz", volume)
    (case,) = open_training_folder(tmp_path).cases
    assert case.name == f"{name}_"
    assert case.read()[0].array.shape == (3, 3, 3)


def test_names_in_a_description_are_only_names(tmp_path):
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    about = {"labels": {"background": 0, "../../<b>": 1}, "channel_names": {"0": "../x"}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="holds no images"):
        open_training_folder(tmp_path)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.ckpt"])
def test_programs_in_torchscript_are_not_loaded(tmp_path, monkeypatch, name):
    """They are no weights: what they hold would run when the network is called."""
    from napari_attention3d.models.convert_source import read_source

    path = tmp_path / name
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(path))
    monkeypatch.setattr(torch.jit, "load", None)  # nobody asks for it
    with pytest.raises(ModelFileError) as told:
        read_source(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["model.onnx", "model.torchscript", "model.pkl", "model.h5"])
def test_other_kinds_of_models_are_refused_by_name(tmp_path, name):
    from napari_attention3d.models import load_model
    from napari_attention3d.models.convert_source import read_source

    path = tmp_path / name
    path.write_bytes(b"\x08\x07\x12\x0bbackend-test")  # as ONNX begins
    for read in (read_source, load_model):
        with pytest.raises(ModelFileError) as told:
            read(path)
        assert "\n" not in str(told.value)
