from __future__ import annotations

import csv

import numpy as np
import pytest
import yaml

from napari_attention3d.volumes import Volume, write_volume


@pytest.fixture
def recipe(tmp_path):
    """Bright blocks in noise, three pairs, a very small network."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(3):
        labels = np.zeros((16, 16, 16), dtype=np.uint8)
        start = 2 + 2 * index
        labels[start : start + 6, 4:12, 4:12] = 1
        image = (labels * 100 + rng.normal(50, 5, labels.shape)).astype(np.float32)
        for folder, array in (("images", image), ("labels", labels)):
            volume = Volume.from_array(array, spacing=(1, 1, 1), unit="mm", anatomical=True)
            write_volume(tmp_path / folder / f"case{index}.nii.gz", volume)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "blocks",
                "title": "Blocks",
                "classes": [
                    {"name": "background", "colour": "#000000"},
                    {"name": "block", "colour": "#e69f00"},
                ],
                "spacing": [1.0, 1.0, 1.0],
                "network": {"name": "attention-unet", "channels": [4, 8]},
                "data": {"kind": "pairs", "images": "images", "labels": "labels"},
                "schedule": {
                    "steps": 4,
                    "patch_sizes": [[16, 16, 16]],
                    "validate_every": 4,
                    "checkpoint_every": 2,
                    "warm_up": 1,
                    "precision": "fp32",
                },
            }
        )
    )
    return path


def test_train_writes_a_model_that_segments(run, recipe, tmp_path):
    model = tmp_path / "blocks.safetensors"
    outcome = run("train", "--config", recipe, "-o", model, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["steps"] == 4
    assert outcome.json["best"] == str(model)
    assert run("models", "show", model, "--json").json["name"] == "blocks"
    scan = tmp_path / "images" / "case0.nii.gz"
    assert run("segment", scan, "-m", model, "-o", tmp_path / "out").code == 0


def test_train_goes_on_where_it_was_unless_told_to_begin_anew(run, recipe, tmp_path):
    model = tmp_path / "blocks.safetensors"

    def steps(*words):
        outcome = run("train", "-c", recipe, "-o", model, "--json", *words)
        assert outcome.code == 0, outcome.err
        with open(outcome.json["log"], newline="") as file:
            return [int(row["step"]) for row in csv.DictReader(file)]

    assert steps("--steps", 2) == [1, 2]
    assert steps("--steps", 4) == [1, 2, 3, 4]
    assert steps("--steps", 1, "--restart") == [1]


def test_wrong_recipes_and_folders_are_bad_input(run, recipe, tmp_path):
    model = tmp_path / "m.safetensors"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(recipe.read_text().replace("steps: 4", "steps: -1"))
    for words, says in (
        (("-c", tmp_path / "absent.yaml", "-o", model), "absent.yaml"),
        (("-c", wrong, "-o", model), "steps"),
        (("-c", recipe, "-o", tmp_path / "absent" / "m.safetensors"), "does not exist"),
        (("-c", recipe, "-o", model, "--images", tmp_path / "nix"), "not a folder"),
        (("-c", recipe, "-o", tmp_path / "m.pt"), ".safetensors"),
    ):
        outcome = run("train", *words)
        assert outcome.code == 2, (words, outcome)
        assert says in outcome.err
        assert "Traceback" not in outcome.err
