"""`napari-attention3d attention`: what is written is what was computed, errors are one line."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from napari_attention3d.provenance import fingerprint
from napari_attention3d.volumes import Volume, read_volume, write_volume


@pytest.fixture
def found_something(tmp_path, tiny_model):
    """A scan in which the tiny model finds something besides the background."""
    rng = np.random.default_rng(0)
    scan = Volume.from_array(
        rng.integers(0, 1000, (12, 14, 16)).astype(np.int16), spacing=(2.0, 1.0, 1.0), unit="mm"
    )
    return write_volume(tmp_path / "scan.nii.gz", scan)


def test_a_map_is_written_in_the_scans_world(run, found_something, tiny_model, tmp_path):
    out = tmp_path / "entropy.nii.gz"
    outcome = run(
        "attention", "map", found_something, "-m", tiny_model, "--kind", "entropy", "-o", out
    )
    assert outcome.code == 0, outcome.err
    written, scan = read_volume(out), read_volume(found_something)
    assert np.asarray(written.array).min() >= 0
    assert np.asarray(written.array).max() <= 1
    assert written.geometry.is_close(scan.geometry)
    again = run(
        "attention", "map", found_something, "-m", tiny_model, "--kind", "entropy", "-o", out
    )
    assert again.code == 2
    assert "--overwrite" in again.err
    wrong = run("attention", "map", found_something, "--kind", "aura", "-o", tmp_path / "a.nii.gz")
    assert wrong.code == 2
    assert "there are: agreement" in wrong.err


def test_forced_gates_are_measured_and_the_change_is_written(
    run, found_something, tiny_model, tmp_path
):
    change, table = tmp_path / "change.nii.gz", tmp_path / "table.csv"
    outcome = run(
        "attention", "switch", found_something, "-m", tiny_model, "--force", "gate-level-2=0",
        "--change", change, "-o", table, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = outcome.json["rows"]
    assert rows[-1]["name"] == "foreground"
    changed = np.count_nonzero(np.asarray(read_volume(change).array))
    assert rows[-1]["changed (mm3)"] == pytest.approx(2.0 * changed)
    assert f"{changed} voxels changed" in outcome.err
    with table.open(newline="") as file:
        assert len(list(csv.reader(file))) == len(rows) + 1
    for force, words in (
        ("gate-level-2", "write LEVEL=1"),
        ("gate-level-2=x", "write LEVEL=1"),
        ("gate-level-7=1", "there is: gate-level-2"),
    ):
        wrong = run("attention", "switch", found_something, "-m", tiny_model, "--force", force)
        assert wrong.code == 2
        assert words in wrong.err


def test_maps_are_tested_with_table_and_plot(run, found_something, tiny_model, tmp_path):
    table, plot = tmp_path / "curves.csv", tmp_path / "curves.svg"
    outcome = run(
        "attention", "test", found_something, "-m", tiny_model, "--window", "12", "--block", "4",
        "-o", table, "--plot", plot, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = outcome.json["rows"]
    assert len(rows) == 6  # one map: three orders, both ways
    assert {row["map"] for row in rows} == {"gate-level-2"}
    assert all(0 <= row["area"] <= 1 for row in rows)
    assert "gate-level-2: " in outcome.err
    text = plot.read_text()
    assert text.startswith("<svg")
    assert text.count("<polyline") == 6
    for words, said in (
        (("--plot", tmp_path / "curves.png"), "written as .svg"),
        (("--label", "three"), "no class 'three'"),
        (("--voxel", "1,2"), "is not z,y,x"),
        (("--voxel", "1,2,99"), "outside the scan"),
    ):
        wrong = run("attention", "test", found_something, "-m", tiny_model, *words)
        assert wrong.code == 2
        assert said in wrong.err


def test_shares_of_a_map_within_a_mask(run, tmp_path):
    mask = np.zeros((8, 10, 12), np.uint8)
    mask[2:4, 2:5, 2:6] = 1
    values = np.zeros(mask.shape, np.float32)
    values[2, 2, 2], values[7, 9, 11] = 3, 1
    where = {"spacing": (2.0, 1.0, 1.0), "unit": "mm"}
    files = [
        write_volume(tmp_path / f"{name}.nii.gz", Volume.from_array(array, **where))
        for name, array in (("map", values), ("mask", mask))
    ]
    plot = tmp_path / "bars.svg"
    outcome = run("attention", "share", *files, "--near", "2", "--plot", plot, "--json")
    assert outcome.code == 0, outcome.err
    assert "inside: 75.0 %" in plot.read_text(encoding="utf-8")
    wrong = run("attention", "share", *files, "--plot", tmp_path / "bars.gif")
    assert "plots are written as .svg" in wrong.err
    first = outcome.json["rows"][0]
    assert first["share inside (%)"] == pytest.approx(75)
    assert first["largest value"] == "inside"
    assert first["inside (mm3)"] == pytest.approx(48)
    assert not any("changed by hand" in note for note in outcome.json["notes"])


def test_shares_say_that_the_mask_was_painted_on(run, tmp_path):
    mask = np.zeros((8, 10, 12), np.uint8)
    mask[2:4, 2:5, 2:6] = 1
    then = {"model": {"name": "net"}, "fingerprint": fingerprint(mask)}
    gate = write_volume(tmp_path / "map.nii.gz", Volume.from_array(np.ones(mask.shape, np.float32)))
    for value, edited in ((1, False), (0, True)):
        mask[2, 2, 2] = value
        told = Volume.from_array(mask.copy()).replace(metadata={"provenance": then})
        file = write_volume(tmp_path / "mask.nii.gz", told)
        outcome = run("attention", "share", gate, file, "--json")
        assert outcome.code == 0, outcome.err
        assert any("changed by hand" in note for note in outcome.json["notes"]) == edited


def test_a_model_without_position_attention_is_not_asked(
    run, found_something, tiny_model, tmp_path
):
    outcome = run(
        "attention", "ask", found_something, "-m", tiny_model, "-o", tmp_path / "row.nii.gz"
    )
    assert outcome.code == 2
    assert "no position attention" in outcome.err
    wrong = run(
        "attention", "ask", found_something, "--question", "why", "-o", tmp_path / "row.nii.gz"
    )
    assert "use row, column or hubs" in wrong.err


def test_a_guided_model_answers_with_a_row(run, found_something, tmp_path):
    import torch

    from napari_attention3d.models.card import Channel, ModelCard, SegmentationClass
    from napari_attention3d.models.store import save_model
    from napari_attention3d.networks import build_network

    torch.manual_seed(0)
    network = build_network(
        "guided-attention", preset="small", in_channels=1, num_classes=2,
        widths=(4, 8, 8, 8), strides=(2, 1, 1), features=4, head_width=4, steps=1,
    )  # fmt: skip
    card = ModelCard(
        name="glance",
        title="Looks around",
        network={"name": network.name, **network.config},
        classes=tuple(
            SegmentationClass(name=n, colour=c)
            for n, c in (("background", "#000000"), ("one", "#e69f00"))
        ),
        channels=(Channel(name="intensity"),),
        patch_size=(16, 16, 16),
    )
    model = save_model(tmp_path / "glance.safetensors", network, card)
    out = tmp_path / "row.nii.gz"
    outcome = run(
        "attention", "ask", found_something, "-m", tmp_path / "glance.safetensors",
        "--voxel", "6,7,8", "-o", out, "--json",
    )  # fmt: skip
    assert model is not None
    assert outcome.code == 0, outcome.err
    assert outcome.json["sum"] == pytest.approx(1, abs=1e-3)
    row = np.asarray(read_volume(out).array)
    assert row.max() == pytest.approx(outcome.json["peak"])
    assert sum(outcome.json["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    who = tmp_path / "who.nii.gz"
    # An untrained network may find one class all over: the other one has no voxel to ask about.
    outcomes = {
        name: run(
            "attention", "ask", found_something, "-m", tmp_path / "glance.safetensors", "--voxel",
            "6,7,8", "--question", "label", "--label", name, "-o", who, "--overwrite", "--json",
        )
        for name in ("background", "one")
    }  # fmt: skip
    assert {outcome.code for outcome in outcomes.values()} <= {0, 2}
    answered = {name: outcome for name, outcome in outcomes.items() if outcome.code == 0}
    assert answered
    for outcome in answered.values():
        assert outcome.json["question"] == "label"
        assert 0 < outcome.json["peak"] <= 1 + 1e-5
        assert "all voxels of the tile, about" in outcome.err
    for outcome in outcomes.values():
        assert outcome.code == 0 or "no voxel in the tile" in outcome.err
    wrong = run(
        "attention", "ask", found_something, "-m", tmp_path / "glance.safetensors",
        "--question", "label", "--label", "liver", "-o", who, "--overwrite",
    )  # fmt: skip
    assert "no class 'liver'" in wrong.err
    wrong = run("attention", "ask", found_something, "--label", "one", "-o", tmp_path / "x.nii.gz")
    assert "--label goes with --question label" in wrong.err
