"""Segment, clean, measure and write one scan or many, by a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..analysis.cleanup import clean_up
from ..analysis.measure import measure
from ..analysis.table import Table
from ..errors import Attention3DError, InputError, JobCancelled
from ..inference.preprocess import crop_region
from ..inference.store import ZarrStore
from ..models.store import Model
from ..networks.norm import Calibration
from ..progress import Job, Progress
from ..provenance import fingerprint
from ..recipe import Measures, Recipe, recipe_of
from ..session import Segmentation, SegmentOptions, segment_job
from ..volumes import Volume, read_volume, write_volume
from .outcome import Outcome, count_volumes
from .plan import Plan, is_zarr

__all__ = [
    "Applied",
    "Machine",
    "apply_recipe",
    "complete",
    "measured",
    "run_all",
    "segment_file",
    "skipped",
    "told",
    "write_table",
]


@dataclass(frozen=True)
class Machine:
    """What is of the machine and the moment, and not of the recipe.

    Parameters
    ----------
    device, memory, region
        See `session.SegmentOptions`.
    calibration
        Statistics of the very same scan by an earlier run: see `segment_job`.
    """

    device: str = "auto"
    memory: int | None = None
    region: tuple[tuple[int, int], ...] | None = None
    calibration: Calibration | None = None

    def options(self, recipe: Recipe) -> SegmentOptions:
        """Options of a run of the recipe here."""
        return recipe.options(device=self.device, memory=self.memory, region=self.region)


@dataclass(frozen=True, eq=False)
class Applied:
    """A recipe applied to a scan, in memory.

    Parameters
    ----------
    result
        As the network left it.
    labels
        After the clean-up.
    table
        Of measures, if the recipe has any.
    """

    result: Segmentation
    labels: Volume
    table: Table | None


def apply_recipe(
    scan: Volume, model: Model, recipe: Recipe, machine: Machine | None = None
) -> Job[Applied]:
    """Job: segment a scan, clean its mask and measure it; nothing is written."""
    machine = machine or Machine()
    result = yield from segment_job(
        scan, model, machine.options(recipe), calibration=machine.calibration
    )
    complete(result, scan, recipe)
    labels = result.labels
    if recipe.clean_up:
        labels = yield from clean_up(labels, recipe.clean_up)
    table = None
    if recipe.measure is not None:
        table = yield from measured(labels, scan, result.attention, recipe)
    return Applied(result, labels, table)


def complete(result: Segmentation, scan: Volume, recipe: Recipe) -> None:
    """Say in the result what only the caller knows: the file in full, time, measures."""
    source = result.provenance["source"]
    if scan.source is not None:
        source["path"] = str(scan.source.resolve())
    if recipe.time is not None:
        source["time"] = recipe.time
    if result.warnings:
        result.provenance["warnings"] = list(result.warnings)
    if recipe.measure is not None:
        result.provenance["measured"] = recipe.measure.model_dump(mode="json")


def measured(
    labels: Volume, scan: Volume, attention: Mapping[str, Volume], recipe: Recipe
) -> Job[Table]:
    """Job: the recipe's measures of a mask."""
    wanted = recipe.measure or Measures()
    image = scan if recipe.channel is None else scan.channel(recipe.channel)
    return (
        yield from measure(
            labels,
            images={"scan": image} if wanted.image else {},
            attention=attention if wanted.attention else {},
            components=wanted.components,
            connectivity=wanted.connectivity,
            percentiles=wanted.percentiles,
        )
    )


# ---- files


def segment_file(
    plan: Plan, model: Model, recipe: Recipe, machine: Machine | None = None
) -> Job[Outcome]:
    """Job: the same for a file, with its results written; the mask comes last.

    So a mask on disk means that all its scan's results are there.
    """
    yield Progress(0, 0, f"Reading {plan.image.name}")
    scan = read_volume(plan.image, time=recipe.time)
    streams = plan.is_zarr and not recipe.clean_up
    machine = machine or Machine()
    if streams:
        result, written, volumes = yield from _to_zarr(plan, scan, model, recipe, machine)
    else:
        applied = yield from apply_recipe(scan, model, recipe, machine)
        result = applied.result
        volumes = yield from count_volumes(applied.labels)
        yield Progress(0, 0, f"Writing {plan.labels.name}")
        written = _write(plan, applied, recipe)
    return Outcome(
        plan,
        "done",
        result.seconds,
        result.device,
        tuple(result.warnings),
        tuple(scan.notes),
        volumes=volumes,
        written=written,
        provenance={k: v for k, v in result.provenance.items() if k != "calibration"},
    )


def _write(plan: Plan, applied: Applied, recipe: Recipe) -> dict[str, Any]:
    result = applied.result
    written = _write_maps(plan, result, recipe)
    for name in ("probabilities", "uncertainty"):
        volume = getattr(result, name)
        if volume is not None:
            written[name] = _write_one(plan.beside(name), volume, recipe)
    written |= write_table(plan, applied.table, recipe)
    written["labels"] = _write_one(plan.labels, applied.labels, recipe)
    return written


def _write_one(path: Path, volume: Volume, recipe: Recipe) -> str:
    version = recipe.zarr_version if is_zarr(path) else None
    return str(write_volume(path, volume, zarr_version=version))


def _write_maps(plan: Plan, result: Segmentation, recipe: Recipe) -> dict[str, Any]:
    maps = {
        name: _write_one(plan.beside(f"attention_{name}"), volume, recipe)
        for name, volume in result.attention.items()
    }
    return {"attention": maps} if maps else {}


