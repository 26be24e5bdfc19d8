from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from napari_attention3d.volumes import Volume, write_volume


def tilted() -> np.ndarray:
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = np.array([[1, 0, 0, 40], [0, c, -s, -7], [0, s, c, 12], [0, 0, 0, 1.0]])
    return affine @ np.diag([2.5, 1.0, 0.5, 1.0])


@pytest.fixture
def files(tmp_path):
    """An oblique, anisotropic mask of two boxes, its scan, and a coarse attention map."""
    array = np.zeros((8, 12, 16), dtype=np.uint8)
    array[1:5, 2:8, 3:13] = 1
    array[6:8, 9:12, 0:2] = 2
    array[0, 0, 15] = 2  # another component
    options = {"affine": tilted(), "unit": "mm", "anatomical": True}
    mask = Volume.from_array(array, name="mask", **options)
    scan = Volume.from_array((array * 10 + 5).astype(np.int16), name="scan", **options)
    coarse = mask.geometry.strided((4, 6, 8), (2, 2, 2), (0.5, 0.5, 0.5))
    gate = Volume(np.full((4, 6, 8), 0.5, dtype=np.float32), coarse, "gate")
    return {
        one.name: write_volume(tmp_path / f"{one.name}.nii.gz", one) for one in (mask, scan, gate)
    }


def test_json_holds_the_figures_with_units(run, files):
    outcome = run(
        "measure", files["mask"], "--image", files["scan"], "--attention", files["gate"], "--json"
    )
    assert outcome.code == 0
    one, two = outcome.json["rows"]
    assert one["voxels"] == 240
    assert one["volume (mm3)"] == pytest.approx(300)
    assert one["volume (mL)"] == pytest.approx(0.3)
    assert one["scan mean"] == 15
    assert two["scan mean"] == 25
    assert one["gate mean"] == pytest.approx(0.5)
    assert one["gate share"] == pytest.approx(240 / (8 * 12 * 16))
    centre = tilted() @ (2.5, 4.5, 7.5, 1)
    found = [one[f"centroid {axis} (mm)"] for axis in "zyx"]
    assert found == pytest.approx(centre[:3], abs=1e-4)


def test_a_table_for_people(run, files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    outcome = run("measure", files["mask"], "--image", files["scan"])
    assert outcome.code == 0
    assert "volume (mL)" in outcome.out
    assert "0.3" in outcome.out
    assert "start z" not in outcome.out
    assert "scan" in outcome.out
    assert "p95" in outcome.out


def test_components_have_rows_of_their_own(run, files):
    found = run("measure", files["mask"], "--components", "--json").json["rows"]
    assert [(row["label"], row["component"], row["voxels"]) for row in found] == [
        (1, 1, 240),
        (2, 1, 12),
        (2, 2, 1),
    ]


def test_csv_and_json_files(run, files, tmp_path):
    out = tmp_path / "figures.csv"
    outcome = run(
        "measure", files["mask"], "-o", out, "--percentiles", "10", "--image", files["scan"]
    )
    assert (outcome.code, outcome.out) == (0, "")
    with out.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["label"] for row in found] == ["1", "2"]
    assert float(found[0]["scan p10"]) == 15
    again = run("measure", files["mask"], "-o", out)
    assert again.code == 2
    assert "--overwrite" in again.err
    assert run("measure", files["mask"], "-o", out, "--overwrite").code == 0
    assert run("measure", files["mask"], "-o", tmp_path / "f.json").code == 0
    assert len(json.loads((tmp_path / "f.json").read_text())["rows"]) == 2


def test_xlsx_file(run, files, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    assert run("measure", files["mask"], "-o", tmp_path / "f.xlsx").code == 0
    sheet = openpyxl.load_workbook(tmp_path / "f.xlsx")["measures"]
    assert sheet.cell(2, 2).value == 240


def test_masks_of_an_installed_model_have_the_names_of_its_classes(run, tmp_path):
    from napari_attention3d.models.store import list_models

    card = next(info.card for info in list_models() if info.card is not None)
    array = np.zeros((4, 4, 4), dtype=np.uint8)
    array[1], array[2] = 1, 2
    provenance = {"model": {"name": card.name, "sha256": card.sha256}}
    made = Volume.from_array(
        array, spacing=(1, 1, 1), anatomical=True, metadata={"provenance": provenance}
    )
    path = write_volume(tmp_path / "mask.nii.gz", made)
    names = [row["name"] for row in run("measure", path, "--json").json["rows"]]
    assert names == card.class_names[1:3]
    run("evaluate", path, path, "--csv", tmp_path / "e.csv")
    with (tmp_path / "e.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["name"] == names[0]
    cells = tmp_path / "cells.nii.gz"
    assert run("clean", path, "-o", cells, "--split-touching").code == 0
    assert "name" not in run("measure", cells, "--json").json["rows"][0]
    provenance["model"]["sha256"] = "0" * 64
    unknown = write_volume(tmp_path / "unknown.nii.gz", made)
    assert "name" not in run("measure", unknown, "--json").json["rows"][0]


def test_an_empty_mask_is_told(run, tmp_path):
    empty = Volume.from_array(np.zeros((3, 3, 3), dtype=np.uint8), spacing=(1, 1, 1))
    outcome = run("measure", write_volume(tmp_path / "empty.nii.gz", empty), "--json")
    assert outcome.code == 0
    assert outcome.json["rows"] == []
    assert "only background" in outcome.err


def test_bad_input_is_told_in_one_line(run, files, tmp_path):
    mask = files["mask"]
    copy = tmp_path / "other" / "scan.nii.gz"
    copy.parent.mkdir()
    copy.write_bytes(files["scan"].read_bytes())
    for words, says in (
        ((tmp_path / "absent.nii.gz",), "absent.nii.gz"),
        ((mask, "-o", tmp_path / "a.txt"), ".csv, .xlsx, .json"),
        ((mask, "-o", tmp_path / "absent" / "a.csv"), "absent"),
        ((mask, "--percentiles", "five"), "--percentiles"),
        ((mask, "--connectivity", "8"), "6, 18 and 26"),
        ((mask, "--image", files["scan"], "--image", copy), "two images"),
        ((mask, "--image", files["scan"], "--attention", copy), "attention map"),
        ((files["gate"],), "not whole numbers"),
    ):
        outcome = run("measure", *words, "--json")
        assert outcome.code == 2, words
        assert outcome.out == ""
        assert says in outcome.err
        assert len([line for line in outcome.err.splitlines() if line.startswith("error")]) == 1
    assert not list(tmp_path.glob("*.csv"))


def test_the_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom napari_attention3d.cli import main\n"
        "try:\n    main(['measure', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'scipy', 'torch', 'skimage'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
