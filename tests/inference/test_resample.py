from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.geometry import Geometry
from napari_attention3d.inference.resample import (
    axis_positions,
    axis_weights,
    resample,
    same_grid,
)


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Geometry:
    return Geometry.from_spacing(shape, spacing, (5, -7, 11), unit="mm")


def tilted(shape: tuple[int, int, int]) -> Geometry:
    angle = 0.3
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Geometry(shape, turn @ np.diag([2.0, 1.0, 0.7, 1.0]), "mm")


@pytest.mark.parametrize("source", [grid((11, 14, 9), (1, 2, 0.5)), tilted((11, 14, 9))])
@pytest.mark.parametrize("spacing", [(2, 2, 2), (0.6, 1, 0.4), (1, 2, 0.5), (3, 0.9, 1.7)])
def test_linear_field_keeps_its_world_values(
    source: Geometry, spacing: tuple[float, float, float]
) -> None:
    """A function linear in the world is reproduced at every centre inside the source's box."""
    target = source.resampled(spacing)

    def values(geometry: Geometry) -> np.ndarray:
        index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1)
        return geometry.to_world(index) @ (0.3, -1.1, 0.7)

    array = torch.from_numpy(values(source)[None]).float()
    result = resample(array, source, target, antialias=False)[0].numpy()
    inside = np.ones(target.shape, bool)
    for axis, where in enumerate(axis_positions(source, target)):
        good = (where >= 0) & (where <= source.shape[axis] - 1)
        inside &= good.reshape([-1 if a == axis else 1 for a in range(3)])
    assert inside.sum() > 10
    np.testing.assert_allclose(result[inside], values(target)[inside], atol=1e-4)


@pytest.mark.parametrize("shape", [(7, 9, 12), (1, 13, 6), (24, 5, 31)])
def test_equals_torch_where_torch_means_the_same_grid(shape: tuple[int, int, int]) -> None:
    source = grid((10, 11, 12), (1, 1, 1))
    target = source.resampled([n / m for n, m in zip(source.shape, shape, strict=True)])
    assert target.shape == shape
    x = torch.randn(2, 10, 11, 12)
    expected = torch.nn.functional.interpolate(
        x[None], size=shape, mode="trilinear", align_corners=False
    )[0]
    torch.testing.assert_close(
        resample(x, source, target, antialias=False), expected, atol=1e-5, rtol=1e-5
    )


def test_same_grid_returns_the_same_bits() -> None:
    source = grid((5, 6, 7), (1, 2, 3))
    x = torch.randn(1, 5, 6, 7)
    assert same_grid(source, source.resampled((1, 2, 3)))
    assert resample(x, source, source.resampled((1, 2, 3))) is x


def test_centres_that_coincide_are_copied_exactly() -> None:
    """Three times coarser: each target centre is a source centre."""
    source = grid((9, 9, 9), (1, 1, 1))
    x = torch.randn(1, 9, 9, 9)
    result = resample(x, source, source.resampled((3, 3, 3)), antialias=False)
    assert torch.equal(result, x[:, 1::3, 1::3, 1::3])


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.7])
@pytest.mark.parametrize("size", [1, 2, 9])
def test_weights_sum_to_1(size: int, sigma: float) -> None:
    weights = axis_weights(size, np.linspace(-1.5, size + 0.5, 23), sigma)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert weights.min() >= 0


def test_downsampling_removes_what_the_coarse_grid_cannot_hold() -> None:
    """A stripe of 2 voxels' period aliases at 4 times coarser unless it is blurred first."""
    source = grid((8, 8, 64), (1, 1, 1))
    stripe = torch.cos(torch.arange(64) * 2.6).expand(1, 8, 8, 64)
    target = source.resampled((1, 1, 4))
    sharp = resample(stripe, source, target, antialias=False)[0, 4, 4, 2:-2]
    soft = resample(stripe, source, target)[0, 4, 4, 2:-2]
    assert sharp.abs().max() > 0.2
    assert soft.abs().max() < 0.02


def test_axes_that_are_not_parallel_are_refused() -> None:
    with pytest.raises(ValueError, match="not parallel"):
        axis_positions(grid((4, 4, 4), (1, 1, 1)), tilted((4, 4, 4)))
