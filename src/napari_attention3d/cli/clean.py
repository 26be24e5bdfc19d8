"""``napari-attention3d clean``: rules applied to a mask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .common import JsonOption, check_new_file, print_json, run_job, say
from .masks import read_mask

if TYPE_CHECKING:
    from ..analysis.rules import Rule

__all__ = ["clean"]


def clean(
    labels: Annotated[Path, typer.Argument(help="Mask to clean up.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Mask to write.")],
    rules: Annotated[
        Path | None, typer.Option(help="YAML or JSON file with the rules, in their order.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Apply the rules that are stored with this model.")
    ] = "",
    smooth: Annotated[
        float | None, typer.Option(help="Smooth by a Gaussian of this width (mm or um).")
    ] = None,
    fill_holes: Annotated[bool, typer.Option("--fill-holes", help="Fill enclosed holes.")] = False,
    min_size: Annotated[
        float | None, typer.Option(help="Remove parts smaller than this (mm3 or um3).")
    ] = None,
    keep_largest: Annotated[
        bool, typer.Option("--keep-largest", help="Keep the largest part of each class.")
    ] = False,
    split_touching: Annotated[
        bool, typer.Option("--split-touching", help="Cut blobs apart and number them.")
    ] = False,
    classes: Annotated[
        str, typer.Option(help='Classes that the options work on, as "1,2" (default: all).')
    ] = "",
    zarr_version: Annotated[
        str, typer.Option(help="Write OME-Zarr 0.4 or 0.5 (default: 0.5, or the image's around).")
    ] = "",
    overwrite: Annotated[bool, typer.Option(help="Replace a mask that is there.")] = False,
    json: Annotated[bool, JsonOption("what was changed")] = False,
) -> None:
    """Clean up a mask by a file of rules, by a model's own, or by options.

    Options are applied in the order above. Lengths are in the scan's unit.
    """
    chosen = {
        "smooth": None if smooth is None else {"width": smooth},
        "fill_holes": {} if fill_holes else None,
        "minimum_size": None if min_size is None else {"size": min_size},
        "keep_largest": {} if keep_largest else None,
        "split_touching": {} if split_touching else None,
    }
    from ..volumes import write_volume
    from ..volumes.formats import format_for

    format_for(out, writing=True)
    check_new_file(out, [labels], overwrite=overwrite)
    steps = _of_model(model, rules, chosen, classes) or _rules(rules, chosen, classes)
    from ..analysis.cleanup import clean_up, clean_up_report

    mask = read_mask(labels)
    earlier = len(clean_up_report(mask))
    cleaned = run_job(clean_up(mask, steps), labels.name)
    report = clean_up_report(cleaned)[earlier:]
    write_volume(out, cleaned, like=mask, zarr_version=zarr_version or None)
    for done in report:
        say(_line(done))
    say(str(out))
    if json:
        print_json({"labels": str(out), "rules": report})


def _of_model(
    model: str, path: Path | None, chosen: dict[str, dict[str, Any] | None], classes: str
) -> tuple[Rule, ...]:
    """The rules of the model, if one is named."""
    if not model:
        return ()
    if path is not None or classes or any(one is not None for one in chosen.values()):
        raise InputError("--model says all there is to do; leave the other options out")
    from ..recipe import rules_of_model

    return rules_of_model(model)


def _rules(
    path: Path | None, chosen: dict[str, dict[str, Any] | None], classes: str
) -> tuple[Rule, ...]:
    from ..analysis.cleanup import read_rules, rules_from

    given = {name: settings for name, settings in chosen.items() if settings is not None}
    if path is not None:
        if given or classes:
            raise InputError("--rules says all there is to do; leave the other options out")
        return read_rules(path)
    if not given:
        raise InputError(
            "nothing to do: add --rules FILE, --model, --smooth, --fill-holes, --min-size, "
            "--keep-largest or --split-touching"
        )
    content = [{"rule": name, **settings} for name, settings in given.items()]
    if classes:
        try:
            wanted = [int(word) for word in classes.split(",")]
        except ValueError as error:
            raise InputError(
                f"--classes {classes!r} is not a list of numbers such as 1,2,5"
            ) from error
        content = [{**rule, "classes": wanted} for rule in content]
    return rules_from(content, "the options")


def _line(done: dict[str, Any]) -> str:
    """One line for a person: what a rule changed."""
    name = done["rule"]["rule"].replace("_", " ")
    if "instances" in done:
        found = ", ".join(f"{n} of class {value}" for value, n in done["instances"].items())
        return f"{name}: {found or 'nothing there'}"
    moves = [
        f"class {value} " + " ".join(f"{sign}{n}" for sign, n in signs if n)
        for value, row in done["classes"].items()
        for signs in [(("+", row["gained"]), ("-", row["lost"]))]
    ]
    return f"{name}: {', '.join(moves) + ' voxels' if moves else 'nothing to change'}"
