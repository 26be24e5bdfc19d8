"""Scans on the workers of a dask cluster: the same masks; a failure or a death loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from napari_attention3d.batch import Outcome, Plan, plan_outputs, run_all, segment_file
from napari_attention3d.errors import InputError
from napari_attention3d.recipe import Measures, ModelReference, Recipe
from napari_attention3d.volumes import read_volume

distributed = pytest.importorskip("distributed")

from napari_attention3d.batch.cluster import run_on_cluster  # noqa: E402

TINY = Recipe(model=ModelReference(name="tiny"))


@pytest.fixture(autouse=True)
def _one_thread():
    """As the workers have, so that sums are added up in the same order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cluster():
    """Two workers in this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as made:
        yield made


@pytest.fixture
def forked(monkeypatch):
    """Workers that are processes are forked from one that has imported all: half the time."""
    import dask
    from distributed import utils

    monkeypatch.setattr(utils, "_forkserver_preload_set", True)  # else it sets its own
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["distributed", "napari_attention3d.batch.work"])
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(read_volume(path).array)


def folder_of_scans(tmp_path, tools, count: int) -> list[Path]:
    (tmp_path / "scans").mkdir()
    return [tools.write_scan(tmp_path / "scans" / f"{i}.nii.gz", i) for i in range(count)]


def test_workers_make_the_same_masks_and_a_failure_stops_nothing(
    tmp_path, models_folder, tools, cluster
):
    scans = folder_of_scans(tmp_path, tools, 3)
    model = TINY.load_model()
    here = tools.finish(run_all(plan_outputs(scans, tmp_path / "here"), model, TINY))
    scans[1].write_bytes(b"no scan at all")
    plans = plan_outputs(scans, tmp_path / "there")
    job = run_on_cluster(cluster.scheduler_address, plans, model, TINY)
    there = tools.finish(job)
    assert [one.status for one in there] == ["done", "failed", "done"]
    assert "1.nii.gz" in there[1].error
    for index in (0, 2):
        np.testing.assert_array_equal(
            labels_of(plans[index].labels), labels_of(here[index].plan.labels)
        )
        assert there[index].volumes == here[index].volumes
    again = tools.finish(run_on_cluster(cluster.scheduler_address, plans[:1], model, TINY))
    assert [one.status for one in again] == ["skipped"]


def test_a_large_scan_is_shared_and_its_mask_is_the_same(tmp_path, models_folder, tools, cluster):
    scan = tools.write_scan(tmp_path / "scan.ome.zarr", shape=(200, 12, 14))
    recipe = TINY.model_copy(update={"measure": Measures(), "uncertainty": True})
    model = recipe.load_model()
    whole = Plan(scan, tmp_path / "whole_labels.ome.zarr")
    alone = tools.finish(segment_file(whole, model, recipe))
    plan = Plan(scan, tmp_path / "parts_labels.ome.zarr")
    steps: list[str] = []
    job = run_on_cluster(cluster.scheduler_address, [plan], model, recipe, large=1000)
    (outcome,) = _told(job, steps)
    assert outcome.status == "done", outcome.error
    parts = outcome.provenance["parts"]
    assert 2 <= parts <= 4  # of 64 planes or a multiple, as the chunks are
    assert outcome.provenance["options"]["region"] is None
    assert any(f"of {parts} parts" in step for step in steps)
    np.testing.assert_array_equal(labels_of(plan.labels), labels_of(whole.labels))
    np.testing.assert_allclose(
        labels_of(plan.beside("uncertainty")), labels_of(whole.beside("uncertainty")), atol=1e-5
    )
    assert outcome.volumes == alone.volumes
    assert plan.beside("measures", ".csv").is_file()
    found = read_volume(plan.labels)
    assert [one["name"] for one in found.metadata["classes"]] == ["background", "one", "two"]
    assert found.geometry.is_close(read_volume(scan).geometry)


def test_a_part_that_fails_leaves_no_half_of_a_mask(
    tmp_path, models_folder, tools, cluster, monkeypatch
):
    from napari_attention3d.batch import work

    scan = tools.write_scan(tmp_path / "scan.ome.zarr", shape=(140, 12, 12))
    real = work.segment_job

    def broken(scan, model, options, **keywords):
        if options.region[0][0] == 64:
            raise MemoryError("none left")
        return real(scan, model, options, **keywords)

    monkeypatch.setattr(work, "segment_job", broken)
    plan = Plan(scan, tmp_path / "scan_labels.ome.zarr")
    job = run_on_cluster(cluster.scheduler_address, [plan], TINY.load_model(), TINY, large=1000)
    (outcome,) = tools.finish(job)
    assert outcome.status == "failed"
    assert "none left" in outcome.error
    assert [path.name for path in tmp_path.glob("*.zarr")] == ["scan.ome.zarr"]


class Mortal:
    """A future whose worker dies between two looks; its result is made again then."""

    def __init__(self, *states):
        self.states = list(states)

    @property
    def status(self):
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def done(self):
        return self.status in ("finished", "error", "cancelled")

    def result(self):
        return "the mask"

    def release(self):
        self.released = True


def test_a_result_that_died_with_its_worker_is_waited_for(monkeypatch):
    from napari_attention3d.batch import cluster

    monkeypatch.setattr(cluster, "_PAUSE", 0)
    made = cluster.Cluster.__new__(cluster.Cluster)
    made._futures = []
    first, second = Mortal("finished"), Mortal("finished", "lost", "pending", "finished")
    yielded = list(made.done([first, second]))
    assert [one for one in yielded if one is not None] == [first, second]
    assert yielded[1] is None  # the second was not taken for done
    late = Mortal("lost", "lost", "pending", "finished")
    made._futures.append(late)
    assert made.result(late) == "the mask"
    assert late.released  # nobody makes it again
    assert made._futures == []
    with pytest.raises(InputError, match="the cluster lost it"):
        made.result(Mortal("cancelled"))


def test_without_a_scheduler_it_says_what_to_start(tmp_path, models_folder, monkeypatch, tools):
    from napari_attention3d.batch import cluster

    monkeypatch.setattr(cluster, "_TIMEOUT", 0.5)
    with pytest.raises(InputError, match="dask scheduler"):
        tools.finish(run_on_cluster("tcp://127.0.0.1:9", [], TINY.load_model(), TINY))


def test_workers_of_another_version_are_refused(tmp_path, models_folder, tools):
    from napari_attention3d.batch.run import Machine
    from napari_attention3d.batch.work import segment_on_worker

    plan = Plan(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    found = segment_on_worker(plan, TINY, Machine(), stop="s", version="0.0.0")
    assert found.status == "failed"
    assert "install the same everywhere" in found.error


SLOW = """
import os
import time
from napari_attention3d.batch import work

