from __future__ import annotations

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from napari_attention3d.cli import demo
from napari_attention3d.volumes import Volume, read_volume, samples

NAMES = [
    "background",
    "CSF",
    "cortical grey matter",
    "cerebral white matter",
    "deep grey matter",
    "cerebellar grey matter",
    "cerebellar white matter",
    "brainstem",
]


def test_a_screen_is_known_by_the_environment():
    assert demo.has_screen({"DISPLAY": ":0"}, "linux")
    assert demo.has_screen({"WAYLAND_DISPLAY": "wayland-0"}, "linux")
    assert not demo.has_screen({"DISPLAY": ""}, "linux")
    assert demo.has_screen({}, "darwin")
    assert demo.has_screen({}, "win32")


def test_without_a_screen_or_a_virtual_one_it_says_what_to_install(run, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "has_screen", lambda: False)
    monkeypatch.setattr(demo.shutil, "which", lambda name: None)
    monkeypatch.setattr(demo.sys, "platform", "linux")
    monkeypatch.delenv(demo._ON_VIRTUAL_SCREEN, raising=False)
    outcome = run("demo", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "apt-get install xvfb xauth" in outcome.err


def test_without_a_screen_it_starts_itself_again_on_a_virtual_one(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(demo.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(demo.sys, "platform", "linux")
    monkeypatch.delenv(demo._ON_VIRTUAL_SCREEN, raising=False)
    monkeypatch.setattr(demo.os, "execvpe", lambda *words: started.append(words))
    demo._get_virtual_screen(["--out", str(tmp_path), "--json"])
    ((program, command, environment),) = started
    assert program == command[0] == "xvfb-run"
    assert command[-4:] == ["--headless", "--out", str(tmp_path), "--json"]
    assert environment[demo._ON_VIRTUAL_SCREEN]
    monkeypatch.setenv(demo._ON_VIRTUAL_SCREEN, "1")
    demo._get_virtual_screen([])  # now on it: goes on
    assert len(started) == 1


def test_without_the_scan_it_names_the_extra(run, monkeypatch):
    monkeypatch.setattr(samples, "find_spec", lambda name: None)
    outcome = run("demo", "--headless")
    assert outcome.code == 2
    assert "napari-attention3d[demo]" in outcome.err


def test_unwritable_folder_is_told_before_the_run(run, tmp_path):
    pytest.importorskip("nilearn")
    (tmp_path / "file").write_text("")
    outcome = run("demo", "--headless", "--out", tmp_path / "file" / "out")
    assert outcome.code == 2
    assert "can't make the folder" in outcome.err


def test_the_report_and_files_of_a_threshold_mask(tmp_path, capsys):
    """A mask made by thresholds alone gets a fair Dice; what is written can be read."""
    pytest.importorskip("nilearn")
    scan = read_volume(samples.mni152_t1_path(), lazy=False)
    brain = np.asarray(scan.array)
    labels = np.digitize(brain, [1, 100, 190]).astype(np.uint8)
    coarse = scan.geometry.strided((4, 4, 4), (50, 50, 50), (10, 10, 10))
    result = SimpleNamespace(
        labels=scan.replace(array=labels),
        attention={"gate-1": Volume(np.ones((4, 4, 4), np.float32), coarse, "gate-1")},
        card=SimpleNamespace(name="thresholds", version="1", sha256="", class_names=NAMES),
        device="cpu",
        seconds=1.25,
        warnings=[],
        provenance={"made by": "thresholds"},
    )
    report = demo.write_demo(tmp_path, result)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["seconds"] == 1.25
    assert report["device"] == "cpu"
    assert report["model"] == "thresholds 1"
    assert 0.3 < report["dice"]["grey_matter"] <= 1
    assert 0.3 < report["dice"]["white_matter"] <= 1
    assert sum(report["volumes_ml"].values()) == pytest.approx((labels > 0).sum() / 1000, rel=1e-3)
    mask = nib.load(tmp_path / "labels.nii.gz")
    assert np.allclose(mask.affine, nib.load(samples.mni152_t1_path()).affine)
    gate = nib.load(tmp_path / "attention" / "gate-1.nii.gz")
    assert np.allclose(gate.header.get_zooms(), 50)
    demo._print_summary(tmp_path, report)
    printed = capsys.readouterr().out
    assert f"Dice    grey matter {report['dice']['grey_matter']:.3f}" in printed
    assert "brainstem left out: 0.0 %" in printed
