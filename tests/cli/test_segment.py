from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_attention3d.batch import Plan, plan_outputs
from napari_attention3d.cli.segment import parse_region
from napari_attention3d.errors import InputError, OutputError
from napari_attention3d.volumes import read_volume


def test_the_mask_lies_beside_the_scan_on_its_grid(run, scan, tiny_model):
    outcome = run("segment", scan, "--model", tiny_model)
    assert outcome.code == 0
    assert outcome.out == ""
    mask, image = nib.load(scan.with_name("scan_labels.nii.gz")), nib.load(scan)
    assert mask.shape == image.shape
    assert np.allclose(mask.affine, image.affine)
    assert mask.get_data_dtype() == np.uint8
    assert sorted(p.name for p in scan.parent.iterdir()) == ["scan.nii.gz", "scan_labels.nii.gz"]


def test_everything_at_once_into_a_folder(run, scan, tiny_model, tmp_path):
    out = tmp_path / "results"
    flags = ("--attention", "--probabilities", "--uncertainty", "--overlap", "0.5")
    outcome = run("segment", scan, "-m", tiny_model, "-o", out, *flags, "--json")
    assert outcome.code == 0
    report = outcome.json
    assert report["status"] == "done"
    assert report["device"] == "cpu"
    assert report["provenance"]["model"]["name"] == "tiny"
    assert "calibration" not in report["provenance"]
    files = {Path(report["labels"]), Path(report["probabilities"]), Path(report["uncertainty"])}
    files |= {Path(path) for path in report["attention"].values()}
    assert report["attention"]
    assert files == set(out.iterdir())
    probabilities = read_volume(report["probabilities"], lazy=False)
    labels = np.asarray(read_volume(report["labels"]).array)
    assert probabilities.array.shape == (3, *labels.shape)
    np.testing.assert_allclose(probabilities.array.sum(0), 1, atol=2e-3)
    top = np.sort(probabilities.array, axis=0)
    clear = top[-1] - top[-2] > 0.01
    assert (probabilities.array.argmax(0) == labels)[clear].all()


def test_tiff_in_tiff_out(run, tmp_path, tiny_model, scan_maker):
    scan = scan_maker(tmp_path / "stack.tif", dtype=np.uint16)
    out = tmp_path / "out"
    assert run("segment", scan, "-m", tiny_model, "-o", out).code == 0
    mask, image = read_volume(out / "stack_labels.tif"), read_volume(scan)
    assert mask.geometry.is_close(image.geometry)
    assert mask.dtype.kind == "u"


def test_a_region_covers_itself_alone(run, scan, tiny_model, tmp_path):
    target = tmp_path / "part.nii.gz"
    outcome = run("segment", scan, "-m", tiny_model, "-o", target, "--region", "2:10,0:14,3:16")
    assert outcome.code == 0
    part, whole = read_volume(target), read_volume(scan)
    assert part.geometry.is_close(whole.geometry.cropped((2, 0, 3), (8, 14, 13)))


def test_a_mask_that_is_there_is_kept_unless_told(run, scan, tiny_model):
    target = scan.with_name("scan_labels.nii.gz")
    target.write_bytes(b"precious")
    outcome = run("segment", scan, "-m", tiny_model)
    assert outcome.code == 2
    assert "--overwrite" in outcome.err
    assert target.read_bytes() == b"precious"
    assert run("segment", scan, "-m", tiny_model, "--overwrite").code == 0
    assert nib.load(target).shape == nib.load(scan).shape


def test_a_batch_goes_on_after_a_failure_and_skips_what_is_done(
    run, tmp_path, tiny_model, scan_maker
):
    good = scan_maker(tmp_path / "good.nii.gz")
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan at all")
    other = scan_maker(tmp_path / "other.nii.gz", seed=1)
    out = tmp_path / "out"
    outcome = run("segment", good, bad, other, "-m", tiny_model, "-o", out, "--json")
    assert outcome.code == 1
    assert [row["status"] for row in outcome.json] == ["done", "failed", "done"]
    assert "bad.nii.gz" in outcome.json[1]["error"]
    assert sorted(p.name for p in out.iterdir()) == ["good_labels.nii.gz", "other_labels.nii.gz"]
    again = run("segment", good, other, "-m", tiny_model, "-o", out, "--json")
    assert again.code == 0
    assert [row["status"] for row in again.json] == ["skipped", "skipped"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--device", "abacus"), "abacus"),
        (("--precision", "rough"), "precision"),
        (("--overlap", "2"), "overlap"),
        (("--region", "1:2"), "--region"),
        (("--model", "nothing"), "nothing"),
        (("-o", "mask.png"), "mask.png"),
    ],
)
def test_wrong_options_are_told_before_anything_is_written(run, scan, tiny_model, words, says):
    model = () if "--model" in words else ("--model", tiny_model)
    outcome = run("segment", scan, *model, *words)
    assert outcome.code == 2
    assert says in outcome.err
    assert outcome.err.startswith("error: ")
    assert [p.name for p in scan.parent.iterdir()] == ["scan.nii.gz"]


