from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from napari_attention3d.attention import choose_maps, map_volumes
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.inference.tiling import Box
from napari_attention3d.networks import AttentionUNet, MapSpec

SPECS = {
    "fine": MapSpec("fine", "fine map", (2, 2, 2), (0.5, 0.5, 0.5)),
    "deep": MapSpec("deep", "deep map", (4, 8, 8), (1.5, 3.5, 3.5), description="what it is"),
}


def test_choice_of_maps() -> None:
    assert choose_maps(True, SPECS) == ("fine", "deep")
    assert choose_maps(False, SPECS) == ()
    assert choose_maps(("deep", "fine"), SPECS) == ("fine", "deep")
    with pytest.raises(InputError, match="no attention map 'shallow'; it has: fine, deep"):
        choose_maps(("shallow",), SPECS)
    with pytest.raises(InputError, match="it has: none"):
        choose_maps(("shallow",), {})


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_voxel_lies_at_the_mean_of_those_it_stands_for(order: tuple[int, ...]) -> None:
    """Also where the grid is permuted and oblique, and for a part of it."""
    affine = np.eye(4)[[*order, 3]] @ np.diag([2.0, 1.5, 3.0, 1.0])
    affine[:3, :3] += 0.1
    affine[:3, 3] = (10, -4, 3)
    grid = Geometry((40, 48, 56), affine, "mm", True)
    box = Box((9, 17, 0), (30, 40, 20))
    stride = SPECS["deep"].stride
    coarse = box.on_stride(stride)
    volume = map_volumes(
        {"deep": np.zeros(coarse.shape, np.float32)}, SPECS, grid, box, unit="mm", name="head"
    )["deep"]
    assert coarse.start == (2, 2, 0)
    for j in [(0, 0, 0), (1, 2, 1), tuple(n - 1 for n in coarse.shape)]:
        first = (np.array(coarse.start) + j) * stride
        block = np.stack(np.meshgrid(*map(np.arange, stride), indexing="ij"), -1) + first
        expected = grid.to_world(block.reshape(-1, 3)).mean(0)
        np.testing.assert_allclose(volume.geometry.to_world(j), expected, atol=1e-9)
    assert volume.geometry.anatomical
    assert volume.name == "head deep map"
    assert volume.metadata["map"]["description"] == "what it is"
    assert volume.metadata["map"]["stride"] == [4, 8, 8]


def test_map_is_given_in_the_scans_unit() -> None:
    grid = Geometry.from_spacing((8, 8, 8), (1, 1, 1), unit="mm")
    maps = {"fine": np.zeros((4, 4, 4), np.float32)}
    volume = map_volumes(maps, SPECS, grid, Box((0, 0, 0), (8, 8, 8)), unit="um")["fine"]
    assert volume.geometry.unit == "um"
    assert volume.geometry.spacing == pytest.approx((2000, 2000, 2000))
    assert volume.geometry.origin == pytest.approx((500, 500, 500))


@pytest.mark.parametrize("name", ["gate-level-2", "gate-level-3"])
def test_gate_sees_the_place_where_its_map_is_drawn(name: str) -> None:
    """The input gradient of a map voxel is centred on that voxel's declared position."""
    network = AttentionUNet(channels=(4, 4, 4, 4), norm="batch").double().eval()
    spec = network.map_specs[name]
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, 0.02, 0.1)
    centroids = []
    for _ in range(4):
        x = torch.rand(1, 1, 48, 48, 48, dtype=torch.float64, requires_grad=True)
        value = network(x, return_maps=True).maps[name]
        j = value.shape[-1] // 2
        (gradient,) = torch.autograd.grad(torch.logit(value[0, 0, j, j, j]), x)
        mass = gradient[0, 0].abs().numpy()
        centroids.append((np.indices(mass.shape) * mass).reshape(3, -1).sum(1) / mass.sum())
    expected = np.array(spec.stride) * j + spec.offset
    np.testing.assert_allclose(np.mean(centroids, axis=0), expected, atol=1)
