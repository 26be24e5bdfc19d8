"""Measure each label of a mask: size, shape, place, and what an image shows inside.

For every label, or every connected component of every label, in the scan's own unit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..errors import InputError
from ..geometry import AXES, Geometry
from ..progress import Job, Progress
from ..provenance import made_with, origin
from ..volumes.volume import Volume
from .intensity import Sampler, Statistics
from .masks import (
    Box,
    MaskReader,
    Region,
    as_box,
    class_names,
    connect,
    find_regions,
    neighbours,
    slabs,
)
from .shape import Shape, ShapeSums
from .table import Cell, Column, Table

__all__ = ["measure"]

_Mask = npt.NDArray[np.bool_]
_Read = Callable[[Box], _Mask]
"""Reads a box of the whole grid: where the region is."""
_Row = dict[str, Cell]


@dataclass
class _Source:
    """A channel of an image, or an attention map, to be summed up inside each region."""

    name: str
    sampler: Sampler
    total: float | None = None
    """Sum over all voxels of the mask's grid, for attention maps."""


@dataclass
class _Plan:
    """What is measured of each region."""

    grid: Geometry
    sources: list[_Source]
    percentiles: tuple[float, ...]
    notes: list[str] = field(default_factory=list)


def measure(
    labels: Volume,
    *,
    images: Mapping[str, Volume] | None = None,
    attention: Mapping[str, Volume] | None = None,
    components: bool = False,
    connectivity: int = 26,
    percentiles: Sequence[float] = (5, 50, 95),
    names: Mapping[int, str] | None = None,
) -> Job[Table]:
    """Job: measure each label of a mask, or each of its connected components.

    Columns: voxels; volume (mm3 and mL, um3, or pixel3 by the scan's unit), surface area,
    equivalent and maximal diameter and sphericity (see `shape.Shape` for how); the
    centroid in world coordinates; the box in indices (``start`` is the first inside,
    ``stop`` the first outside) and in world coordinates, voxels' edges included. For each
    channel of an image: mean, standard deviation (of the population), least, greatest and
    percentiles. For attention maps also the share of all attention on the mask's grid
    that lies inside the region. World axes (z, y, x) point to Superior, Anterior and
    Right for anatomical scans.

    Large files are read slab by slab. Components need memory for the box around one label
    at a time, 5 bytes a voxel; values of images wider than 16 bits are kept for one region
    at a time.

    Parameters
    ----------
    labels
        ``(Z, Y, X)`` of whole numbers; 0 is background.
    images, attention
        By the name that their columns begin with; on any grid (interpolated linearly
        through the affines where it is not the mask's).
    components
        One row per connected component, the largest of a label first.
    connectivity
        Of components: 6 (faces), 18 (and edges) or 26 (and corners).
    percentiles
        0 to 100.
    names
        Of labels; default: those that the volume's metadata holds.

    Returns
    -------
    Table
        A row per label that is there, in order of the labels. ``notes`` tells where an
        image does not reach.

    Raises
    ------
    InputError
        If the mask has channels or values other than whole numbers from 0 up, or an image
        can't be laid on it.
    """
    neighbours(connectivity)  # a wrong one is told before anything runs
    if any(not 0 <= p <= 100 for p in percentiles):
        raise InputError(f"percentiles {list(percentiles)} must lie between 0 and 100")
    reader = MaskReader(labels)
    grid = labels.geometry
    sources = [*_sources(images or {}, grid), *_sources(attention or {}, grid, total=0.0)]
    plan = _Plan(grid, sources, tuple(float(p) for p in percentiles))
    found = yield from find_regions(reader)
    yield from _add_totals(plan)
    known = class_names(labels) if names is None else dict(names)
    rows: list[_Row] = []
    for done, region in enumerate(found.values()):
        title = known.get(region.value, f"label {region.value}")
        step = Progress(done, len(found), f"Measuring {title}")
        parts = _components(reader, region, connectivity) if components else _whole(reader, region)
        for number, (part, read) in enumerate(parts, start=1):
            row = yield from _measure(part, read, plan, step)
            rows.append({"label": region.value, "name": known.get(region.value), **row})
            if components:
                rows[-1]["component"] = number
    columns = _columns(plan, named=bool(known), components=components)
    cells = tuple(tuple(row.get(c.heading) for c in columns) for row in rows)
    settings = {
        "components": components,
        "connectivity": connectivity,
        "percentiles": list(plan.percentiles),
    }
    made = made_with(
        mask=origin(labels),
        images={name: origin(one) for name, one in (images or {}).items()},
        attention={name: origin(one) for name, one in (attention or {}).items()},
        settings=settings,
    )
    return Table(columns, cells, tuple(plan.notes), made)


def _sources(
    images: Mapping[str, Volume], grid: Geometry, total: float | None = None
) -> Iterator[_Source]:
    for name, image in images.items():
        if image.dtype.kind == "c":
            raise InputError(f"{image.name} holds complex numbers; they can't be measured")
        for channel in range(image.n_channels):
            title = name
            if image.n_channels > 1:
                given = image.channel_names[channel : channel + 1]
                title = f"{name} {given[0] if given else f'channel {channel}'}"
            yield _Source(title, Sampler(image.channel(channel), grid), total)


