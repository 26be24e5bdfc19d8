"""``napari-attention3d segment``: scans in, masks (and maps) out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Attention3DError, InputError, JobCancelled
from .common import (
    SOME_FAILED,
    JsonOption,
    check_writable_folder,
    error_line,
    print_json,
    run_job,
    say,
)

if TYPE_CHECKING:
    from ..models.store import Model
    from ..session import Segmentation, SegmentOptions
    from ..volumes.volume import Volume

__all__ = ["Plan", "plan_outputs", "segment"]

_TIFF = (".tif", ".tiff")
_ZARR = ".zarr"


@dataclass(frozen=True)
class Plan:
    """One scan and where its results go.

    Parameters
    ----------
    image
        The scan.
    labels
        The mask's file; the other results are named after it.
    """

    image: Path
    labels: Path

    def beside(self, what: str) -> Path:
        """Name of another result, e.g. ``scan_uncertainty.nii.gz`` for "uncertainty"."""
        stem, suffix = split_suffix(self.labels)
        return self.labels.with_name(f"{stem.removesuffix('_labels')}_{what}{suffix}")


def split_suffix(path: Path) -> tuple[str, str]:
    """Split a file name into stem and suffix, ``.nii.gz`` and ``.ome.*`` taken whole."""
    name = path.name
    for suffix in (".nii.gz", ".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    return path.stem, path.suffix


def plan_outputs(images: list[Path], out: Path | None) -> list[Plan]:
    """Decide where each mask goes, and refuse what can't work before anything runs.

    Parameters
    ----------
    images
        The scans.
    out
        A file (for one scan), a folder, or None for "beside each scan".

    Raises
    ------
    InputError
        If a scan is missing, two scans would write the same mask, several scans would
        go into one file, or a mask would replace a scan.
    OutputError
        If a folder can't be written.
    """
    from ..volumes.formats import writable_suffixes

    for image in images:
        if not image.exists():
            raise InputError(f"{image} does not exist; check the name and the folder")
    named = out is not None and any(out.name.lower().endswith(s) for s in writable_suffixes())
    if named and len(images) > 1:
        raise InputError(f"{len(images)} scans can't go into the one file {out}; give a folder")
    if out is not None and not named and not out.is_dir() and "." in out.name.strip("."):
        raise InputError(
            f"{out} is neither a folder nor a file that can be written "
            f"({', '.join(writable_suffixes())})"
        )
    plans = [Plan(image, out if named and out else _target(image, out)) for image in images]
    taken: dict[Path, Path] = {}
    scans = {image.resolve() for image in images}
    for plan in plans:
        target = plan.labels.resolve()
        if target in taken:
            raise InputError(
                f"{taken[target]} and {plan.image} would both write {plan.labels}; "
                "segment them into different folders"
            )
        if target in scans:
            raise InputError(f"{plan.labels} is a scan; a mask must not replace it")
        taken[target] = plan.image
    for folder in {plan.labels.parent for plan in plans}:
        check_writable_folder(folder, make=out is not None and not named)
    return plans


def _target(image: Path, folder: Path | None) -> Path:
    stem, suffix = split_suffix(image)
    root = next((one for one in image.parents if one.suffix.lower() == _ZARR), None)
    if root is not None:  # a group inside: its mask goes beside the folder
        image, stem, suffix = root, f"{split_suffix(root)[0]}_{image.name}", _ZARR
    if suffix.lower().endswith(_ZARR):
        suffix = ".ome.zarr"
    elif not suffix.lower().endswith(_TIFF):
        suffix = ".nii.gz"
    elif suffix.lower().startswith(".ome"):
        suffix = ".tif"
    return (folder if folder is not None else image.parent) / f"{stem}_labels{suffix}"


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
    images: Annotated[list[Path], typer.Argument(help="Scans (NIfTI, MGZ, TIFF, OME-Zarr).")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A model's name (see `models list`) or file.")
    ] = "brain-attention-unet",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Mask file, or folder. Default: beside each scan."),
    ] = None,
    attention: Annotated[bool, typer.Option(help="Write the attention maps too.")] = False,
    probabilities: Annotated[
        bool, typer.Option(help="Write the probability of each class too.")
    ] = False,
    uncertainty: Annotated[bool, typer.Option(help="Write the uncertainty map too.")] = False,
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
    overwrite: Annotated[bool, typer.Option(help="Replace masks that are there.")] = False,
    json: Annotated[bool, JsonOption("what was written")] = False,
) -> None:
    """Segment one or many scans.

    The mask of scan.nii.gz is scan_labels.nii.gz, on the scan's own grid; TIFF gives
    TIFF, OME-Zarr gives OME-Zarr. In a batch, scans whose mask is there already are skipped.
    """
    plans = plan_outputs(images, out)
    if len(plans) == 1 and plans[0].labels.exists() and not overwrite:
        raise InputError(f"{plans[0].labels} exists; add --overwrite to replace it")
    from ..inference.device import choose_device
    from ..models.store import load_model
    from ..session import make_options

    options = make_options(
        attention=attention,
        probabilities=probabilities,
        uncertainty=uncertainty,
        device=device,
        precision=precision,
        overlap=overlap,
        channel=channel,
        region=parse_region(region),
        memory=parse_memory(memory),
    )
    choose_device(options.device)  # a wrong one is told before anything runs
    loaded = load_model(model)
    batch = len(plans) > 1
    results = [
        _run(plan, loaded, options, time, overwrite=overwrite, batch=batch) for plan in plans
    ]
    if json:
        print_json(results if len(results) > 1 else results[0])
    if any(result["status"] == "failed" for result in results):
        raise typer.Exit(SOME_FAILED)


def _run(
    plan: Plan,
    model: Model,
    options: SegmentOptions,
    time: int | None,
    *,
    overwrite: bool,
    batch: bool,
) -> dict[str, Any]:
    """Segment one scan; in a batch a failure is reported and the next scan follows."""
    report: dict[str, Any] = {"image": str(plan.image), "labels": str(plan.labels)}
    if plan.labels.exists() and not overwrite:
        say(f"{plan.labels} exists: skipped (--overwrite replaces it)")
        return {**report, "status": "skipped"}
    try:
        return {**report, "status": "done", **_segment_file(plan, model, options, time)}
    except JobCancelled:
        raise
    except (Attention3DError, OSError) as error:
        if not batch:
            raise
        say(f"{plan.image}: {error_line(error)}")
        return {**report, "status": "failed", "error": error_line(error).removeprefix("error: ")}


def _segment_file(
    plan: Plan, model: Model, options: SegmentOptions, time: int | None
) -> dict[str, Any]:
    from ..session import segment_job
    from ..volumes import read_volume

    scan = read_volume(plan.image, time=time)
    for note in scan.notes:
        say(f"note: {note}")
    if plan.labels.name.lower().endswith(".zarr"):
        result, written = _segment_to_zarr(plan, scan, model, options)
    else:
        result = run_job(segment_job(scan, model, options), plan.image.name)
        written = write_results(plan, result)
    for warning in result.warnings:
        say(f"warning: {warning}")
    say(f"{plan.labels} ({result.seconds:.1f} s on {result.device})")
    return {
        **written,
        "seconds": round(result.seconds, 3),
        "device": result.device,
        "warnings": list(result.warnings),
        # The norms' statistics, thousands of numbers, are in the file that was written.
        "provenance": {k: v for k, v in result.provenance.items() if k != "calibration"},
    }


def _segment_to_zarr(
    plan: Plan, scan: Volume, model: Model, options: SegmentOptions
) -> tuple[Segmentation, dict[str, Any]]:
    """Write results to OME-Zarr as they become final, in memory that does not grow with them."""
    from ..inference.preprocess import crop_region
    from ..inference.store import ZarrStore
    from ..session import segment_job
    from ..volumes import write_volume

    paths = {"labels": plan.labels}
    paths |= {n: plan.beside(n) for n in ("probabilities", "uncertainty") if getattr(options, n)}
    _, geometry = crop_region(scan.geometry, options.region)
    with ZarrStore(paths, geometry, scan.name, model.card.class_names) as store:
        job = segment_job(scan, model, options, allocate=store.allocate)
        result = run_job(job, plan.image.name)
        store.flush()
        for name in paths:
            store.describe(name, getattr(result, name).metadata)
        maps = {
            name: str(write_volume(plan.beside(f"attention_{name}"), volume))
            for name, volume in result.attention.items()
        }
    written: dict[str, Any] = {"attention": maps} if maps else {}
    return result, written | {name: str(path) for name, path in paths.items()}


def write_results(plan: Plan, result: Segmentation) -> dict[str, Any]:
    """Write the mask last, so that a mask on disk means that its scan is done.

    Returns
    -------
    dict
        The files, by what they hold.
    """
    from ..volumes import write_volume

    written: dict[str, Any] = {}
    if result.attention:
        written["attention"] = {
            name: str(write_volume(plan.beside(f"attention_{name}"), volume))
            for name, volume in result.attention.items()
        }
    for name in ("probabilities", "uncertainty"):
        volume = getattr(result, name)
        if volume is not None:
            written[name] = str(write_volume(plan.beside(name), volume))
    written["labels"] = str(write_volume(plan.labels, result.labels))
    return written