if work._segment.__module__ == work.__name__:  # dask runs this file more than once
    real = work._segment

    def tell(what, machine):
        z0, z1 = machine.region[0]
        if z1 - z0 > 1:  # else the scan is only measured
            with open({log!r}, "a") as log:
                log.write(f"{{what}} {{os.getpid()}} {{z0}}\\n")

    def slow(plan, recipe, machine, *more):
        tell("begin", machine)
        time.sleep(0.4)  # so that a worker can be caught with a part in its hands
        found = real(plan, recipe, machine, *more)
        tell("end", machine)
        return found

    work._segment = slow
"""


def begun_and_ended(log: Path) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Process and first plane of the parts that were begun, and that were ended."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    begun, ended = (
        [(int(pid), int(z)) for word, pid, z in lines if word == wanted]
        for wanted in ("begin", "end")
    )
    return begun, ended


def test_a_worker_killed_over_a_part_of_a_large_scan_loses_nothing(
    tmp_path, models_folder, tools, forked
):
    """Two processes share an OME-Zarr; one dies after its first part, with another one begun."""
    scan = tools.write_scan(tmp_path / "scan.ome.zarr", shape=(250, 8, 8))
    model = TINY.load_model()
    whole = Plan(scan, tmp_path / "whole_labels.ome.zarr")
    alone = tools.finish(segment_file(whole, model, TINY))
    log = tmp_path / "log.txt"
    (tmp_path / "slow.py").write_text(SLOW.format(log=str(log)))
    plan = Plan(scan, tmp_path / "parts_labels.ome.zarr")
    killed = None
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        preload=str(tmp_path / "slow.py"),
    ) as cluster:
        assert len({one.process.pid for one in cluster.workers.values()}) == 2
        job = run_on_cluster(cluster.scheduler_address, [plan], model, TINY, large=1000)
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                (outcome,) = end.value
                break
            begun, ended = begun_and_ended(log)
            if killed is None and step.total > 1 and step.done >= len(ended):  # results are here
                held = [one for one in begun if one not in ended]
                victims = [one for one in held if one[0] in [pid for pid, _ in ended]]
                if victims:
                    killed = victims[0]
                    os.kill(killed[0], signal.SIGKILL)
    assert killed is not None  # with a part in its hands, and another one's result
    assert outcome.status == "done", outcome.error
    assert outcome.provenance["parts"] == 4
    begun, _ = begun_and_ended(log)
    again = [z for _, z in begun]
    again = sorted(z for z in again if again.count(z) > 1)
    assert again == [killed[1]] * 2  # what was held is done anew, what was done is not
    np.testing.assert_array_equal(labels_of(plan.labels), labels_of(whole.labels))
    assert outcome.volumes == alone.volumes


@pytest.mark.long
def test_a_worker_that_is_killed_loses_nothing(tmp_path, models_folder, tools):
    scans = folder_of_scans(tmp_path, tools, 6)
    model = TINY.load_model()
    here = tools.finish(run_all(plan_outputs(scans, tmp_path / "here"), model, TINY))
    plans = plan_outputs(scans, tmp_path / "there")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        pids = [worker.process.pid for worker in cluster.workers.values()]
        assert len(set(pids)) == 2
        job = run_on_cluster(cluster.scheduler_address, plans, model, TINY)
        there: list[Outcome] = []
        killed = False
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                there = end.value
                break
            if isinstance(step.partial, Outcome) and not killed:
                os.kill(pids[0], signal.SIGKILL)
                killed = True
    assert killed
    assert [one.status for one in there] == ["done"] * 6
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(labels_of(one.plan.labels), labels_of(other.plan.labels))


def _told(job, steps: list[str]):
    while True:
        try:
            steps.append(next(job).message)
        except StopIteration as end:
            return end.value
