"""What one voxel attends to, and who attends to it, from kept queries and keys.

A row or a column costs one product of N keys with one query; the N x N matrix is never
built. A row reaches as far as the tile that was segmented: outside there are no keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..networks.self_attention import PositionRecord

__all__ = ["attention_column", "attention_row"]

QUERIES_AT_ONCE = 4096


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
