"""Losses at their edges: coarse grids, weights, what is passed on, what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as nnf

from napari_attention3d.networks import NetworkOutput, build_network
from napari_attention3d.networks.guided_module import GuidanceTrace
from napari_attention3d.training.losses import (
    GuidedAttentionLoss,
    SegmentationLoss,
    SideLoss,
    balanced_weights,
    class_dice,
    guided_loss,
    make_loss,
    reconstruction_loss,
    shrink_labels,
)

IGNORE = 255


def sure(labels, classes, size=200.0):
    """Logits of a network that is certain: all other classes have probability 0."""
    return size * nnf.one_hot(labels.long(), classes).movedim(-1, 1).float()


def test_a_rare_class_weighs_ten_times_the_commonest():
    shares = torch.tensor([0.9, 0.0999, 0.0001])
    raw = shares.rsqrt()
    raw[2] = 10 * raw[0]
    expected = raw / (raw * shares).sum()
    torch.testing.assert_close(balanced_weights(shares), expected)


@pytest.mark.parametrize("ignore", [None, IGNORE])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_labels_keep_their_type_and_need_no_copy_on_their_own_grid(ignore, dtype):
    labels = torch.randint(0, 3, (1, 4, 6, 6)).to(dtype)
    assert shrink_labels(labels, (4, 6, 6), ignore) is labels
    assert shrink_labels(labels, (2, 6, 6), ignore).dtype == dtype
    # Not taken for the same size because its last axes are.
    assert shrink_labels(labels[:, :, :4], (4, 4, 4), ignore).shape == (1, 4, 4, 4)


def test_a_coarse_voxel_without_known_labels_stays_unknown():
    labels = torch.full((2, 4, 4, 4), IGNORE)
    labels[1, 3, 3, 3] = 2
    small = shrink_labels(labels, (2, 2, 2), IGNORE)
    assert (small[0] == IGNORE).all()
    assert small[1, 1, 1, 1] == 2
    assert (small[1] != IGNORE).sum() == 1


@pytest.mark.parametrize("size", [(6,), (2, 2), (2, 2, 2, 2)])
def test_a_size_of_other_dimensions_is_refused(size):
    with pytest.raises(ValueError, match=r"zip|argument"):
        shrink_labels(torch.zeros(1, 4, 4, 4, dtype=torch.long), size, IGNORE)


def test_without_weight_sides_are_not_even_looked_at():
    labels = torch.randint(0, 2, (1, 4, 4, 4))
    logits, bad = torch.randn(1, 2, 4, 4, 4), torch.full((1, 2, 2, 2, 2), torch.nan)
    loss = SegmentationLoss(side=0)
    assert torch.equal(loss(logits, labels, [bad]), loss(logits, labels))


def test_each_deeper_side_counts_half_of_the_one_above_it():
    labels = torch.randint(0, 2, (1, 8, 8, 8))
    logits, first, second = (torch.randn(1, 2, n, n, n) for n in (8, 4, 2))
    loss = SegmentationLoss()
    parts = [loss(side, shrink_labels(labels, side.shape[2:])) for side in (logits, first, second)]
    expected = (parts[0] + 0.5 * parts[1] + 0.25 * parts[2]) / 1.75
    assert torch.allclose(loss(logits, labels, [first, second]), expected)


def test_a_thin_stroke_counts_on_the_sides():
    labels = torch.full((1, 8, 8, 8), IGNORE)
    labels[:, 3, :, 2] = 1
    logits, side = torch.randn(1, 2, 8, 8, 8), torch.randn(1, 2, 2, 2, 2)
    loss = SegmentationLoss(ignore=IGNORE)
    small = torch.full((1, 2, 2, 2), IGNORE)
    small[:, 0, :, 0] = 1
    expected = (loss(logits, labels) + 0.5 * loss(side, small)) / 1.5
    assert torch.allclose(loss(logits, labels, [side]), expected)


def test_a_class_that_is_neither_there_nor_predicted_costs_nothing():
    labels = torch.randint(0, 2, (1, 4, 4, 4))
    assert SegmentationLoss()(sure(labels, 3), labels).item() == pytest.approx(0, abs=1e-6)


def test_one_class_missed_altogether_still_counts():
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    logits = torch.randn(1, 2, 4, 4, 4)
    p = logits.softmax(1)
    dice = 1 - torch.stack([2 * p[:, 0].sum() / (p[:, 0].sum() + 64), torch.zeros(())])
    expected = dice.mean() + nnf.cross_entropy(logits, labels)
    assert SegmentationLoss()(logits, labels).item() == pytest.approx(expected.item(), abs=1e-4)


def test_no_entropy_is_not_taken_for_no_labels():
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    labels[:, 2:] = 1
    wrong = sure(torch.zeros_like(labels), 2)
    only_first = SegmentationLoss(torch.tensor([1.0, 0.0]))(wrong, labels)
    assert only_first.item() == pytest.approx((1 - 2 / 3 + 1) / 2, abs=1e-3)


# ---- guided attention


def trace(steps=2, scales=2, dtype=torch.float32):
    def draw(channels):
        return tuple(
            tuple(torch.randn(1, channels, 2, 2, 2).to(dtype) for _ in range(scales))
            for _ in range(steps)
        )

    return GuidanceTrace(draw(2), draw(3), draw(2))


def test_one_step_in_half_precision_has_a_loss_in_full():
    single = trace(steps=1, dtype=torch.bfloat16)
    assert guided_loss(single).dtype == torch.float32
    expected = sum(
        ((a.float() - b.float()) ** 2).mean()
        for a, b in zip(single.inputs[0], single.reconstructions[0], strict=True)
    )
    torch.testing.assert_close(reconstruction_loss(single), expected)


def test_a_trace_with_a_part_missing_is_refused():
    whole = trace()
    first, second = whole.latents
    with pytest.raises(ValueError, match="zip"):
        guided_loss(whole._replace(latents=(first, second[:1])))
    with pytest.raises(ValueError, match="zip"):
        reconstruction_loss(whole._replace(reconstructions=whole.reconstructions[:1]))
    first, second = whole.reconstructions
    with pytest.raises(ValueError, match="zip"):
        reconstruction_loss(whole._replace(reconstructions=(first, second[:1])))


@pytest.mark.parametrize("still", [False, True])
def test_held_targets_have_no_gradient_through_the_whole_loss(still):
    x, r, z1, z2 = (torch.randn(1, 2, 2, 2, 2).requires_grad_() for _ in range(4))
    out = NetworkOutput(
        torch.randn(1, 2, 4, 4, 4), {}, (), GuidanceTrace(((x,), (x,)), ((z1,), (z2,)), ((r,),) * 2)
    )
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    segmentation = SegmentationLoss()
    kind = {"detach_targets": True} if still else {}
    GuidedAttentionLoss(segmentation, (1, 1, 1), final=1, **kind)(out, labels).backward()
    assert (x.grad is None) == still
    assert (z1.grad is None) == still
    assert z2.grad is not None


def nearest_on_grid(labels, stride, size):
    """For each grid voxel the known label of its cell; the cells hold one or none."""
    small = torch.full((labels.shape[0], *size), IGNORE)
    for batch, *cell in itertools.product(range(labels.shape[0]), *map(range, size)):
        for index in itertools.product(*map(range, labels.shape[1:])):
            inside = all(
                s * c - s // 2 <= i < s * c - s // 2 + s
                for i, c, s in zip(index, cell, stride, strict=True)
            )
            if inside and labels[(batch, *index)] != IGNORE:
                small[(batch, *cell)] = labels[(batch, *index)]
    return small


@pytest.mark.parametrize(
    ("stride", "shape", "size"),
    [((2, 4, 1), (6, 8, 3), (3, 2, 3)), ((4, 1, 2), (8, 3, 5), (3, 3, 3))],
)
def test_on_the_attentions_grid_each_stroke_is_in_the_cell_around_its_voxel(stride, shape, size):
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((2, *shape), IGNORE)
    for cell in itertools.product(*map(range, size)):
        if torch.rand((), generator=generator) < 0.3:
            continue
        index = [
            min(max(s * c - s // 2 + int(torch.randint(s, (), generator=generator)), 0), n - 1)
            for c, s, n in zip(cell, stride, shape, strict=True)
        ]
        labels[(1, *index)] = int(torch.randint(2, (), generator=generator))
    logits, side = torch.randn(2, 2, *shape), torch.randn(2, 2, *size)
    segmentation = SegmentationLoss(ignore=IGNORE)
    loss = GuidedAttentionLoss(segmentation, stride, final=0)
    small = nearest_on_grid(labels, stride, size)
    assert (small != IGNORE).any()
    assert (small == IGNORE).any()
    expected = segmentation(side, small)
    found = loss(NetworkOutput(logits, {}, (side,), None), labels)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


# ---- what each network gets


def test_the_u_nets_loss_has_what_it_was_given():
    unet = build_network("attention-unet", channels=(4, 8))
    loss = make_loss(unet)
    assert isinstance(loss, SideLoss)
    plain = loss.segmentation
    assert (plain.class_weights, plain.ignore, plain.side) == (None, None, 0.5)
    weights = torch.tensor([1.0, 2.0])
    given = make_loss(unet, weights, IGNORE, 0.25).segmentation
    assert torch.equal(given.class_weights, weights)
    assert (given.ignore, given.side) == (IGNORE, 0.25)


def test_the_sides_of_a_u_net_count():
    labels = torch.randint(0, 2, (1, 4, 4, 4))
    out = NetworkOutput(torch.randn(1, 2, 4, 4, 4), {}, (torch.randn(1, 2, 2, 2, 2),), None)
    segmentation = SegmentationLoss()
    expected = segmentation(out.logits, labels, out.side_logits)
    assert torch.equal(SideLoss(segmentation)(out, labels), expected)
    assert not torch.equal(expected, segmentation(out.logits, labels))


@pytest.mark.parametrize("head", [0, 4])
def test_guided_attentions_loss_has_what_it_was_given(head):
    network = build_network(
        "guided-attention", widths=(4, 4, 8, 8), features=8, head_width=head, strides=(2, 1, 1)
    )
    loss = make_loss(network)
    assert loss.final == (1.0 if head else 0.0)
    assert loss.grid_stride == tuple(network.grid_stride)
    assert loss.detach_targets is False
    assert GuidedAttentionLoss(SegmentationLoss(), (1, 1, 1), final=1).detach_targets is False
    weights = torch.tensor([1.0, 2.0])
    loss = make_loss(
        network, weights, IGNORE, guidance=(1.0, 2.0, 3.0), mask=4.0, detach_targets=True
    )
    assert loss.final == (4.0 if head else 0.0)
    assert loss.weights == (1.0, 2.0, 3.0)
    assert loss.detach_targets is True
    assert torch.equal(loss.segmentation.class_weights, weights)
    assert loss.segmentation.ignore == IGNORE


def test_dice_counts_voxels():
    a = torch.tensor([[[1, 1, 1, 0]]])
    b = torch.tensor([[[1, 1, 0, 0]]])
    assert class_dice(a, b, 2, None).tolist() == pytest.approx([2 / 3, 4 / 5])
