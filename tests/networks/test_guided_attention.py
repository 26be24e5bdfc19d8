"""Guided attention: data flow, geometry, variants."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from napari_attention3d.networks import ScanNorm3d, build_network, calibrating
from napari_attention3d.networks.guided_module import SemanticAutoencoder
from napari_attention3d.networks.resnet import upsample_centred
from napari_attention3d.networks.self_attention import (
    ChannelAttention,
    PositionAttention,
    PositionRecord,
)

SMALL = {"widths": (4, 4, 8, 8), "features": 8, "head_width": 4}


def net(**config):
    torch.manual_seed(0)
    return build_network("guided-attention", **{**SMALL, **config})


def open_gates(network):
    """Let attention take part: gamma starts at 0, where queries and keys do nothing."""
    for module in network.modules():
        if isinstance(module, PositionAttention | ChannelAttention) and module.gamma is not None:
            module.gamma.data.fill_(0.1)
    return network


def volume(*size, batch=1, channels=1, seed=1):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", ["refined", "paper", "simplified"])
def test_every_parameter_learns_from_the_full_loss(variant):
    """No dead layer: each tensor gets a gradient that is not all 0."""
    from napari_attention3d.training.losses import make_loss

    network = open_gates(net(variant=variant, features=8, norm="instance", num_classes=3)).train()
    labels = (volume(33, 40, 36)[:, 0] > 0).long() + (volume(33, 40, 36, seed=2)[:, 0] > 1)
    make_loss(network)(network(volume(33, 40, 36)), labels).backward()
    dead = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_closed_attention_leaves_only_queries_and_keys_without_gradient():
    """With gamma 0 the queries', keys', values' and temperature's gradients are exactly 0."""
    network = net().train()
    out = network(volume(33, 36, 40))
    loss = out.logits.square().mean() + sum(s.square().mean() for s in out.side_logits)
    (loss + sum(r.square().mean() for step in out.trace.reconstructions for r in step)).backward()
    silent = {k for k, p in network.named_parameters() if not p.grad.any()}
    parts = ("query.weight", "query.bias", "key.weight", "key.bias")
    parts += ("value.weight", "value.bias", "log_tau")
    assert silent == {k for k, _ in network.named_parameters() if k.endswith(parts)}


def test_mask_is_the_mean_of_the_refined_logits():
    """Without the refinement head; the heads on the features only serve the loss."""
    network = net(head_width=0, sides="image").train()
    for module in network.modules():
        if isinstance(module, ScanNorm3d):
            module.eval()
    out = network(volume(36, 40, 33))
    refined = torch.stack(out.side_logits[4:]).mean(0)
    assert torch.allclose(out.logits, refined, atol=1e-5)
    with torch.no_grad():
        for head in network.feature_heads:
            head.weight.zero_()
    assert torch.equal(network(volume(36, 40, 33)).logits, out.logits)


def test_side_logits_of_the_grid_lie_on_every_fourth_voxel():
    network = net(head_width=0).train()
    coarse = network(volume(37, 40, 33)).side_logits
    image = net(head_width=0, sides="image").train()(volume(37, 40, 33)).side_logits
    assert len(coarse) == len(image) == 8
    for a, b in zip(coarse, image, strict=True):
        assert a.shape[2:] == (10, 10, 9)
        assert b.shape[2:] == (37, 40, 33)
        assert torch.allclose(a, b[..., ::4, ::4, ::4], atol=1e-5)


def test_features_lie_on_multiples_of_their_stride():
    """The gradient of an encoder's voxel j, brought to the grid, is centred on 4 j."""
    network = net().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(1e-2)
    for module in network.modules():
        if isinstance(module, ScanNorm3d):
            module.forward = lambda t: t
        if isinstance(module, nn.MaxPool3d):
            module.forward = lambda t, m=module: nn.functional.avg_pool3d(
                t, m.kernel_size, m.stride, m.padding
            )
    size = 129
    x = torch.zeros(1, 1, size, 9, 9, requires_grad=True)
    levels = network.encoder(x + 1)[1:]
    for level, factor in zip(levels, network.factors, strict=True):
        # One axis suffices: the axes are equal (test_contract).
        f = upsample_centred(level, (factor[0], 1, 1), (33, *level.shape[3:]))
        (grad,) = torch.autograd.grad(f[0, 0, 16, 0, 0], x, retain_graph=True)
        weight = grad[0, 0].abs().sum((1, 2))
        centre = (torch.arange(size) * weight).sum() / weight.sum()
        assert abs(float(centre) - 64) <= 0.1


