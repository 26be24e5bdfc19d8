"""What training the network adds after the quick rounds, with and without the keep-term."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from napari_attention3d.correction.refine import RefineOptions
from napari_attention3d.correction.session import CorrectionSession
from napari_attention3d.progress import finish

from .measure import mean_dice

__all__ = ["train_network"]


def train_network(
    session: CorrectionSession, truth: Any, seconds: float, keep: float
) -> dict[str, Any]:
    """Train a copy of the session's network on its strokes; the session stays as it is.

    Returns
    -------
    dict
        Mean Dice of the mask before, of the network alone, and of the round that is made
        of it; share of the voxels that were right and unpainted before and are wrong after
        (``forgotten``), for the network alone (against the model that was to be corrected,
        if there is one) and the round.
    """
    before = session.labels
    first = session.rounds[0].labels if session.start_probabilities is not None else before
    free = session.corrections == 0
    wall, cpu = time.perf_counter(), time.process_time()
    made = finish(session.refine_job(RefineOptions(seconds=seconds, keep=keep)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    alone = np.asarray(made.network.probabilities).argmax(0)
    after = session.merged(made.labels)
    return {
        "keep": keep,
        "strokes": made.strokes,
        "before": mean_dice(before, truth)[0],
        "start": mean_dice(first, truth)[0],
        "network": mean_dice(alone, truth)[0],
        "round": mean_dice(after, truth)[0],
        "network_forgot": _forgotten(first, alone, truth, free),
        "round_forgot": _forgotten(before, after, truth, free),
        "steps": len(made.losses),
        "reason": made.reason,
        "lost": made.lost,
        "seconds": wall,
        "cpu": cpu,
    }


def _forgotten(before: Any, after: Any, truth: Any, free: Any) -> float:
    right = (before == truth) & free
    return float((right & (after != truth)).sum() / max(1, int(right.sum())))