def _add_totals(plan: _Plan) -> Job[None]:
    """Sum the attention over the whole grid."""
    shape = plan.grid.shape
    for source in plan.sources:
        if source.total is None:
            continue
        for first, last in slabs(shape):
            yield Progress(first, shape[0], f"Adding up {source.name}")
            values = source.sampler.values((first, 0, 0), np.ones((last - first, *shape[1:]), bool))
            source.total += float(values[np.isfinite(values)].sum(dtype=np.float64))


def _whole(reader: MaskReader, region: Region) -> Iterator[tuple[Region, _Read]]:
    yield region, lambda box: reader.read(box) == region.value


def _components(
    reader: MaskReader, region: Region, connectivity: int
) -> Iterator[tuple[Region, _Read]]:
    parts, sizes = connect(reader.read(region.box) == region.value, connectivity)
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        inside = np.ascontiguousarray(parts[box] == number)
        start = tuple(a + s.start for a, s in zip(region.start, box, strict=True))
        stop = tuple(a + s.stop for a, s in zip(region.start, box, strict=True))
        part = Region(region.value, int(sizes[number - 1]), start, stop)

        def read(wanted: Box, inside: _Mask = inside, z0: int = start[0]) -> _Mask:
            return inside[wanted[0].start - z0 : wanted[0].stop - z0]

        yield part, read


def _measure(
    region: Region, read: _Read, plan: _Plan, step: Progress
) -> Generator[Progress, None, _Row]:
    size = np.subtract(region.stop, region.start)
    sums = ShapeSums(plan.grid.cropped(region.start, size.tolist()).affine)
    statistics = [Statistics(source.sampler.dtype) for source in plan.sources]
    inside = [0.0] * len(plan.sources)
    for first, last in slabs(size.tolist()):
        yield step
        start = (region.start[0] + first, *region.start[1:])
        mask = read(as_box(start, (region.start[0] + last, *region.stop[1:])))
        sums.add(mask)
        for index, source in enumerate(plan.sources):
            values = source.sampler.values(start, mask)
            statistics[index].add(values)
            if source.total is not None:
                inside[index] += float(values[np.isfinite(values)].sum(dtype=np.float64))
    row = _shape_cells(sums.result(), region, plan.grid.unit)
    for source, figures, amount in zip(plan.sources, statistics, inside, strict=True):
        for key, value in figures.result(plan.percentiles).items():
            row[f"{source.name} {key}"] = value
        if source.total is not None:
            row[f"{source.name} share"] = amount / source.total if source.total else None
        if figures.left_out:
            plan.notes.append(
                f"{source.name} has no value at {figures.left_out} of the {region.voxels} voxels "
                f"of label {region.value}; its figures are of the others"
            )
    return row


def _shape_cells(shape: Shape, region: Region, unit: str) -> _Row:
    row: _Row = {
        "voxels": shape.voxels,
        f"volume ({unit}3)": shape.volume,
        "volume (mL)": shape.volume / 1000,
        f"surface area ({unit}2)": shape.surface_area,
        f"equivalent diameter ({unit})": shape.equivalent_diameter,
        f"maximal diameter ({unit})": shape.maximal_diameter,
        "sphericity": shape.sphericity,
    }
    for i, axis in enumerate(AXES):
        row[f"centroid {axis} ({unit})"] = shape.centroid[i]
        row[f"low {axis} ({unit})"] = shape.low[i]
        row[f"high {axis} ({unit})"] = shape.high[i]
        row[f"start {axis} (voxel)"] = region.start[i]
        row[f"stop {axis} (voxel)"] = region.stop[i]
    return row


def _columns(plan: _Plan, *, named: bool, components: bool) -> tuple[Column, ...]:
    unit = plan.grid.unit
    columns = [Column("label")]
    columns += [Column("name")] if named else []
    columns += [Column("component")] if components else []
    columns += [Column("voxels"), Column("volume", f"{unit}3")]
    columns += [Column("volume", "mL")] if unit == "mm" else []
    columns += [
        Column("surface area", f"{unit}2"),
        Column("equivalent diameter", unit),
        Column("maximal diameter", unit),
        Column("sphericity"),
    ]
    columns += [Column(f"centroid {axis}", unit) for axis in AXES]
    columns += [Column(f"{end} {axis}", "voxel") for axis in AXES for end in ("start", "stop")]
    columns += [Column(f"{end} {axis}", unit) for axis in AXES for end in ("low", "high")]
    for source in plan.sources:
        keys = ["mean", "std", "min", "max", *(f"p{p:g}" for p in plan.percentiles)]
        keys += ["share"] if source.total is not None else []
        columns += [Column(f"{source.name} {key}") for key in keys]
    return tuple(columns)
