"""What the person said stays: painted voxels win, approved ones are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .encoding import background_value

__all__ = [
    "Approval",
    "approved_too",
    "box_at",
    "differing",
    "flipped",
    "mask_edits",
    "merge",
]

Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class Approval:
    """What a person has approved.

    Attributes
    ----------
    voxels
        (Z, Y, X) bool.
    labels
        (Z, Y, X), the classes that were approved there.
    """

    voxels: npt.NDArray[np.bool_]
    labels: Labels


def merge(
    predicted: Labels,
    corrections: Labels,
    approval: Approval | None = None,
    where: tuple[slice, ...] = (slice(None),) * 3,
) -> Labels:
    """Return the mask to be shown.

    Parameters
    ----------
    predicted
        Labels of the box `where`; not changed.
    corrections
        (Z, Y, X) of the whole scan, see `encoding`.
    approval
        Of the whole scan; a painted voxel wins over it.
    where
        Box of `predicted` within the scan.
    """
    result = predicted.copy()
    if approval is not None:
        np.copyto(result, approval.labels[where], where=approval.voxels[where], casting="unsafe")
    marker = background_value(corrections.dtype)
    for plane, painted in zip(result, corrections[where], strict=True):
        if painted.any():  # in most planes nobody has painted
            values = np.where(painted == marker, 0, painted)
            np.copyto(plane, values, where=painted != 0, casting="unsafe")
    return result


def box_at(start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """Index of a box of that shape that starts at a voxel."""
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))


def flipped(
    predicted: Labels, approval: Approval | None, corrections: Labels
) -> npt.NDArray[np.intp]:
    """Approved voxels (N, 3) that a prediction would change: what was forgotten.

    Painted voxels are none of them: there the person said something else.
    """
    if approval is None:
        return np.empty((0, 3), np.intp)
    changed = approval.voxels & (predicted != approval.labels)
    changed &= corrections == 0
    return np.argwhere(changed)


def mask_edits(written: Labels, edited: Labels) -> tuple[npt.NDArray[np.intp], Labels]:
    """Direct edits of a mask: changed voxels (N, 3) and what they are now; an eraser leaves 0.

    Parameters
    ----------
    written
        The mask as we last wrote it (Z, Y, X).
    edited
        The mask as it is now.
    """
    voxels = differing(written, edited)
    return voxels, edited[tuple(voxels.T)]


def differing(one: Labels, other: Labels) -> npt.NDArray[np.intp]:
    """Voxels (N, 3) at which two arrays of one shape differ.

    Plane by plane, most of which are equal: some milliseconds for 256 x 256 x 256, where a
    search of the whole takes hundreds, on the window's thread.
    """
    found = []
    for z, (first, second) in enumerate(zip(one, other, strict=True)):
        if not np.array_equal(first, second):
            y, x = np.nonzero(first != second)
            found.append(np.stack((np.full_like(y, z), y, x), axis=1))
    return np.concatenate(found) if found else np.empty((0, 3), np.intp)


def approved_too(old: Approval | None, voxels: npt.NDArray[np.bool_], shown: Labels) -> Approval:
    """Approval that keeps `shown` at `voxels`, besides what was approved before."""
    if old is None:
        return Approval(voxels.copy(), shown.copy())
    labels = np.where(voxels, shown, old.labels).astype(shown.dtype)
    return Approval(old.voxels | voxels, labels)
