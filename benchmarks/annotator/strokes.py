"""Strokes as a person would paint them, drawn from the truth.

A stroke is straight, lies in one slice (axis 0), is at most 20 voxels long, goes through
the deepest voxel of a wrong blob and stays inside it, and has the blob's true class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["Stroke", "correct", "encode", "first_strokes"]

LENGTH = 20
ANGLES = 8
"""Directions tried in the slice; the longest stroke is taken."""

Stroke = tuple[npt.NDArray[np.intp], int]
"""Voxels (N, 3) and class."""


def encode(strokes: list[Stroke], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Corrections (Z, Y, X): 0 not painted, c class c, 255 painted as background."""
    painted = np.zeros(shape, np.uint8)
    for voxels, value in strokes:
        painted[tuple(voxels.T)] = value if value else 255
    return painted


def first_strokes(truth: npt.NDArray[Any], rng: np.random.Generator) -> list[Stroke]:
    """One stroke per class, somewhere in its inner half."""
    strokes = []
    for value in range(int(truth.max()) + 1):
        region = truth == value
        if not region.any():
            continue
        depth = _depth(region)
        inner = np.argwhere(depth >= 0.5 * depth.max())
        strokes.append((_line(region, inner[rng.integers(len(inner))], rng), value))
    return strokes


def correct(
    mask: npt.NDArray[Any], truth: npt.NDArray[Any], count: int, rng: np.random.Generator
) -> list[Stroke]:
    """Strokes in the `count` largest wrong blobs (connected, of one true class)."""
    blobs: list[tuple[int, int, int, tuple[slice, ...]]] = []
    labelled = {}
    for value in range(int(truth.max()) + 1):
        parts, n = ndimage.label((truth == value) & (mask != value))
        labelled[value] = parts
        sizes = np.bincount(parts.ravel(), minlength=n + 1)[1:]
        boxes = ndimage.find_objects(parts)
        blobs += [(int(s), value, i + 1, boxes[i]) for i, s in enumerate(sizes)]
    blobs.sort(key=lambda blob: -blob[0])
    strokes = []
    for _, value, number, box in blobs[:count]:
        region = labelled[value][box] == number
        depth = _depth(region)
        deepest = np.argwhere(depth == depth.max())
        line = _line(region, deepest[rng.integers(len(deepest))], rng)
        strokes.append((line + [s.start for s in box], value))
    return strokes


def _depth(region: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    return np.asarray(ndimage.distance_transform_edt(np.pad(region, 1)))[1:-1, 1:-1, 1:-1]


def _line(
    region: npt.NDArray[np.bool_], centre: npt.NDArray[Any], rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Longest straight line in the slice through `centre` that stays in the region."""
    best = centre[None]
    start = rng.random() * np.pi / ANGLES
    for angle in start + np.arange(ANGLES) * np.pi / ANGLES:
        step = np.array([0.0, np.sin(angle), np.cos(angle)])
        step /= np.abs(step).max()
        ends = []
        for sign in (1, -1):
            reach = 0
            while reach < LENGTH:
                voxel = np.rint(centre + sign * (reach + 1) * step).astype(int)
                inside = (voxel >= 0).all() and (voxel < region.shape).all()
                if not inside or not region[tuple(voxel)]:
                    break
                reach += 1
            ends.append(reach)
        forward, back = ends
        while forward + back + 1 > LENGTH:
            forward, back = (forward - 1, back) if forward >= back else (forward, back - 1)
        if forward + back + 1 > len(best):
            offsets = np.arange(-back, forward + 1)[:, None]
            best = np.rint(centre + offsets * step).astype(int)
    return best.astype(np.intp)
