"""``napari-attention3d segment``: scans in, masks (and maps, and tables) out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .common import SOME_FAILED, JsonOption, check_new_file, print_json, run_job, say

if TYPE_CHECKING:
    from ..batch import Machine, Outcome, Plan
    from ..models.store import Model
    from ..recipe import Recipe

__all__ = ["segment"]

_MODEL = "brain-attention-unet"


def parse_region(text: str) -> tuple[tuple[int, int], ...] | None:
    """Parse ``z0:z1,y0:y1,x0:x1``; None for an empty text.

    Raises
    ------
    InputError
        If it is not three ranges.
    """
    if not text:
        return None
    try:
        parts = [part.split(":") for part in text.split(",")]
        region = tuple((int(start), int(stop)) for start, stop in parts)
    except ValueError:
        region = ()
    if len(region) != 3 or any(stop <= start or start < 0 for start, stop in region):
        raise InputError(f"--region {text!r} is not three ranges such as 10:90,0:128,0:128")
    return region


def parse_memory(text: str) -> int | None:
    """Parse a size such as ``4GB``, ``500 MB`` or ``2GiB`` to bytes; None for an empty text.

    Raises
    ------
    InputError
        If it is not a size.
    """
    if not text:
        return None
    units = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    binary = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)(I?)B?\s*", text.upper())
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if found is None or number <= 0 or (found[3] and not found[2]):
        raise InputError(f"--memory {text!r} is not a size; say 4GB or 500MB")
    return int(number * (binary if found[3] else units)[found[2]])


def segment(
    images: Annotated[
        list[str],
        typer.Argument(help="Scans, folders of scans, or patterns such as 'scans/*.nii.gz'."),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help=f"A model's name or file (default {_MODEL}).")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Mask file, or folder. Default: beside each scan."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML file that says it all: model, options, clean-up, measures."),
    ] = None,
    attention: Annotated[bool, typer.Option(help="Write the attention maps too.")] = False,
    probabilities: Annotated[
        bool, typer.Option(help="Write the probability of each class too.")
    ] = False,
    uncertainty: Annotated[bool, typer.Option(help="Write the uncertainty map too.")] = False,
    clean_up: Annotated[
        bool, typer.Option("--clean-up", help="Apply the rules that are stored with the model.")
    ] = False,
    rules: Annotated[
        Path | None, typer.Option(help="Apply the clean-up rules of this YAML file.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Write a table of measures.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, exact or fast.")] = "auto",
    overlap: Annotated[
        float | None, typer.Option(help="Overlap of tiles, 0 to 0.9 (default: the model's).")
    ] = None,
    channel: Annotated[int | None, typer.Option(help="Channel to use, from 0.")] = None,
    time: Annotated[int | None, typer.Option(help="Time point to use, from 0.")] = None,
    memory: Annotated[
        str, typer.Option(help="Most memory to take, such as 4GB (default: what is free).")
    ] = "",
    region: Annotated[
        str, typer.Option(help="Only this part of the array: z0:z1,y0:y1,x0:x1.")
    ] = "",
    zarr_version: Annotated[
        str, typer.Option(help="Write OME-Zarr 0.4 or 0.5 (default: 0.5, or the image's around).")
    ] = "",
    scheduler: Annotated[
        str, typer.Option(help="Let a dask cluster do it: tcp://HOST:PORT of its scheduler.")
    ] = "",
    summary: Annotated[
        Path | None, typer.Option(help="Table of all scans to write: .csv, .xlsx or .json.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace masks that are there.")] = False,
    json: Annotated[bool, JsonOption("what was written")] = False,
) -> None:
    """Segment one or many scans.

    The mask of scan.nii.gz is scan_labels.nii.gz, on the scan's own grid; TIFF gives
    TIFF, OME-Zarr gives OME-Zarr; -o SCAN.zarr/labels/NAME adds it to the scan. In a batch,
    scans whose mask is there already are skipped.
    """
    settings = {
        "attention": attention,
        "probabilities": probabilities,
        "uncertainty": uncertainty,
        "precision": precision,
        "overlap": overlap,
        "channel": channel,
        "time": time,
        "zarr_version": zarr_version or None,
    }
    from ..batch import Machine, find_scans, plan_outputs

    if recipe is None:
        chosen = _recipe(model or _MODEL, settings, rules, clean_up=clean_up, measure=measure)
    else:
        chosen = _given(recipe, model, settings, rules, clean_up=clean_up, measure=measure)
    plans = plan_outputs(find_scans(images), out, suffix=chosen.suffix)
    if len(plans) == 1 and plans[0].labels.exists() and not overwrite:
        raise InputError(f"{plans[0].labels} exists; add --overwrite to replace it")
    _check_version(plans, zarr_version, chosen)
    if summary is not None:
        from ..analysis.table import check_table_path

        check_table_path(summary)
        check_new_file(summary, [plan.image for plan in plans], overwrite=True)
    from ..inference.device import choose_device

    machine = Machine(device, parse_memory(memory), parse_region(region))
    machine.options(chosen)  # a wrong one is told before anything runs
    if not scheduler:  # the workers' devices are not this machine's
        choose_device(device)
    outcomes = _run(plans, chosen, machine, scheduler, overwrite=overwrite)
    _report(outcomes, summary, json=json)


def _check_version(plans: list[Plan], wanted: str, recipe: Recipe) -> None:
    """Tell before the run that results can't be of the version asked for."""
    from ..volumes.formats.ome_zarr_group import chosen_version

    zarrs = [plan for plan in plans if plan.is_zarr]
    for plan in zarrs:
        chosen_version(plan.labels, recipe.zarr_version)
    if wanted and not zarrs:
        raise InputError("--zarr-version is for masks in OME-Zarr; name one with -o MASK.ome.zarr")


