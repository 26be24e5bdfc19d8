"""A first answer from a few strokes: a random forest over cached features and position."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from ..errors import InputError
from .features import ScanFeatures
from .forest import StrokeForest
from .smooth import Edges, random_walk, scan_edges
from .strokes import Painted, thinned

__all__ = ["FastHead", "Scorer"]

TREES = 100
SCORING_TREES = 40
SLAB_VOXELS = 2**17
KEEP_SAMPLES = 3000
"""Voxels that stand for what the person did not object to."""
KEEP_WEIGHT = 1.0
"""What they weigh together, relative to the strokes."""
SURE = 0.8
ANYWHERE = 4000
"""Voxels from anywhere that may stand for the background, if there is no model."""
FEW = 0.75
"""How many of them a tree sees, relative to the voxels of a stroke; see `forest`."""
OBJECTED = 5
"""Blocks around a stroke that contradicts the model where the model is not believed."""

Probabilities = npt.NDArray[np.float32]
Voxels = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Scorer:
    """A forest that has not seen the strokes that are held back, and its head."""

    head: FastHead
    forest: StrokeForest

    def accuracy(self, painted: Painted) -> float:
        """Mean over classes of the share of voxels that it gets right."""
        values = painted.values
        right = self.head.classify(self.forest, painted.voxels) == values
        return float(np.mean([right[values == v].mean() for v in np.unique(values)]))


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

    def fit(self, painted: Painted, seed: int = 0) -> StrokeForest:
        """Grow a forest.

        Parameters
        ----------
        painted
            On this grid.
        seed
            Decides everything random.

        Raises
        ------
        InputError
            If fewer than two classes are painted and there is no prior.
        """
        painted = thinned(painted, seed)
        voxels, values, strokes = painted.voxels, painted.values, painted.strokes
        weights = np.ones(len(values))
        if self.prior is not None:
            kept, classes, sure = self._kept(self.prior, painted, seed)
            share = KEEP_WEIGHT * len(values) / max(1e-9, sure.sum())
            weights = np.concatenate((weights, share * sure))
            strokes = np.concatenate((strokes, strokes.max() + 1 + np.arange(len(kept))))
            voxels, values = np.concatenate((voxels, kept)), np.concatenate((values, classes))
        elif len(np.unique(values)) < 2:
            raise InputError(
                "all strokes are of one class; paint at least one stroke of a second class "
                "(background counts)"
            )
        forest = StrokeForest(TREES, self.threads, seed)
        elsewhere, few = self._elsewhere(painted)
        return forest.fit(self._inputs(voxels), values, strokes, weights, elsewhere, few)

    def scorer(self, painted: Painted, held: npt.NDArray[np.bool_]) -> Scorer:
        """Grow a small forest that has not seen the voxels `held` (N,)."""
        seen = thinned(painted.pick(~held))
        forest = StrokeForest(SCORING_TREES, self.threads)
        elsewhere, few = self._elsewhere(seen)
        inputs = self._inputs(seen.voxels)
        forest.fit(inputs, seen.values, seen.strokes, None, elsewhere, few)
        return Scorer(self, forest)

    def classify(self, forest: StrokeForest, voxels: Voxels) -> npt.NDArray[np.intp]:
        """Most probable classes (N,) of voxels (N, 3)."""
        found = forest.probabilities(self._inputs(voxels), self.classes)
        return np.asarray(found.argmax(0))

    def probabilities(
        self,
        forest: StrokeForest,
        focus: int = 0,
        box: tuple[slice, slice, slice] | None = None,
        axis: int = 0,
    ) -> Iterator[tuple[int, Probabilities]]:
        """Predict slab by slab along an axis, those near plane `focus` first.

        Parameters
        ----------
        forest
            From `fit`.
        focus
            Plane of this grid.
        box
            The part to predict, with starts and stops; None: everything.
        axis
            0, 1, 2: slabs lie across z, y, x.

        Yields
        ------
        tuple
            First plane, and (K, z, y, x) of the box's part.
        """
        box = box or tuple(slice(0, n) for n in self.features.shape)  # type: ignore[assignment]
        assert box is not None
        start, size = [s.start for s in box], [s.stop - s.start for s in box]
        planes = box[axis]
        step = max(1, SLAB_VOXELS // (math.prod(size) // size[axis]))
        starts = range(planes.start, planes.stop, step)
        for first in sorted(starts, key=lambda at: abs(at + (step - 1) / 2 - focus)):
            start[axis], size[axis] = first, min(planes.stop, first + step) - first
            grid = np.indices(size).reshape(3, -1).T
            grid += start
            found = forest.probabilities(self._inputs(grid), self.classes)
            yield first, found.reshape(self.classes, *size)

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

    @cached_property
    def _sample(self) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng(0)
        places = [rng.integers(0, n, size=ANYWHERE) for n in self.features.shape]
        return self._inputs(np.stack(places, axis=1))

    def _elsewhere(self, painted: Painted) -> tuple[npt.NDArray[np.float32] | None, int]:
        """Unpainted voxels (M, F), and how many of them each tree takes for background.

        Half of them are put where strokes are: they speak for what looks otherwise, the
        others for what lies elsewhere, too. Places alone would make an island of each stroke.
        """
        if self.prior is not None:
            return None, 0  # the model says what is where nobody painted
        few = round(FEW * len(painted.values) / max(1, painted.count))
        found = self._sample.copy()
        rng = np.random.default_rng(1)
        half = ANYWHERE // 2
        found[:half, -3:] = painted.voxels[rng.integers(len(painted.voxels), size=half)]
        return found, few

    def _kept(
        self, prior: Probabilities, painted: Painted, seed: int
    ) -> tuple[Voxels, Voxels, npt.NDArray[np.float64]]:
        """Voxels of which the model is sure, of all its classes alike, away from objections."""
        voxels = painted.voxels
        rng = np.random.default_rng(seed)
        chosen = rng.integers(prior[0].size, size=20 * KEEP_SAMPLES)
        place = np.stack(np.unravel_index(chosen, prior.shape[1:]), axis=1)
        classes = prior.reshape(len(prior), -1)[:, chosen].argmax(0)
        sure = prior.reshape(len(prior), -1)[classes, chosen].astype(np.float64)
        told = np.zeros(prior.shape[1:], bool)
        told[tuple(voxels.T)] = True
        free = (sure > SURE) & ~told[tuple(place.T)]
        wrong = voxels[prior[(slice(None), *voxels.T)].argmax(0) != painted.values]
        if len(wrong):
            apart, _ = cKDTree(wrong).query(place, distance_upper_bound=OBJECTED)
            free &= np.isinf(apart)
        quota = KEEP_SAMPLES // max(1, len(np.unique(classes[free])))
        take = np.concatenate(
            [np.flatnonzero((classes == k) & free)[:quota] for k in range(len(prior))]
        )
        return place[take].astype(np.intp), classes[take], sure[take]
