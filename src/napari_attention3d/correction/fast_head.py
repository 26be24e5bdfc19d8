"""A first answer from a few strokes: a random forest over cached features and position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier

from ..errors import InputError
from .features import ScanFeatures
from .smooth import Edges, random_walk, scan_edges

__all__ = ["FastHead"]

TREES = 100
SCORING_TREES = 40
SLAB_VOXELS = 2**17
KEEP_SAMPLES = 3000
"""Voxels that stand for what the person did not object to."""
KEEP_WEIGHT = 1.0
"""What they weigh together, relative to the strokes."""
SURE = 0.8

Probabilities = npt.NDArray[np.float32]
Voxels = npt.NDArray[np.intp]


class FastHead:
    """Learns from painted voxels of one scan and predicts all of it.

    Parameters
    ----------
    features
        Of the scan.
    classes
        Number of classes, background included.
    prior
        (K, Z, Y, X) what a model says, to be corrected; None: from nothing.
    threads
        Threads to fit and predict with.
    """

    def __init__(
        self,
        features: ScanFeatures,
        classes: int,
        prior: Probabilities | None = None,
        threads: int = 2,
    ) -> None:
        self.features, self.classes, self.prior, self.threads = features, classes, prior, threads
        self._edges: tuple[Edges, float] | None = None

    def fit(self, voxels: Voxels, values: Voxels, seed: int = 0) -> RandomForestClassifier:
        """Grow a forest.

        Parameters
        ----------
        voxels, values
            Painted voxels (N, 3) and classes (N,).
        seed
            Decides everything random.

        Raises
        ------
        InputError
            If fewer than two classes are painted and there is no prior.
        """
        weights = np.ones(len(values))
        if self.prior is not None:
            kept, classes, sure = self._kept(self.prior, voxels, seed)
            weights = np.concatenate((weights, sure * KEEP_WEIGHT * len(values) / sure.sum()))
            voxels, values = np.concatenate((voxels, kept)), np.concatenate((values, classes))
        elif len(np.unique(values)) < 2:
            raise InputError(
                "all strokes are of one class; paint at least one stroke of a second class "
                "(background counts)"
            )
        forest = RandomForestClassifier(TREES, n_jobs=self.threads, random_state=seed)
        return forest.fit(self._inputs(voxels), values, weights)

    def score(
        self, voxels: Voxels, values: Voxels, held: npt.NDArray[np.bool_], seed: int = 0
    ) -> RandomForestClassifier:
        """Grow a small forest that has not seen the strokes that are held back."""
        forest = RandomForestClassifier(SCORING_TREES, n_jobs=self.threads, random_state=seed)
        return forest.fit(self._inputs(voxels[~held]), values[~held])

    def accuracy(self, forest: RandomForestClassifier, voxels: Voxels, values: Voxels) -> float:
        """Mean over classes of the share of voxels that a forest gets right."""
        right = forest.predict(self._inputs(voxels)) == values
        return float(np.mean([right[values == v].mean() for v in np.unique(values)]))

    def probabilities(
        self, forest: RandomForestClassifier, focus: int = 0
    ) -> Iterator[tuple[int, Probabilities]]:
        """Predict slab by slab along z, those near plane `focus` first.

        Yields
        ------
        tuple
            First plane, and (K, z, Y, X).
        """
        depth, height, width = self.features.shape
        step = max(1, SLAB_VOXELS // (height * width))
        starts = range(0, depth, step)
        for first in sorted(starts, key=lambda z: abs(z + (step - 1) / 2 - focus)):
            last = min(depth, first + step)
            grid = np.indices((last - first, height, width)).reshape(3, -1).T
            grid[:, 0] += first
            found = forest.predict_proba(self._inputs(grid)).astype(np.float32)
            slab = np.zeros((self.classes, last - first, height, width), np.float32)
            slab[forest.classes_] = found.T.reshape(-1, *slab.shape[1:])
            yield first, slab

    def smooth(self, probabilities: Probabilities, voxels: Voxels, values: Voxels) -> Probabilities:
        """Make probabilities (K, Z, Y, X) follow the scan's edges and the strokes."""
        if self._edges is None:
            self._edges = scan_edges(self.features)
        edges, gamma = self._edges
        return random_walk(probabilities, edges, gamma, voxels, values)

    def _inputs(self, voxels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        found = self.features.at(voxels)
        if self.prior is None:
            return found
        return np.concatenate((found, self.prior[(slice(None), *voxels.T)].T), axis=1)

    def _kept(
        self, prior: Probabilities, voxels: Voxels, seed: int
    ) -> tuple[Voxels, Voxels, npt.NDArray[np.float64]]:
        """Voxels of which the model is sure, of all its classes alike, away from the strokes."""
        rng = np.random.default_rng(seed)
        chosen = rng.integers(prior[0].size, size=20 * KEEP_SAMPLES)
        classes = prior.reshape(len(prior), -1)[:, chosen].argmax(0)
        sure = prior.reshape(len(prior), -1)[classes, chosen].astype(np.float64)
        quota = KEEP_SAMPLES // max(1, len(np.unique(classes[sure > SURE])))
        take = np.concatenate(
            [np.flatnonzero((classes == k) & (sure > SURE))[:quota] for k in range(len(prior))]
        )
        place = np.stack(np.unravel_index(chosen[take], prior.shape[1:]), axis=1)
        painted = np.zeros(prior.shape[1:], bool)
        painted[tuple(voxels.T)] = True
        free = ~painted[tuple(place.T)]
        take, place = take[free], place[free]
        return place.astype(np.intp), classes[take], sure[take] + 1e-9
