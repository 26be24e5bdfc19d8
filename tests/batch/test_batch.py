"""Many scans: found, planned, segmented one by one; summed up; made again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_attention3d.batch import (
    Outcome,
    Plan,
    find_scans,
    plan_outputs,
    run_all,
    segment_file,
    summary,
)
from napari_attention3d.batch.again import machine_of, plan_again, run_again
from napari_attention3d.errors import InputError
from napari_attention3d.recipe import Measures, ModelReference, Recipe
from napari_attention3d.volumes import read_volume, write_volume

TINY = Recipe(model=ModelReference(name="tiny"))


# ---- which scans


@pytest.fixture
def folder(tmp_path, tools) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("b.nii.gz", "a.nii.gz", "c.ome.zarr", "sub/d.nii.gz"):
        (folder / name).parent.mkdir(exist_ok=True)
        tools.write_scan(folder / name)
    for name in ("a_labels.nii.gz", "a_attention_gate.nii.gz", "a_uncertainty.nii.gz"):
        shutil.copy(folder / "a.nii.gz", folder / name)
    (folder / "notes.txt").write_text("no scan")
    (folder / ".hidden.nii.gz").write_bytes(b"")
    return folder


def test_folders_and_patterns_stand_for_their_scans(folder):
    names = [path.name for path in find_scans([folder])]
    assert names == ["a.nii.gz", "b.nii.gz", "c.ome.zarr"]
    assert [p.name for p in find_scans([f"{folder}/[ab].nii*"])] == ["a.nii.gz", "b.nii.gz"]
    deep = [p.name for p in find_scans([f"{folder}/**/*.nii.gz"])]
    assert deep == ["a.nii.gz", "b.nii.gz", "d.nii.gz"]
    named = folder / "a_labels.nii.gz"
    assert find_scans([named, folder / "b.nii.gz", named]) == [named, folder / "b.nii.gz"]
    assert find_scans([folder / "c.ome.zarr"]) == [folder / "c.ome.zarr"]


def test_folders_and_patterns_without_scans_are_told(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no scan"):
        find_scans([tmp_path / "empty"])
    with pytest.raises(InputError, match="holds no scan"):
        find_scans([f"{folder}/*.png"])


def test_where_masks_go(folder, tmp_path):
    (plan,) = plan_outputs([folder / "a.nii.gz"], tmp_path / "out", suffix=".tif")
    assert plan.labels == tmp_path / "out" / "a_labels.tif"
    series = tmp_path / "CT 1.2.840"
    series.mkdir()
    (plan,) = plan_outputs([series], tmp_path / "out")
    assert plan.labels == tmp_path / "out" / "CT 1.2.840_labels.nii.gz"
    nrrd = folder / "x.nrrd"
    nrrd.write_bytes(b"")
    (plan,) = plan_outputs([nrrd], None)
    assert plan.labels == folder / "x_labels.nrrd"


# ---- one after the other


def test_a_failure_stops_nothing_and_what_is_done_is_skipped(tmp_path, models_folder, tools):
    scans = [tools.write_scan(tmp_path / f"{i}.nii.gz", i) for i in range(3)]
    scans[1].write_bytes(b"no scan at all")
    plans = plan_outputs(scans, tmp_path / "out")
    model = TINY.load_model()
    outcomes = tools.finish(run_all(plans, model, TINY))
    assert [one.status for one in outcomes] == ["done", "failed", "done"]
    assert "1.nii.gz" in outcomes[1].error
    tools.write_scan(scans[1], 1)
    stamp = plans[0].labels.stat().st_mtime_ns
    again = tools.finish(run_all(plans, model, TINY))
    assert [one.status for one in again] == ["skipped", "done", "skipped"]
    assert again[0].volumes == outcomes[0].volumes
    assert again[0].seconds == pytest.approx(outcomes[0].seconds, abs=1e-3)
    voxels = np.bincount(read_volume(plans[0].labels).array.ravel(), minlength=3)
    assert again[0].volumes == {
        "one (mL)": pytest.approx(voxels[1] * 2 / 1000),
        "two (mL)": pytest.approx(voxels[2] * 2 / 1000),
    }
    assert plans[0].labels.stat().st_mtime_ns == stamp
    replaced = tools.finish(run_all(plans[:1], model, TINY, overwrite=True))
    assert replaced[0].status == "done"
    assert plans[0].labels.stat().st_mtime_ns > stamp


def test_errors_of_any_kind_stop_nothing(tmp_path, models_folder, tools, monkeypatch):
    from napari_attention3d.batch import run

    scans = [tools.write_scan(tmp_path / f"{i}.nii.gz", i) for i in range(2)]
    real = run.segment_job

    def broken(scan, *args, **kwargs):
        if scan.name == "0":
            raise RuntimeError("broken on purpose")
        return (yield from real(scan, *args, **kwargs))

    monkeypatch.setattr(run, "segment_job", broken)
    outcomes = tools.finish(run_all(plan_outputs(scans, None), TINY.load_model(), TINY))
    assert [one.status for one in outcomes] == ["failed", "done"]
    assert outcomes[0].error == "unexpected RuntimeError: broken on purpose"


def test_closing_the_job_cancels_and_leaves_nothing_half_done(tmp_path, models_folder, tools):
    scans = [tools.write_scan(tmp_path / f"{i}.nii.gz", i) for i in range(3)]
    plans = plan_outputs(scans, tmp_path / "out")
    job = run_all(plans, TINY.load_model(), TINY)
    over = 0
    for step in job:
        assert 0 <= step.fraction <= 1
        over += isinstance(step.partial, Outcome)
        if over == 1 and step.partial is None:
            break
    job.close()
    assert os.listdir(tmp_path / "out") == ["0_labels.nii.gz"]


def test_a_mask_that_is_there_but_not_sound_is_told(tmp_path, models_folder, tools):
    plans = plan_outputs([tools.write_scan(tmp_path / "0.nii.gz")], None)
    plans[0].labels.write_bytes(b"half a mask")
    (outcome,) = tools.finish(run_all(plans, TINY.load_model(), TINY))
    assert outcome.status == "skipped"
    assert "not sound" in outcome.warnings[0]


def test_a_mask_that_was_made_otherwise_is_kept_but_told(tmp_path, models_folder, tools):
    from napari_attention3d.analysis.cleanup import rules_from

    plans = plan_outputs([tools.write_scan(tmp_path / "0.nii.gz")], None)
    tools.finish(run_all(plans, TINY.load_model(), TINY))
    (same,) = tools.finish(run_all(plans, TINY.load_model(), TINY))
    assert same.status == "skipped"
    assert not any("the mask there" in one for one in same.warnings)
    cleaned = TINY.model_copy(update={"clean_up": rules_from([{"rule": "fill_holes"}])})
    (other,) = tools.finish(run_all(plans, TINY.load_model(), cleaned))
    assert other.status == "skipped"
    assert "made by another recipe (clean-up)" in other.warnings[0]
    tools.save_tiny(models_folder, seed=1)
    (other,) = tools.finish(run_all(plans, TINY.load_model(), TINY))
    assert other.status == "skipped"
    assert "made with other weights of tiny" in other.warnings[0]
    mask = read_volume(plans[0].labels, lazy=False)
    write_volume(plans[0].labels, mask.replace(metadata={"kind": "labels"}))
    (other,) = tools.finish(run_all(plans, TINY.load_model(), TINY))
    assert "does not say that a model made it" in other.warnings[0]


def test_what_is_missing_or_no_scan_fails_alone(tmp_path, models_folder, tools):
    scan = tools.write_scan(tmp_path / "0.nii.gz")
    (tmp_path / "empty").mkdir()
    sources = [tmp_path / "empty", scan, tmp_path / "none" / "gone.nii.gz", f"{tmp_path}/*.mha"]
    plans = plan_outputs(find_scans(sources), tmp_path / "out")
    outcomes = tools.finish(run_all(plans, TINY.load_model(), TINY))
    assert [one.status for one in outcomes] == ["failed", "done", "failed", "failed"]
    assert "holds no scan" in outcomes[0].error
    assert "does not exist" in outcomes[2].error
    assert os.listdir(tmp_path / "out") == ["0_labels.nii.gz"]
    assert [one.status for one in outcomes if one.plan.image == scan] == ["done"]
    beside = plan_outputs(find_scans(sources), None)  # a missing folder stops no other
    assert [bool(one.problem) for one in beside] == [True, False, True, True]
    with pytest.raises(InputError, match="holds no scan"):
        plan_outputs(find_scans(sources[:1] + sources[2:]), None)


def test_numbered_objects_are_counted_and_added_up(tools):
    from napari_attention3d.batch.outcome import count_volumes
    from napari_attention3d.volumes import Volume

    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0, :2], array[3, 3, 3] = 7, 9
    volume = Volume.from_array(array, spacing=(2.0, 1.0, 1.0), unit="um")
    assert tools.finish(count_volumes(volume)) == {"objects": 2, "all objects (um3)": 6.0}


def test_the_summary_has_a_row_per_scan(tmp_path):
    plans = [Plan(tmp_path / f"{i}.nii.gz", tmp_path / f"{i}_labels.nii.gz") for i in range(3)]
    table = summary(
        [
            Outcome(plans[0], "done", 1.25, "cpu", ("empty", "dark"), volumes={"one (mL)": 2.5}),
            Outcome(plans[1], "failed", error="damaged"),
            Outcome(plans[2], "skipped"),
        ]
    )
    assert table.column("status") == ["done", "failed", "skipped"]
    assert table.column("time (s)") == [1.25, None, None]
    assert table.column("one (mL)") == [2.5, None, None]
    assert table.column("warnings") == ["empty; dark", "damaged", None]
    table.write(tmp_path / "summary.csv")


# ---- again


@pytest.fixture
def made(tmp_path, models_folder, tools):
    """A clean, measured mask of a region's scan."""
    from napari_attention3d.analysis.cleanup import rules_from

    scan = tools.write_scan(tmp_path / "scan.nii.gz")
    recipe = TINY.model_copy(
        update={
            "clean_up": rules_from([{"rule": "minimum_size", "size": 8}]),
            "measure": Measures(),
        }
    )
    plan = Plan(scan, tmp_path / "scan_labels.nii.gz")
    tools.finish(segment_file(plan, recipe.load_model(), recipe))
    return plan


