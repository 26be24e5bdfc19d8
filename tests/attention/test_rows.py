"""Rows and columns from queries and keys equal those of the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.attention import attention_column, attention_row, rows
from napari_attention3d.attention.rows import (
    attention_received,
    attention_to,
    strongest_targets,
)
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


CONFIGS = [{}, {"kv_pool": (2, 2, 3)}, {"window": (2, 3, 4)}]


def all_rows(record):
    """(N, N) of the rows, one by one."""
    places = list(np.ndindex(*GRID))
    return torch.stack([attention_row(record, place, batch=1).flatten() for place in places])


@pytest.mark.parametrize("config", CONFIGS)
def test_shares_that_fall_on_a_set_are_sums_of_the_rows(config):
    record = kept(**config)
    target = torch.rand(GRID)
    expected = all_rows(record) @ target.flatten()
    found = attention_to(record, target, batch=1)
    np.testing.assert_allclose(found.flatten(), expected, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_received_is_the_mean_of_the_rows(config, monkeypatch):
    monkeypatch.setattr(rows, "PAIRS_AT_ONCE", 500)  # several slabs
    record = kept(**config)
    expected = all_rows(record).mean(0)
    np.testing.assert_allclose(attention_received(record, batch=1).flatten(), expected, atol=1e-7)


def test_strongest_targets_are_cells_with_their_whole_share():
    record = kept(kv_pool=(2, 2, 3))
    places, shares = strongest_targets(record, (1, 2, 3), 4, batch=1)
    matrix = dense(record, 1)[number((1, 2, 3))]
    expected, order = matrix.topk(4)
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    cell = np.stack(np.unravel_index(order.numpy(), (2, 3, 2)), 1)
    sizes = np.minimum((cell + 1) * (2, 2, 3), GRID) - cell * (2, 2, 3)
    np.testing.assert_allclose(places, cell * (2, 2, 3) + (sizes - 1) / 2)


def test_a_target_on_another_grid_is_refused():
    with pytest.raises(ValueError, match="does not lie on the grid"):
        attention_to(kept(), torch.ones(2, 2, 2))
