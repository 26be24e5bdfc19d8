"""What the Measure tab lets the worker's thread do, and how figures come back to layers."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..progress import Progress
from ..volumes.volume import Volume
from .layer_classes import layer_classes
from .layers import LayerSource, layer_to_volume
from .results import LayerPlan

if TYPE_CHECKING:
    from pathlib import Path

    from napari.layers import Layer

    from ..analysis.compare import Comparison
    from ..analysis.rules import Rule
    from ..analysis.table import Cell, Table
    from ..models.card import ModelCard

__all__ = [
    "Cleaned",
    "Compared",
    "Measured",
    "clean_job",
    "compare_job",
    "features_with",
    "measure_job",
    "place_of_row",
    "read_labels",
]

_LARGEST_LOOK = 2**24
"""Voxels of a box that are searched for the label's voxel nearest to its middle."""
_MOST_LOOKS = 2**28
"""Voxels that are searched for all rows together."""


def read_labels(layer: Layer) -> LayerSource:
    """Read a Labels layer with the names and colours of its classes.

    Raises
    ------
    InputError
        If it is not 3D.
    """
    source = layer_to_volume(layer)
    classes = layer_classes({"features": layer.features, "colormap": layer.colormap})
    about = {**source.volume.metadata, "kind": "labels"}
    if classes:
        about["classes"] = classes
    volume = source.volume.replace(metadata=about)
    return LayerSource(volume, source.turn, source.shown, source.transform)


# ---- measure


