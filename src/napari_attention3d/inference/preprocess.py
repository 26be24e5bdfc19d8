"""From a scan to the tensor that a network reads, and exactly back to the scan's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError, ModelMismatchError
from ..geometry import Geometry, Reorientation
from ..models.card import ModelCard
from ..volumes.volume import Volume
from .normalise import normalise, regular_sample
from .resample import resample, same_grid

__all__ = ["Placement", "Prepared", "Preprocessor", "normalise"]

SMALLEST_SIDE = 8
"""A scan whose second-longest side has fewer model voxels is not what the model knows."""
LARGEST_GROWTH = 64
"""Most model voxels per voxel of the scan (4 along each axis)."""


@dataclass(frozen=True)
class Placement:
    """How a scan's grid becomes the model's.

    Parameters
    ----------
    scan
        The scan's own grid, in the scan's own unit.
    reorientation
        Axes as the model wants them.
    turned
        The scan's grid after it, in the unit in which the model measures.
    grid
        The model's grid: the same axes and box, at the model's spacing.
    """

    scan: Geometry
    reorientation: Reorientation
    turned: Geometry
    grid: Geometry

    @property
    def is_resampled(self) -> bool:
        """Whether the model sees interpolated voxels."""
        return not same_grid(self.turned, self.grid)


@dataclass
class Prepared:
    """A scan on the model's grid.

    Parameters
    ----------
    tensor
        float32 (C, z, y, x), normalised.
    placement
        Where it came from.
    notes
        What was done, in words.
    warnings
        What the person should look at.
    """

    tensor: Tensor
    placement: Placement
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def grid(self) -> Geometry:
        """The model's grid."""
        return self.placement.grid

    @property
    def reorientation(self) -> Reorientation:
        """From the scan's axes to the model's."""
        return self.placement.reorientation


class Preprocessor:
    """What a model card says about its input, applied to scans.

    Parameters
    ----------
    card
        Orientation, spacing, unit, channels and normalisation are read from it.
    """

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def place(self, geometry: Geometry) -> Placement:
        """Return the model's grid for a scan's; touches no voxels.

        Raises
        ------
        ModelMismatchError
            If lengths can't be compared, or the scan is far too small or large.
        """
        card = self.card
        turn = Reorientation()
        if card.orientation == "SAR":
            turn = geometry.canonical_reorientation()
        turned = self._measured(geometry).reorient(turn)
        if card.spacing is None:
            return Placement(geometry, turn, turned, turned)
        spacing = card.spacing
        if card.unit == "pixel" and geometry.unit != "pixel":
            # The model counts voxels: the scan's own size of a voxel is one.
            spacing = tuple(  # type: ignore[assignment]
                s * own for s, own in zip(card.spacing, turned.spacing, strict=True)
            )
        close = np.allclose(turned.spacing, spacing, rtol=1e-3)
        grid = turned if close else turned.resampled(spacing)
        self._check_size(turned, grid)
        return Placement(geometry, turn, turned, grid)

    def _measured(self, geometry: Geometry) -> Geometry:
        card = self.card
        if card.spacing is None or card.unit in ("pixel", geometry.unit):
            return geometry
        if geometry.unit == "pixel":
            wanted = " x ".join(f"{s:g}" for s in card.spacing)
            raise ModelMismatchError(
                f"model {card.name} works at {wanted} {card.unit}, but the scan's spacing is not "
                f"known (unit: pixel); set its spacing in {card.unit} first"
            )
        return geometry.with_unit(card.unit)

    def _check_size(self, turned: Geometry, grid: Geometry) -> None:
        if grid is turned:
            return
        lengths = " x ".join(
            f"{n * s:.3g}" for n, s in zip(turned.shape, turned.spacing, strict=True)
        )
        wanted = " x ".join(f"{s:g}" for s in self.card.spacing or ())
        if sorted(grid.shape)[1] < SMALLEST_SIDE:
            raise ModelMismatchError(
                f"the scan is {lengths} {grid.unit} large, only {' x '.join(map(str, grid.shape))} "
                f"voxels at the {wanted} {grid.unit} of model {self.card.name}; "
                "check the scan's spacing or choose another model"
            )
        if np.prod(grid.shape, dtype=float) > LARGEST_GROWTH * np.prod(turned.shape, dtype=float):
            raise ModelMismatchError(
                f"the scan's voxels ({' x '.join(f'{s:.3g}' for s in turned.spacing)} {grid.unit}) "
                f"are too coarse for model {self.card.name}, which works at {wanted} {grid.unit}; "
                "check the scan's spacing or choose another model"
            )

    def prepare(self, volume: Volume, *, channel: int | None = None) -> Prepared:
        """Check, reorient, resample and normalise a scan.

        Parameters
        ----------
        volume
            (Z, Y, X) or (C, Z, Y, X), on its own grid; not changed.
        channel
            Use this channel alone.

        Raises
        ------
        InputError
            If voxels are not real numbers, not finite or all the same, or it is a colour
            picture.
        ModelMismatchError
            If channels, unit or size don't fit the model.
        """
        check_kind(volume)
        if channel is not None:
            volume = volume.channel(channel)
        self.check_channels(volume)
        placement = self.place(volume.geometry)
        notes, warnings = self._describe(placement)
        array = read_voxels(volume)
        check_voxels(array, volume.name)
        array = np.ascontiguousarray(placement.reorientation.apply(array))
        x = torch.from_numpy(array if array.flags.writeable else array.copy())
        warnings += self._look_at(x)
        x = resample(x, placement.turned, placement.grid)
        return Prepared(normalise(x, self.card.normalisation), placement, notes, warnings)

    def check_channels(self, volume: Volume) -> None:
        """Raise ModelMismatchError unless the scan has as many channels as the model reads."""
        wanted = len(self.card.channels)
        if volume.n_channels == wanted:
            return
        names = ", ".join(c.name for c in self.card.channels)
        step = "choose one channel" if wanted == 1 else "give a scan with all of them"
        raise ModelMismatchError(
            f"model {self.card.name} reads {wanted} channel{'s' * (wanted > 1)} ({names}), "
            f"but {volume.name} has {volume.n_channels}; {step}"
        )

    def _describe(self, placement: Placement) -> tuple[list[str], list[str]]:
        notes, warnings = [], []
        scan = placement.scan
        if self.card.orientation is not None:
            if not scan.anatomical:
                warnings.append(
                    "the scan does not say how it is oriented: its axes (z, y, x) were taken to "
                    "point to Superior, Anterior and Right"
                )
            elif not placement.reorientation.is_identity:
                notes.append(f"turned from {scan.orientation} to {self.card.orientation}")
            if scan.obliquity > 30:
                warnings.append(
                    f"the scan is tilted by {scan.obliquity:.0f} degrees; the model has learnt "
                    "from upright scans"
                )
        if placement.is_resampled:
            old = " x ".join(f"{s:.3g}" for s in placement.turned.spacing)
            new = " x ".join(f"{s:.3g}" for s in placement.grid.spacing)
            notes.append(f"resampled from {old} to {new} {placement.grid.unit}")
        return notes, warnings

    def _look_at(self, x: Tensor) -> list[str]:
        sample = regular_sample(x, 2**18)
        warnings = []
        rule = self.card.normalisation
        if rule.kind == "window":
            inside = ((sample >= rule.lower) & (sample <= rule.upper)).float().mean().item()
            if inside < 0.01:
                warnings.append(
                    f"only {inside:.1%} of the voxels lie in the model's range of intensities "
                    f"({rule.lower:g} to {rule.upper:g}); is this the kind of scan it knows"
                    f"{f' ({self.card.intensity})' if self.card.intensity else ''}?"
                )
        values = len(torch.unique(sample))
        if values <= 8:
            warnings.append(
                f"the scan holds only {values} different values; is it a mask rather than a scan?"
            )
        return warnings


