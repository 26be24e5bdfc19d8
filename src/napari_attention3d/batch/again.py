"""The run that made a file, once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.masks import MaskReader, as_box, slabs
from ..errors import InputError
from ..models.store import Model
from ..networks.norm import Calibration
from ..progress import Job, Progress
from ..recipe import Recipe, recipe_of
from ..volumes import Volume, read_volume
from .outcome import Outcome
from .plan import Plan
from .run import Machine, segment_file

__all__ = ["Again", "Repeated", "calibration_of", "machine_of", "plan_again", "run_again"]


@dataclass(frozen=True, eq=False)
class Again:
    """How a file was made.

    Parameters
    ----------
    file
        As it is now.
    scan
        The file that it was made from.
    region
        The part of the scan that was segmented; None: all of it.
    """

    file: Volume
    scan: Path
    recipe: Recipe
    region: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True, eq=False)
class Repeated:
    """What came of it.

    Parameters
    ----------
    outcome
        Of the new run.
    changed
        Voxels whose label is another one; None if the file was no mask or of another grid.
    """

    outcome: Outcome
    changed: int | None


def plan_again(file: Path, scan: Path | None = None) -> Again:
    """Read from a file how it was made.

    Parameters
    ----------
    file
        A mask of ours.
    scan
        Where the scan is now; None: where it was, or of the same name beside the file.

    Raises
    ------
    InputError
        If the file does not say how it was made, is no mask, or its scan is not there.
    """
    volume = read_volume(file)
    provenance = volume.metadata.get("provenance")
    if not isinstance(provenance, Mapping):
        raise InputError(f"{file.name} does not say how it was made, so it can't be made again")
    if volume.metadata.get("kind") != "labels":
        raise InputError(
            f"{file.name} is no mask but a map made with one; make the mask again, and its maps "
            "with it (segment --recipe)"
        )
    try:
        recipe = recipe_of(provenance)
    except InputError as error:
        raise InputError(f"{file.name}: {error}") from error
    where = scan or _scan_of(file, provenance)
    if not where.exists():
        raise InputError(f"{where} does not exist; check the name and the folder")
    if volume.metadata.get("format") == "OME-Zarr 0.4":
        recipe = recipe.model_copy(update={"zarr_version": "0.4"})
    return Again(volume, where, recipe, region_of(provenance))


def region_of(provenance: Mapping[str, Any]) -> tuple[tuple[int, int], ...] | None:
    """The part of the scan that a run covered; None: all of it."""
    region = (provenance.get("options") or {}).get("region")
    return tuple((int(a), int(b)) for a, b in region) if region else None


def machine_of(again: Again, device: str = "auto", memory: int | None = None) -> Machine:
    """The machine at hand, for the region that was segmented then, with what was measured."""
    provenance = again.file.metadata["provenance"]
    return Machine(device, memory, again.region, calibration_of(provenance))


def calibration_of(provenance: Mapping[str, Any]) -> Calibration | None:
    """The scan's statistics that a run used, to be used again; None where none are needed.

    What they were measured over depends on the memory there was. A single tile measures
    itself as it is computed: it gives the same again.
    """
    plan, found = provenance.get("plan") or {}, provenance.get("calibration")
    if not found or (plan.get("engine") == "tiles" and plan.get("of_tiles") == 1):
        return None
    return {str(name): (list(mean), list(var)) for name, (mean, var) in found.items()}


def _scan_of(file: Path, provenance: Mapping[str, Any]) -> Path:
    path = (provenance.get("source") or {}).get("path")
    if not path:
        raise InputError(
            f"{file.name} does not say which file it was made from (a scan in memory); "
            "name it with --scan"
        )
    for one in (Path(path), file.parent / path, file.parent / Path(path).name):
        if one.exists():
            return one
    raise InputError(
        f"the scan {path} that {file.name} was made from is not there; say where it is with --scan"
    )


def run_again(again: Again, model: Model, target: Path, machine: Machine) -> Job[Repeated]:
    """Job: make the file once more, under another name, and compare the two masks."""
    outcome = yield from segment_file(Plan(again.scan, target), model, again.recipe, machine)
    return Repeated(outcome, (yield from changed_voxels(again.file, read_volume(target))))


def changed_voxels(old: Volume, new: Volume) -> Job[int | None]:
    """Job: voxels that differ between two masks, of any size.

    None if one is no mask, or their grids differ.
    """
    if old.metadata.get("kind") != "labels" or not old.geometry.is_close(new.geometry):
        return None
    readers = MaskReader(old), MaskReader(new)
    shape = readers[0].shape
    changed = 0
    for first, last in slabs(shape):
        yield Progress(first, shape[0], "Comparing")
        box = as_box((first, 0, 0), (last, *shape[1:]))
        one, other = (reader.read(box) for reader in readers)
        changed += int(np.count_nonzero(one != other))
    return changed
