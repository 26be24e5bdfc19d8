"""Rules that clean up a mask: each makes a new array of labels from another.

A rule works class by class in the box around each, in world units. It changes voxels of
the classes that it names (all if it names none) and background; voxels of other classes
stay as they are. Rules are pydantic models, so they can be kept in YAML and JSON.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from scipy import ndimage

from ..errors import InputError
from ..geometry import Geometry
from ..progress import Job, Progress, finish
from .masks import Box, Region, as_box, connect, regions_in

__all__ = ["FillHoles", "KeepLargest", "MinimumSize", "RemoveOutside", "Rule", "Smooth"]

Labels = npt.NDArray[np.integer[Any]]
_Mask = npt.NDArray[np.bool_]
Connectivity = Literal[6, 18, 26]
_REACH = 4.0
"""Standard deviations that a Gaussian reaches."""
_MOST_TAPS = 300
"""A ball of more voxels is convolved by Fourier transform."""


class Rule(BaseModel):
    """A step of the clean-up.

    Parameters
    ----------
    classes
        Labels that it works on; None: all but the background.
    unit
        Unit of the rule's lengths and volumes ("mm", "um", "pixel"); None: the scan's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: tuple[int, ...] | None = None
    unit: Literal["mm", "um", "pixel"] | None = None

    @field_validator("classes")
    @classmethod
    def _no_background(cls, classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if classes is not None and (not classes or min(classes) < 1):
            raise ValueError(f"classes {list(classes)} must be whole numbers from 1 up")
        return classes

    @abstractmethod
    def job(self, labels: Labels, grid: Geometry) -> Job[Labels]:
        """Job: a new array of labels.

        Parameters
        ----------
        labels
            ``(Z, Y, X)``, whole numbers from 0 up; stays as it is.
        grid
            Where they lie.

        Raises
        ------
        InputError
            If the rule's unit can't be expressed in the scan's, or it smooths by more than
            the scan's size.
        """

    def apply(self, labels: Labels, grid: Geometry) -> Labels:
        """Do the job at once."""
        return np.asarray(finish(self.job(labels, grid)))

    def regions(self, labels: Labels) -> list[Region]:
        """The classes that are there and that the rule works on."""
        wanted = None if self.classes is None else set(self.classes)
        found = regions_in(labels).values()
        return [region for region in found if wanted is None or region.value in wanted]

    def spacing(self, grid: Geometry) -> tuple[float, float, float]:
        """Voxel size in the rule's unit."""
        return grid.spacing if self.unit is None else grid.with_unit(self.unit).spacing

    def voxel_volume(self, grid: Geometry) -> float:
        """Volume of a voxel in the rule's unit."""
        return grid.voxel_volume if self.unit is None else grid.with_unit(self.unit).voxel_volume


def _per_class(
    regions: Sequence[Region], labels: Labels, edit: Callable[[_Mask], _Mask], message: str
) -> Job[Labels]:
    """Job: give each class the region that `edit` makes of its own, inside its box.

    What a class loses becomes background; what it gains must be background.
    """
    out = labels.copy()
    for done, region in enumerate(regions):
        yield Progress(done, len(regions), f"{message}, class {region.value}")
        part = out[region.box]
        mask = labels[region.box] == region.value
        wanted = edit(mask)
        part[mask & ~wanted] = 0
        part[wanted & (part == 0)] = region.value
    return out


class KeepLargest(Rule):
    """Keep the largest connected component (or the `count` largest) of each class."""

    rule: Literal["keep_largest"] = "keep_largest"
    count: int = Field(default=1, ge=1)
    connectivity: Connectivity = 26

    def job(self, labels: Labels, grid: Geometry) -> Job[Labels]:
        """Job: see `Rule.job`."""

        def edit(mask: _Mask) -> _Mask:
            parts, _ = connect(mask, self.connectivity)
            return (parts > 0) & (parts <= self.count)

        return (yield from _per_class(self.regions(labels), labels, edit, "Keeping the largest"))


class MinimumSize(Rule):
    """Remove connected components that are smaller than `size` (mm3, um3 or pixel3)."""

    rule: Literal["minimum_size"] = "minimum_size"
    size: float = Field(gt=0, allow_inf_nan=False)
    connectivity: Connectivity = 26

    def job(self, labels: Labels, grid: Geometry) -> Job[Labels]:
        """Job: see `Rule.job`."""
        # a component of just this size stays, however the product is rounded
        least = self.size / self.voxel_volume(grid) * (1 - 1e-9)

        def edit(mask: _Mask) -> _Mask:
            parts, sizes = connect(mask, self.connectivity)
            kept = int((sizes >= least).sum())  # the largest come first
            return (parts > 0) & (parts <= kept)

        return (yield from _per_class(self.regions(labels), labels, edit, "Removing small parts"))


class FillHoles(Rule):
    """Give background that a class encloses to it; of two nested classes, to the inner one.

    Parameters
    ----------
    plane
        None: enclosed in 3D. "z", "y" or "x": enclosed within a plane across that axis
        of the array, so that tunnels are closed too.
    """

    rule: Literal["fill_holes"] = "fill_holes"
    plane: Literal["z", "y", "x"] | None = None

    def job(self, labels: Labels, grid: Geometry) -> Job[Labels]:
        """Job: see `Rule.job`."""
        cross = ndimage.generate_binary_structure(3, 1)
        if self.plane is not None:
            index: list[Any] = [slice(None)] * 3
            index["zyx".index(self.plane)] = [0, 2]
            cross[tuple(index)] = False

        def edit(mask: _Mask) -> _Mask:
            return np.asarray(ndimage.binary_fill_holes(mask, cross))

        regions = sorted(self.regions(labels), key=_box_size)
        return (yield from _per_class(regions, labels, edit, "Filling holes"))


def _box_size(region: Region) -> int:
    return int(np.prod(np.subtract(region.stop, region.start)))


class Smooth(Rule):
    """Smooth the surfaces of the classes; each voxel goes to the strongest of them.

    Every class and the background are blurred as masks, in world units, and a voxel of
    one of them gets the class that is strongest there, so no cracks open between classes.
    Parts thinner than about `width` disappear.

    Parameters
    ----------
    width
        Standard deviation of the Gaussian, or radius of the median's ball (voxels whose
        centre lies inside).
    method
        "gaussian", or "median": the most frequent class in the ball.
    """

    rule: Literal["smooth"] = "smooth"
    width: float = Field(gt=0, allow_inf_nan=False)
    method: Literal["gaussian", "median"] = "gaussian"

    def job(self, labels: Labels, grid: Geometry) -> Job[Labels]:
        """Job: see `Rule.job`."""
        spacing = self.spacing(grid)
        longest = max(n * s for n, s in zip(grid.shape, spacing, strict=True))
        if self.width > longest:
            unit = self.unit or grid.unit
            raise InputError(
                f"smoothing by {self.width:g} {unit} is wider than the scan ({longest:g} {unit})"
            )
        sigma = self.width / np.array(spacing)
        blur = self._ball_blur(sigma) if self.method == "median" else _gaussian(sigma)
        margin = np.ceil(_REACH * sigma if self.method == "gaussian" else sigma).astype(int) + 1
        regions = self.regions(labels)
        yield Progress(0, len(regions) + 1, "Smoothing the background")
        free = labels == 0
        best, winner = blur(free) + _tie(free), np.zeros_like(labels)
        for done, region in enumerate(regions, start=1):
            yield Progress(done, len(regions) + 1, f"Smoothing class {region.value}")
            box = _grown(region, margin, labels.shape)
            mask = labels[box] == region.value
            strength = blur(mask) + _tie(mask)
            wins = strength > best[box]
            best[box][wins] = strength[wins]
            winner[box][wins] = region.value
            free[box] |= mask
        return np.where(free, winner, labels)

    def _ball_blur(self, radius: npt.NDArray[np.float64]) -> Callable[[_Mask], _Float]:
        reach = np.floor(radius * (1 + 1e-9)).astype(int)
        axes = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
        away = sum((axis / r) ** 2 for axis, r in zip(axes, radius, strict=True))
        ball = (np.asarray(away) <= 1 + 1e-9).astype(np.float64)
        ball /= ball.sum()

        def blur(mask: _Mask) -> _Float:
            from scipy.signal import oaconvolve

            if np.count_nonzero(ball) <= _MOST_TAPS:
                return np.asarray(ndimage.convolve(mask.astype(np.float32), ball, mode="nearest"))
            padded = np.pad(mask, [(r, r) for r in reach], mode="edge").astype(np.float64)
            return np.asarray(oaconvolve(padded, ball, mode="valid"), dtype=np.float32)

        return blur


_Float = npt.NDArray[np.float32]


def _gaussian(sigma: npt.NDArray[np.float64]) -> Callable[[_Mask], _Float]:
    def blur(mask: _Mask) -> _Float:
        found = ndimage.gaussian_filter(
            mask.astype(np.float32), sigma, mode="nearest", truncate=_REACH
        )
        return np.asarray(found)

    return blur


def _tie(mask: _Mask) -> _Float:
    """Where two are equally strong, the voxel stays what it is."""
    return mask.astype(np.float32) * np.float32(1e-5)


def _grown(region: Region, margin: npt.NDArray[np.int64], shape: tuple[int, ...]) -> Box:
    start = np.maximum(np.array(region.start) - margin, 0)
    stop = np.minimum(np.array(region.stop) + margin, shape)
    return as_box(start.tolist(), stop.tolist())


class RemoveOutside(Rule):
    """Remove what lies outside other classes, such as tumour outside the liver.

    Parameters
    ----------
    inside
        Classes that make up the container, with the holes in it.
    margin
        Voxels whose centre is at most this far from the container's count as inside.
    """

    rule: Literal["remove_outside"] = "remove_outside"
    inside: tuple[int, ...] = Field(min_length=1)
    margin: float = Field(default=0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _apart(self) -> RemoveOutside:
        both = set(self.inside) & set(self.classes or ())
        if both:
            raise ValueError(f"class {both.pop()} can't be cleared and be the container too")
        if min(self.inside) < 1:
            raise ValueError(f"inside {list(self.inside)} must be whole numbers from 1 up")
        return self

    def job(self, labels: Labels, grid: Geometry) -> Job[Labels]:
        """Job: see `Rule.job`."""
        yield Progress(0, 1, "Finding the container")
        spacing = np.array(self.spacing(grid))
        cleared = [r.value for r in self.regions(labels) if r.value not in self.inside]
        out = labels.copy()
        outside = np.isin(labels, cleared)
        there = [r for r in regions_in(labels).values() if r.value in self.inside]
        if there:
            start = np.min([r.start for r in there], axis=0).tolist()
            stop = np.max([r.stop for r in there], axis=0).tolist()
            whole = Region(0, 0, tuple(start), tuple(stop))
            margin = np.ceil(self.margin / spacing).astype(int) + 1
            box = _grown(whole, margin, labels.shape)
            container = ndimage.binary_fill_holes(np.isin(labels[box], self.inside))
            if self.margin > 0:
                away = ndimage.distance_transform_edt(~container, sampling=spacing)
                container = away <= self.margin * (1 + 1e-9)
            outside[box] &= ~container
        out[outside] = 0
        return out
