"""Scores, and jobs driven to their end."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["mean_dice"]


def mean_dice(mask: Any, truth: Any) -> tuple[float, list[float]]:
    """Mean over the classes but the background, and each class's."""
    scores = []
    for value in range(1, int(truth.max()) + 1):
        a, b = mask == value, truth == value
        scores.append(float(2 * (a & b).sum() / max(1, a.sum() + b.sum())))
    return float(np.mean(scores)), scores