def _recipe(
    model: str,
    settings: dict[str, Any],
    rules: Path | None,
    *,
    clean_up: bool,
    measure: bool,
) -> Recipe:
    """The recipe that the options amount to."""
    from ..recipe import Measures, ModelReference, make_recipe

    steps: tuple[Any, ...] = ()
    if rules is not None and clean_up:
        raise InputError("--rules and --clean-up both say how to clean up; give one of them")
    if rules is not None:
        from ..analysis.cleanup import read_rules

        steps = read_rules(rules)
    if clean_up:
        from ..recipe import rules_of_model

        steps = rules_of_model(model)
    return make_recipe(
        model=ModelReference(name=model),
        clean_up=steps,
        measure=Measures() if measure else None,
        **settings,
    )


def _given(
    path: Path,
    model: str,
    settings: dict[str, Any],
    rules: Path | None,
    *,
    clean_up: bool,
    measure: bool,
) -> Recipe:
    """The recipe of a file; it says all, so nothing else may."""
    from ..recipe import read_recipe

    others = [key for key, value in settings.items() if value not in (None, False, "auto")]
    others += ["model"] if model else []
    others += ["rules"] if rules is not None else []
    others += [name for name, on in (("clean-up", clean_up), ("measure", measure)) if on]
    if others:
        listed = ", --".join(one.replace("_", "-") for one in others)
        raise InputError(f"the recipe says all there is to do; leave out --{listed}")
    return read_recipe(path)


def _run(
    plans: list[Plan], recipe: Recipe, machine: Machine, scheduler: str, *, overwrite: bool
) -> list[Outcome]:
    from ..batch import run_all

    loaded = recipe.load_model()
    if scheduler:
        from ..batch.cluster import run_on_cluster

        job = run_on_cluster(scheduler, plans, loaded, recipe, machine, overwrite=overwrite)
        return run_job(_told(job), "cluster")
    if len(plans) == 1:
        return [_one(plans[0], loaded, recipe, machine)]
    return run_job(_told(run_all(plans, loaded, recipe, machine, overwrite=overwrite)), "batch")


def _one(plan: Plan, model: Model, recipe: Recipe, machine: Machine) -> Outcome:
    """A single scan: its error is the command's."""
    from ..batch import segment_file

    outcome = run_job(segment_file(plan, model, recipe, machine), plan.image.name)
    _tell(outcome)
    return outcome


def _told(job: Any) -> Any:
    """The same job; each scan that is over is told."""
    from ..batch import Outcome

    try:
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                return end.value
            if isinstance(step.partial, Outcome):
                _tell(step.partial)
            yield step
    finally:
        job.close()


def _tell(outcome: Outcome) -> None:
    if outcome.status == "skipped":
        say(f"{outcome.plan.labels} exists: skipped (--overwrite replaces it)")
        for warning in outcome.warnings:
            say(f"warning: {warning}")
        return
    if outcome.status == "failed":
        say(f"{outcome.plan.image}: error: {outcome.error}")
        return
    for note in outcome.notes:
        say(f"note: {note}")
    for warning in outcome.warnings:
        say(f"warning: {warning}")
    say(f"{outcome.plan.labels} ({outcome.seconds:.1f} s on {outcome.device})")


def _report(outcomes: list[Outcome], summary: Path | None, *, json: bool) -> None:
    from ..batch import summary as summarise

    if summary is not None:
        say(str(summarise(outcomes).write(summary)))
    if json:
        rows = [one.to_dict() for one in outcomes]
        print_json(rows if len(rows) > 1 else rows[0])
    failed = sum(one.status == "failed" for one in outcomes)
    if len(outcomes) > 1:
        done = sum(one.status == "done" for one in outcomes)
        skipped = len(outcomes) - done - failed
        say(f"{done} done, {skipped} skipped, {failed} failed")
    if failed:
        raise typer.Exit(SOME_FAILED)
