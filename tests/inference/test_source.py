from __future__ import annotations

import threading
from itertools import product
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import torch
import zarr

from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.inference import preprocess
from napari_attention3d.inference.preprocess import Prepared, Preprocessor
from napari_attention3d.inference.source import TensorSource
from napari_attention3d.inference.tiling import Box
from napari_attention3d.models.card import ModelCard
from napari_attention3d.progress import finish
from napari_attention3d.volumes.volume import Volume

RULES: list[dict[str, Any]] = [
    {"kind": "none"},
    {"kind": "window", "lower": 10, "upper": 150},
    {"kind": "percentile"},
    {"kind": "zscore", "lower": 2, "upper": 98},
]
TILT = np.array([[0, 0, -1.5, 9], [1, 0.2, 0, 3], [-0.2, 3, 0, 1], [0, 0, 0, 1.0]])


def card(**changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "name": "test",
        "title": "Test",
        "network": {"name": "test"},
        "classes": [{"name": n, "colour": "#000000"} for n in "ab"],
        "channels": [{"name": "any"}],
    }
    return ModelCard.model_validate({**fields, **changes})


def voxels(shape: tuple[int, ...] = (22, 17, 30)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(np.uint16)


def stored(kind: str, array: np.ndarray, folder: Path) -> Any:
    if kind == "zarr":
        chunks = (1, 5, 6, 7)[-array.ndim :]
        made = zarr.create_array(folder / "a.zarr", shape=array.shape, dtype="u2", chunks=chunks)
        made[:] = array
        return made
    if kind == "dask":
        return dask.array.from_array(array, chunks=(4,) * array.ndim)
    if kind == "memmap":
        array.tofile(folder / "a.raw")
        return np.memmap(folder / "a.raw", np.uint16, "r", shape=array.shape)
    return array


def opened(volume: Volume, model: ModelCard, most: int = 0) -> Prepared:
    return finish(Preprocessor(model).open(volume, most=most))


@pytest.mark.parametrize("kind", ["array", "memmap", "zarr", "dask"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["kind"])
def test_lazy_reading_gives_what_preparing_all_at_once_gives(
    kind: str, rule: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "LOOK_BYTES", 4 * 22 * 17 * 3)
    model = card(normalisation=rule, orientation="SAR", spacing=(2, 1.2, 1), unit="mm")
    volume = Volume.from_array(
        stored(kind, voxels(), tmp_path), affine=TILT, unit="mm", anatomical=True
    )
    whole, lazy = Preprocessor(model).prepare(volume), opened(volume, model)
    assert whole.placement.is_resampled
    assert not whole.reorientation.is_identity
    assert whole.warnings == lazy.warnings
    shape = whole.tensor.shape[1:]
    random = np.random.default_rng(1)
    for _ in range(6):
        start = [int(random.integers(0, n)) for n in shape]
        stop = [int(random.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True)]
        box = Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
        lazy.source.ahead(box)
        expected = whole.source.read(box)
        torch.testing.assert_close(lazy.source.read(box), expected, atol=2e-6, rtol=1e-5)
    lazy.source.close()


def test_channels_are_scaled_each_by_itself(tmp_path: Path) -> None:
    array = np.stack((voxels(), 3 * voxels() + 50))
    model = card(channels=[{"name": "a"}, {"name": "b"}])
    volume = Volume.from_array(stored("zarr", array, tmp_path))
    whole, lazy = Preprocessor(model).prepare(volume), opened(volume, model)
    torch.testing.assert_close(lazy.tensor, whole.tensor, atol=1e-6, rtol=1e-6)
    lazy.source.close()


def test_small_scans_are_held_in_memory() -> None:
    volume = Volume.from_array(voxels())
    size = 4 * volume.array.size
    assert isinstance(opened(volume, card(), most=size).source, TensorSource)
    lazy = opened(volume, card(), most=size - 1)
    assert not isinstance(lazy.source, TensorSource)
    assert any("part by part" in note for note in lazy.notes)


class Counting:
    """An array in chunks that counts how often each chunk was read."""

    def __init__(self, array: np.ndarray, depth: int) -> None:
        self.array, self.depth = array, depth
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.chunks = (depth, *array.shape[1:])
        self.rows: list[int] = []
        self.threads: set[str] = set()

    def __getitem__(self, index: Any) -> np.ndarray:
        self.rows += range(index[0].start // self.depth, -(-index[0].stop // self.depth))
        self.threads.add(threading.current_thread().name)
        return self.array[index]


def test_each_chunk_is_read_once_in_a_pass_of_thin_slabs() -> None:
    array = Counting(voxels((24, 6, 7)), 8)
    source = opened(Volume(array, Geometry.from_spacing((24, 6, 7))), card()).source
    array.rows.clear()
    boxes = [Box((z, 0, 0), (z + 3, 6, 7)) for z in range(0, 24, 3)]
    for box, following in zip(boxes, [*boxes[1:], None], strict=True):
        if following is not None:
            source.ahead(following)
        source.read(box)
    assert array.rows == [0, 1, 2]
    assert len(source._rows) <= 2  # type: ignore[attr-defined]
    source.close()
    assert not any(t.name.startswith("attention3d-read") for t in threading.enumerate())


@pytest.mark.parametrize(("at", "text"), list(product([0, -1], ["NaN", "all voxels"])))
def test_bad_voxels_are_refused_before_anything_is_computed(
    at: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "LOOK_BYTES", 4 * 100)
    array = np.zeros((20, 10, 10), np.float32)
    if text == "NaN":
        array[at, 3, 4] = np.nan
    with pytest.raises(InputError, match=text):
        opened(Volume.from_array(array), card())
    assert not any(t.name.startswith("attention3d-read") for t in threading.enumerate())


def test_threads_read_side_by_side_each_in_its_own_order() -> None:
    """Every box is right, whoever reads what at the same time."""
    array = Counting(voxels((48, 6, 7)), 4)
    source = opened(Volume(array, Geometry.from_spacing((48, 6, 7))), card()).source
    whole = source.read(Box((0, 0, 0), (48, 6, 7)))
    source.close()
    begin, wrong = threading.Barrier(4), []

    def reader(number: int) -> None:
        random = np.random.default_rng(number)
        begin.wait()
        try:
            for _ in range(40):
                z = int(random.integers(0, 40))
                box = Box((z, 0, 0), (z + 8, 6, 7))
                source.ahead(Box((40 - z, 0, 0), (48 - z, 6, 7)))
                if not torch.equal(source.read(box), whole[:, z : z + 8]):
                    wrong.append(f"planes {z} to {z + 8}")
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=reader, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    source.close()
    assert not any(t.name.startswith("attention3d-read") for t in threading.enumerate())


class Broken:
    """An array that can't be read once."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.fails = False

    def __getitem__(self, index: Any) -> np.ndarray:
        if self.fails:
            self.fails = False
            raise MemoryError
        return self.array[index]


def test_what_could_not_be_read_is_read_again() -> None:
    array = Broken(voxels())
    source = opened(Volume(array, Geometry.from_spacing(array.shape)), card()).source
    box = Box((0, 0, 0), (4, 17, 30))
    array.fails = True
    with pytest.raises(MemoryError):
        source.read(box)
    expected = torch.from_numpy(voxels()[:4].astype(np.float32))[None]
    assert source.read(box).shape == expected.shape
    source.close()


def test_all_boxes_of_a_batch_are_read_ahead() -> None:
    array = Counting(voxels((24, 6, 7)), 8)
    source = opened(Volume(array, Geometry.from_spacing((24, 6, 7))), card()).source
    array.rows.clear()
    source.ahead(Box((0, 0, 0), (8, 6, 7)), Box((16, 0, 0), (24, 6, 7)))
    for z in (0, 16):
        source.read(Box((z, 0, 0), (z + 8, 6, 7)))
    assert array.rows == [0, 2]
    source.close()
