from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.inference.normalise import normalise, regular_sample, sample_steps
from napari_attention3d.models.card import Normalisation


def scan(shape: tuple[int, ...] = (2, 9, 10, 11)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 50 + 100


def test_percentiles_become_0_and_1_in_each_channel() -> None:
    x = scan()
    x[1] *= 40
    y = normalise(x, Normalisation(kind="percentile", lower=5, upper=95)).numpy()
    for before, after in zip(x.numpy(), y, strict=True):
        low, high = np.percentile(before, [5, 95])
        expected = (np.clip(before, low, high) - low) / (high - low)
        np.testing.assert_allclose(after, expected, atol=1e-5)
        assert after.min() == 0
        assert after.max() == 1


def test_zscore_has_mean_0_and_variance_1_after_clipping() -> None:
    x = scan((8, 8, 8))
    x[0, 0, 0] = 1e6
    y = normalise(x, Normalisation(kind="zscore", lower=1, upper=99))
    assert abs(y.mean().item()) < 1e-5
    assert y.var(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert y.max() < 10


def test_window_is_absolute() -> None:
    x = torch.tensor([[[-2000.0, -100.0, 50.0, 200.0, 3000.0]]])
    y = normalise(x, Normalisation(kind="window", lower=-100, upper=200))
    np.testing.assert_allclose(y.flatten().numpy(), [0, 0, 0.5, 1, 1], atol=1e-6)


def test_none_leaves_values_as_they_are() -> None:
    x = scan()
    assert torch.equal(normalise(x, Normalisation(kind="none")), x)


def test_scan_of_almost_one_value_uses_minimum_and_maximum() -> None:
    x = torch.zeros(1, 20, 20, 20)
    x[0, 3, 4, 5] = 7
    y = normalise(x, Normalisation())
    assert y[0, 3, 4, 5] == 1
    assert y.sum() == 1


def test_constant_scan_becomes_0_not_nan() -> None:
    for kind in ("percentile", "zscore"):
        y = normalise(torch.full((1, 4, 4, 4), 5.0), Normalisation(kind=kind))
        assert torch.equal(y, torch.zeros(1, 4, 4, 4))


def test_sample_of_a_large_scan_is_regular_and_bounded() -> None:
    x = torch.arange(60 * 70 * 80.0).reshape(60, 70, 80)
    sample = regular_sample(x, 1000)
    assert sample.numel() <= 1000
    steps = sample_steps(x.shape, 1000)
    assert torch.equal(sample, x[:: steps[0], :: steps[1], :: steps[2]])
    assert regular_sample(x, x.numel()).shape == x.shape


@pytest.mark.parametrize("shape", [(1, 1, 5000), (2, 3000, 2), (17, 1, 900)])
def test_thin_volumes_are_sampled_along_their_long_axes(shape: tuple[int, int, int]) -> None:
    counts = [-(-n // s) for n, s in zip(shape, sample_steps(shape, 500), strict=True)]
    assert 100 < counts[0] * counts[1] * counts[2] <= 500
