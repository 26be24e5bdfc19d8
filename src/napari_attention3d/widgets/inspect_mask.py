"""The mask that lies on a scan, and the label of it that is asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import Attention3DError
from .layers import LayerSource, layer_to_volume

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..volumes.volume import Volume

__all__ = ["MaskOnScan", "label_reader", "mask_on_scan"]


@dataclass(frozen=True)
class MaskOnScan:
    """A mask that lies on a scan's voxels; nothing of it is read yet.

    Attributes
    ----------
    array
        As its layer has it, turned as the scan.
    start
        Voxel of the scan at which it begins.
    shape
        Of the scan.
    """

    array: Any
    start: tuple[int, ...]
    shape: tuple[int, ...]

    def at(self, voxel: Sequence[float]) -> int:
        """Label at a voxel of the scan's array; 0 outside."""
        index = [round(v) - a for v, a in zip(voxel, self.start, strict=True)]
        if any(not 0 <= i < n for i, n in zip(index, self.array.shape, strict=True)):
            return 0
        return int(np.asarray(self.array[tuple(index)]))

    def read(self) -> npt.NDArray[Any]:
        """All of it; one of a region is laid into zeros."""
        array = np.asarray(self.array)
        if array.shape == self.shape:
            return array
        whole = np.zeros(self.shape, array.dtype)
        part = tuple(slice(a, a + n) for a, n in zip(self.start, array.shape, strict=True))
        whole[part] = array
        return whole


def mask_on_scan(source: LayerSource, mask: Layer) -> MaskOnScan:
    """Return where a mask lies on the scan's own grid.

    Raises
    ------
    Attention3DError
        If it does not lie on the scan's voxels.
    """
    volume = layer_to_volume(mask, leading=source.lead).volume
    scan, own = source.volume.geometry, volume.geometry
    if own.unit != scan.unit:
        raise Attention3DError(f"{mask.name} and the scan are in different units of length")
    corners = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], dtype=float)
    index = scan.to_index(own.to_world(corners))
    start = np.round(index[0]).astype(int)
    stop = start + own.shape
    fits = np.allclose(index, start + corners, atol=1e-3)
    if not fits or (start < 0).any() or (stop > scan.shape).any():
        raise Attention3DError(
            f"{mask.name} does not lie on the scan's voxels; run again or choose another mask"
        )
    return MaskOnScan(volume.array, tuple(start.tolist()), tuple(scan.shape))


def label_reader(source: LayerSource, mask: Layer, voxel: Sequence[float]) -> Callable[[], Volume]:
    """Return what reads the label under a voxel of the scan as a mask of its own.

    Raises
    ------
    Attention3DError
        If the mask does not lie on the scan's voxels, or there is background.
    """
    labels, volume = mask_on_scan(source, mask), source.volume
    value = labels.at(voxel)
    if value == 0:
        raise Attention3DError("There is background here: click on a label")

    def read() -> Volume:  # on the worker's thread: it may lie on the disk
        return volume.replace(array=(labels.read() == value).astype(np.uint8), channel_names=())

    return read
