"""Where to look next: places where the mask is uncertain and its sources disagree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["doubt", "group_voxels", "worst_place"]

Probabilities = npt.NDArray[np.float32]
REACH = 2.0
"""Standard deviation, in blocks, over which doubt is gathered: one odd voxel is no place."""
APART = 8
"""Blocks around a place seen already that are left out."""
PAINTED = 2
"""Blocks around a painted one that are left out."""


def doubt(shown: Probabilities, other: Probabilities) -> npt.NDArray[np.float32]:
    """Uncertainty times disagreement, gathered over a neighbourhood.

    ``H(shown) / log K * (0.05 + 1/2 sum_k |shown_k - other_k|)``: the entropy of what is
    shown, and its total variation distance from another opinion. The 0.05 ranks places by
    uncertainty where both agree.

    Parameters
    ----------
    shown, other
        (K, z, y, x).

    Returns
    -------
    ndarray
        (z, y, x), 0 or more.
    """
    p = np.clip(shown, 1e-6, 1.0)
    entropy = -(p * np.log(p)).sum(0) / np.log(len(shown))
    apart = 0.5 * np.abs(shown - other).sum(0)
    both = np.maximum(entropy, 0) * (0.05 + apart)
    return np.asarray(ndimage.gaussian_filter(both, REACH), dtype=np.float32)


def worst_place(
    doubts: npt.NDArray[np.float32],
    seen: npt.NDArray[np.intp],
    painted: npt.NDArray[np.intp],
) -> tuple[int, int, int] | None:
    """Block (z, y, x) of the highest doubt away from places `seen` and `painted`; or None.

    Both are (N, 3). None if no doubt above 0 is left.
    """
    left = doubts.copy()
    near = np.zeros(left.shape, bool)
    near[tuple(painted.T)] = True
    left[ndimage.maximum_filter(near, 2 * PAINTED + 1)] = 0
    for place in seen:
        box = tuple(slice(max(0, int(p) - APART), int(p) + APART + 1) for p in place)
        left[box] = 0
    if not left.size or left.max() <= 0:
        return None
    z, y, x = np.unravel_index(int(left.argmax()), left.shape)
    return int(z), int(y), int(x)


def group_voxels(voxels: npt.NDArray[np.intp]) -> list[tuple[int, int, int]]:
    """A voxel (z, y, x) near the middle of each connected group of voxels (N, 3), largest first.

    Voxels that touch by a corner belong together.
    """
    if not len(voxels):
        return []
    low = voxels.min(0)
    there = np.zeros(voxels.max(0) - low + 1, bool)
    there[tuple((voxels - low).T)] = True
    parts, _ = ndimage.label(there, np.ones((3, 3, 3)))
    numbers = parts[tuple((voxels - low).T)]
    order = np.argsort(numbers, kind="stable")
    groups = np.split(voxels[order], np.flatnonzero(np.diff(numbers[order])) + 1)
    found = []
    for group in sorted(groups, key=len, reverse=True):
        nearest = np.square(group - group.mean(0)).sum(1).argmin()
        z, y, x = group[nearest].tolist()
        found.append((z, y, x))
    return found
