"""Scans with their labels: checked, surveyed, brought to the model's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..geometry import Geometry
from ..progress import Job, Progress
from ..volumes import Volume

__all__ = [
    "CaseFacts",
    "CaseSource",
    "DataFacts",
    "TrainingCase",
    "aligned_labels",
    "labels_on_grid",
    "survey_job",
    "to_classes",
    "whole_numbers",
]

Size = tuple[int, int, int]
SAMPLE = 50_000
"""Voxels per case whose intensities are looked at."""
AIR = -500
"""Hounsfield units: only CT holds values that low."""


class CaseSource(Protocol):
    """Anything that gives a scan and its labels: files, or layers' volumes."""

    @property
    def name(self) -> str:
        """What to call it; unique in the training set."""

    def read(self) -> tuple[Volume, Volume]:
        """Return image (Z, Y, X) or (C, Z, Y, X), and labels (Z, Y, X)."""


@dataclass(frozen=True)
class TrainingCase:
    """A scan and its labels in memory.

    Parameters
    ----------
    name
        Unique in the training set.
    image
        (Z, Y, X) or (C, Z, Y, X).
    labels
        (Z, Y, X) of whole numbers.
    """

    name: str
    image: Volume
    labels: Volume

    def read(self) -> tuple[Volume, Volume]:
        """Return image and labels."""
        return self.image, self.labels


@dataclass(frozen=True)
class CaseFacts:
    """What a case is like, with its axes as the model will have them.

    Parameters
    ----------
    name
        Of the case.
    shape, spacing
        Voxels and voxel size along (z, y, x).
    voxels
        Number of voxels by label value.
    """

    name: str
    shape: Size
    spacing: tuple[float, float, float]
    voxels: dict[int, int]


@dataclass(frozen=True)
class DataFacts:
    """What a training set is like: all that a plan is made from.

    Parameters
    ----------
    cases
        Facts by case.
    unit
        Of the spacings.
    anatomical
        Whether all scans know their orientation.
    channels
        Number of channels.
    is_ct
        Whether intensities look like Hounsfield units.
    intensities
        0.5 and 99.5 % quantiles inside the labelled structures.
    """

    cases: tuple[CaseFacts, ...]
    unit: str
    anatomical: bool
    channels: int = 1
    is_ct: bool = False
    intensities: tuple[float, float] = (0.0, 1.0)

    @property
    def values(self) -> tuple[int, ...]:
        """Label values that occur, ascending."""
        return tuple(sorted({value for case in self.cases for value in case.voxels}))


@dataclass
class _Tally:
    samples: list[npt.NDArray[np.float64]] = field(default_factory=list)
    lowest: list[float] = field(default_factory=list)


def survey_job(sources: Sequence[CaseSource], ignore: int | None = None) -> Job[DataFacts]:
    """Look at all cases, one after the other.

    Parameters
    ----------
    sources
        The training set.
    ignore
        Label value of voxels that nobody labelled.

    Yields
    ------
    Progress
        Per case.

    Raises
    ------
    InputError
        If image and labels of a case don't fit together, labels are not whole numbers, or
        channels or units differ between cases.
    """
    facts, tally = [], _Tally()
    units: dict[str, str] = {}
    channels: dict[int, str] = {}
    anatomical = True
    for number, source in enumerate(sources):
        yield Progress(number, len(sources), f"Looking at {source.name}")
        image, labels = source.read()
        labels = aligned_labels(source.name, image, labels)
        anatomical = anatomical and image.geometry.anatomical
        units.setdefault(image.geometry.unit, source.name)
        channels.setdefault(image.n_channels, source.name)
        values = whole_numbers(labels)
        found, counts = np.unique(values, return_counts=True)
        _look(image, values, ignore, tally, number)
        grid = image.geometry
        facts.append((source.name, grid, dict(zip(found.tolist(), counts.tolist(), strict=True))))
    for what, kinds in (("unit", units), ("number of channels", channels)):
        if len(kinds) > 1:
            (a, first), (b, second), *_ = kinds.items()
            raise InputError(
                f"the {what} of {first} is {a}, that of {second} is {b}; all cases need the same"
            )
    return _gathered(facts, tally, next(iter(units)), next(iter(channels)), anatomical)


def _gathered(
    facts: Sequence[tuple[str, Geometry, dict[int, int]]],
    tally: _Tally,
    unit: str,
    channels: int,
    anatomical: bool,
) -> DataFacts:
    cases = []
    for name, grid, voxels in facts:
        grid = grid.canonical() if anatomical else grid
        cases.append(CaseFacts(name, grid.shape, grid.spacing, voxels))
    values = np.concatenate(tally.samples) if tally.samples else np.zeros(0)
    low, high = (float(q) for q in np.quantile(values, (0.005, 0.995))) if len(values) else (0, 1)
    is_ct = channels == 1 and float(np.median(tally.lowest)) <= AIR and unit != "um"
    return DataFacts(
        tuple(cases), unit, anatomical, channels, is_ct, (low, high if high > low else low + 1)
    )


