from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.correction.features import (
    ScanFeatures,
    noise_level,
    scaled,
    scan_features,
    voxel_ratio,
)


def compute(image, spacing=(1, 1, 1)) -> ScanFeatures:
    steps = list(scan_features(image, spacing))
    assert all(done <= total for done, total in steps[:-1])
    return steps[-1]


def test_a_voxel_has_finite_features_and_its_position():
    image = np.random.default_rng(0).normal(size=(6, 7, 8))
    features = compute(image)
    assert features.shape == (6, 7, 8)
    rows = features.at(np.array([[0, 0, 0], [5, 6, 7]]))
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert rows[:, -3:].tolist() == [[0, 0, 0], [5, 6, 7]]


@pytest.mark.parametrize("shape", [(1, 12, 12), (2, 6, 7, 8)])
def test_thin_scans_and_channels(shape):
    image = np.random.default_rng(0).normal(size=shape)
    one = len(compute(image if len(shape) == 3 else image[0]).maps)
    features = compute(image)
    assert len(features.maps) == (one if len(shape) == 3 else 2 * one)
    assert np.isfinite(features.maps).all()


def test_odd_values_do_no_harm():
    image = np.random.default_rng(0).normal(size=(4, 8, 8))
    image[0, 0, 0], image[1, 1, 1], image[2, 2, 2] = np.nan, np.inf, 1e30
    assert np.isfinite(compute(image).maps).all()
    assert not scaled(np.full((3, 3, 3), 7.0)).any()


def test_intensities_of_any_scale_look_the_same():
    image = np.random.default_rng(0).normal(size=(6, 8, 8))
    a, b = compute(image), compute(1000 * image + 300)
    np.testing.assert_allclose(a.maps.astype(float), b.maps.astype(float), atol=0.02)


def test_noise_is_told_from_structure():
    rng = np.random.default_rng(0)
    z, y, x = np.indices((24, 24, 24))
    calm = np.sin(z / 5) + np.sin(y / 4) + np.sin(x / 6)
    noise = rng.normal(0, 1, calm.shape)
    ratio = np.ones(3)
    assert noise_level(scaled(calm), ratio) < 0.05
    assert noise_level(scaled(noise), ratio) == pytest.approx(1.0, abs=0.15)


def test_thick_slices_are_smoothed_less_across():
    assert voxel_ratio((5.0, 1.0, 1.0)).tolist() == [5, 1, 1]
    assert voxel_ratio((100.0, 1.0, 1.0)).tolist() == [8, 1, 1]
    spike = np.zeros((9, 9, 9))
    spike[4, 4, 4] = 1

    def spread(spacing):
        blurred = compute(spike, spacing).maps[3].astype(float)  # Gaussian of the finest scale
        return (blurred[3, 4, 4] - blurred[0, 0, 0]) / (blurred[4, 4, 4] - blurred[0, 0, 0])

    assert spread((1, 1, 1)) > 0.3
    assert spread((4, 1, 1)) < 0.05