def check_kind(volume: Volume) -> None:
    """Raise InputError for colour pictures and voxels that are not real numbers."""
    if volume.metadata.get("rgb"):
        raise InputError(
            f"{volume.name} is a colour (RGB) picture; a scan with one value per voxel is needed: "
            "split or convert it first"
        )
    if volume.dtype.kind not in "iuf":
        raise InputError(
            f"{volume.name} has voxels of type {volume.dtype}; integers or floats are needed: "
            "convert it first"
        )


def read_voxels(volume: Volume) -> npt.NDArray[np.float32]:
    """Read the voxels as float32 (C, Z, Y, X), in native byte order."""
    with np.errstate(over="ignore"):
        array = np.asarray(volume.array).astype(np.float32, copy=False)
    return array if array.ndim == 4 else array[None]


def check_voxels(array: npt.NDArray[np.float32], name: str) -> None:
    """Raise InputError if a channel holds NaN or infinity, or is constant."""
    for index, channel in enumerate(array):
        lowest, highest = float(channel.min()), float(channel.max())
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            bad = int(channel.size - np.isfinite(channel).sum())
            raise InputError(
                f"{name} holds {bad} voxels that are NaN, infinite or too large for 32-bit "
                "floats; replace them (numpy.nan_to_num) first"
            )
        if lowest == highest:
            which = f"channel {index} of {name}" if len(array) > 1 else name
            raise InputError(
                f"all voxels of {which} are {lowest:g}, so there is nothing to segment; "
                "check that the right file and channel were chosen"
            )


def crop_region(
    geometry: Geometry, region: Sequence[Sequence[int]] | None
) -> tuple[tuple[slice, slice, slice], Geometry]:
    """Slices and grid of a region, index ranges (z, y, x); None is everything.

    Raises
    ------
    InputError
        If a range is empty or not inside the volume.
    """
    if region is None:
        region = [(0, n) for n in geometry.shape]
    for name, (start, stop), size in zip("zyx", region, geometry.shape, strict=True):
        if not 0 <= start < stop <= size:
            raise InputError(
                f"the region's {name} range {start}:{stop} is not inside 0:{size}; "
                "give start < stop within the scan"
            )
    z, y, x = (slice(int(a), int(b)) for a, b in region)
    starts = [int(a) for a, _ in region]
    return (z, y, x), geometry.cropped(starts, [int(b) - int(a) for a, b in region])


def turned_region(placement: Placement, region: Sequence[Sequence[int]] | None) -> Geometry:
    """Return the turned grid (model axes and unit) of a region of the scan's array."""
    _, cropped = crop_region(placement.scan, region)
    if placement.turned.unit != cropped.unit:
        cropped = cropped.with_unit(placement.turned.unit)
    return cropped.reorient(placement.reorientation)