def measure_job(
    labels: LayerSource,
    images: Mapping[str, Volume],
    attention: Mapping[str, Volume],
    **settings: Any,
) -> Generator[Progress, None, Measured]:
    """Measure a mask: see `analysis.measure.measure`, which takes the settings."""
    from ..analysis.measure import measure

    yield Progress(0, 0, "Reading the mask …")
    volume = labels.volume
    table = yield from measure(volume, images=images, attention=attention, **settings)
    places: list[tuple[float, float, float] | None] = []
    left = _MOST_LOOKS
    for row in range(len(table.rows)):
        if row % 64 == 0:
            yield Progress(row, len(table.rows), "Finding their places")
        left -= _box_size(table, row)
        places.append(place_of_row(table, row, labels) if left > 0 else None)
    return Measured(table, places)


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures, and where the view goes when a row is clicked.

    Parameters
    ----------
    places
        By row: see `place_of_row`; None where that was too much to look for.
    """

    table: Table
    places: list[tuple[float, float, float] | None]


def features_with(layer: Layer, table: Table) -> dict[str, list[Any]]:
    """The layer's features with a table's figures beside the names that are there.

    Parameters
    ----------
    table
        A row per label.
    """
    old = layer.features
    named = "index" in old and "name" in old
    names: dict[int, Any] = {}
    if named:
        names = {int(i): n for i, n in zip(old["index"], old["name"], strict=True)}
    rows = {int(_number(row[0])): row for row in table.rows}
    index = sorted({*names, *rows})
    features: dict[str, list[Any]] = {"index": index}
    if named:
        features["name"] = [names.get(i, f"label {i}") for i in index]
    for at, column in enumerate(table.columns):
        if column.name in ("label", "name"):
            continue
        cells = [rows[i][at] if i in rows else None for i in index]
        features[column.heading] = [np.nan if cell is None else cell for cell in cells]
    return features


def _number(cell: Cell) -> float:
    assert isinstance(cell, (int, float))
    return float(cell)


def _box_size(table: Table, row: int) -> int:
    size = 1
    for axis in "zyx":
        start, stop = (table.column(f"{end} {axis} (voxel)")[row] for end in ("start", "stop"))
        size *= int(_number(stop)) - int(_number(start))
    return size


def place_of_row(table: Table, row: int, source: LayerSource) -> tuple[float, float, float]:
    """Index (z, y, x) in the shown array of a measured region: of its voxel nearest the middle."""
    unit = source.volume.geometry.unit
    number = table.column
    label = number("label")[row]
    centre = [_number(number(f"centroid {axis} ({unit})")[row]) for axis in "zyx"]
    start = [int(_number(number(f"start {axis} (voxel)")[row])) for axis in "zyx"]
    stop = [int(_number(number(f"stop {axis} (voxel)")[row])) for axis in "zyx"]
    index = source.volume.geometry.to_index(centre)
    if np.prod(np.subtract(stop, start)) <= _LARGEST_LOOK:
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        inside = np.argwhere(np.asarray(source.volume.array[box]) == label)
        if len(inside):
            spacing = np.asarray(source.volume.geometry.spacing)
            apart = ((inside + start - index) * spacing) ** 2
            index = inside[int(apart.sum(axis=1).argmin())] + np.asarray(start, dtype=float)
    turn = source.turn.index_affine(source.volume.geometry.shape)
    z, y, x = (np.linalg.inv(turn) @ [*index, 1.0])[:3]
    return float(z), float(y), float(x)


# ---- compare


@dataclass(frozen=True, eq=False)
class Compared:
    """Figures and the layer that shows where two masks differ."""

    found: Comparison
    plan: LayerPlan


def compare_job(
    mask: LayerSource, truth: LayerSource, *, tolerance: float | None, resample: bool
) -> Generator[Progress, None, Compared]:
    """Compare two masks: see `analysis.compare.compare`."""
    from ..analysis.compare import DISAGREEMENT, compare

    found = yield from compare(mask.volume, truth.volume, tolerance=tolerance, resample=resample)
    yield Progress(0, 0, "Preparing the layer …")
    classes = found.disagreement.metadata["classes"]
    metadata = truth.record(found.disagreement.metadata["provenance"])
    (entry,) = metadata.values()
    entry["role"] = "disagreement"
    keywords = {
        **truth.transform,
        "name": f"{mask.volume.name} against {truth.volume.name}",
        "features": {"index": list(range(4)), "name": list(DISAGREEMENT)},
        "opacity": 0.9,
        "colours": [c["colour"] for c in classes],
        "metadata": metadata,
    }
    array = np.ascontiguousarray(truth.show(found.disagreement.array))
    return Compared(found, LayerPlan("disagreement", "labels", array, keywords))


# ---- clean


@dataclass(frozen=True, eq=False)
class Cleaned:
    """A mask before and after the rules, as the layer shows it: the box that they changed.

    Parameters
    ----------
    before, after
        ``(z, y, x)`` voxels of the box.
    box
        In the shown array; empty if nothing changed.
    shape
        Of the shown array.
    highest
        Largest label of the box afterwards.
    report
        What each rule did: see `analysis.cleanup.clean_up_report`.
    objects
        Whether the labels are numbered objects now and no longer classes.
    provenance
        Of the clean mask.
    preview
        A layer that shows what would change, if that was asked for.
    """

    before: Any
    after: Any
    box: tuple[slice, ...]
    shape: tuple[int, ...]
    highest: int
    report: list[dict[str, Any]]
    objects: bool
    provenance: dict[str, Any]
    preview: LayerPlan | None = None


_PREVIEW_COLOURS = ["#000000", "#d55e00", "#009e73", "#cc79a7"]
_PREVIEW_NAMES = ["as before", "removed", "added", "another class"]


def store_job(model: Path, rules: Sequence[Rule]) -> Generator[Progress, None, ModelCard]:
    """Store rules with a model; returns its card."""
    from ..analysis.cleanup import store_rules

    yield Progress(0, 0, "Storing the steps …")
    return store_rules(model, rules)


def clean_job(
    source: LayerSource, rules: Sequence[Rule], preview: bool = False
) -> Generator[Progress, None, Cleaned]:
    """Apply rules to a copy of a mask; all that looks at whole volumes is done here."""
    from ..analysis.cleanup import clean_up, clean_up_report

    yield Progress(0, 0, "Reading the mask …")
    before = np.array(source.volume.array)
    copy = source.volume.replace(array=before)
    earlier = len(clean_up_report(copy))
    cleaned = yield from clean_up(copy, rules)
    report = clean_up_report(cleaned)[earlier:]
    objects = any("instances" in one for one in report)
    yield Progress(0, 0, "Preparing the layer …")
    shown = source.show(before)
    after = np.ascontiguousarray(source.show(np.asarray(cleaned.array)))
    different = shown != after
    box = _box_of(different)
    plan = None
    if preview:
        plan = _preview(source, shown, after, different, objects, cleaned.metadata["provenance"])
    return Cleaned(
        np.ascontiguousarray(shown[box]),
        np.ascontiguousarray(after[box]),
        box,
        tuple(after.shape),
        int(after[box].max(initial=0)),
        report,
        objects,
        dict(cleaned.metadata["provenance"]),
        plan,
    )


def _box_of(different: Any) -> tuple[slice, ...]:
    box = []
    for axis in range(different.ndim):
        others = tuple(a for a in range(different.ndim) if a != axis)
        where = np.flatnonzero(different.any(axis=others))
        box.append(slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0))
    return tuple(box)


def _preview(
    source: LayerSource,
    before: Any,
    after: Any,
    different: Any,
    objects: bool,
    provenance: Mapping[str, Any],
) -> LayerPlan:
    """What would change; where objects are numbered, the objects."""
    metadata = source.record(provenance)
    (entry,) = metadata.values()
    entry["role"] = "clean-up preview"
    keywords: dict[str, Any] = {
        **source.transform,
        "name": "clean-up preview",
        "opacity": 0.8,
        "metadata": metadata,
    }
    if objects:
        return LayerPlan("preview", "objects", after, keywords)
    shown = np.zeros(after.shape, np.uint8)
    shown[different & (after == 0)] = 1
    shown[different & (before == 0)] = 2
    shown[different & (before != 0) & (after != 0)] = 3
    keywords |= {
        "features": {"index": [0, 1, 2, 3], "name": _PREVIEW_NAMES},
        "colours": _PREVIEW_COLOURS,
    }
    return LayerPlan("preview", "labels", shown, keywords)
