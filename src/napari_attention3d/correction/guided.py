"""Strokes on the attention ("look here", "not here") beside those on the mask, in refining."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..attention.guide import LOOK, NOT
from ..attention.paint import check_paintable
from ..errors import InputError
from ..inference.preprocess import Placement
from ..models.store import Model
from ..volumes.volume import Volume
from .grid_voxels import on_grid

__all__ = ["GuideStrokes"]


class GuideStrokes:
    """Strokes on a model's grid, and where to cut patches around them.

    Parameters
    ----------
    strokes
        (Z, Y, X) on the scan's grid: `attention.guide.LOOK`, `NOT`, 0 elsewhere.
    scan
        The scan.
    placement
        Of the scan on the model's grid.
    model
        To be trained.

    Raises
    ------
    InputError
        If the model has no attention, the shape is another, or nothing is painted.
    """

    def __init__(
        self, strokes: npt.NDArray[Any], scan: Volume, placement: Placement, model: Model
    ) -> None:
        check_paintable(model)
        if strokes.shape != scan.geometry.shape:
            raise InputError(
                f"the attention strokes have the shape {strokes.shape}, the scan "
                f"{scan.geometry.shape}; paint on a layer made for this scan"
            )
        places = np.argwhere((strokes == LOOK) | (strokes == NOT))
        if not len(places):
            raise InputError("no attention is painted: label 1 says look here, label 2 not here")
        values = strokes[tuple(places.T)]
        self.places = on_grid(places, placement)
        self.array = np.zeros(placement.grid.shape, np.uint8)
        self.array[tuple(self.places.T)] = values
        self._kinds = [k for v in (LOOK, NOT) if len(k := np.flatnonzero(values == v))]

    def centre(self, step: int, seed: int) -> npt.NDArray[np.intp]:
        """Return a painted voxel, "look" and "not" in turns."""
        kind = self._kinds[step % len(self._kinds)]
        chosen = np.random.default_rng((seed, step, 1)).choice(kind)
        return np.asarray(self.places[chosen])
