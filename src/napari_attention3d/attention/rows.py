"""What one voxel attends to, and who attends to it, from kept queries and keys.

A row or a column costs one product of N keys with one query; the N x N matrix is never
built. A row reaches as far as the tile that was segmented: outside there are no keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ..networks.self_attention import PositionRecord

__all__ = [
    "attention_column",
    "attention_received",
    "attention_row",
    "attention_to",
    "strongest_targets",
]

QUERIES_AT_ONCE = 4096
PAIRS_AT_ONCE = 2**24
"""Pairs of a query and a key whose products are held at once."""


def attention_row(record: PositionRecord, voxel: Sequence[int], batch: int = 0) -> Tensor:
    """Return the share of its attention that a voxel gives to every other.

    Parameters
    ----------
    record
        Kept by a forward pass.
    voxel
        Index (z, y, x) on the attention's grid.
    batch
        Sample.

    Returns
    -------
    Tensor
        (z, y, x) float32 on the grid, >= 0, sums to 1. With pooled keys the share of a
        cell is spread evenly over its voxels; with windows it is 0 outside the voxel's.

    Raises
    ------
    IndexError
        If the voxel lies outside the grid.
    """
    place = _checked(record, voxel)
    query = record.queries[(batch, slice(None), *place)].float()
    keys = record.keys[batch].float()
    logits = torch.einsum("c,czyx->zyx", query, keys)
    if record.window is not None:
        inside = _same_window(record, place)
        logits = logits.masked_fill(~inside, -torch.inf)
    share = torch.softmax(logits.flatten(), 0).reshape(logits.shape)
    return _spread(share, record)


def attention_column(record: PositionRecord, voxel: Sequence[int], batch: int = 0) -> Tensor:
    """Return how much of its attention every voxel gives to one voxel.

    With pooled keys: to one voxel's equal part of its cell.

    Parameters
    ----------
    record, voxel, batch
        As in `attention_row`.

    Returns
    -------
    Tensor
        (z, y, x) float32 on the grid: entry ``i`` is ``P[i, voxel]``.

    Raises
    ------
    IndexError
        If the voxel lies outside the grid.
    """
    place = _checked(record, voxel)
    z, y, x = (p // f for p, f in zip(place, record.kv_pool, strict=True))
    queries = record.queries[batch].float().flatten(1).T
    keys = record.keys[batch].float()
    target = keys[:, z, y, x]
    logits = queries @ target
    column = torch.zeros_like(logits)
    if record.window is None:
        flat = keys.flatten(1)
        # exp(q.k - log sum exp), a slab of queries at a time.
        for start in range(0, len(logits), QUERIES_AT_ONCE):
            part = slice(start, start + QUERIES_AT_ONCE)
            total = torch.logsumexp(queries[part] @ flat, dim=1)
            column[part] = torch.exp(logits[part] - total)
    else:
        inside = _same_window(record, place).flatten()
        total = torch.logsumexp(queries[inside] @ keys.flatten(1)[:, inside], dim=1)
        column[inside] = torch.exp(logits[inside] - total)
    grid = record.queries.shape[2:]
    cell = 1
    for p, f, n in zip(place, record.kv_pool, grid, strict=True):
        cell *= min((p // f + 1) * f, n) - (p // f) * f
    return column.reshape(grid) / cell


def attention_to(record: PositionRecord, target: Tensor, batch: int = 0) -> Tensor:
    """Return the share of its attention that every voxel gives to a set of voxels.

    Parameters
    ----------
    record, batch
        As in `attention_row`.
    target
        (z, y, x) on the grid: 1 for voxels of the set, 0 for others, between for parts.

    Returns
    -------
    Tensor
        (z, y, x) float32 on the grid, 0 to 1: entry ``i`` is ``sum_j P[i, j] target[j]``.

    Raises
    ------
    ValueError
        If the target does not lie on the grid.
    """
    grid = record.queries.shape[2:]
    if tuple(target.shape) != tuple(grid):
        raise ValueError(f"target {tuple(target.shape)} does not lie on the grid {tuple(grid)}")
    # An even spread over a cell gives the set the cell's mean.
    weight = target.float()[None, None]
    if record.kv_pool != (1, 1, 1):
        weight = nnf.avg_pool3d(
            weight, record.kv_pool, record.kv_pool, ceil_mode=True, count_include_pad=False
        )
    weight = weight.flatten()
    result = torch.zeros(target.numel())
    for queries, keys, share in _shares(record, batch):
        result[queries] = share @ weight[keys]
    return result.reshape(tuple(grid))


def attention_received(record: PositionRecord, batch: int = 0) -> Tensor:
    """Return the share of all attention that falls on every voxel (the mean of all rows).

    Returns
    -------
    Tensor
        (z, y, x) float32 on the grid, >= 0, sums to 1; times the number of voxels, it is
        how many times more than an even spread a voxel is looked at.
    """
    grid = record.queries.shape[2:]
    cells = record.keys.shape[2:]
    total = torch.zeros(record.keys[batch, 0].numel())
    count = 0
    for queries, keys, share in _shares(record, batch):
        total[keys] += share.sum(0)
        count += len(queries)
    return _spread((total / count).reshape(tuple(cells)), record).reshape(tuple(grid))


def strongest_targets(
    record: PositionRecord, voxel: Sequence[int], count: int = 12, batch: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the places that a voxel attends to most.

    Returns
    -------
    tuple of Tensor
        Centres (n, 3) of the keys' cells as fractional indices (z, y, x) on the grid, and
        the cells' shares (n,), strongest first.

    Raises
    ------
    IndexError
        If the voxel lies outside the grid.
    """
    row = attention_row(record, voxel, batch)
    for axis, factor in enumerate(record.kv_pool):
        cell = torch.arange(row.shape[axis]) // factor
        shape = list(row.shape)
        shape[axis] = int(cell[-1]) + 1
        row = torch.zeros(shape).index_add_(axis, cell, row.cpu())
    shares, flat = row.flatten().topk(min(count, row.numel()))
    places = torch.stack(torch.unravel_index(flat, row.shape), 1).float()
    for axis, (factor, size) in enumerate(
        zip(record.kv_pool, record.queries.shape[2:], strict=True)
    ):
        first = places[:, axis] * factor
        last = (first + factor).clamp(max=size) - 1
        places[:, axis] = (first + last) / 2
    return places, shares