def test_the_run_that_made_a_file_gives_it_again(made, tmp_path, tools):
    again = plan_again(made.labels)
    assert again.scan == made.image.resolve()
    target = tmp_path / "again.nii.gz"
    found = tools.finish(run_again(again, again.recipe.load_model(), target, machine_of(again)))
    assert found.changed == 0
    np.testing.assert_array_equal(
        read_volume(target, lazy=False).array, read_volume(made.labels, lazy=False).array
    )
    assert (tmp_path / "again_measures.csv").read_text() == (
        tmp_path / "scan_measures.csv"
    ).read_text()


def test_what_was_painted_since_is_counted(made, tmp_path, tools):
    mask = read_volume(made.labels, lazy=False)
    array = np.array(mask.array)
    array[:2] = (array[:2] + 1) % 3
    write_volume(made.labels, mask.replace(array=array))
    again = plan_again(made.labels)
    target = tmp_path / "again.nii.gz"
    found = tools.finish(run_again(again, again.recipe.load_model(), target, machine_of(again)))
    assert found.changed == 2 * 14 * 16


def test_a_scan_that_was_moved_is_found_beside_the_file_or_named(made, tmp_path):
    new = tmp_path / "elsewhere"
    new.mkdir()
    shutil.move(made.labels, new / "mask.nii.gz")
    shutil.move(made.image, new / "scan.nii.gz")
    assert plan_again(new / "mask.nii.gz").scan == new / "scan.nii.gz"
    shutil.move(new / "scan.nii.gz", new / "other.nii.gz")
    with pytest.raises(InputError, match="--scan"):
        plan_again(new / "mask.nii.gz")
    assert plan_again(new / "mask.nii.gz", new / "other.nii.gz").scan.name == "other.nii.gz"


