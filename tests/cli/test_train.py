from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

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


@pytest.fixture
def small(monkeypatch):
    """A preset that takes a second."""
    from napari_attention3d.training import planning

    tiny = planning.Preset("Quick", "", 4, 2, 16**3, 16**3, 4, "tiny")
    monkeypatch.setitem(planning.PRESETS, "quick", tiny)


def steps_of(log):
    with open(log, newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_folder_is_enough(run, recipe, small, tmp_path):
    model = tmp_path / "blocks.safetensors"
    outcome = run("train", tmp_path, "-o", model, "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    assert "3 cases (images and labels, pairs by name)" in outcome.err
    assert "4 steps of 1 patch" in outcome.err
    card = run("models", "show", model, "--json").json
    assert card["name"] == "blocks"
    assert [one["name"] for one in card["classes"]] == ["background", "class 1"]
    scan = tmp_path / "images" / "case0.nii.gz"
    assert run("segment", scan, "-m", model, "-o", tmp_path / "out").code == 0


def test_a_planned_run_goes_on_with_its_own_settings(run, recipe, small, tmp_path):
    model = tmp_path / "b.safetensors"
    words = ("-o", model, "--device", "cpu", "--json")
    first = run("train", tmp_path, *words, "--steps", 2)
    assert steps_of(first.json["log"]) == [1, 2]
    again = run("train", *words, "--steps", 3)  # without saying what is trained on
    assert again.code == 0, again.err
    assert steps_of(again.json["log"]) == [1, 2, 3]
    assert "going on" in again.err
    for folder in ("images", "labels"):
        (tmp_path / "other" / folder).mkdir(parents=True)
        for path in (tmp_path / folder).iterdir():
            (tmp_path / "other" / folder / path.name).write_bytes(path.read_bytes())
    other = run("train", tmp_path / "other", *words)
    assert other.code == 2
    assert "belongs to a training on" in other.err


def test_the_plan_can_be_seen_kept_and_trained(run, recipe, small, tmp_path):
    model = tmp_path / "seen.safetensors"
    outcome = run("train", tmp_path, "-o", model, "--device", "cpu", "--plan", "--batch", 2)
    assert outcome.code == 0, outcome.err
    assert not model.exists()
    (tmp_path / "plan.yaml").write_text(outcome.out)
    plan = yaml.safe_load(outcome.out)
    assert plan["schedule"]["batch_size"] == 2
    assert plan["data"]["values"] == [0, 1]
    assert run("train", "-c", tmp_path / "plan.yaml", "-o", model).code == 0


def test_nnunets_layout_gives_names(run, recipe, small, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "images").rename(tmp_path / "set" / "imagesTr")
    (tmp_path / "labels").rename(tmp_path / "set" / "labelsTr")
    for path in (tmp_path / "set" / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    about = {"labels": {"background": 0, "block": 1}, "channel_names": {"0": "CT"}}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(about))
    model = tmp_path / "n.safetensors"
    outcome = run("train", tmp_path / "set", "-o", model, "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    card = run("models", "show", model, "--json").json
    assert [one["name"] for one in card["classes"]] == ["background", "block"]
    assert [one["name"] for one in card["channels"]] == ["CT"]


def test_folders_that_do_not_do_are_bad_input(run, recipe, small, tmp_path):
    (tmp_path / "empty").mkdir()
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"a model of another training")
    model = tmp_path / "m.safetensors"
    images, labels = tmp_path / "images", tmp_path / "labels"
    for words, says in (
        (("-o", model), "nothing to train on"),
        ((tmp_path / "empty", "-o", model), "no folders images and labels"),
        ((tmp_path / "absent", "-o", model), "is not a folder"),
        (("--images", images, "-o", model), "belong together"),
        (("--images", images, "--labels", tmp_path / "empty", "-o", model), "no label map"),
        (("--images", tmp_path / "empty", "--labels", labels, "-o", model), "no images"),
        ((tmp_path, "-o", taken), "--restart"),
        ((tmp_path, "-o", model, "--preset", "huge"), "quick, standard, thorough"),
        ((tmp_path, "-c", recipe, "-o", model), "not both"),
        ((tmp_path, "-o", model, "--ignore", 1), "at least two are needed"),
    ):
        outcome = run("train", *words)
        assert outcome.code == 2, (words, outcome)
        assert says in outcome.err, (words, outcome.err)
        assert "Traceback" not in outcome.err
    assert taken.read_bytes() == b"a model of another training"
    (images / "case1.nii.gz").write_bytes(b"no scan at all")
    outcome = run("train", tmp_path, "-o", model)
    assert outcome.code == 2
    assert "case1.nii.gz" in outcome.err


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the loopback device is called lo on Linux")
def test_torchrun_trains_one_model_with_two_processes(run, recipe, tmp_path):
    """As the guide says it, with this Python's own torchrun."""
    settings = yaml.safe_load(recipe.read_text())
    settings["schedule"] |= {"batch_size": 2, "device": "cpu", "threads": 1}
    recipe.write_text(yaml.safe_dump(settings))
    model = tmp_path / "both.safetensors"
    command = "from napari_attention3d.cli import main; main()"
    words = ["train", "--config", str(recipe), "-o", str(model), "--json"]
    started = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "--no-python", sys.executable, "-c", command, *words,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr[-3000:]
    said = json.loads(started.stdout)  # one of the two speaks
    assert said["steps"] == 4
    assert steps_of(said["log"]) == [1, 2, 3, 4]  # and one writes
    assert run("models", "show", model, "--json").json["name"] == "blocks"
