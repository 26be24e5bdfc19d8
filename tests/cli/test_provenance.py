"""Every kind of file says with which program, when and from what it was made."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_attention3d import __version__
from napari_attention3d.errors import InputError
from napari_attention3d.models.store import load_model
from napari_attention3d.recipe import recipe_of
from napari_attention3d.volumes import Volume, read_volume, write_volume

openpyxl = pytest.importorskip("openpyxl")


def made(path):
    """What a file says of itself, by its suffix."""
    if path.suffix == ".csv":
        return json.loads(path.with_name(f"{path.name}.json").read_text())["made"]
    if path.suffix == ".json":
        return json.loads(path.read_text())["made"]
    if path.suffix == ".xlsx":
        rows = openpyxl.load_workbook(path)["made with"].iter_rows(values_only=True)
        flat = dict(rows)
        software = {"napari-attention3d": flat["software napari-attention3d"]}
        return {**flat, "software": software}
    return read_volume(path).metadata["provenance"]


@pytest.fixture
def work(run, tmp_path, scan, tiny_model):
    """All kinds of results of one scan, in a folder beside it."""
    done = tmp_path / "done"
    done.mkdir()

    def do(*words):
        outcome = run(*words)
        assert outcome.code == 0, outcome.err

    mask, gate = done / "mask.nii.gz", done / "mask_attention_gate-level-2.nii.gz"
    more = ("--attention", "--probabilities", "--uncertainty", "--measure")
    do("segment", scan, "-m", tiny_model, "-o", mask, *more, "--summary", done / "sum.json")
    foreign = Volume.from_array(
        np.asarray(read_volume(mask).array), spacing=(2.0, 1.0, 1.0), anatomical=True
    )
    theirs = write_volume(tmp_path / "theirs.nii.gz", foreign)
    do("clean", theirs, "-o", done / "clean.nii.gz", "--fill-holes")
    do("measure", mask, "--image", scan, "--attention", gate, "-o", done / "m.xlsx")
    do("evaluate", mask, theirs, "--disagreement", done / "where.nii.gz", "-o", done / "e.json",
       "--tolerance", "3")  # fmt: skip
    asked = ("attention", "map", scan, "-m", tiny_model, "--kind", "entropy")
    do(*asked, "-o", done / "entropy.nii.gz")
    do("attention", "switch", scan, "-m", tiny_model, "--force", "gate-level-2=0",
       "--change", done / "change.nii.gz", "-o", done / "switch.csv")  # fmt: skip
    do("attention", "share", gate, mask, "-o", done / "share.json")
    return done


def test_every_kind_of_file_tells_how_it_was_made(work, scan, tiny_model):
    files = sorted(p for p in work.iterdir() if not p.name.endswith(".csv.json"))
    found = {path.name: made(path) for path in files}
    assert len(found) == 14
    for name, about in found.items():
        assert about["software"]["napari-attention3d"] == __version__, name
        assert about["date"].startswith("20"), name
    sha256 = load_model(str(tiny_model)).card.sha256
    for name in ("mask", "mask_attention_gate-level-2", "mask_probabilities", "mask_uncertainty"):
        about = found[f"{name}.nii.gz"]
        assert about["model"]["sha256"] == sha256, name
        assert about["source"]["path"] == str(scan.resolve()), name
        assert about["options"]["overlap"] is None or about["options"]["overlap"] >= 0
    for name in ("entropy.nii.gz", "change.nii.gz", "switch.csv"):
        assert found[name]["model"]["sha256"] == sha256, name
        assert found[name]["source"]["path"] == str(scan.resolve()), name
        with pytest.raises(InputError, match="answers a question"):
            recipe_of(found[name])
    assert found["entropy.nii.gz"]["asked"] == {"map": "entropy"}
    assert found["sum.json"]["models"][0]["sha256"] == sha256
    assert found["clean.nii.gz"]["source"]["path"].endswith("theirs.nii.gz")
    where = found["where.nii.gz"]
    assert where["settings"] == {"tolerance": 3.0, "resample": False, "classes": None}
    assert where["masks"][0]["made"]["model"]["sha256"] == sha256
    assert found["e.json"] == where
    assert found["m.xlsx"]["mask made model sha256"] == sha256
    assert found["mask_measures.csv"]["images"]["scan"]["path"] == str(scan.resolve())


def test_a_corrected_mask_tells_its_scan_and_settings_and_gives_no_recipe(
    run, tmp_path, scan, monkeypatch
):
    monkeypatch.setattr("napari_attention3d.correction.fast_head.TREES", 5)
    strokes = np.zeros((12, 14, 16), np.uint8)
    strokes[3, 3:9, 4], strokes[8, 3:9, 4] = 1, 255
    painted = Volume.from_array(strokes, spacing=(2.0, 1.0, 1.0), unit="mm", anatomical=True)
    write_volume(tmp_path / "strokes.nii.gz", painted)
    out = tmp_path / "mask.nii.gz"
    words = ("refine", scan, "-s", tmp_path / "strokes.nii.gz", "-o", out, "--threads", "1")
    outcome = run(*words, "--classes", "background,box", "--no-network")
    assert outcome.code == 0, outcome.err
    about = made(out)
    assert about["software"]["napari-attention3d"] == __version__
    assert about["source"]["path"] == str(scan.resolve())
    assert about["corrections"]["strokes"] == 2
    assert about["corrections"]["settings"]["network"] is False
    refused = run("recipe", out)
    assert refused.code == 2
    assert "corrected by painting" in refused.err