def test_files_that_do_not_say_how_they_were_made_are_told(tmp_path, tools):
    scan = tools.write_scan(tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="does not say how it was made"):
        plan_again(scan)


def test_a_region_is_made_again_as_a_region(tmp_path, models_folder, tools):
    from napari_attention3d.batch import Machine

    scan = tools.write_scan(tmp_path / "scan.nii.gz")
    plan = Plan(scan, tmp_path / "part.nii.gz")
    region = ((2, 10), (0, 14), (3, 16))
    tools.finish(segment_file(plan, TINY.load_model(), TINY, Machine(region=region)))
    again = plan_again(plan.labels)
    assert again.region == region
    target = tmp_path / "again.nii.gz"
    found = tools.finish(run_again(again, TINY.load_model(), target, machine_of(again)))
    assert found.changed == 0


def test_what_is_made_again_does_not_depend_on_the_memory_at_hand(
    models_folder, tmp_path, monkeypatch, tools
):
    """The scan was measured over several tiles; one is all that fits now."""
    from napari_attention3d.inference import memory, plans, runner

    monkeypatch.setattr(memory, "WHOLE_GRID_VOXELS", 1)
    over = []
    measure = runner.Runner.measure
    monkeypatch.setattr(
        runner.Runner,
        "measure",
        lambda self, batch, tile=None: (over.append(len(batch)), measure(self, batch, tile))[1],
    )
    monkeypatch.setattr(runner, "fits_whole", lambda voxels, *about: voxels <= 8 * 16**3)
    image = tools.write_scan(tmp_path / "scan.nii.gz", shape=(24, 40, 48))
    recipe = Recipe(model=ModelReference(name="tiny"), precision="exact")
    model = recipe.load_model()
    target = tmp_path / "mask.nii.gz"
    tools.finish(segment_file(Plan(image, target), model, recipe))
    assert over == [8]
    monkeypatch.setattr(runner, "fits_whole", lambda voxels, *about: voxels <= 16**3)
    for module in (memory, plans):
        monkeypatch.setattr(module, "available_bytes", lambda device: 400_000_000)
    again = plan_again(target)
    new = tmp_path / "again.nii.gz"
    repeated = tools.finish(run_again(again, model, new, machine_of(again)))
    assert repeated.changed == 0
    assert over == [8]  # nothing is measured anew
    first, second = (read_volume(p).metadata["provenance"] for p in (target, new))
    assert first["calibration"] == second["calibration"]
