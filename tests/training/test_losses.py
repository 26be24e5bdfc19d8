from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as nnf

from napari_attention3d.training.losses import (
    SegmentationLoss,
    balanced_weights,
    class_dice,
    shrink_labels,
)


def perfect(labels, classes=3, size=40.0):
    return size * nnf.one_hot(labels.long(), classes).movedim(-1, 1).float()


def test_perfect_is_nearly_zero_and_worse_is_more():
    labels = torch.randint(0, 3, (1, 6, 6, 6))
    loss = SegmentationLoss()
    good, bad = loss(perfect(labels), labels), loss(perfect((labels + 1) % 3), labels)
    assert good < 1e-3
    assert bad > 1


def test_equals_the_formula():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    p = logits.softmax(1)
    t = nnf.one_hot(labels, 3).movedim(-1, 1).float()
    axes = (0, 2, 3, 4)
    dice = 1 - (2 * (p * t).sum(axes) + 1e-5) / (p.sum(axes) + t.sum(axes) + 1e-5)
    expected = dice.mean() + nnf.cross_entropy(logits, labels)
    assert SegmentationLoss()(logits, labels).item() == pytest.approx(expected.item(), abs=1e-5)


def test_side_outputs_count_half_each():
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (1, 8, 8, 8))
    logits, side = torch.randn(1, 2, 8, 8, 8), torch.randn(1, 2, 4, 4, 4)
    loss = SegmentationLoss(side=0.5)
    small = shrink_labels(labels, (4, 4, 4))
    expected = (loss(logits, labels) + 0.5 * loss(side, small)) / 1.5
    assert torch.allclose(loss(logits, labels, [side]), expected)


def test_ignored_voxels_have_no_gradient():
    labels = torch.randint(0, 2, (1, 4, 4, 4))
    labels[:, :2] = 9
    logits = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    SegmentationLoss(ignore=9)(logits, labels).backward()
    assert (logits.grad[:, :, :2] == 0).all()
    assert (logits.grad[:, :, 2:] != 0).all()
    nothing = torch.full_like(labels, 9)
    assert SegmentationLoss(ignore=9)(logits, nothing) == 0


def test_balanced_weights_lift_rare_classes_within_bounds():
    shares = torch.tensor([0.9, 0.0999, 0.0001])
    weights = balanced_weights(shares)
    assert weights[0] < weights[1] < weights[2]
    assert weights[2] / weights[0] <= 10.001
    assert float((weights * shares).sum()) == pytest.approx(1.0)


def test_class_dice():
    a = torch.tensor([[[0, 1, 1, 2]]])
    b = torch.tensor([[[0, 1, 2, 2]]])
    scores = class_dice(a, b, 4, None).tolist()
    assert scores[:3] == pytest.approx([1.0, 2 / 3, 2 / 3])
    assert math.isnan(scores[3])
    assert class_dice(a, b, 3, 2).tolist()[:2] == pytest.approx([1.0, 1.0])
