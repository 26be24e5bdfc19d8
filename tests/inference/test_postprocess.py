from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.geometry import Geometry, Reorientation
from napari_attention3d.inference import postprocess
from napari_attention3d.inference.postprocess import label_type, to_scan_grid
from napari_attention3d.inference.resample import resample

TURN = Reorientation((2, 0, 1), (True, False, True))


def grid(shape: tuple[int, int, int], spacing: float = 1) -> Geometry:
    return Geometry.from_spacing(shape, (spacing,) * 3, unit="mm")


def logits(shape: tuple[int, ...] = (5, 9, 10, 11)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 3


def test_same_grid_needs_no_interpolation() -> None:
    x, place = logits(), grid((9, 10, 11))
    back = to_scan_grid(x, place, place, TURN, probabilities=True, uncertainty=True)
    turned = TURN.apply(back.labels)
    np.testing.assert_array_equal(turned, x.argmax(0).numpy())
    assert back.probabilities is not None
    np.testing.assert_array_equal(TURN.apply(back.probabilities), torch.softmax(x, 0).numpy())


def test_slabs_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    x, source = logits(), grid((9, 10, 11), 2)
    target = source.resampled((0.9, 1.3, 0.7))
    whole = resample(x, source, target, antialias=False)
    monkeypatch.setattr(postprocess, "SLAB_BYTES", 4 * 5 * target.shape[1] * target.shape[2] * 3)
    back = to_scan_grid(x, source, target, Reorientation(), probabilities=True, uncertainty=True)
    np.testing.assert_array_equal(back.labels, whole.argmax(0).numpy())
    p = torch.softmax(whole, 0)
    np.testing.assert_allclose(back.probabilities, p.numpy(), atol=1e-5)
    entropy = -(p * p.log()).sum(0) / np.log(5)
    np.testing.assert_allclose(back.uncertainty, entropy.numpy(), atol=1e-4)


def test_probabilities_sum_to_1_and_agree_with_the_labels() -> None:
    source = grid((9, 10, 11), 2)
    back = to_scan_grid(
        logits(), source, source.resampled((1, 1, 1)), TURN, probabilities=True, uncertainty=True
    )
    assert back.probabilities is not None
    assert back.uncertainty is not None
    np.testing.assert_allclose(back.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(back.probabilities.argmax(0), back.labels)
    assert back.uncertainty.min() >= 0
    assert back.uncertainty.max() <= 1


def test_uncertainty_is_0_when_sure_and_1_when_all_classes_are_alike() -> None:
    x = torch.zeros(3, 2, 2, 2)
    x[1, 0] = 200
    place = grid((2, 2, 2))
    back = to_scan_grid(x, place, place, Reorientation(), uncertainty=True)
    assert back.uncertainty is not None
    np.testing.assert_allclose(back.uncertainty[0], 0, atol=1e-6)
    np.testing.assert_allclose(back.uncertainty[1], 1, atol=1e-6)


def test_a_plane_in_the_world_stays_where_it_is() -> None:
    """Logits that change sign at a tilted plane: labels change there on the finer grid too."""
    source = grid((12, 12, 12), 2)

    def height(geometry: Geometry) -> np.ndarray:
        index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1)
        return geometry.to_world(index) @ (1, 0.5, -0.7) - 8.213

    x = torch.stack((torch.zeros(12, 12, 12), torch.from_numpy(height(source)).float()))
    target = source.resampled((1, 1, 1)).cropped((2, 2, 2), (19, 18, 17))
    labels = to_scan_grid(x, source, target, Reorientation()).labels
    np.testing.assert_array_equal(labels, (height(target) > 0).astype(np.uint8))


def test_label_types() -> None:
    assert label_type(256) == np.uint8
    assert label_type(257) == np.uint16
