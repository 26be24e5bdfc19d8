"""Where the slices of a DICOM series lie, and whether they are one stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError

__all__ = ["Slice", "check_stack", "slices_of", "stack_affine"]

_Vector = npt.NDArray[np.float64]
_SAME_PLACE = 1e-3
"""mm; nearer ones count as the same place."""
_GAP = 0.1
"""Share of the slice distance that a distance may differ from it."""
_MOST_TOLD = 4


@dataclass(frozen=True, eq=False)
class Slice:
    """One image of a series.

    Parameters
    ----------
    position
        Of the first pixel's centre (x, y, z), LPS, mm.
    along_row, along_column
        Unit vectors in which the column and the row index grow.
    spacing
        Distance of columns and of rows, mm.
    thickness
        Slice thickness or distance that the header tells; 0 if it does not.
    order
        Sorts images of the same place.
    slope, intercept
        Stored values to the modality's unit.
    """

    position: _Vector
    along_row: _Vector
    along_column: _Vector
    spacing: tuple[float, float]
    thickness: float
    order: tuple[float, ...]
    slope: float
    intercept: float
    bits: int
    signed: bool
    data: Any = field(repr=False)
    frame: int | None = None

    @property
    def normal(self) -> _Vector:
        """Unit vector through the image."""
        return np.cross(self.along_row, self.along_column)

    def pixels(self) -> npt.NDArray[Any]:
        """Stored values (rows, columns)."""
        pixels = np.asarray(self.data.pixel_array)
        return pixels if self.frame is None else pixels[self.frame]


def slices_of(path: Path) -> list[Slice]:
    """The images of a file: one, or its frames.

    Raises
    ------
    InputError
        If it is a colour picture, or does not say where it lies.
    """
    import pydicom

    data = pydicom.dcmread(path)
    if int(data.get("SamplesPerPixel", 1)) != 1:
        raise InputError(f"{path.name} is a colour picture; a scan of grey values is needed")
    count = int(data.get("NumberOfFrames", 1) or 1)
    per_frame = data.get("PerFrameFunctionalGroupsSequence")
    if count == 1 and per_frame is None:
        return [_slice(data, [data], path.name, None)]
    if per_frame is None:
        raise InputError(
            f"{path.name} has {count} frames without places; a scan of slices is needed"
        )
    shared = list(data.get("SharedFunctionalGroupsSequence") or [])
    return [
        _slice(data, [*_groups(frame), *(g for one in shared for g in _groups(one)), data],
               path.name, number)
        for number, frame in enumerate(per_frame)
    ]  # fmt: skip


def _groups(frame: Any) -> list[Any]:
    """Items of a functional group, each a small data set."""
    return [element.value[0] for element in frame if element.VR == "SQ" and element.value]


def _slice(data: Any, places: Sequence[Any], name: str, frame: int | None) -> Slice:
    def find(key: str, default: Any = None) -> Any:
        return next((one.get(key) for one in places if one.get(key) is not None), default)

    position, orientation = find("ImagePositionPatient"), find("ImageOrientationPatient")
    spacing = find("PixelSpacing")
    if position is None or orientation is None or spacing is None:
        raise InputError(
            f"{name} does not say where it lies (position, orientation or pixel spacing is "
            "missing), as projections and screenshots do; a scan of slices is needed"
        )
    row, column = np.asarray(orientation, dtype=float).reshape(2, 3)
    keys = ("TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionNumber")
    order = [float(find(key, 0) or 0) for key in (*keys, "EchoNumbers", "InstanceNumber")]
    return Slice(
        np.asarray(position, dtype=float),
        row / np.linalg.norm(row),
        column / np.linalg.norm(column),
        (float(spacing[1]), float(spacing[0])),
        float(find("SpacingBetweenSlices") or find("SliceThickness") or 0),
        (*order, float(frame or 0)),
        float(find("RescaleSlope", 1)),
        float(find("RescaleIntercept", 0)),
        int(data.get("BitsStored", 16)),
        bool(int(data.get("PixelRepresentation", 0))),
        data,
        frame,
    )


def check_stack(slices: list[Slice], name: str) -> list[list[Slice]]:
    """Sort the images by their places; at each place by time.

    Raises
    ------
    InputError
        If they are not parallel, of different pixel sizes, or not as many at each place;
        or if slices are missing.
    """
    first = slices[0]
    for one in slices:
        turned = max(
            np.abs(one.along_row - first.along_row).max(),
            np.abs(one.along_column - first.along_column).max(),
        )
        if turned > 1e-3:
            raise InputError(
                f"{name}: its images are not parallel (a localiser, or two scans in one series); "
                "put the slices of one scan into a folder of their own"
            )
        if not np.allclose(one.spacing, first.spacing, rtol=1e-3):
            raise InputError(
                f"{name}: its images have different pixel sizes; they are not one scan"
            )
    depth = [float(one.position @ first.normal) for one in slices]
    rows: list[list[Slice]] = []
    last = -np.inf
    for index in np.argsort(depth, kind="stable"):
        if depth[index] - last > _SAME_PLACE:
            rows.append([])
        rows[-1].append(slices[index])
        last = depth[index]
    counts = {len(row) for row in rows}
    if len(counts) > 1:
        raise InputError(
            f"{name}: some places have {min(counts)} images, others {max(counts)}; "
            "files are missing, or two scans share a series"
        )
    for row in rows:
        row.sort(key=lambda one: one.order)
    _check_gaps([row[0] for row in rows], name)
    return rows


def _check_gaps(stack: list[Slice], name: str) -> None:
    if len(stack) < 3:
        return
    normal = stack[0].normal
    places = np.array([one.position @ normal for one in stack])
    steps = np.diff(places)
    usual = float(steps.min())
    if (np.abs(steps / usual - np.rint(steps / usual)) > _GAP).any():
        usual = float(np.median(steps))  # uneven, and not by whole slices
    wide = np.flatnonzero(np.abs(steps - usual) > _GAP * usual)
    if not len(wide):
        return
    told = ", ".join(f"{steps[i]:.4g} mm after slice {i + 1}" for i in wide[:_MOST_TOLD].tolist())
    more = ", ..." if len(wide) > _MOST_TOLD else ""
    missing = int(sum(max(0, round(float(steps[i]) / usual) - 1) for i in wide))
    what = f"about {missing} slices are missing" if missing else "its slices are unevenly spaced"
    raise InputError(
        f"{name}: {what} (slices are {usual:.4g} mm apart, but {told}{more}); copy the whole "
        "series again, or resample it in another program first"
    )


def stack_affine(stack: list[Slice], name: str) -> tuple[_Vector, list[str]]:
    """(4, 4) from (column, row, slice) index to (x, y, z) LPS in mm, and notes.

    Slices that are shifted evenly against each other (a tilted gantry) give a sheared affine.

    Raises
    ------
    InputError
        If the slices do not lie along a line.
    """
    first, last = stack[0], stack[-1]
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing[0]
    affine[:3, 1] = first.along_column * first.spacing[1]
    affine[:3, 3] = first.position
    notes: list[str] = []
    if len(stack) == 1:
        thickness = first.thickness
        if thickness <= 0:
            thickness = first.spacing[0]
            notes.append("a single slice of unknown thickness: its pixel size was taken")
        affine[:3, 2] = first.normal * thickness
        return affine, notes
    step = (last.position - first.position) / (len(stack) - 1)
    expected = first.position + np.arange(len(stack))[:, None] * step
    apart = np.abs(np.array([one.position for one in stack]) - expected).max()
    if apart > _GAP * float(np.linalg.norm(step)):
        raise InputError(
            f"{name}: its slices do not lie along a line ({apart:.3g} mm off); "
            "they are not one scan"
        )
    affine[:3, 2] = step
    tilt = np.degrees(np.arccos(np.clip(step @ first.normal / np.linalg.norm(step), -1, 1)))
    if tilt > 0.5:
        notes.append(f"the slices are shifted against each other (gantry tilt {tilt:.1f} degrees)")
    return affine, notes
