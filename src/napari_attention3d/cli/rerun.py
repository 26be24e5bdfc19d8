"""``napari-attention3d rerun`` and ``recipe``: what a file says of how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .common import JsonOption, check_new_file, print_json, run_job, say
from .segment import parse_memory

__all__ = ["recipe", "rerun"]


def rerun(
    file: Annotated[Path, typer.Argument(help="A mask that this program wrote.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Mask to write (default: FILE_again).")
    ] = None,
    scan: Annotated[
        Path | None, typer.Option(help="Where the scan is now, if it was moved.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    memory: Annotated[str, typer.Option(help="Most memory to take, such as 4GB.")] = "",
    overwrite: Annotated[bool, typer.Option(help="Replace a mask that is there.")] = False,
    json: Annotated[bool, JsonOption("what was written")] = False,
) -> None:
    """Make a mask again as it was made: same scan, model, settings and clean-up.

    Says whether the new mask is the same. Nothing is run if the model has other weights now.
    """
    from ..batch.again import machine_of, plan_again, run_again
    from ..batch.plan import split_suffix
    from ..volumes.formats import format_for

    again = plan_again(file, scan)
    stem, suffix = split_suffix(file)
    target = out or file.with_name(f"{stem}_again{suffix}")
    format_for(target, writing=True)
    check_new_file(target, [file, again.scan], overwrite=overwrite)
    say(f"{again.scan}: {again.recipe.words()}")
    model = again.recipe.load_model()
    machine = machine_of(again, device, parse_memory(memory))
    found = run_job(run_again(again, model, target, machine), file.name)
    for warning in found.outcome.warnings:
        say(f"warning: {warning}")
    if found.changed is None:
        say(f"{target} (not compared: {file.name} is no mask, or painted on another grid)")
    elif found.changed == 0:
        say(f"{target} (identical)")
    else:
        say(f"{target} ({found.changed:,} voxels differ)")
    if json:
        identical = None if found.changed is None else found.changed == 0
        result = {"identical": identical, "changed": found.changed}
        print_json({**found.outcome.to_dict(), **result})


def recipe(
    file: Annotated[Path, typer.Argument(help="A mask that this program wrote.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="YAML file to write (default: print it).")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
) -> None:
    """Write the recipe of a mask: the same for other scans (segment --recipe)."""
    from ..provenance import was_edited
    from ..recipe import recipe_of, write_recipe
    from ..volumes import read_volume

    if out is not None:
        check_new_file(out, [file], overwrite=overwrite)
    mask = read_volume(file)
    provenance = mask.metadata.get("provenance")
    if not isinstance(provenance, dict):
        raise InputError(f"{file.name} does not say how it was made")
    found = recipe_of(provenance)
    if mask.metadata.get("kind") == "labels" and was_edited(mask):
        say(
            f"warning: {file.name} was changed by hand since a model made it; no recipe holds "
            "that, this one makes the mask as it was before"
        )
    if out is not None:
        say(str(write_recipe(out, found)))
        return
    import yaml

    content = found.model_dump(mode="json", exclude_none=True)
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip())
