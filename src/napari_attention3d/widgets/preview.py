"""Labels that are final already, shown while the rest is being computed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..inference.sink import Finished

__all__ = ["Preview"]

REFRESH_EVERY = 0.5
"""Seconds: a refresh draws the whole slice anew, or the whole volume in 3D."""


class Preview:
    """Fills a labels layer block by block; used on the window's thread.

    Parameters
    ----------
    layer
        Shows a view of `array`.
    array
        (Z, Y, X) on the scan's own grid.
    """

    def __init__(self, layer: Layer, array: npt.NDArray[Any]) -> None:
        self.layer, self.array = layer, array
        self._last = 0.0

    def fill(self, parts: list[Finished]) -> None:
        """Write labels, and show them if the last time is long enough ago."""
        for part in parts:
            where = tuple(
                slice(s, s + n) for s, n in zip(part.start, part.labels.shape, strict=True)
            )
            self.array[where] = part.labels
        now = time.monotonic()
        if now - self._last >= REFRESH_EVERY:
            self._last = now
            self.layer.refresh(extent=False)
