"""A random forest whose trees each see other strokes.

Voxels of one stroke are alike, so a bootstrap over voxels (Breiman 2001) shows nearly the
same to every tree, and the trees agree on what holds for these strokes only: above all on
where they lie. Here each tree draws strokes with replacement, and voxels within them.

What nobody painted looks like none of the strokes, yet every voxel gets a class. Therefore
each tree may also see a few voxels from anywhere as background, other ones in each tree
(bagging with unlabelled samples as negatives: Mordelet & Vert 2014). Where strokes speak,
these few are outvoted; where nothing speaks, it is background.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from sklearn.tree import DecisionTreeClassifier

__all__ = ["StrokeForest"]


class StrokeForest:
    """Classifier of voxels.

    Parameters
    ----------
    trees
        How many.
    threads
        Threads to fit and predict with.
    seed
        Decides everything random.
    """

    def __init__(self, trees: int, threads: int = 1, seed: int = 0) -> None:
        self.size, self.threads, self.seed = trees, threads, seed
        self.trees: list[Any] = []
        self.classes = np.empty(0, np.intp)

    def fit(
        self,
        inputs: npt.NDArray[np.float32],
        values: npt.NDArray[np.intp],
        strokes: npt.NDArray[np.intp],
        weights: npt.NDArray[np.float64] | None = None,
        anywhere: npt.NDArray[np.float32] | None = None,
        few: int = 0,
    ) -> StrokeForest:
        """Grow the trees.

        Parameters
        ----------
        inputs
            (N, F).
        values
            Classes (N,).
        strokes
            (N,) which stroke a voxel belongs to.
        weights
            (N,) how much a voxel counts; None: all the same.
        anywhere
            (M, F) unpainted voxels, of which each tree takes `few` as class 0; None: none.
        """
        # a stroke of several classes (an edited mask) counts as one of each
        both = strokes * (values.max() + 1) + values
        _, strokes = np.unique(both, return_inverse=True)
        self.classes = np.unique(values)
        base = np.ones(len(values)) if weights is None else weights
        # one class per stroke decides whether a draw has them all
        first = np.zeros(strokes.max() + 1, np.intp)
        first[strokes] = values
        if anywhere is None or not few:
            anywhere, few = inputs[:0], 0
        else:
            self.classes = np.union1d(self.classes, [0])

        def grow(number: int) -> Any:
            rng = np.random.default_rng((self.seed, number))
            drawn = _draw(first, rng)[strokes]
            counted = base * drawn * rng.poisson(1.0, len(values))
            if len(np.unique(values[counted > 0])) < len(np.unique(first)):
                counted = base * drawn
            used = counted > 0
            taken = rng.integers(max(1, len(anywhere)), size=few)
            x = np.concatenate((inputs[used], anywhere[taken]))
            y = np.concatenate((values[used], np.zeros(few, values.dtype)))
            tree = DecisionTreeClassifier(
                max_features="sqrt", random_state=int(rng.integers(2**31))
            )
            return tree.fit(x, y, np.concatenate((counted[used], np.ones(few))))

        self.trees = Parallel(self.threads, prefer="threads")(
            delayed(grow)(number) for number in range(self.size)
        )
        return self

    def probabilities(self, inputs: npt.NDArray[np.float32], classes: int) -> Any:
        """Mean over the trees, (classes, N) float32."""

        def part(trees: list[Any]) -> Any:
            total = np.zeros((classes, len(inputs)), np.float32)
            for tree in trees:
                found = tree.predict_proba(inputs, check_input=False).T
                total[tree.classes_.astype(np.intp)] += found
            return total

        shares = [self.trees[i :: self.threads] for i in range(self.threads)]
        parts = Parallel(self.threads, prefer="threads")(
            delayed(part)(trees) for trees in shares if trees
        )
        return sum(parts) / len(self.trees)


def _draw(classes: npt.NDArray[np.intp], rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """How often each stroke is drawn; no class is left out."""
    count = len(classes)
    drawn = np.bincount(rng.integers(count, size=count), minlength=count)
    for value in np.unique(classes):
        of_class = np.flatnonzero(classes == value)
        if not drawn[of_class].any():
            drawn[rng.choice(of_class)] = 1
    return drawn
