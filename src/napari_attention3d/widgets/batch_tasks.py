"""What the Batch tab lets the worker's thread do. No Qt, no viewer; torch is imported here only."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..progress import Progress
from .layers import (
    KEY,
    LayerSource,
    layer_to_volume,
    meta_to_source,
    volume_to_layer_data,
)
from .results import LayerPlan, plan_layers
from .tasks_large import is_large, segment_to_disk, with_levels

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..batch import Machine, Outcome
    from ..recipe import Recipe

__all__ = [
    "Again",
    "batch_job",
    "count_scans",
    "not_in_recipe",
    "recipe_of_layer",
    "rerun_job",
    "scan_of_layer",
]


@dataclass(frozen=True)
class Again:
    """A result that was made once more.

    Parameters
    ----------
    changed
        Voxels whose label is another one; None if the grids differ.
    """

    plans: list[LayerPlan]
    changed: int | None
    seconds: float


def count_scans(sources: Sequence[str]) -> int:
    """How many scans folders, files and patterns stand for; errors as `find_scans`."""
    from ..batch import find_scans

    return len(find_scans(sources))


def batch_job(
    sources: Sequence[str],
    out: str,
    recipe: Recipe,
    machine: Machine,
    *,
    overwrite: bool,
) -> Generator[Progress, None, list[Outcome]]:
    """Job: segment all scans; see `batch.run_all` for what it tells on the way."""
    from ..batch import find_scans, plan_outputs, run_all

    yield Progress(0, 0, "Looking for scans")
    folder = Path(out).expanduser() if out else None
    plans = plan_outputs(find_scans(sources), folder, suffix=recipe.suffix)
    yield Progress(0, 0, "Loading the model …")
    model = recipe.load_model()
    return (yield from run_all(plans, model, recipe, machine, overwrite=overwrite))


# ---- from a layer


def _entry(layer: Layer) -> Mapping[str, Any]:
    entry = layer.metadata.get(KEY)
    return entry if isinstance(entry, Mapping) else {}


def recipe_of_layer(layer: Layer) -> Recipe:
    """All that was done to make a layer (and measured of it), as a recipe.

    Raises
    ------
    InputError
        If it does not say which model made it.
    """
    from ..recipe import recipe_of

    return recipe_of(_entry(layer).get("provenance") or {})


def not_in_recipe(mask: LayerSource) -> list[str]:
    """What was done to make a mask that no recipe holds, in words; reads all of it."""
    from ..provenance import was_edited
    from ..volumes import read_volume

    volume, doubts = mask.volume, []
    if was_edited(volume):
        doubts.append(
            f"{volume.name} was painted on since the model made it; no recipe holds that, this one "
            "makes the mask as it was before"
        )
    source = (volume.metadata.get("provenance") or {}).get("source") or {}
    path = str(source.get("path") or "")
    with suppress(InputError, KeyError, TypeError, ValueError):
        grid = read_volume(path, time=source.get("time")).geometry
        then = Geometry(grid.shape, np.asarray(source["affine"], float), str(source["unit"]))
        if not then.is_close(grid):
            doubts.append(
                f"{source.get('name')} was moved or got another voxel size in the window; the "
                f"recipe takes it as {Path(path).name} says: correct the file, or the masks differ"
            )
    return doubts


def scan_of_layer(layer: Layer, others: Sequence[Layer]) -> LayerSource | Path:
    """The scan that a result was made from: an open layer, else the file.

    Raises
    ------
    InputError
        If neither is there.
    """
    source = (_entry(layer).get("provenance") or {}).get("source") or {}
    shape = tuple(source.get("shape") or ())
    for one in others:
        if one is layer or one.name != source.get("name") or getattr(one, "rgb", False):
            continue
        lead = source.get("time", source.get("channel")) if one.ndim == 4 else None
        if lead is not None and lead >= one.data.shape[0]:
            continue
        found = layer_to_volume(one, leading=lead)
        if tuple(found.volume.array.shape) == shape:
            return found
    path = source.get("path")
    if path and Path(path).exists():
        return Path(path)
    name = source.get("name") or "the scan"
    raise InputError(
        f"{name}, which {layer.name!r} was made from, is neither open nor on the disk; open it"
    )


def rerun_job(
    mask: LayerSource, scan: LayerSource | Path, recipe: Recipe, machine: Machine
) -> Generator[Progress, None, Again]:
    """Job: apply a recipe to the scan of a mask once more, and count what is different.

    Parameters
    ----------
    mask
        The layer as it is.
    """
    from ..batch.again import changed_voxels
    from ..batch.run import apply_recipe, complete
    from ..volumes import read_volume

    yield Progress(0, 0, "Loading the model …")
    model = recipe.load_model()
    if not isinstance(scan, Path) and scan.volume.metadata.get("channel") == recipe.channel:
        recipe = recipe.model_copy(update={"channel": None})  # the layer shows no other one
    if isinstance(scan, Path):
        volume = read_volume(scan, time=recipe.time)
        array, keywords, _ = volume_to_layer_data(volume, kind="image")[0]
        scan = replace(meta_to_source(array, keywords), volume=volume)
    options = machine.options(recipe)
    large = not recipe.clean_up and is_large(scan.volume, model, options)
    if large:  # as its mask was made, which would not fit the memory
        result = yield from segment_to_disk(scan, model, options, None, machine.calibration)
        complete(result, scan.volume, recipe)
    else:
        applied = yield from apply_recipe(scan.volume, model, recipe, machine)
        result = replace(applied.result, labels=applied.labels)
    before = mask.volume.replace(metadata={**mask.volume.metadata, "kind": "labels"})
    changed = yield from changed_voxels(before, result.labels)
    plans = plan_layers(result, scan)
    return Again(with_levels(plans, result, scan) if large else plans, changed, result.seconds)