@pytest.mark.parametrize("factor", [(1, 2, 4), (3, 1, 2)])
def test_upsampling_keeps_values_in_place(factor):
    x = volume(5, 4, 3)
    size = tuple(n * f - (f > 1) for n, f in zip(x.shape[2:], factor, strict=True))
    up = upsample_centred(x, factor, size)
    assert up.shape[2:] == size
    assert torch.allclose(up[..., :: factor[0], :: factor[1], :: factor[2]], x, atol=1e-6)
    ramp = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 4, 3)
    middle = upsample_centred(ramp, factor, (5 * factor[0] - factor[0], 1, 1))
    expected = torch.arange(4 * factor[0]) / factor[0]
    assert torch.allclose(middle[0, 0, :, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 2), (7, 4, 9)])
def test_autoencoder_takes_any_size(size):
    autoencoder = SemanticAutoencoder(6, (1, 2))
    code, rebuilt = autoencoder(torch.randn(4, 6, *size))
    assert rebuilt.shape == (4, 6, *size)
    assert code.shape == (4, 12, *((n + 3) // 4 for n in size))


def test_autoencoder_can_rebuild_negative_features():
    torch.manual_seed(0)
    x = nn.functional.interpolate(torch.randn(4, 2, 2, 2, 2), size=(8, 8, 8), mode="trilinear")
    autoencoder = SemanticAutoencoder(2, (4, 4))
    optimiser = torch.optim.Adam(autoencoder.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.mse_loss(autoencoder(x)[1], x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    rebuilt = autoencoder(x)[1]
    assert rebuilt[x < -0.5].mean() < -0.3


def test_one_autoencoder_per_step_serves_all_scales():
    network = net(steps=3)
    assert len(network.autoencoders) == 3
    shared = {id(p) for p in network.autoencoders.parameters()}
    assert not shared & {id(p) for p in network.refine.parameters()}
    convs = [m for m in network.autoencoders[0].modules() if isinstance(m, nn.Conv3d)]
    assert len(convs) == 8


def test_frozen_statistics_repeat_the_calibrating_pass():
    """The shared autoencoder's norms must not keep the statistics of the last scale alone."""
    network = open_gates(net(num_classes=3)).eval()
    x = volume(40, 36, 44)
    with torch.no_grad():
        with calibrating(network):
            measured = network(x).logits
        frozen = network(x).logits
    assert torch.allclose(measured, frozen, atol=1e-4)


def test_queries_and_keys_are_kept_on_request_only():
    network = open_gates(net(kv_pool=2)).eval()
    x = volume(36, 40, 33)
    keep: dict[str, PositionRecord] = {}
    with torch.no_grad():
        with_records = network(x, keep=keep).logits
        assert torch.equal(with_records, network(x).logits)
    assert set(keep) == set(network.map_specs)
    for record in keep.values():
        assert record.queries.shape == (1, 4, 9, 10, 9)
        assert record.keys.shape == (1, 4, 5, 5, 5)
    tensors = [weakref.ref(r.queries) for r in keep.values()]
    del keep, record
    gc.collect()
    assert not any(t() is not None for t in tensors)


def test_variants_differ_where_they_say():
    paper, simple, ours = (net(variant=v, features=8) for v in ("paper", "simplified", "refined"))
    assert paper.config["norm"] == "batch"
    assert paper.config["channel_attention"] == "danet"
    assert paper.config["autoencoder"] == [2, 4]
    assert simple.steps == 1
    assert ours.steps == paper.steps == 2
    assert all(p.gamma is None for p in simple.modules() if isinstance(p, PositionAttention))
    assert net(variant="paper", features=8, head_width=0).head is None
    assert build_network("guided-attention", preset="paper").head is None


def test_simplified_attention_multiplies_its_input():
    attention = PositionAttention(8, combine="multiply").requires_grad_(False)
    x = torch.randn(1, 8, 3, 3, 3)
    flat = [c(x).flatten(2) for c in (attention.query, attention.key, attention.value)]
    share = torch.softmax(flat[0].transpose(1, 2) @ flat[1], dim=2)
    expected = (flat[2] @ share.transpose(1, 2)).reshape(x.shape) * x
    assert torch.allclose(attention(x), expected, atol=1e-5)


def test_thick_slices():
    network = net(stem_stride=(1, 2, 2), stem_pool=(1, 2, 2), strides=[(1, 2, 2), 2, 2]).eval()
    assert network.grid_stride == (1, 4, 4)
    assert network.total_stride == (4, 32, 32)
    out = network(volume(10, 64, 64), return_maps=True)
    assert out.logits.shape == (1, 2, 10, 64, 64)
    assert out.maps["guided-scale-1-step-2"].shape == (1, 1, 10, 16, 16)


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
def test_depths(depth):
    network = net(depth=depth, in_channels=3).eval()
    with torch.no_grad():
        assert network(volume(33, 20, 20, channels=3)).logits.shape == (1, 2, 33, 20, 20)


@pytest.mark.parametrize("act", ["none", "sigmoid"])
def test_sigmoid_bounds_the_multiplier(act):
    """What multiplies the fused features: in (0, 1) and the sigmoid of A, or A itself."""
    network = net(attention_act=act, steps=3).train()
    refined = {}
    for scale, modules in enumerate(network.refine):
        for step, module in enumerate(modules):
            with torch.no_grad():
                module.out.weight.mul_(3)
            module.register_forward_hook(
                lambda _m, _i, out, key=(step, scale): refined.update({key: out})
            )
    with torch.no_grad():
        inputs = network(volume(33, 33, 33)).trace.inputs
    width, largest = 8, 0.0
    fused = inputs[0][0][:, width:]
    assert all(torch.equal(x[:, width:], fused) for x in inputs[0])
    known = fused.abs() > 1e-2
    for step in (1, 2):
        for scale, x in enumerate(inputs[step]):
            multiplier = (x[:, width:] / fused)[known]
            a = refined[step - 1, scale]
            expected = (a.sigmoid() if act == "sigmoid" else a)[known]
            assert torch.allclose(multiplier, expected, atol=1e-4, rtol=1e-4)
            largest = max(largest, float(multiplier.abs().max()))
            if act == "sigmoid":
                assert multiplier.min() >= 0
                assert multiplier.max() <= 1 + 1e-5
    assert (largest > 1.5) == (act == "none")


def test_a_map_is_the_strength_of_its_own_scale_and_step():
    network = net(steps=2).eval()
    found = {}
    for scale, modules in enumerate(network.refine):
        for step, module in enumerate(modules):
            name = f"guided-scale-{scale + 1}-step-{step + 1}"
            module.register_forward_hook(lambda _m, _i, out, key=name: found.update({key: out}))
    with torch.no_grad():
        maps = network(volume(33, 38, 36), return_maps=True).maps
    assert set(maps) == set(found)
    for name, features in found.items():
        expected = features.double().square().sum(1, keepdim=True).sqrt()[..., :9, :10, :9]
        assert torch.allclose(maps[name].double(), expected, rtol=1e-5, atol=1e-6)
        others = [v for key, v in maps.items() if key != name]
        assert not any(torch.allclose(maps[name], other) for other in others)


def test_half_precision_agrees_on_the_mask():
    network = open_gates(net(num_classes=3)).eval()
    x = volume(40, 40, 40)
    with torch.no_grad():
        exact = network(x).logits
        with torch.autocast("cpu", torch.bfloat16):
            fast = network(x).logits
    assert torch.isfinite(fast).all()
    assert (exact.argmax(1) == fast.argmax(1)).float().mean() >= 0.95


def test_compiles_in_one_graph():
    network = open_gates(net(kv_pool=2)).eval()
    x = volume(36, 36, 40)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x).logits, network(x).logits, atol=1e-4)


@pytest.mark.long
def test_inductor_compiles_it():
    """The compiler that people get by default, not only its front end."""
    network = open_gates(net(kv_pool=2, num_classes=3)).eval()
    x = volume(36, 36, 40)
    compiled = torch.compile(network, fullgraph=True)
    with torch.no_grad():
        expected, actual = network(x).logits, compiled(x).logits
    assert (expected - actual).abs().max() <= 1e-3 * expected.std()
    assert (expected.argmax(1) == actual.argmax(1)).float().mean() >= 0.999


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"variant": "best"}, "refined, paper, simplified"),
        ({"depth": 12}, "depth is 12"),
        ({"steps": 0}, "at least 1"),
        ({"widths": (8, 16)}, "four widths"),
        ({"stem_kernel": 4}, "odd"),
        ({"shortcut": "C"}, "use A or B"),
        ({"sides": "none"}, "grid or image"),
        ({"attention_act": "relu"}, "none or sigmoid"),
        ({"autoencoder": (2,)}, "must be two"),
    ],
)
def test_wrong_settings_are_named(config, message):
    from napari_attention3d.errors import InputError

    with pytest.raises(InputError, match=message):
        net(**config)
