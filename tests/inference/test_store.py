from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attention3d.geometry import Geometry
from napari_attention3d.inference.store import RowBuffer, ZarrStore
from napari_attention3d.volumes import read_volume


class Counting:
    """A stored array that counts how often each chunk is written."""

    def __init__(self, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
        self.data = np.zeros(shape, np.uint8)
        self.shape, self.dtype, self.ndim, self.chunks = shape, self.data.dtype, 3, chunks
        self.writes: list[tuple[int, ...]] = []

    def __setitem__(self, index: Any, value: Any) -> None:
        self.data[index] = value
        self.writes.append(tuple(s.start or 0 for s in index))

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("backwards", [False, True])
def test_thin_slabs_are_written_in_whole_rows_of_chunks(axis: int, backwards: bool) -> None:
    values = np.random.default_rng(0).integers(0, 255, (22, 17, 30)).astype(np.uint8)
    stored = Counting(values.shape, (8, 8, 8))
    buffer = RowBuffer(stored)
    starts = list(range(0, values.shape[axis], 3))
    for start in reversed(starts) if backwards else starts:
        where = [slice(None)] * 3
        where[axis] = slice(start, min(start + 3, values.shape[axis]))
        buffer[tuple(where)] = values[tuple(where)]
    np.testing.assert_array_equal(stored.data, values)  # nothing waits
    rows = -(-values.shape[axis] // 8)
    assert len(stored.writes) == rows


def test_columns_and_slabs_mixed_give_the_same() -> None:
    values = np.random.default_rng(0).integers(0, 255, (22, 17, 30)).astype(np.uint8)
    stored = zarr.create_array({}, shape=values.shape, dtype="u1", chunks=(8, 8, 8))
    buffer = RowBuffer(stored)
    for y0, y1 in ((0, 9), (9, 17)):
        for z in range(0, 22, 5):
            where = (slice(z, min(z + 5, 22)), slice(y0, y1), slice(0, 30))
            buffer[where] = values[where]
    buffer.flush()
    np.testing.assert_array_equal(stored[:], values)


Slab = tuple[int, int, int, int]
SLABS = st.tuples(*[st.integers(0, 10)] * 2, *[st.integers(0, 7)] * 2).map(
    lambda s: (min(s[:2]), max(s[:2]) + 1, min(s[2:]), max(s[2:]) + 1)
)


@pytest.mark.parametrize("axis", [0, 1, 2])
@settings(max_examples=50)
@given(slabs=st.lists(SLABS, max_size=8), whole=st.lists(st.booleans(), min_size=8, max_size=8))
def test_whatever_is_given_in_whatever_order_the_last_word_counts(
    axis: int, slabs: list[Slab], whole: list[bool]
) -> None:
    """Slabs and columns in turn, some planes never, some twice: as after memory ran out."""
    expected = np.full((12, 9, 10), 255, np.uint8)
    stored = Counting(expected.shape, (4, 4, 4))
    stored.data[:] = 255
    buffer = RowBuffer(stored)
    for number, ((z0, z1, y0, y1), full) in enumerate(zip(slabs, whole, strict=False)):
        where = [slice(0, n) for n in expected.shape]
        where[axis] = slice(min(z0, expected.shape[axis] - 1), min(z1, expected.shape[axis]))
        if where[axis].start == where[axis].stop:
            continue
        if not full:
            where[(axis + 1) % 3] = slice(y0, y1)
        value = np.full([s.stop - s.start for s in where], number, np.uint8)
        expected[tuple(where)] = value
        buffer[tuple(where)] = value
    buffer.flush()
    np.testing.assert_array_equal(stored.data, expected)


def test_results_are_complete_folders_or_not_there(tmp_path: Path) -> None:
    grid = Geometry.from_spacing((20, 6, 7), (2, 1, 1), unit="um")
    values = np.random.default_rng(0).integers(0, 3, grid.shape).astype(np.uint8)
    paths = {"labels": tmp_path / "a.ome.zarr"}
    with ZarrStore(paths, grid, "scan") as store:
        labels = store.allocate("labels", grid.shape, np.dtype(np.uint8))
        other = store.allocate("gate", (5, 3, 4), np.dtype(np.float32))
        other[:, :, :] = np.ones((5, 3, 4), np.float32)
        for z in range(0, 20, 4):
            labels[z : z + 4, 0:6, 0:7] = values[z : z + 4]
        store.describe("labels", {"provenance": {"a": 1}})
        assert not paths["labels"].exists()
        store.flush()
        assert (np.asarray(other[:]) == 1).all()
    back = read_volume(paths["labels"])
    np.testing.assert_array_equal(np.asarray(back.array), values)
    assert back.geometry.is_close(grid)
    assert back.metadata["provenance"] == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.zarr"]
    with pytest.raises(RuntimeError, match="stop"):
        _stop_in_the_middle(tmp_path / "b.zarr", grid)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.zarr"]


def _stop_in_the_middle(path: Path, grid: Geometry) -> None:
    with ZarrStore({"labels": path}, grid, "b") as store:
        store.allocate("labels", grid.shape, np.dtype(np.uint8))
        store.allocate("gate", grid.shape, np.dtype(np.float32))
        raise RuntimeError("stop")
