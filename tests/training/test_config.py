from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from napari_attention3d.errors import InputError
from napari_attention3d.training import TrainConfig
from napari_attention3d.training.config import SynthesisData

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_are_valid(path):
    config = TrainConfig.from_yaml(path)
    assert config.name == path.stem
    if isinstance(config.data, SynthesisData):
        ids = [i for row in config.data.labels for i in row.ids]
        assert len(ids) == len(set(ids))
        assert {row.label for row in config.data.labels} == set(range(len(config.classes)))


def test_folders_are_relative_to_the_file_and_can_be_overridden(tmp_path):
    raw = yaml.safe_load((RECIPES / "brain-attention-unet.yaml").read_text())
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw))
    assert TrainConfig.from_yaml(path).data.folder == tmp_path / "label_maps"
    other = TrainConfig.from_yaml(path, data={"folder": "/elsewhere"}, seed=7)
    assert str(other.data.folder) == "/elsewhere"
    assert other.seed == 7
    assert other.data.pattern == "*.nii.gz"


def broken(change):
    raw = yaml.safe_load((RECIPES / "brain-attention-unet.yaml").read_text())
    change(raw)
    return raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(colour="red"), "colour"),
        (lambda r: r["schedule"].update(steps=0), r"schedule\.steps"),
        (lambda r: r["network"].pop("name"), "name"),
        (lambda r: r["data"].update(kind="dreams"), "data"),
        (lambda r: r["data"]["labels"][0].update(label=99), "99"),
        (lambda r: r.pop("spacing"), "spacing"),
        (lambda r: r.update(name="Has Spaces"), "name"),
    ],
)
def test_errors_name_the_place(change, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.checked(broken(change))


@pytest.mark.parametrize("text", ["a: [1", "- just\n- a list", "", "!!python/object:os.system x"])
def test_files_that_are_no_settings(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        TrainConfig.from_yaml(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        TrainConfig.from_yaml(tmp_path / "none.yaml")
