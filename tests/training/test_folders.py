"""Training folders: pairs by name, channels, nnU-Net's layout; what does not do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_attention3d.errors import InputError
from napari_attention3d.training.folders import match_pairs, open_training_folder, read_nnunet
from napari_attention3d.volumes import Volume, write_volume

SHAPE = (4, 5, 6)


def put(path, value=1.0, shape=SHAPE, **keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full(shape, value, np.float32)
    return write_volume(path, Volume.from_array(array, **{"spacing": (1, 1, 1), **keys}))


@pytest.fixture
def nnunet(tmp_path):
    for case in ("heart_1", "heart_2"):
        put(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", 3)
        put(tmp_path / "imagesTr" / f"{case}_0001.nii.gz", 4)
        put(tmp_path / "labelsTr" / f"{case}.nii.gz")
    about = {
        "name": "Hearts",
        "labels": {"background": 0, "chamber": 1, "ignore": 2},
        "channel_names": {"0": "T1", "1": "T2"},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    return tmp_path


def change(folder, **entries):
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_pairs_have_the_same_name_whatever_the_format(tmp_path):
    put(tmp_path / "i" / "b.nii.gz")
    put(tmp_path / "i" / "a.tif")
    put(tmp_path / "l" / "a.nii.gz")
    put(tmp_path / "l" / "b.zarr")
    put(tmp_path / "l" / "unused.nii.gz")
    (tmp_path / "i" / "notes.txt").write_text("not a scan")
    (tmp_path / "i" / ".hidden.nii.gz").write_text("")
    cases = match_pairs(tmp_path / "i", tmp_path / "l")
    assert [case.name for case in cases] == ["a", "b"]
    assert cases[1].label.name == "b.zarr"
    image, labels = cases[1].read()
    assert image.array.shape == labels.array.shape == SHAPE


def test_numbered_files_are_channels_in_their_order(nnunet):
    cases = match_pairs(nnunet / "imagesTr", nnunet / "labelsTr")
    image, _ = cases[0].read()
    assert image.array.shape == (2, *SHAPE)
    assert np.asarray(image.array)[:, 0, 0, 0].tolist() == [3, 4]


def test_channels_of_other_grids_are_refused(nnunet):
    put(nnunet / "imagesTr" / "heart_1_0001.nii.gz", 4, spacing=(2, 1, 1))
    with pytest.raises(InputError, match=r"heart_1_0001.*does not lie on the grid"):
        match_pairs(nnunet / "imagesTr", nnunet / "labelsTr")[0].read()


def test_a_missing_channel_is_told(nnunet):
    (nnunet / "imagesTr" / "heart_2_0001.nii.gz").unlink()
    with pytest.raises(InputError, match="same channels"):
        open_training_folder(nnunet)


def test_nnunets_description_is_understood(nnunet):
    found = open_training_folder(nnunet)
    assert found.layout == "nnU-Net's layout"
    assert found.class_names == {0: "background", 1: "chamber"}
    assert found.channel_names == ("T1", "T2")
    assert found.ignore == 2
    assert [case.name for case in found.cases] == ["heart_1", "heart_2"]


def test_the_older_description_too(nnunet):
    change(nnunet, labels={"0": "background", "1": "chamber"}, modality={"0": "MR", "1": "CT"})
    (nnunet / "dataset.json").write_text(
        (nnunet / "dataset.json").read_text().replace("channel_names", "unused")
    )
    found = read_nnunet(nnunet)
    assert found.classes == ("background", "chamber")
    assert found.channels == ("MR", "CT")
    assert found.ignore is None


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"labels": {"background": 0, "far": 5}}, "without gaps"),
        ({"labels": {"background": 0, "both": [1, 2]}}, "regions"),
        ({"labels": {"background": 0}}, "without gaps"),
        ({"labels": 3}, "not understood"),
        ({"labels": {"background": "zero", "a": 1}}, "not understood"),
        ({"channel_names": ["T1"]}, "not understood"),
    ],
)
def test_descriptions_that_do_not_do(nnunet, entries, says):
    change(nnunet, **entries)
    with pytest.raises(InputError, match=says):
        open_training_folder(nnunet)


def test_a_damaged_description_is_told(nnunet):
    (nnunet / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset\.json is not understood"):
        open_training_folder(nnunet)
    (nnunet / "labelsTr").rename(nnunet / "elsewhere")
    with pytest.raises(InputError, match="no labelsTr"):
        open_training_folder(nnunet)


@pytest.mark.parametrize("names", [("images", "labels"), ("imagesTr", "labelsTr")])
def test_folders_of_known_names(tmp_path, names):
    for name in names:
        put(tmp_path / name / "a.nii.gz")
    found = open_training_folder(tmp_path)
    assert (found.images.name, found.labels.name) == names
    assert found.class_names == {}
    assert found.ignore is None


def test_folders_that_do_not_do(tmp_path):
    (tmp_path / "empty").mkdir()
    put(tmp_path / "i" / "a.nii.gz")
    put(tmp_path / "l" / "a.nii.gz")
    with pytest.raises(InputError, match="no folders images and labels"):
        open_training_folder(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        open_training_folder(tmp_path / "absent")
    with pytest.raises(InputError, match="is not a folder"):
        open_training_folder(tmp_path / "i", tmp_path / "absent")
    with pytest.raises(InputError, match="holds no images"):
        open_training_folder(tmp_path / "empty", tmp_path / "l")
    with pytest.raises(InputError, match=r"a\.nii\.gz has no label map of the same name"):
        open_training_folder(tmp_path / "i", tmp_path / "empty")
    put(tmp_path / "l" / "a.tif")
    with pytest.raises(InputError, match="same name"):
        open_training_folder(tmp_path / "i", tmp_path / "l")
