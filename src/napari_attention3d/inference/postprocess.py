"""From logits on the model's grid to labels on the scan's own grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..geometry import Geometry, Reorientation
from .resample import axis_positions, axis_weights, resample_axis, same_grid

__all__ = ["Returned", "label_type", "to_scan_grid"]

SLAB_BYTES = 2**26
"""Logits of a slab of the scan's planes: about this much memory, times two or three."""
FLOAT32_VALUES = 2**28
"""Probabilities of more values than this are float16."""


@dataclass
class Returned:
    """Results on the scan's grid, in the order of its own axes.

    Attributes
    ----------
    labels
        (Z, Y, X) uint8, or uint16 for more than 256 classes.
    probabilities
        (K, Z, Y, X) float32, or float16 for very many values; None unless asked for.
    uncertainty
        (Z, Y, X) float32: entropy of the probabilities over its largest possible value,
        0 (sure) to 1; None unless asked for.
    """

    labels: npt.NDArray[Any]
    probabilities: npt.NDArray[Any] | None = None
    uncertainty: npt.NDArray[np.float32] | None = None


def label_type(classes: int) -> np.dtype[Any]:
    """Smallest unsigned type that holds the class numbers."""
    return np.dtype(np.uint8 if classes <= 256 else np.uint16)


def to_scan_grid(
    logits: Tensor,
    source: Geometry,
    target: Geometry,
    reorientation: Reorientation,
    *,
    probabilities: bool = False,
    uncertainty: bool = False,
) -> Returned:
    """Interpolate logits class by class at the target's voxel centres; the largest wins.

    Works through slabs of planes, so that no (K, Z, Y, X) array of the target is needed
    unless probabilities are asked for. Probabilities are the softmax of the interpolated
    logits, so that the labels are always their argmax. Where the grids coincide nothing
    is interpolated.

    Parameters
    ----------
    logits
        float32 (K, z, y, x) on `source`.
    source, target
        Grids with parallel axes, in one unit; outside `source` its border goes on.
    reorientation
        What was applied to the scan's array to give the target's axes; undone here.
    """
    classes = logits.shape[0]
    exact = same_grid(source, target)
    weights = [
        axis_weights(n, positions)
        for n, positions in zip(source.shape, axis_positions(source, target), strict=True)
    ]
    labels = np.empty(target.shape, label_type(classes))
    kind = np.float32 if classes * labels.size <= FLOAT32_VALUES else np.float16
    shares = np.empty((classes, *target.shape), kind) if probabilities else None
    doubt = np.empty(target.shape, np.float32) if uncertainty else None
    planes = max(1, SLAB_BYTES // (4 * classes * target.shape[1] * target.shape[2]))
    for first in range(0, target.shape[0], planes):
        z = slice(first, min(first + planes, target.shape[0]))
        if exact:
            slab = logits[:, z]
        else:
            slab = logits
            for axis, matrix in enumerate((weights[0][z], weights[1], weights[2])):
                slab = resample_axis(slab, axis, matrix)
        labels[z] = slab.max(0).indices.cpu().numpy()  # argmax(0) is several times slower
        if shares is None and doubt is None:
            continue
        p = torch.softmax(slab, 0)
        if shares is not None:
            shares[:, z] = p.cpu().numpy()
        if doubt is not None:
            entropy = -torch.xlogy(p, p).sum(0) / math.log(classes)
            doubt[z] = entropy.clamp(0, 1).cpu().numpy()
    back = reorientation.inverse()
    return Returned(
        np.ascontiguousarray(back.apply(labels)),
        None if shares is None else np.ascontiguousarray(back.apply(shares)),
        None if doubt is None else np.ascontiguousarray(back.apply(doubt)),
    )
