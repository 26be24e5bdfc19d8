"""The loss is made of sums: MONAI's where all is known, and the same however it is split."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional as nnf

from napari_attention3d.training.losses import SegmentationLoss, shrink_labels

IGNORE = 255


def batch(seed=0, size=(4, 5, 6), classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *size, generator=generator)
    labels = torch.randint(0, classes, (2, *size), generator=generator)
    return logits, labels


@pytest.mark.parametrize("weighted", [False, True])
def test_is_monais_loss_where_all_is_known(weighted):
    logits, labels = batch()
    weights = torch.tensor([0.5, 1.0, 3.0]) if weighted else None
    # MONAI's weight goes to both terms; ours to the cross-entropy alone.
    theirs = DiceCELoss(softmax=True, batch=True)(logits, nnf.one_hot(labels, 3).movedim(-1, 1))
    if weighted:
        theirs = theirs - nnf.cross_entropy(logits, labels)
        theirs = theirs + nnf.cross_entropy(logits, labels, weight=weights)
    for ignore in (None, IGNORE):
        ours = SegmentationLoss(weights, ignore)(logits, labels)
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_unknown_voxels_count_as_if_they_were_cut_away():
    logits, labels = batch()
    labels[:, 3:] = IGNORE
    cut = SegmentationLoss()(logits[:, :, :3], labels[:, :3])
    assert SegmentationLoss(ignore=IGNORE)(logits, labels).item() == pytest.approx(
        cut.item(), abs=1e-5
    )


def test_parts_that_add_up_their_sums_have_the_loss_and_gradient_of_the_whole():
    """Two parts of a batch, one of them without a known voxel of two classes."""
    logits, labels = batch(size=(4, 4, 4))
    labels[0][labels[0] > 0] = IGNORE
    whole = logits.clone().requires_grad_()
    loss = SegmentationLoss(ignore=IGNORE)(whole, labels)
    loss.backward()
    gathered = []
    first = SegmentationLoss(ignore=IGNORE)
    first.over_processes = lambda sums: gathered.append(sums.detach()) or sums
    for n in range(2):
        first(logits[n : n + 1], labels[n : n + 1])
    for n, other in ((0, gathered[1]), (1, gathered[0])):
        part = logits[n : n + 1].clone().requires_grad_()
        second = SegmentationLoss(ignore=IGNORE)
        second.over_processes = lambda sums, other=other: sums + other
        value = second(part, labels[n : n + 1])
        value.backward()
        assert value.item() == pytest.approx(loss.item(), abs=1e-5)
        torch.testing.assert_close(part.grad, whole.grad[n : n + 1], atol=1e-6, rtol=1e-4)


def test_a_thin_stroke_is_still_there_on_a_coarser_grid():
    labels = torch.full((1, 8, 8, 8), IGNORE)
    labels[:, 3, :, 2] = 1
    small = shrink_labels(labels, (2, 2, 2), IGNORE)
    expected = torch.full((1, 2, 2, 2), IGNORE)
    expected[:, 0, :, 0] = 1
    assert torch.equal(small, expected)


def test_of_two_known_labels_the_one_nearer_to_the_centre_is_taken():
    labels = torch.full((1, 4, 4, 4), IGNORE)
    labels[0, 0, 0, 0], labels[0, 1, 1, 1] = 1, 2
    assert shrink_labels(labels, (1, 1, 1), IGNORE).item() == 2


def test_where_all_is_known_a_coarser_grid_has_the_nearest_labels():
    _, labels = batch(size=(6, 6, 6))
    nearest = shrink_labels(labels, (2, 2, 2))
    assert torch.equal(nearest, labels[:, 1::3, 1::3, 1::3])
    assert torch.equal(shrink_labels(labels, (2, 2, 2), IGNORE), nearest)
