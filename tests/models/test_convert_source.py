"""Files of weights are read, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from napari_attention3d.errors import ModelFileError
from napari_attention3d.models.convert_source import read_source

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def refused(path, *words):
    with pytest.raises(ModelFileError) as error:
        read_source(path)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.ckpt", "w.pth.tar"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_bare_state_dict(tmp_path, name, zipped):
    torch.save(OrderedDict(STATE), tmp_path / name, _use_new_zipfile_serialization=zipped)
    source = read_source(tmp_path / name)
    assert source.steps == []
    assert set(source.tensors) == set(STATE)
    for key, tensor in STATE.items():
        assert torch.equal(source.tensors[key], tensor)


def test_safetensors(tmp_path):
    save_file({k: v.half() for k, v in STATE.items()}, tmp_path / "w.safetensors")
    tensors = read_source(tmp_path / "w.safetensors").tensors
    assert tensors["a.weight"].dtype == torch.float32
    assert torch.equal(tensors["a.weight"], STATE["a.weight"])


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "network_weights"])
def test_containers_are_unwrapped_and_the_prefix_taken_off(tmp_path, key):
    wrapped = {key: {f"module.{k}": v for k, v in STATE.items()}, "epoch": 3, "optimizer": {"x": 1}}
    torch.save(wrapped, tmp_path / "w.pth")
    source = read_source(tmp_path / "w.pth")
    assert set(source.tensors) == set(STATE)
    assert len(source.steps) == 2


def test_only_a_leading_prefix_of_all_names_is_taken_off(tmp_path):
    torch.save({"a.module.weight": torch.ones(1), "module.b": torch.ones(1)}, tmp_path / "w.pth")
    assert set(read_source(tmp_path / "w.pth").tensors) == {"a.module.weight", "module.b"}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_a_pickle_that_runs_something_is_refused_and_nothing_ran(tmp_path, zipped, beside):
    mark, path = tmp_path / "it-ran", tmp_path / "w.pth"
    content = {"state_dict": STATE, "extra": Bomb(mark)} if beside else Bomb(mark)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    text = refused(path, "not opened", "state_dict()")
    assert re.search(r"needs \w+\.mkdir", text)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap is a real one
    assert mark.exists()


def test_a_raw_pickle_under_any_name_is_refused_and_nothing_ran(tmp_path):
    mark = tmp_path / "it-ran"
    for name in ("w.pth", "w.tar", "w.safetensors"):
        for protocol in (0, 2, 4):
            (tmp_path / name).write_bytes(pickle.dumps(Bomb(mark), protocol=protocol))
            refused(tmp_path / name)
    assert not mark.exists()


def test_a_tar_archive_is_refused_and_nothing_ran(tmp_path):
    mark, inner = tmp_path / "it-ran", tmp_path / "sys_info"
    inner.write_bytes(pickle.dumps(Bomb(mark)))
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.add(inner, name)
    refused(tmp_path / "w.tar")
    assert not mark.exists()


def test_versions_of_torch_with_an_unsafe_reader_open_no_pickle(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "w.pth")
    for version in ("2.4.0", "2.5.1+cu121"):
        monkeypatch.setattr(torch, "__version__", version)
        refused(tmp_path / "w.pth", "torch 2.6", version)
    save_file(STATE, tmp_path / "w.safetensors")
    assert read_source(tmp_path / "w.safetensors").tensors
    monkeypatch.setattr(torch, "__version__", "2.10.0a0+git1")
    assert read_source(tmp_path / "w.pth").tensors


def test_the_variable_that_allows_pickles_elsewhere_does_not_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = tmp_path / "it-ran"
    torch.save(Bomb(mark), tmp_path / "w.pth")
    refused(tmp_path / "w.pth")
    assert not mark.exists()


def test_a_whole_network_is_refused_with_its_class(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "torch.nn.modules.linear.Linear", "not opened")


def test_a_lying_tensor_is_refused_before_it_fills_the_memory(tmp_path):
    torch.save({"a": torch.ones(1).expand(10**7, 10**5)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "'a'", "more values than the file holds")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ([1, 2], "list"),
        ({}, "no tensors"),
        ({"a": torch.ones(1), "epoch": 3}, "'epoch'"),
        ({"state_dict": {"a": torch.ones(1)}, "model": {"a": torch.ones(1)}}, "several sets"),
        ({"a": torch.tensor([1.0, float("nan")])}, "NaN"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "plain"),
        ({"a": torch.ones(2, 2).to_sparse()}, "plain"),
        ({"a": torch.ones(2, dtype=torch.int64)}, "int64"),
        ({"a": torch.empty(2, device="meta")}, "plain"),
    ],
)
def test_what_is_not_weights_is_refused(tmp_path, content, word):
    torch.save(content, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", word)


def test_damaged_and_missing_files(tmp_path):
    path = tmp_path / "w.pth"
    refused(path, "no file")
    refused_suffix = tmp_path / "w.onnx"
    refused_suffix.write_bytes(b"x")
    refused(refused_suffix, ".safetensors")
    (tmp_path / "d.pth").mkdir()
    refused(tmp_path / "d.pth", "folder")
    torch.save(STATE, path)
    whole = path.read_bytes()
    for cut in (0, 1, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:cut])
        refused(path, "w.pth")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "damaged")
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(path, "w.pth")


def test_the_sum_is_that_of_the_file(tmp_path):
    torch.save(STATE, tmp_path / "w.pth")
    import hashlib

    expected = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    assert read_source(tmp_path / "w.pth").sha256 == expected