def write_table(plan: Plan, table: Table | None, recipe: Recipe) -> dict[str, Any]:
    """Write the measures beside the mask, if there are any; returns their path by "measures"."""
    if table is None or recipe.measure is None:
        return {}
    return {"measures": str(table.write(plan.beside("measures", recipe.measure.table)))}


def _to_zarr(
    plan: Plan, scan: Volume, model: Model, recipe: Recipe, machine: Machine
) -> Job[tuple[Segmentation, dict[str, Any], dict[str, float]]]:
    """Write to OME-Zarr as results become final, in memory that does not grow with them."""
    options = machine.options(recipe)
    paths = {"labels": plan.labels}
    paths |= {n: plan.beside(n) for n in ("probabilities", "uncertainty") if getattr(recipe, n)}
    _, geometry = crop_region(scan.geometry, options.region)
    classes, version = model.card.class_names, recipe.zarr_version
    with ZarrStore(paths, geometry, scan.name, classes, version) as store:
        result = yield from segment_job(
            scan, model, options, calibration=machine.calibration, allocate=store.allocate
        )
        complete(result, scan, recipe)
        store.flush()
        result.provenance["fingerprint"] = fingerprint(getattr(result.labels.array, "array"))  # noqa: B009
        for name in paths:
            store.describe(name, getattr(result, name).metadata)
        written = _write_maps(plan, result, recipe)
        stored = result.labels.replace(array=getattr(result.labels.array, "array"))  # noqa: B009
        volumes = yield from count_volumes(stored)
        if recipe.measure is not None:
            table = yield from measured(stored, scan, result.attention, recipe)
            written |= write_table(plan, table, recipe)
    return result, written | {name: str(path) for name, path in paths.items()}, volumes


# ---- many


def run_all(
    plans: Sequence[Plan],
    model: Model,
    recipe: Recipe,
    machine: Machine | None = None,
    *,
    overwrite: bool = False,
) -> Job[list[Outcome]]:
    """Job: many scans, one after the other; what is done is skipped, a failure stops nothing.

    Yields
    ------
    Progress
        Over all scans; ``partial`` is the `Outcome` of one that is over.
    """
    outcomes: list[Outcome] = []
    for number, plan in enumerate(plans):
        outcome = yield from _guarded(number, len(plans), plan, model, recipe, machine, overwrite)
        outcomes.append(outcome)
        yield Progress(1000 * (number + 1), 1000 * len(plans), plan.image.name, outcome)
    return outcomes


def _guarded(
    number: int,
    count: int,
    plan: Plan,
    model: Model,
    recipe: Recipe,
    machine: Machine | None,
    overwrite: bool,
) -> Job[Outcome]:
    if plan.problem:
        return Outcome(plan, "failed", error=plan.problem)
    if plan.labels.exists() and not overwrite:
        return (yield from skipped(plan, model, recipe))
    job = segment_file(plan, model, recipe, machine)
    try:
        while True:
            step = next(job)
            words = f"{number + 1}/{count} {plan.image.name}: {step.message}"
            yield Progress(round(1000 * (number + step.fraction)), 1000 * count, words)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    except JobCancelled:
        raise
    except Exception as error:  # whatever is wrong with one file, the others follow
        return Outcome(plan, "failed", error=told(error))
    finally:
        job.close()


def skipped(plan: Plan, model: Model, recipe: Recipe) -> Job[Outcome]:
    """Job: what a mask that is there already says.

    One that can't be read, or was made otherwise than asked for now, is told.
    """
    yield Progress(0, 0, f"{plan.labels.name} is there")
    try:
        labels = read_volume(plan.labels)
        volumes = yield from count_volumes(labels)
    except Exception as error:
        return Outcome(plan, "skipped", warnings=(f"the mask is not sound: {told(error)}",))
    about = labels.metadata.get("provenance") or {}
    warnings = tuple(str(one) for one in about.get("warnings") or ())
    other = _otherwise(about, model, recipe)
    if other:
        warnings = (f"the mask there {other}; --overwrite (Replace masks) makes it anew", *warnings)
    seconds, device = float(about.get("seconds") or 0), str(about.get("device") or "")
    return Outcome(plan, "skipped", seconds, device, warnings, volumes=volumes)


_SAME = ("channel", "time", "overlap", "clean_up", "measure")
"""What two recipes must share to make the same mask and table."""


def _otherwise(about: Mapping[str, Any], model: Model, recipe: Recipe) -> str:
    """How a mask was made that is not as a recipe would; "" if it is."""
    try:
        made = recipe_of(about)
    except InputError:
        return "does not say that a model made it alone"
    if made.model.sha256 != model.card.sha256:
        name = (about.get("model") or {}).get("name") or "unknown"
        which = "other weights of " if name == model.card.name else "another model, "
        return f"was made with {which}{name}"
    other = [key for key in _SAME if getattr(made, key) != getattr(recipe, key)]
    if recipe.measure is None and "measure" in other:
        other.remove("measure")  # there is a table beside it that nobody asked for
    words = ", ".join(one.replace("_", "-") for one in other)
    return f"was made by another recipe ({words})" if other else ""


def told(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, Attention3DError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'file'}: {error.strerror}"
    return f"unexpected {type(error).__name__}: {text or 'no message'}"
