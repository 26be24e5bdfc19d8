"""``napari-attention3d refine``: strokes that are there already correct a scan's mask."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .common import JsonOption, check_new_file, check_writable_folder, print_json, run_job, say

if TYPE_CHECKING:
    from ..correction.use_case import Refinement
    from ..models.store import Model

__all__ = ["refine"]


def refine(
    image: Annotated[Path, typer.Argument(help="Scan.")],
    strokes: Annotated[
        Path,
        typer.Option(
            "--strokes",
            "-s",
            help="Labels on the scan's grid: 0 not painted, 1, 2, ... classes, 255 background.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Corrected mask to write.")],
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Model to correct, name or file (default: none)."),
    ] = "",
    classes: Annotated[
        str,
        typer.Option(help='Names, background first: "background,nucleus" (default: the model\'s).'),
    ] = "",
    save_model: Annotated[
        Path | None, typer.Option(help="Save the trained network here (.safetensors).")
    ] = None,
    network: Annotated[
        bool, typer.Option(help="Train the network, too; without it the answer takes seconds.")
    ] = True,
    seconds: Annotated[float, typer.Option(help="Most time to train the network.")] = 60.0,
    keep: Annotated[
        float, typer.Option(help="How strongly the model stays as it is elsewhere; 0: not.")
    ] = 1.0,
    session: Annotated[
        Path | None, typer.Option(help="New folder for the session, to go on with in napari.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    channel: Annotated[int | None, typer.Option(help="Channel to use, from 0.")] = None,
    threads: Annotated[int, typer.Option(help="Processor threads to learn with.")] = 2,
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
    json: Annotated[bool, JsonOption("what was learned")] = False,
) -> None:
    """Learn from painted strokes: correct a model's mask, or make one from nothing.

    Painted voxels are in the mask as painted. With a model, its own mask is corrected and,
    unless --no-network, a copy of it is trained; the model's file stays as it is.
    """
    from ..volumes import read_volume, write_volume
    from ..volumes.formats import format_for

    _check(image, strokes, out, save_model, session, network, seconds, keep, threads, overwrite)
    format_for(out, writing=True)
    from ..correction.refine import RefineOptions
    from ..correction.use_case import refine_scan_job
    from ..inference.device import choose_device
    from ..models.store import load_model

    choose_device(device)  # a wrong one is told before anything runs
    loaded = load_model(model) if model else None
    scan, painted = read_volume(image), read_volume(strokes)
    for note in (*scan.notes, *painted.notes):
        say(f"note: {note}")
    if channel is not None:
        scan = scan.channel(channel)
    job = refine_scan_job(
        loaded,
        scan,
        painted,
        classes=[name.strip() for name in classes.split(",")] if classes else None,
        options=RefineOptions(seconds=seconds, keep=keep, device=device),
        network=network,
        threads=threads,
        folder=session,
    )
    result = run_job(job, image.name)
    write_volume(out, result.labels)
    saved = _save(result, save_model, scan)
    _report(result, out, saved)
    if json:
        print_json(
            {
                "labels": str(out),
                "model": None if saved is None else str(saved),
                "session": None if session is None else str(session),
                "rounds": [asdict(one) for one in result.rounds],
                "warnings": result.warnings,
            }
        )


def _check(
    image: Path,
    strokes: Path,
    out: Path,
    save_model: Path | None,
    session: Path | None,
    network: bool,
    seconds: float,
    keep: float,
    threads: int,
    overwrite: bool,
) -> None:
    """Refuse what can be refused before anything is read."""
    check_new_file(out, [image, strokes], overwrite=overwrite)
    if save_model is not None:
        if not network:
            raise InputError("--save-model needs a trained network; leave --no-network out")
        if save_model.suffix != ".safetensors":
            raise InputError(f"a model's file ends in .safetensors, {save_model} does not")
        check_new_file(save_model, [image, strokes], overwrite=overwrite)
    if session is not None:
        check_writable_folder(session.parent)
    if seconds <= 0 or keep < 0 or threads < 1:
        raise InputError("--seconds and --threads must be above 0, --keep 0 or more")


def _save(result: Refinement, path: Path | None, scan: Any) -> Path | None:
    if path is None:
        return None
    if result.model is None:
        say("warning: the trained network measured worse, so no model is saved")
        return None
    from ..correction.working_copy import renamed
    from ..models.store import save_model

    trained: Model = result.model
    return save_model(path, trained.network, renamed(trained.card, path, "", scan))


def _report(result: Refinement, out: Path, saved: Path | None) -> None:
    for warning in result.warnings:
        say(f"warning: {warning}")
    for made in result.rounds[1:]:
        score = "" if made.score is None else f", held-back strokes {made.score:.0%} right"
        say(f"{made.kind} round: {made.strokes} strokes, {made.seconds:.1f} s{score}")
    say(str(out))
    if saved is not None:
        say(str(saved))
