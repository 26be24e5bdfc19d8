"""Networks whose answer is known, for every size; plans against brute force."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from napari_attention3d.geometry import Geometry
from napari_attention3d.inference import plans, preprocess
from napari_attention3d.inference.plans import ExactPlan
from napari_attention3d.inference.predict import predict_grid
from napari_attention3d.inference.tiling import Box, plan_tiles
from napari_attention3d.models.card import ModelCard
from napari_attention3d.models.store import Model
from napari_attention3d.networks import build_network
from napari_attention3d.networks.base import MapSpec, NetworkOutput, SegmentationNetwork
from napari_attention3d.progress import finish
from napari_attention3d.session import segment
from napari_attention3d.volumes.volume import Volume

CPU = torch.device("cpu")
SIZES = st.tuples(*[st.integers(1, 40)] * 3)


class Known(SegmentationNetwork):
    """Logits (x, mean of the 3 x 3 x 3 voxels around, zeros outside), by one convolution."""

    name = "test-known"

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.num_classes = 1, 2
        self.conv = nn.Conv3d(1, 2, 3, padding=1, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0, 0, 1, 1, 1] = 1
            self.conv.weight[1] = 1 / 27

    @property
    def config(self) -> dict[str, Any]:
        return {}

    @property
    def total_stride(self) -> tuple[int, int, int]:
        return (1, 1, 1)

    @property
    def map_specs(self) -> Mapping[str, MapSpec]:
        return {}

    def forward(self, x: Tensor, return_maps: bool = False) -> NetworkOutput:
        return NetworkOutput(self.conv(x), {}, ())


def truth(x: Tensor) -> np.ndarray:
    mean = ndimage.uniform_filter(x[0].numpy().astype(float), 3, mode="constant")
    return np.stack((x[0].numpy(), mean))


@settings(max_examples=60, deadline=None)
@given(size=SIZES, axis=st.integers(0, 2), planes=st.integers(1, 41), parts=st.integers(1, 4))
def test_exact_pass_of_identity_and_mean(
    size: tuple[int, int, int], axis: int, planes: int, parts: int
) -> None:
    x = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    plan = ExactPlan(size, Box((0, 0, 0), size), axis, planes, parts)
    result = finish(predict_grid(Known().eval(), x, plan, device=CPU))
    np.testing.assert_allclose(result.logits.numpy(), truth(x), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(size=SIZES, tile=st.tuples(*[st.integers(4, 24)] * 3), overlap=st.floats(0, 0.7))
def test_tiles_of_identity(
    size: tuple[int, int, int], tile: tuple[int, int, int], overlap: float
) -> None:
    x = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    plan = plan_tiles(size, tile, overlap)
    result = finish(predict_grid(Known().eval(), x, plan, device=CPU, batch_size=2))
    np.testing.assert_allclose(result.logits[0].numpy(), x[0].numpy(), atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 60),
    tile=st.integers(2, 24),
    overlap=st.floats(0, 0.8),
    multiple=st.sampled_from([1, 2, 4]),
)
def test_a_plan_covers_overlaps_and_has_no_tile_too_many(
    size: int, tile: int, overlap: float, multiple: int
) -> None:
    plan = plan_tiles((size, 1, 1), (tile, 1, 1), overlap, (multiple, 1, 1))
    starts, width = plan.starts[0], plan.tile[0]
    assert starts[0] == 0
    assert all(s % multiple == 0 for s in starts)
    assert starts[-1] + width >= size
    if len(starts) == 1:
        assert width >= size
        return
    assert width <= max(tile, multiple)
    step = max(multiple, int(width * (1 - overlap) / multiple + 1e-9) * multiple)
    assert all(b - a <= step for a, b in pairwise(starts))
    # Brute force: the fewest steps of at most `step`, multiples all, that reach the end.
    reach, fewest = 0, 1
    while reach + width < size:
        reach, fewest = reach + step, fewest + 1
    assert len(starts) == fewest
    total = np.zeros(size)
    for box in plan.tiles:
        weights = plan.weights(box)[0]
        assert (weights > 0).all()
        total[box.slices[0]] += weights
    np.testing.assert_allclose(total, 1, atol=1e-5)


def model() -> Model:
    torch.manual_seed(0)
    card = ModelCard.model_validate(
        {
            "name": "test",
            "title": "Test",
            "network": {"name": "attention-unet", "channels": [4, 8], "num_classes": 3},
            "classes": [{"name": n, "colour": "#000000"} for n in "abc"],
            "channels": [{"name": "any"}],
            "patch_size": [16, 16, 16],
            "normalisation": {"kind": "percentile"},
        }
    )
    config = {k: v for k, v in card.network.items() if k != "name"}
    return Model(card, build_network("attention-unet", **config).eval())


def stored(kind: str, array: np.ndarray, folder: Path) -> Any:
    if kind == "array":
        return array
    if kind == "memmap":
        array.tofile(folder / "a.raw")
        return np.memmap(folder / "a.raw", array.dtype, "r", shape=array.shape)
    made = zarr.create_array(
        folder / "a.zarr", shape=array.shape, dtype=array.dtype, chunks=(8,) * 3
    )
    made[:] = array
    return made if kind == "zarr" else dask.array.from_zarr(str(folder / "a.zarr"))


@pytest.mark.parametrize("engine", ["exact", "tiles"])
def test_arrays_maps_zarr_and_dask_give_equal_labels(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "fits_whole", lambda *about: False)
    monkeypatch.setattr(plans, "PLANES", 4)
    network = model()
    array = np.random.default_rng(0).integers(0, 900, (22, 19, 33)).astype(np.uint16)
    tilt = np.array([[0, 0, -1.5, 9], [1, 0.2, 0, 3], [-0.2, 3, 0, 1], [0, 0, 0, 1.0]])
    options: dict[str, Any] = {"precision": "exact", "uncertainty": True}
    if engine == "tiles":
        options["tile"] = (16, 16, 16)
    found = {}
    for kind, lazy in product(("array", "memmap", "zarr", "dask"), (False, True)):
        folder = tmp_path / f"{kind}{lazy}"
        folder.mkdir()
        monkeypatch.setattr(preprocess, "IN_MEMORY_BYTES", 0 if lazy else 2**28)
        volume = Volume(stored(kind, array, folder), Geometry(array.shape, tilt, "mm", True))
        result = segment(volume, network, **options)
        assert result.provenance["plan"]["engine"] == engine
        found[kind, lazy] = result
    first = found["array", False]
    assert len(np.unique(first.labels.array)) > 1
    for result in found.values():
        np.testing.assert_array_equal(result.labels.array, first.labels.array)
        np.testing.assert_allclose(result.uncertainty.array, first.uncertainty.array, atol=1e-4)
