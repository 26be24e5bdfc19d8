"""Where voxels of the scan lie on the model's grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..inference.preprocess import Placement

__all__ = ["on_grid"]


def on_grid(voxels: npt.NDArray[np.intp], placement: Placement) -> npt.NDArray[np.intp]:
    """Voxels (N, 3) of the scan's array as those of the model's grid that hold them."""
    turned = placement.scan.reorient(placement.reorientation)
    index = turned.to_index(placement.scan.to_world(voxels))
    step = np.linalg.solve(placement.grid.affine, placement.turned.affine)
    moved = np.rint(index @ step[:3, :3].T + step[:3, 3]).astype(np.intp)
    return np.asarray(np.clip(moved, 0, np.array(placement.grid.shape) - 1))
