"""What became of scans: one by one, and as a table over all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ..analysis.masks import MaskReader, class_names, find_regions
from ..analysis.table import Cell, Column, Table
from ..progress import Job
from ..provenance import made_with
from ..volumes import Volume
from .plan import Plan

__all__ = ["Outcome", "count_volumes", "summary"]

_MOST_CLASSES = 64
"""More labels than this are objects without names: only their sum is told."""


@dataclass(frozen=True)
class Outcome:
    """What became of one scan.

    Parameters
    ----------
    plan
        The scan and its mask.
    status
        "done", "skipped" (its mask was there) or "failed".
    seconds
        Of the segmentation; of a skipped scan: what its mask says.
    error
        In one line, if it failed.
    volumes
        By heading: of each label, "grey matter (mL)", or in the scan's unit cubed.
    written
        Further files, by what they hold; attention maps by name under "attention".
    provenance
        Without the norms' statistics, thousands of numbers, which are in the file.
    """

    plan: Plan
    status: Literal["done", "skipped", "failed"]
    seconds: float = 0.0
    device: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    volumes: dict[str, float] = field(default_factory=dict)
    written: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible."""
        report: dict[str, Any] = {"image": str(self.plan.image), "labels": str(self.plan.labels)}
        report["status"] = self.status
        if self.status == "failed":
            return {**report, "error": self.error}
        if self.status == "skipped":
            return {**report, "volumes": self.volumes}
        return {
            **report,
            **self.written,
            "volumes": self.volumes,
            "seconds": round(self.seconds, 3),
            "device": self.device,
            "warnings": list(self.warnings),
            "provenance": self.provenance,
        }


def count_volumes(labels: Volume) -> Job[dict[str, float]]:
    """Job: the volume of each label by its heading, slab by slab.

    In mL where the scan is in mm, else in its unit cubed. Numbered objects (no class names,
    or more than 64) are counted and added up instead.
    """
    regions = yield from find_regions(MaskReader(labels))
    unit, size = f"{labels.geometry.unit}3", labels.geometry.voxel_volume
    if labels.geometry.unit == "mm":
        unit, size = "mL", size / 1000
    names = class_names(labels)
    if not set(regions) <= set(names) or len(names) > _MOST_CLASSES:
        total = sum(region.voxels for region in regions.values())
        return {"objects": len(regions), f"all objects ({unit})": total * size}
    return {
        f"{name} ({unit})": (regions[value].voxels if value in regions else 0) * size
        for value, name in names.items()
    }


def summary(outcomes: Iterable[Outcome]) -> Table:
    """A table with a row per scan: what became of it, volumes, time, what to look at."""
    outcomes = list(outcomes)
    volumes = list(dict.fromkeys(heading for one in outcomes for heading in one.volumes))
    columns = (
        Column("scan"),
        Column("status"),
        Column("time", "s"),
        Column("device"),
        *(Column(heading) for heading in volumes),
        Column("warnings"),
        Column("mask"),
    )
    models = [one.provenance["model"] for one in outcomes if "model" in one.provenance]
    made = made_with(models=[one for i, one in enumerate(models) if one not in models[:i]])
    return Table(columns, tuple(tuple(_row(one, volumes)) for one in outcomes), (), made)


def _row(one: Outcome, volumes: list[str]) -> Iterator[Cell]:
    yield str(one.plan.image)
    yield one.status
    yield round(one.seconds, 3) if one.seconds else None
    yield one.device or None
    for heading in volumes:
        yield one.volumes.get(heading)
    yield one.error or "; ".join(one.warnings) or None
    yield str(one.plan.labels) if one.status != "failed" else None
