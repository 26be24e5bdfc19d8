from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d import read_volume, write_volume
from napari_attention3d.models.store import load_model
from napari_attention3d.volumes import Volume

pytestmark = pytest.mark.usefixtures("few_trees")


@pytest.fixture
def few_trees(monkeypatch):
    monkeypatch.setattr("napari_attention3d.correction.fast_head.TREES", 10)


@pytest.fixture
def case(tmp_path):
    """A bright box in noise and three strokes: box, box as class 2 never, background."""
    rng = np.random.default_rng(0)
    truth = np.zeros((10, 14, 16), np.uint8)
    truth[3:8, 4:11, 4:12] = 1
    image = (truth * 500.0 + rng.normal(0, 50, truth.shape)).astype(np.int16)
    strokes = np.zeros(truth.shape, np.int16)  # as other programs write labels
    strokes[5, 7, 5:11] = 1
    strokes[5, 1, 2:14] = 255
    strokes[1, 7, 2:14] = 255
    about = {"spacing": (2.0, 1.0, 1.0), "unit": "mm", "anatomical": True}
    write_volume(tmp_path / "scan.nii.gz", Volume.from_array(image, **about))
    write_volume(tmp_path / "strokes.nii.gz", Volume.from_array(strokes, **about))
    return tmp_path, truth


def words(folder, *more):
    return (
        "refine",
        folder / "scan.nii.gz",
        "--strokes",
        folder / "strokes.nii.gz",
        "-o",
        folder / "mask.nii.gz",
        "--threads",
        "1",
        *more,
    )


def test_from_nothing_in_seconds(run, case):
    folder, truth = case
    done = run(*words(folder, "--no-network", "--classes", "background,box", "--json"))
    assert done.code == 0, done.err
    mask = read_volume(folder / "mask.nii.gz")
    scan = read_volume(folder / "scan.nii.gz")
    np.testing.assert_allclose(mask.geometry.affine, scan.geometry.affine)
    found = np.asarray(mask.array) == 1
    assert 2 * (found & (truth == 1)).sum() / (found.sum() + truth.sum()) > 0.7
    assert found[5, 7, 5:11].all()
    assert not found[5, 1, 2:14].any()
    assert [r["kind"] for r in done.json["rounds"]] == ["start", "fast"]
    assert done.json["rounds"][1]["strokes"] == 3
    assert done.json["model"] is None


@pytest.fixture
def whatever_it_says(monkeypatch):
    """Let a trained network be taken, or lose, whatever two steps make of an untrained one."""

    def choose(taken):
        from napari_attention3d.correction import learn, refine_round

        monkeypatch.setattr(refine_round, "MOVED", 2.0 if taken else -1.0)
        monkeypatch.setattr(learn, "DRIFT", 2.0)

    return choose


def trained(run, folder, tiny_model):
    before = tiny_model.read_bytes()
    done = run(
        *words(
            folder,
            "--model",
            tiny_model,
            "--seconds",
            "0.01",
            "--save-model",
            folder / "better.safetensors",
            "--session",
            folder / "saved.session",
            "--device",
            "cpu",
            "--json",
        )
    )
    assert done.code == 0, done.err
    assert tiny_model.read_bytes() == before
    assert (folder / "saved.session" / "session.json").is_file()
    assert (folder / "mask.nii.gz").is_file()
    return done


def test_a_model_is_trained_saved_and_left_as_it_was(run, case, tiny_model, whatever_it_says):
    folder, _ = case
    whatever_it_says(taken=True)
    done = trained(run, folder, tiny_model)
    assert [r["kind"] for r in done.json["rounds"]] == ["start", "fast", "network"]
    assert done.json["model"] == str(folder / "better.safetensors")
    saved = load_model(folder / "better.safetensors")
    assert saved.card.name == "better"
    assert saved.card.class_names == load_model(tiny_model).card.class_names


def test_a_network_that_measures_worse_is_not_saved(run, case, tiny_model, whatever_it_says):
    folder, _ = case
    whatever_it_says(taken=False)
    done = trained(run, folder, tiny_model)
    assert [r["kind"] for r in done.json["rounds"]] == ["start", "fast"]
    assert done.json["model"] is None
    assert "measured worse" in done.err
    assert not (folder / "better.safetensors").exists()


def test_255_is_background_in_strokes_of_any_type(run, case):
    folder, _ = case
    painted = read_volume(folder / "strokes.nii.gz")
    wide = Volume(np.asarray(painted.array).astype(np.uint16), painted.geometry)
    write_volume(folder / "strokes.nii.gz", wide)
    done = run(*words(folder, "--no-network"))
    assert done.code == 0, done.err
    assert int(read_volume(folder / "mask.nii.gz").array.max()) == 1  # not 255 classes
    array = np.asarray(painted.array).astype(np.uint16)
    array[0, 0, 0] = 65535
    write_volume(folder / "strokes.nii.gz", Volume(array, painted.geometry))
    done = run(*words(folder, "--no-network", "--overwrite"))
    assert done.code == 2
    assert "name the classes" in done.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--save-model", "m.safetensors", "--no-network"), "needs a trained network"),
        (("--save-model", "m.pt"), "ends in .safetensors"),
        (("--seconds", "0"), "above 0"),
        (("--classes", "background", "--no-network"), "at least one class"),
        (("--model", "no-such-model"), "no-such-model"),
    ],
)
def test_wrong_use(run, case, more, message):
    folder, _ = case
    done = run(*words(folder, *more))
    assert done.code == 2
    assert message in done.err
    assert not (folder / "mask.nii.gz").exists()


def test_strokes_of_another_scan_or_nothing_painted(run, case):
    folder, _ = case
    grid = read_volume(folder / "strokes.nii.gz")
    for array, spacing, message in (
        (np.zeros((10, 14, 16), np.uint8), (2.0, 1.0, 1.0), "nothing is painted"),
        (np.asarray(grid.array), (3.0, 1.0, 1.0), "lies up to 9 mm"),
        (np.ones((9, 14, 16), np.uint8), (2.0, 1.0, 1.0), "shape"),
        (np.full((10, 14, 16), 0.5, np.float32), (2.0, 1.0, 1.0), "whole numbers"),
    ):
        volume = Volume.from_array(array, spacing=spacing, unit="mm", anatomical=True)
        write_volume(folder / "strokes.nii.gz", volume)
        done = run(*words(folder, "--no-network"))
        assert done.code == 2
        assert message in done.err


def test_a_mask_that_is_there_is_not_replaced(run, case):
    folder, _ = case
    (folder / "mask.nii.gz").write_bytes(b"mine")
    done = run(*words(folder, "--no-network"))
    assert done.code == 2
    assert (folder / "mask.nii.gz").read_bytes() == b"mine"
