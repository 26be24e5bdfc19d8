"""Guided and reconstruction losses; what each network's loss is made of."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as nnf

from napari_attention3d.networks import NetworkOutput, build_network
from napari_attention3d.networks.guided_module import GuidanceTrace
from napari_attention3d.training.losses import (
    GuidedAttentionLoss,
    SegmentationLoss,
    SideLoss,
    guided_loss,
    make_loss,
    reconstruction_loss,
)


def trace(steps=2, scales=4, size=4):
    g = torch.Generator().manual_seed(0)

    def draw(channels):
        return tuple(
            tuple(torch.randn(1, channels, size, size, size, generator=g) for _ in range(scales))
            for _ in range(steps)
        )

    return GuidanceTrace(draw(4), draw(6), draw(4))


def test_guided_loss_pairs_the_same_scale_of_successive_steps():
    t = trace()
    expected = sum(((a - b) ** 2).mean() for a, b in zip(*t.latents, strict=True))
    assert torch.allclose(guided_loss(t), expected)
    first, second = t.latents
    swapped = t._replace(latents=(first, (second[1], second[0], *second[2:])))
    assert not torch.allclose(guided_loss(swapped), expected)


def test_reconstruction_loss_compares_each_output_with_its_own_input():
    t = trace()
    expected = sum(
        ((a - b) ** 2).mean()
        for x, r in zip(t.inputs, t.reconstructions, strict=True)
        for a, b in zip(x, r, strict=True)
    )
    assert torch.allclose(reconstruction_loss(t), expected)
    assert float(reconstruction_loss(t._replace(reconstructions=t.inputs))) == 0


def test_one_step_has_nothing_to_guide():
    assert float(guided_loss(trace(steps=1))) == 0


def test_weights_do_not_depend_on_the_resolution():
    small, large = (
        GuidanceTrace(*(((torch.full((1, 2, n, n, n), v),),) * 2 for v in (0.0, 1.0, 0.5)))
        for n in (2, 4)
    )
    assert torch.equal(reconstruction_loss(small), reconstruction_loss(large))


def test_targets_can_be_held_still():
    x, r, z1, z2 = (torch.randn(1, 2, 2, 2, 2).requires_grad_() for _ in range(4))
    t = GuidanceTrace(((x,), (x,)), ((z1,), (z2,)), ((r,), (r,)))
    (guided_loss(t, detach_targets=True) + reconstruction_loss(t, detach_targets=True)).backward()
    assert x.grad is None
    assert z1.grad is None
    assert z2.grad is not None
    assert r.grad is not None
    (guided_loss(t) + reconstruction_loss(t)).backward()
    assert x.grad is not None
    assert z1.grad is not None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_beyond_the_last_cell_count_to_it(axis):
    """With size % stride == 0 half a stride lies beyond the last cell."""
    loss = GuidedAttentionLoss(SegmentationLoss(ignore=9), (4, 4, 4), final=0)
    labels = torch.full((1, 8, 8, 8), 9)
    labels.select(1 + axis, 6).fill_(1)  # the last two planes alone are labelled
    labels.select(1 + axis, 7).fill_(1)
    found = loss._on_grid(labels, (2, 2, 2))
    assert found.shape == (1, 2, 2, 2)
    assert (found.select(1 + axis, 1) == 1).all()
    assert (found.select(1 + axis, 0) == 9).all()
    labels.select(1 + axis, 4).fill_(2)  # nearer to the middle of the last cell
    found = loss._on_grid(labels, (2, 2, 2))
    assert (found.select(1 + axis, 1) == 2).all()


def outputs(grid=4):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 16, 16, 16, generator=g)
    sides = tuple(torch.randn(1, 3, grid, grid, grid, generator=g) for _ in range(8))
    return NetworkOutput(logits, {}, sides, trace())


def test_total_has_the_papers_weights():
    labels = torch.randint(3, (1, 16, 16, 16), generator=torch.Generator().manual_seed(1))
    one = SegmentationLoss()
    out = outputs()
    loss = GuidedAttentionLoss(one, (4, 4, 4), final=1)
    coarse = labels[:, ::4, ::4, ::4]
    expected = one(out.logits, labels) + sum(one(s, coarse) for s in out.side_logits)
    expected = expected + 0.25 * guided_loss(out.trace) + 0.1 * reconstruction_loss(out.trace)
    assert torch.allclose(loss(out, labels), expected)
    without = GuidedAttentionLoss(one, (4, 4, 4), final=0)(out, labels)
    heavy = GuidedAttentionLoss(one, (4, 4, 4), final=8)(out, labels)
    assert torch.allclose(heavy - without, 8 * one(out.logits, labels), atol=1e-5)
    assert torch.allclose(expected - without, one(out.logits, labels), atol=1e-5)


def test_evaluation_scores_the_mask():
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.long)
    out = outputs()._replace(side_logits=(), trace=None)
    loss = GuidedAttentionLoss(SegmentationLoss(), (4, 4, 4), final=0)
    assert torch.allclose(loss(out, labels), SegmentationLoss()(out.logits, labels))


def test_every_network_has_its_loss():
    guided = build_network("guided-attention", widths=(4, 4, 8, 8), features=8, head_width=0)
    loss = make_loss(guided)
    assert isinstance(loss, GuidedAttentionLoss)
    assert loss.final == 0
    assert loss.weights == (1.0, 0.25, 0.1)
    unet = build_network("attention-unet", channels=(4, 8))
    assert isinstance(make_loss(unet), SideLoss)
    out = unet.train()(torch.randn(1, 1, 8, 8, 8))
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    expected = SegmentationLoss()(out.logits, labels, out.side_logits)
    assert torch.equal(make_loss(unet)(out, labels), expected)


def test_unlabelled_voxels_do_not_count():
    network = build_network("guided-attention", widths=(4, 4, 8, 8), features=8, head_width=4)
    out = network.train()(torch.randn(1, 1, 36, 36, 36))
    labels = torch.full((1, 36, 36, 36), 255)
    labels[:, 8:20] = 1
    loss = make_loss(network, ignore=255)
    other = labels.clone()
    flipped = out._replace(logits=out.logits.clone())
    flipped.logits[:, :, 20:] += 5  # where nothing is labelled
    assert torch.allclose(loss(out, labels), loss(flipped, other))


@pytest.mark.long
def test_both_networks_learn_three_spheres():
    """Worst class above 0.95 within 150 steps on one noisy volume."""
    g = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(*[torch.arange(48.0)] * 3, indexing="ij"))
    labels = torch.zeros(1, 48, 48, 48, dtype=torch.long)
    for centre, radius in (((14, 14, 14), 8), ((32, 30, 16), 9), ((26, 16, 34), 7)):
        place = torch.tensor(centre).reshape(3, 1, 1, 1)
        labels[0][(grid - place).square().sum(0) <= radius**2] = 1
    image = labels[None].float() + 0.5 * torch.randn(1, 1, 48, 48, 48, generator=g)
    for name in ("attention-unet", "guided-attention"):
        torch.manual_seed(0)
        network = build_network(name, preset="small", num_classes=2).train()
        optimiser = torch.optim.Adam(network.parameters(), 3e-3)
        loss = make_loss(network)
        for _ in range(150):
            value = loss(network(image), labels)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        assert torch.isfinite(value)
        network.eval()
        with torch.no_grad():
            mask = network(image).logits.argmax(1)
        both = int(((mask == 1) & (labels == 1)).sum())
        dice = 2 * both / int((mask == 1).sum() + (labels == 1).sum())
        assert dice > 0.95, name
        if name == "guided-attention":
            gammas = [p for k, p in network.named_parameters() if k.endswith("gamma")]
            assert all(float(p.detach().abs()) > 0 for p in gammas)
            one_hot = nnf.one_hot(mask, 2)
            assert one_hot.sum() == mask.numel()


def test_the_parts_add_up_and_tell_a_collapse():
    torch.manual_seed(0)
    network = build_network(
        "guided-attention", widths=(4, 4, 8, 8), features=8, head_width=4
    ).train()
    loss_of = make_loss(network)
    x, labels = torch.randn(1, 1, 20, 20, 20), torch.randint(2, (1, 20, 20, 20))
    refined = {}
    for scale, modules in enumerate(network.refine, start=1):
        modules[-1].register_forward_hook(lambda _m, _i, out, key=scale: refined.update({key: out}))
    total = float(loss_of(network(x), labels).detach())
    parts = {k: float(v) for k, v in loss_of.parts.items()}
    assert not any(v.requires_grad for v in loss_of.parts.values())
    assert sum(parts[k] for k in ("segmentation", "guided", "reconstruction")) == pytest.approx(
        total, rel=1e-5
    )
    assert min(parts.values()) > 0
    for scale in (1, 2, 3, 4):
        expected = float(refined[scale].square().sum(1).sqrt().mean())
        assert parts[f"strength_scale_{scale}"] == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        for parameter in network.refine[2][-1].out.parameters():
            parameter.zero_()  # scale 3 has collapsed
    loss_of(network(x), labels)
    assert float(loss_of.parts["strength_scale_3"]) == 0
    assert float(loss_of.parts["strength_scale_2"]) > 0
    network.eval()
    loss_of(network(x), labels)
    assert set(loss_of.parts) == {"segmentation"}