def _look(
    image: Volume, values: npt.NDArray[Any], ignore: int | None, tally: _Tally, seed: int
) -> None:
    first = np.asarray(image.channel(0).array)
    inside = (values > 0) & (values != (-1 if ignore is None else ignore))
    chosen = first[inside]
    if len(chosen) > SAMPLE:
        chosen = np.random.default_rng(seed).choice(chosen, SAMPLE, replace=False)
    chosen = chosen.astype(np.float64)
    tally.samples.append(chosen[np.isfinite(chosen)])
    tally.lowest.append(float(np.nanmin(first)))


def whole_numbers(labels: Volume) -> npt.NDArray[np.int64]:
    """Return the labels (Z, Y, X) as integers.

    Raises
    ------
    InputError
        If there are several channels, or values that are not whole numbers from 0 on.
    """
    if labels.array.ndim == 4:
        raise InputError(f"{labels.name} has {labels.n_channels} channels; labels have one")
    array = np.asarray(labels.array)
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        odd = array[rounded != array]
        if odd.size:
            raise InputError(
                f"{labels.name} holds the value {odd.flat[0]:g}, but labels are whole numbers; "
                "was it interpolated, or is it an image?"
            )
    values: npt.NDArray[np.int64] = array.astype(np.int64)
    if values.size and int(values.min()) < 0:
        raise InputError(f"{labels.name} holds {int(values.min())}; labels count from 0")
    return values


def aligned_labels(name: str, image: Volume, labels: Volume) -> Volume:
    """Return the labels with a grid that can be compared with the image's.

    Labels that do not know where they lie are taken voxel by voxel. Those that do may lie
    on another grid of the same world.

    Raises
    ------
    InputError
        If shapes differ and one of the two does not know where it lies.
    """
    grid, own = image.geometry, labels.geometry
    if own.shape == grid.shape and not (own.anatomical and grid.anatomical):
        return labels.replace(geometry=grid)
    if own.anatomical and grid.anatomical:
        return labels
    ours, theirs = (" x ".join(map(str, g.shape)) for g in (grid, own))
    raise InputError(
        f"{name}: the image has {ours} voxels (z, y, x), its labels {theirs}; they must be the same"
    )


def labels_on_grid(labels: Volume, grid: Geometry) -> npt.NDArray[Any]:
    """Nearest labels at the voxel centres of `grid`, (Z, Y, X); 0 outside.

    Raises
    ------
    InputError
        If the volume has several channels.
    """
    if labels.array.ndim == 4:
        raise InputError(f"{labels.name} has {labels.n_channels} channels; labels have one")
    source = np.asarray(labels.array)
    matrix = np.linalg.solve(labels.geometry.affine, grid.affine)
    result = np.zeros(grid.shape, dtype=source.dtype)
    y, x = np.meshgrid(*[np.arange(n) for n in grid.shape[1:]], indexing="ij")
    limits = np.array(source.shape)
    for z in range(grid.shape[0]):
        points = np.stack([np.full(y.shape, z), y, x], axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
        index = np.rint(points).astype(np.int64)
        inside = ((index >= 0) & (index < limits)).all(-1)
        index = index.clip(0, limits - 1)
        result[z] = source[index[..., 0], index[..., 1], index[..., 2]] * inside
    return result


def to_classes(
    values: npt.NDArray[Any], order: Sequence[int], ignore: int | None, marker: int, name: str
) -> npt.NDArray[np.uint8]:
    """Replace label values by the numbers of their classes.

    Parameters
    ----------
    values
        Whole numbers.
    order
        Value of each class.
    ignore
        Value of unlabelled voxels; they become `marker`.
    marker
        Not a class's number.
    name
        For the message.

    Raises
    ------
    InputError
        If a value is neither a class's nor `ignore`.
    """
    found, inverse = np.unique(values, return_inverse=True)
    table = np.zeros(len(found), np.uint8)
    for place, value in enumerate(found.tolist()):
        if ignore is not None and value == ignore:
            table[place] = marker
        elif value in order:
            table[place] = list(order).index(value)
        else:
            raise InputError(
                f"{name} holds the label {value}, but there are {len(order)} classes "
                f"({', '.join(map(str, order))}); add a class, or give it as the ignore value"
            )
    mapped: npt.NDArray[np.uint8] = table[inverse.reshape(values.shape)]
    return mapped
