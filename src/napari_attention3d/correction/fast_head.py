"""A first answer from a few strokes: a random forest over cached features and position."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier

from ..errors import InputError
from .features import ScanFeatures
from .smooth import Edges, random_walk, scan_edges

__all__ = ["FastHead"]

TREES = 100
SLAB_VOXELS = 2**17


class FastHead:
    """Learns from painted voxels of one scan and predicts all of it.

    Parameters
    ----------
    features
        Of the scan.
    classes
        Number of classes, background included.
    threads
        Threads to fit and predict with.
    """

    def __init__(self, features: ScanFeatures, classes: int, threads: int = 2) -> None:
        self.features, self.classes, self.threads = features, classes, threads
        self._edges: tuple[Edges, float] | None = None

    def fit(
        self,
        voxels: npt.NDArray[np.intp],
        values: npt.NDArray[np.intp],
        weights: npt.NDArray[np.float64] | None = None,
        seed: int = 0,
    ) -> RandomForestClassifier:
        """Grow a forest.

        Parameters
        ----------
        voxels, values
            Painted voxels (N, 3) and classes (N,).
        weights
            How much each counts; None: all the same.
        seed
            Decides everything random.

        Raises
        ------
        InputError
            If fewer than two classes are painted.
        """
        if len(np.unique(values)) < 2:
            raise InputError(
                "all strokes are of one class; paint at least one stroke of a second class "
                "(background counts)"
            )
        forest = RandomForestClassifier(TREES, n_jobs=self.threads, random_state=seed)
        return forest.fit(self.features.at(voxels), values, weights)

    def probabilities(self, forest: RandomForestClassifier) -> Iterator[npt.NDArray[np.float32]]:
        """Predict slab by slab along z; each (K, z, Y, X), from the first plane on."""
        depth, height, width = self.features.shape
        step = max(1, SLAB_VOXELS // (height * width))
        for first in range(0, depth, step):
            last = min(depth, first + step)
            grid = np.indices((last - first, height, width)).reshape(3, -1).T
            grid[:, 0] += first
            found = forest.predict_proba(self.features.at(grid)).astype(np.float32)
            slab = np.zeros((self.classes, last - first, height, width), np.float32)
            slab[forest.classes_] = found.T.reshape(-1, *slab.shape[1:])
            yield slab

    def smooth(
        self,
        probabilities: npt.NDArray[np.float32],
        voxels: npt.NDArray[np.intp],
        values: npt.NDArray[np.intp],
    ) -> npt.NDArray[np.float32]:
        """Make probabilities (K, Z, Y, X) follow the scan's edges and the strokes."""
        if self._edges is None:
            self._edges = scan_edges(self.features)
        edges, gamma = self._edges
        return random_walk(probabilities, edges, gamma, voxels, values)