def test_a_scan_the_model_cannot_take_is_bad_input(run, tmp_path, tiny_model, scan_maker):
    two = scan_maker(tmp_path / "two.tif", shape=(2, 6, 8, 8), dtype=np.uint16)
    outcome = run("segment", two, "-m", tiny_model)
    assert outcome.code == 2
    assert "channel" in outcome.err
    assert run("segment", two, "-m", tiny_model, "--channel", "1").code == 0
    constant = scan_maker(tmp_path / "constant.nii.gz")
    image = nib.load(constant)
    nib.save(nib.Nifti1Image(np.full(image.shape, 7, np.int16), image.affine), constant)
    outcome = run("segment", constant, "-m", tiny_model)
    assert outcome.code == 2
    assert not (tmp_path / "constant_labels.nii.gz").exists()


def test_where_results_go(tmp_path, scan_maker):
    one, two = scan_maker(tmp_path / "a.nii.gz"), scan_maker(tmp_path / "b.tif", dtype=np.uint8)
    assert plan_outputs([one], None) == [Plan(one, tmp_path / "a_labels.nii.gz")]
    out = tmp_path / "new"
    assert [p.labels for p in plan_outputs([one, two], out)] == [
        out / "a_labels.nii.gz",
        out / "b_labels.tif",
    ]
    (plan,) = plan_outputs([one], tmp_path / "mask.nii.gz")
    assert plan.labels == tmp_path / "mask.nii.gz"
    assert plan.beside("uncertainty") == tmp_path / "mask_uncertainty.nii.gz"
    assert Plan(one, tmp_path / "a_labels.nii.gz").beside("x") == tmp_path / "a_x.nii.gz"


def test_plans_that_cannot_work_are_refused(tmp_path, scan_maker):
    one = scan_maker(tmp_path / "a.nii.gz")
    (tmp_path / "sub").mkdir()
    same = scan_maker(tmp_path / "sub" / "a.nii.gz")
    twin = scan_maker(tmp_path / "a.nii")
    with pytest.raises(InputError, match="would both write"):
        plan_outputs([one, twin], tmp_path / "out")
    plans = plan_outputs([one, same], tmp_path / "out")  # into folders like theirs
    assert [plan.labels.parent for plan in plans] == [tmp_path / "out", tmp_path / "out" / "sub"]
    with pytest.raises(InputError, match="give a folder"):
        plan_outputs([one, same], tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match="must not replace"):
        plan_outputs([one], one)
    with pytest.raises(InputError, match="does not exist"):
        plan_outputs([tmp_path / "absent.nii.gz"], None)
    with pytest.raises(OutputError, match="does not exist"):
        plan_outputs([one], tmp_path / "absent" / "mask.nii.gz")


def test_region():
    assert parse_region("") is None
    assert parse_region("1:2,3:40,0:6") == ((1, 2), (3, 40), (0, 6))
    for wrong in ("1:2,3:4", "1:2,3:4,6:5", "a:b,1:2,1:2", "-1:2,1:2,1:2"):
        with pytest.raises(InputError, match="--region"):
            parse_region(wrong)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_cancels_and_leaves_nothing(tmp_path, tiny_model, scan_maker):
    scan = scan_maker(tmp_path / "scan.nii.gz", shape=(120, 160, 160))
    # As in a terminal: a shell's background jobs, which a test run may be, ignore SIGINT.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from napari_attention3d.cli import main; main()"
    )
    words = ["segment", str(scan), "-m", str(tiny_model), "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert "scan.nii.gz" in process.stderr.readline()  # it is at work
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "cancelled"
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]
