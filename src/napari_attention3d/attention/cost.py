"""What a question about all voxels of a tile costs, found by answering a part of it."""

from __future__ import annotations

import time

import torch

from ..networks.self_attention import PositionRecord
from .replay import Look

__all__ = ["pairs", "question_seconds"]

_SAMPLE = 64


def pairs(look: Look) -> int:
    """Pairs of a query and a key in a tile, all scales and steps together."""
    total = 0
    for record in look.records.values():
        keys = record.keys[0, 0].numel()
        if record.window is not None:
            keys = min(keys, int(torch.tensor(record.window).prod()))
        total += record.queries[0, 0].numel() * keys
    return total


def question_seconds(look: Look) -> float:
    """About how long "who looks here", "who looks at the label" and "hubs" take.

    Some rows are computed (milliseconds) and their time is multiplied.

    Parameters
    ----------
    look
        A tile with the queries and keys of its position attentions.

    Returns
    -------
    float
        Seconds; 0 if the network has no position attention.
    """
    if not look.records:
        return 0.0
    record = next(iter(look.records.values()))
    taken = min(_time(record) for _ in range(2))  # the first one may warm up
    mine = min(_SAMPLE, record.queries[0, 0].numel()) * record.keys[0, 0].numel()
    return taken * pairs(look) / mine


def _time(record: PositionRecord) -> float:
    begin = time.perf_counter()
    queries = record.queries[0].float().flatten(1).T[:_SAMPLE]
    torch.softmax(queries @ record.keys[0].float().flatten(1), dim=1)
    return time.perf_counter() - begin
