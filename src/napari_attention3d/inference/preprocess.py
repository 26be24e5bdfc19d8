"""From a scan to the tensor that a network reads, and exactly back to the scan's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, ModelMismatchError
from ..geometry import Geometry, Reorientation
from ..models.card import ModelCard
from ..progress import Job, Progress
from ..volumes.volume import Volume
from .checks import VoxelCheck, check_kind, check_voxels, read_voxels
from .normalise import Scaling, ScalingMeter, normalise, regular_sample
from .resample import resample, same_grid
from .source import LazySource, Source, TensorSource
from .tiling import Box

__all__ = ["Placement", "Prepared", "Preprocessor", "in_memory_bytes", "normalise"]

SMALLEST_SIDE = 8
"""A scan whose second-longest side has fewer model voxels is not what the model knows."""
IN_MEMORY_BYTES = 2**28
"""A model's grid up to this size is prepared at once and held in memory."""
LOOK_BYTES = 2**26
"""The pass over a larger scan looks at about this much at a time."""
LOOK_VOXELS = 2**18
LARGEST_GROWTH = 64
"""Most model voxels per voxel of the scan (4 along each axis)."""


def in_memory_bytes(memory: int | None) -> int:
    """Bytes of the model's grid that may be held, of those a run may take (None: enough).

    To prepare it takes twice as much.
    """
    return IN_MEMORY_BYTES if memory is None else min(IN_MEMORY_BYTES, memory // 6)


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
    source
        Reads it.
    placement
        Where it came from.
    notes
        What was done, in words.
    warnings
        What the person should look at.
    """

    source: Source
    placement: Placement
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def tensor(self) -> Tensor:
        """All of it, float32 (C, z, y, x), normalised."""
        return self.source.read(Box((0, 0, 0), self.source.shape[1:]))

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
        """Check, reorient, resample and normalise a scan, all of it at once.

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
        volume, placement = self._begin(volume, channel)
        notes, warnings = self._describe(placement)
        array = read_voxels(volume)
        check_voxels(array, volume.name)
        array = np.ascontiguousarray(placement.reorientation.apply(array))
        x = torch.from_numpy(array if array.flags.writeable else array.copy())
        warnings += self._look_at(regular_sample(x, LOOK_VOXELS).flatten())
        x = resample(x, placement.turned, placement.grid)
        scaled = normalise(x, self.card.normalisation)
        return Prepared(TensorSource(scaled), placement, notes, warnings)

    def open(
        self,
        volume: Volume,
        *,
        channel: int | None = None,
        most: int | None = None,
        memory: int | None = None,
    ) -> Job[Prepared]:
        """Prepare a scan so that it is read where it is needed; a small one as `prepare` does.

        One pass over the voxels checks them and finds the constants of the normalisation;
        what is read afterwards has the values that `prepare` gives.

        Parameters
        ----------
        volume, channel
            As for `prepare`.
        most
            Bytes of the model's grid that may be in memory, a larger one is read lazily;
            default: 256 MiB, or less by `memory`.
        memory
            Bytes that the run may take; None: enough.

        Yields
        ------
        Progress
            For each slab that was looked at.

        Raises
        ------
        InputError, ModelMismatchError
            As `prepare` does.
        """
        volume, placement = self._begin(volume, channel)
        most = in_memory_bytes(memory) if most is None else most
        if 4 * volume.n_channels * np.prod(placement.grid.shape, dtype=float) <= most:
            return self.prepare(volume)
        notes, warnings = self._describe(placement)
        source = LazySource(volume.array, placement.turned, placement.reorientation, placement.grid)
        try:
            at_a_time = LOOK_BYTES if memory is None else min(LOOK_BYTES, memory // 12)
            look, source.scaling = yield from self._measure(
                source, placement, volume.name, at_a_time
            )
        finally:
            source.close()  # of this pass; reading goes on where it is asked for
        notes.append("read part by part: the scan is large")
        return Prepared(source, placement, notes, warnings + self._look_at(look))

    def _begin(self, volume: Volume, channel: int | None) -> tuple[Volume, Placement]:
        check_kind(volume)
        if channel is not None:
            volume = volume.channel(channel)
        self.check_channels(volume)
        return volume, self.place(volume.geometry)

    def _measure(
        self, source: LazySource, placement: Placement, name: str, at_a_time: int
    ) -> Job[tuple[Tensor, Scaling]]:
        """Look at all voxels, slab by slab: a sample of them, and the scaling."""
        grid = placement.grid.shape
        meter = ScalingMeter(grid, self.card.normalisation)
        plane = 4 * source.shape[0] * np.prod(placement.turned.shape, dtype=float) / grid[0]
        step = int(max(1, at_a_time // plane))
        boxes = [
            Box((z, 0, 0), (min(z + step, grid[0]), grid[1], grid[2]))
            for z in range(0, grid[0], step)
        ]
        checker = VoxelCheck(name, source.shape[0])
        sample = []
        for number, box in enumerate(boxes):
            yield Progress(number, len(boxes), "Looking at the scan's intensities")
            if number + 1 < len(boxes):
                source.ahead(boxes[number + 1])
            raw = source.raw(box)
            checker.add(raw)
            x = torch.from_numpy(raw)
            sample.append(regular_sample(x, max(1, LOOK_VOXELS // len(boxes))).flatten())
            ranges = list(zip(box.start, box.stop, strict=True))
            meter.add(box.start[0], source.resampler.apply(x, ranges))
        checker.finish()
        return torch.cat(sample), meter.result(source.shape[0])

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

    def _look_at(self, sample: Tensor) -> list[str]:
        """What some of the raw voxels tell about the scan."""
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
