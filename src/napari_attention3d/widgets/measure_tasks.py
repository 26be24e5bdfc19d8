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
    from napari.layers import Layer

    from ..analysis.compare import Comparison
    from ..analysis.rules import Rule
    from ..analysis.table import Cell, Table

__all__ = [
    "Cleaned",
    "Compared",
    "clean_job",
    "compare_job",
    "features_with",
    "measure_job",
    "place_of_row",
    "read_labels",
]

_LARGEST_LOOK = 2**24
"""Voxels of a box that are searched for the label's nearest voxel when a row is clicked."""


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
    labels: Volume,
    images: Mapping[str, Volume],
    attention: Mapping[str, Volume],
    *,
    components: bool,
) -> Generator[Progress, None, Table]:
    """Measure a mask: see `analysis.measure.measure`."""
    from ..analysis.measure import measure

    yield Progress(0, 0, "Reading the mask …")
    return (yield from measure(labels, images=images, attention=attention, components=components))


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
    """A mask before and after the rules, as the layer shows it.

    Parameters
    ----------
    before, after
        ``(Z, Y, X)``, shown.
    report
        What each rule did: see `analysis.cleanup.clean_up_report`.
    objects
        Whether the labels are numbered objects now and no longer classes.
    """

    before: Any
    after: Any
    report: list[dict[str, Any]]
    objects: bool


def clean_job(source: LayerSource, rules: Sequence[Rule]) -> Generator[Progress, None, Cleaned]:
    """Apply rules to a copy of a mask."""
    from ..analysis.cleanup import clean_up, clean_up_report

    yield Progress(0, 0, "Reading the mask …")
    before = np.array(source.volume.array)
    copy = source.volume.replace(array=before)
    earlier = len(clean_up_report(copy))
    cleaned = yield from clean_up(copy, rules)
    report = clean_up_report(cleaned)[earlier:]
    return Cleaned(
        np.ascontiguousarray(source.show(before)),
        np.ascontiguousarray(source.show(np.asarray(cleaned.array))),
        report,
        any("instances" in one for one in report),
    )
