"""Rows and columns from queries and keys equal those of the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.attention import attention_column, attention_row
from napari_attention3d.networks.self_attention import PositionAttention

GRID = (4, 5, 6)


def kept(**config):
    torch.manual_seed(0)
    attention = PositionAttention(8, **config).requires_grad_(False)
    attention.query.weight.mul_(5)
    records = []
    attention(torch.randn(2, 8, *GRID), records)
    return records[0]


def dense(record, batch):
    """P (N, M), by the definition."""
    q, k = (t[batch].flatten(1).double() for t in (record.queries, record.keys))
    return torch.softmax(q.T @ k, dim=1)


def number(voxel):
    z, y, x = voxel
    return (z * GRID[1] + y) * GRID[2] + x


@pytest.mark.parametrize("voxel", [(0, 0, 0), (3, 4, 5), (1, 2, 3)])
def test_row_and_column_of_exact_attention(voxel):
    record = kept()
    matrix = dense(record, 1)
    row = attention_row(record, voxel, batch=1)
    column = attention_column(record, voxel, batch=1)
    assert row.shape == column.shape == GRID
    assert torch.allclose(row.flatten().double(), matrix[number(voxel)], atol=1e-6)
    assert torch.allclose(column.flatten().double(), matrix[:, number(voxel)], atol=1e-6)
    assert float(row.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("config", [{}, {"kv_pool": (1, 2, 4)}, {"window": (2, 3, 4)}])
def test_a_row_holds_one_and_columns_agree_with_rows(config):
    record = kept(**config)
    rows = {voxel: attention_row(record, voxel) for voxel in np.ndindex(*GRID)}
    for row in rows.values():
        assert float(row.sum()) == pytest.approx(1, abs=1e-5)
        assert row.min() >= 0
    for target in ((0, 0, 0), (3, 4, 5), (2, 1, 4)):
        column = attention_column(record, target)
        expected = torch.stack([row[target] for row in rows.values()]).reshape(GRID)
        assert torch.allclose(column, expected, atol=1e-6)


def test_pooled_row_spreads_each_cell():
    record = kept(kv_pool=2)
    row = attention_row(record, (1, 1, 1))
    cells = dense(record, 0)[number((1, 1, 1))].reshape(2, 3, 3)
    assert float(row[:2, :2, :2].sum()) == pytest.approx(float(cells[0, 0, 0]), abs=1e-6)
    assert float(row[2:, 4:, 4:].sum()) == pytest.approx(float(cells[1, 2, 2]), abs=1e-6)
    assert torch.allclose(row[0, 0, 0], row[1, 1, 1])


def test_windowed_row_stays_inside():
    row = attention_row(kept(window=(2, 5, 3)), (1, 0, 4))
    outside = torch.ones(GRID, dtype=torch.bool)
    outside[:2, :, 3:] = False
    assert float(row[outside].abs().sum()) == 0


def test_outside_is_refused():
    record = kept()
    for ask in (attention_row, attention_column):
        with pytest.raises(IndexError, match="outside the grid"):
            ask(record, (4, 0, 0))
        with pytest.raises(IndexError, match="outside the grid"):
            ask(record, (-1, 0, 0))