def _shares(record: PositionRecord, batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows of P, some at a time: indices of queries, indices of keys, (queries, keys) shares."""
    queries = record.queries[batch].float().cpu().flatten(1).T
    keys = record.keys[batch].float().cpu().flatten(1)
    if record.window is None:
        everything = torch.arange(keys.shape[1])
        groups = [(torch.arange(len(queries)), everything)]
    else:
        number = torch.zeros((), dtype=torch.long)
        for axis, (n, w) in enumerate(zip(record.queries.shape[2:], record.window, strict=True)):
            line = torch.arange(n) // w
            shape = [-1 if a == axis else 1 for a in range(3)]
            number = number * (-(-n // w)) + line.reshape(shape)
        window = number.flatten()
        groups = [
            (one, one)
            for one in (torch.nonzero(window == w)[:, 0] for w in range(int(window.max()) + 1))
        ]
    for mine, theirs in groups:
        step = max(1, PAIRS_AT_ONCE // len(theirs))
        for start in range(0, len(mine), step):
            part = mine[start : start + step]
            yield part, theirs, torch.softmax(queries[part] @ keys[:, theirs], dim=1)


def _checked(record: PositionRecord, voxel: Sequence[int]) -> tuple[int, int, int]:
    grid = record.queries.shape[2:]
    z, y, x = (int(v) for v in voxel)
    if any(not 0 <= v < n for v, n in zip((z, y, x), grid, strict=True)):
        raise IndexError(f"voxel {(z, y, x)} lies outside the grid of {tuple(grid)} voxels")
    return z, y, x


def _same_window(record: PositionRecord, place: tuple[int, int, int]) -> Tensor:
    assert record.window is not None
    grid = record.queries.shape[2:]
    inside = torch.ones(tuple(grid), dtype=torch.bool, device=record.queries.device)
    for axis, (p, w, n) in enumerate(zip(place, record.window, grid, strict=True)):
        same = torch.arange(n, device=inside.device) // w == p // w
        inside &= same.reshape([-1 if a == axis else 1 for a in range(3)])
    return inside


def _spread(share: Tensor, record: PositionRecord) -> Tensor:
    """Cells to the voxels of the grid, each cell's value divided evenly among them."""
    for axis, (f, n) in enumerate(zip(record.kv_pool, record.queries.shape[2:], strict=True)):
        if f == 1:
            continue
        cell = torch.arange(n, device=share.device) // f
        size = torch.bincount(cell).to(share.dtype)
        shape = [-1 if a == axis else 1 for a in range(3)]
        share = share.index_select(axis, cell) / size[cell].reshape(shape)
    return share
