"""What the workers of a cluster do. One scan at a time in each process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import dask
import torch

from .. import __version__
from ..errors import InputError, JobCancelled
from ..models.store import Model
from ..progress import Job
from ..recipe import Recipe
from ..session import Segmentation, segment_job
from ..volumes import read_volume
from .outcome import Outcome
from .plan import Plan
from .run import Machine, complete, segment_file, told

__all__ = ["PartDone", "measure_on_worker", "part_on_worker", "segment_on_worker"]

_ALONE = threading.Lock()
_BETWEEN_LOOKS = 2.0  # s
_T = TypeVar("_T")


@dataclass(frozen=True)
class PartDone:
    """What a part of a large scan came to.

    Parameters
    ----------
    empty
        Whether no voxel of it was given a class.
    """

    seconds: float
    device: str
    warnings: tuple[str, ...]
    empty: bool
    provenance: dict[str, Any]


def segment_on_worker(
    plan: Plan, recipe: Recipe, machine: Machine, *, stop: str, version: str
) -> Outcome:
    """Segment a file; an error is an outcome, too."""
    try:
        _check(version)
        with _alone():
            return _driven(segment_file(plan, _model(recipe), recipe, machine), stop)
    except Exception as error:  # told to the person; the worker lives on
        return Outcome(plan, "failed", error=told(error))


def measure_on_worker(
    plan: Plan, recipe: Recipe, machine: Machine, *, stop: str, version: str
) -> dict[str, Any]:
    """Measure the scan's statistics by segmenting a single plane; returns its provenance."""
    _check(version)
    with _alone():
        return _segment(plan, recipe, machine, None, stop).provenance


def part_on_worker(
    plan: Plan,
    recipe: Recipe,
    machine: Machine,
    arrays: Mapping[str, str],
    offset: int,
    calibration: Mapping[str, Any] | None,
    *,
    stop: str,
    version: str,
) -> PartDone:
    """Segment ``machine.region`` and write the results into the shared arrays.

    Parameters
    ----------
    arrays
        Folders of zarr arrays, by name of the result.
    offset
        First plane of these arrays in the scan.
    """
    import zarr

    _check(version)
    assert machine.region is not None
    z0, z1 = machine.region[0]
    with _alone():
        result = _segment(plan, recipe, machine, calibration, stop)
        for name, folder in arrays.items():
            target = zarr.open_array(folder, mode="r+")
            target[..., z0 - offset : z1 - offset, :, :] = getattr(result, name).array
    return PartDone(
        result.seconds,
        result.device,
        tuple(result.warnings),
        not bool(result.labels.array.any()),
        result.provenance,
    )


def _segment(
    plan: Plan,
    recipe: Recipe,
    machine: Machine,
    calibration: Mapping[str, Any] | None,
    stop: str,
) -> Segmentation:
    scan = read_volume(plan.image, time=recipe.time)
    options = machine.options(recipe)
    job = segment_job(scan, _model(recipe), options, calibration=calibration)
    result = _driven(job, stop)
    complete(result, scan, recipe)
    return result


def _check(version: str) -> None:
    if version != __version__:
        raise InputError(
            f"this worker has napari-attention3d {__version__}, the one who asks {version}; "
            "install the same everywhere"
        )


@contextmanager
def _alone() -> Iterator[None]:
    """One scan at a time, its lazy array read in this process.

    As tasks of their own its chunks would wait for a worker, and the workers for them.
    """
    with _ALONE, dask.config.set(scheduler="threads"):
        yield


@lru_cache(maxsize=1)
def _model(recipe: Recipe) -> Model:
    return recipe.load_model()


def _driven(job: Job[_T], stop: str) -> _T:
    """Drive a job to its end with the worker's threads, unless the run was cancelled."""
    from distributed import Event, get_worker

    torch.set_num_threads(max(1, int(get_worker().state.nthreads)))
    cancelled = Event(stop)
    last = time.monotonic()
    try:
        while True:
            next(job)
            if time.monotonic() - last > _BETWEEN_LOOKS:
                if cancelled.is_set():
                    raise JobCancelled("cancelled")
                last = time.monotonic()
    except StopIteration as end:
        result: _T = end.value
        return result
    finally:
        job.close()
