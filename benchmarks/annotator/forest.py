"""What one would write first: scikit-learn's random forest on fixed features and position."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from napari_attention3d import Volume

from .strokes import Stroke

__all__ = ["PlainForest"]


class PlainForest:
    """Intensity, Gaussian, gradient, Laplacian, local deviation at 1, 2, 4; position; 60 trees."""

    def __init__(self, scan: Volume, classes: int, threads: int) -> None:
        begin = time.perf_counter()
        image = np.asarray(scan.channel(0).array, dtype=np.float32)
        x = (image - image.mean()) / (image.std() + 1e-6)
        maps = [x]
        for sigma in (1, 2, 4):
            g = ndimage.gaussian_filter(x, sigma)
            spread = np.maximum(ndimage.gaussian_filter(x * x, sigma) - g * g, 0)
            maps += [
                g,
                ndimage.gaussian_gradient_magnitude(x, sigma),
                ndimage.gaussian_laplace(x, sigma),
                np.sqrt(spread),
            ]
        maps += list(np.indices(image.shape).astype(np.float32))
        self.features = np.stack(maps, axis=-1).reshape(-1, len(maps))
        self.shape, self.threads = image.shape, threads
        self.preparing = time.perf_counter() - begin

    def __call__(self, strokes: list[Stroke]) -> Any:
        voxels = np.concatenate([v for v, _ in strokes])
        values = np.concatenate([np.full(len(v), value) for v, value in strokes])
        rows = self.features[np.ravel_multi_index(tuple(voxels.T), self.shape)]
        forest = RandomForestClassifier(60, n_jobs=self.threads, random_state=0)
        return forest.fit(rows, values).predict(self.features).reshape(self.shape)
