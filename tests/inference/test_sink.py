from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry, Reorientation
from napari_attention3d.inference import sink as sinks
from napari_attention3d.inference.resample import resample
from napari_attention3d.inference.sink import Logits, ScanResults, label_type, to_scan_grid
from napari_attention3d.inference.tiling import Box

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
    monkeypatch.setattr(sinks, "SLAB_BYTES", 4 * 5 * target.shape[1] * target.shape[2] * 3)
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


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [(2, 2, 2), (0.9, 1.3, 0.7), (3.1, 5, 2.7)])
def test_slabs_in_any_order_give_the_same_labels(
    axis: int, spacing: tuple[float, float, float]
) -> None:
    x, source = logits((3, 9, 10, 11)), grid((9, 10, 11), 2)
    target = source.resampled(spacing)
    options = {"probabilities": True, "uncertainty": True}
    whole = to_scan_grid(x, source, target, TURN, **options)
    for seed in range(8):
        random = np.random.default_rng(seed)
        size = x.shape[1 + axis]
        cuts = sorted({0, size, *random.integers(1, size, random.integers(0, 6)).tolist()})
        slabs = list(pairwise(cuts))
        results = ScanResults(3, source, target, TURN, **options)
        seen = np.zeros(results.labels.shape, int)
        _, sink = results.part()
        for number in random.permutation(len(slabs)):
            a, b = slabs[number]
            for part in sink.push(axis, a, x.narrow(1 + axis, a, b - a)):
                where = tuple(
                    slice(s, s + n) for s, n in zip(part.start, part.labels.shape, strict=True)
                )
                seen[where] += 1
                np.testing.assert_array_equal(part.labels, results.labels[where])
        assert (seen == 1).all()  # every voxel once
        np.testing.assert_array_equal(results.labels, whole.labels)
        np.testing.assert_allclose(results.probabilities, whole.probabilities, atol=1e-6)
        np.testing.assert_allclose(results.uncertainty, whole.uncertainty, atol=1e-5)
        assert not sink._kept


def test_a_sink_holds_few_planes() -> None:
    source = grid((40, 4, 5), 2)
    _, sink = ScanResults(2, source, source.resampled((1, 1, 1)), Reorientation()).part()
    for z in range(40):
        sink.push(0, z, torch.randn(2, 1, 4, 5))
        assert sum(kept.shape[1] for _, kept in sink._kept) <= 1


def test_parts_filled_one_after_the_other_give_the_whole() -> None:
    x, source = logits((3, 9, 10, 11)), grid((9, 10, 11), 2)
    target = source.resampled((0.9, 1.3, 0.7)).cropped((1, 2, 0), (15, 11, 29))
    whole = to_scan_grid(x, source, target, TURN, uncertainty=True)
    results = ScanResults(3, source, target, TURN, uncertainty=True)
    z, y, x_ = target.shape
    for box in (Box((0, 0, 0), (z, 4, x_)), Box((0, 4, 0), (6, y, x_)), Box((6, 4, 0), (z, y, x_))):
        needed, sink = results.part(box)
        sink.push(1, 0, x[(slice(None), *needed.slices)])
    np.testing.assert_array_equal(results.labels, whole.labels)
    np.testing.assert_allclose(results.uncertainty, whole.uncertainty, atol=1e-5)


def test_logits_can_be_kept() -> None:
    x = logits((2, 6, 5, 4))
    kept = Logits(2, Box((1, 1, 1), (7, 6, 5)))
    box, sink = kept.part(Box((0, 0, 0), (6, 5, 2)))
    assert box == Box((1, 1, 1), (7, 6, 3))
    sink.push(1, 3, x[:, :, 3:, :2])
    sink.push(1, 0, x[:, :, :3, :2])
    box, sink = kept.part(Box((0, 0, 2), (6, 5, 4)))
    sink.push(0, 0, x[..., 2:])
    assert torch.equal(kept.logits, x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    x = torch.zeros(2, 3, 3, 3)
    x[1, 2, 1, 0] = bad
    place = grid((3, 3, 3))
    with pytest.raises(InputError, match="not finite"):
        to_scan_grid(x, place, place, Reorientation())
    with pytest.raises(InputError, match="precision exact"):
        Logits(2, Box((0, 0, 0), (3, 3, 3))).part()[1].push(0, 0, x)
