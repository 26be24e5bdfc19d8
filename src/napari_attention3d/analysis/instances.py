"""Rules that make instances of classes: every object gets a number of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from ..geometry import Geometry
from ..progress import Job, Progress
from .masks import connect
from .rules import Connectivity, Labels, Rule

__all__ = ["Instances", "NumberComponents", "SplitTouching"]

_Mask = npt.NDArray[np.bool_]
_Parts = npt.NDArray[np.integer[Any]]


class Instances(Rule):
    """A rule after which a label is an object, no longer a class.

    Classes that it does not name keep their values, and the objects are numbered on from
    the largest of those: class by class, each from the array's first voxel to its last.
    """

    def _number(self, labels: Labels, split: Callable[[_Mask], _Parts]) -> Job[Labels]:
        """Job: number what `split` makes of each component of each class (1, 2, ...)."""
        regions = self.regions(labels)
        out = labels.astype(np.int64)
        chosen = np.isin(labels, [region.value for region in regions])
        last = int(labels.max(where=~chosen, initial=0))
        out[chosen] = 0
        for done, region in enumerate(regions):
            part = labels[region.box] == region.value
            parts, _ = connect(part, self._connectivity())
            boxes = ndimage.find_objects(parts)
            order = sorted(range(len(boxes)), key=lambda i: _first_voxel(parts, boxes[i], i + 1))
            for count, index in enumerate(order):
                yield Progress(
                    done, len(regions), f"Class {region.value}, object {count + 1} of {len(order)}"
                )
                mask = np.pad(parts[boxes[index]] == index + 1, 1)
                pieces = split(mask)[1:-1, 1:-1, 1:-1]
                place = out[region.box][boxes[index]]
                place[pieces > 0] = pieces[pieces > 0] + last
                last += int(pieces.max())
        kind = labels.dtype if last <= np.iinfo(labels.dtype).max else np.min_scalar_type(last)
        return out.astype(kind)

    def _connectivity(self) -> int:
        return 26


def _first_voxel(parts: _Parts, box: tuple[slice, ...], value: int) -> tuple[int, ...]:
    inside = np.unravel_index(int(np.argmax(parts[box] == value)), parts[box].shape)
    return tuple(int(i) + s.start for i, s in zip(inside, box, strict=True))


class NumberComponents(Instances):
    """Give every connected component of the classes a number of its own."""

    rule: Literal["components"] = "components"
    connectivity: Connectivity = 26

    def job(self, labels: Labels, grid: Geometry) -> Job[Labels]:
        """Job: see `Rule.job`."""
        return (yield from self._number(labels, lambda mask: mask.astype(np.int32)))

    def _connectivity(self) -> int:
        return self.connectivity


class SplitTouching(Instances):
    """Cut touching blobs apart at their necks, and give each a number of its own.

    The distance of each voxel to the blob's surface, in world units, has a peak in each
    part. Two parts are cut (watershed of the distances; Beucher and Lantuéjoul 1979) if
    the neck between them is narrower than ``1 - depth`` times the narrower part.

    Parameters
    ----------
    depth
        0 to 1: more leaves more together. The h-maxima transform of the logarithm of the
        distances, with ``h = -log(1 - depth)``, so that large and small blobs are alike.
    """

    rule: Literal["split_touching"] = "split_touching"
    depth: float = Field(default=0.1, gt=0, lt=1)

    def job(self, labels: Labels, grid: Geometry) -> Job[Labels]:
        """Job: see `Rule.job`."""
        spacing = grid.spacing

        def split(mask: _Mask) -> _Parts:
            return split_blob(mask, spacing, self.depth)

        return (yield from self._number(labels, split))


def split_blob(mask: _Mask, spacing: tuple[float, float, float], depth: float) -> _Parts:
    """Cut a blob ``(z, y, x)`` at its necks: see `SplitTouching`.

    Returns
    -------
    ndarray
        ``(z, y, x)``: 0 outside, 1, 2, ... for the parts.
    """
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed

    distance = ndimage.distance_transform_edt(mask, sampling=spacing)
    # half a voxel off the steps that the distances to voxel centres go in
    distance = ndimage.gaussian_filter(distance, 0.5) * mask
    height = np.log(np.maximum(distance, 1e-3 * min(spacing)))
    flooded = reconstruction(height + np.log(1 - depth), height, footprint=np.ones((3, 3, 3)))
    peaks = local_maxima(flooded, connectivity=3, allow_borders=True) & mask
    markers, count = ndimage.label(peaks, np.ones((3, 3, 3)))
    if count < 2:
        return mask.astype(np.int32)
    # through corners too, or a voxel that hangs on by one is never reached
    return np.asarray(watershed(-distance, markers, connectivity=3, mask=mask))
