"""What every registered network must do."""

from __future__ import annotations

import pytest
import torch

from napari_attention3d.errors import InputError
from napari_attention3d.networks import (
    ScanNorm3d,
    build_network,
    network_names,
    network_presets,
    register,
)

SMALL = {
    "attention-unet": {"channels": (4, 8, 8)},
    "additive-attention-unet": {"channels": (4, 8, 8)},
    "guided-attention": {"widths": (4, 4, 8, 8), "features": 8, "head_width": 4},
    "oktay-attention-unet": {"channels": (4, 8, 8)},
}
SIZES = [(9, 9, 9), (17, 20, 32), (33, 31, 15), (4, 4, 4), (1, 2, 3)]


@pytest.fixture(params=network_names())
def name(request):
    return request.param


def small(name, **config):
    torch.manual_seed(0)
    return build_network(name, **{**SMALL[name], **config})


@pytest.mark.parametrize("size", SIZES)
def test_any_size(name, size):
    network = small(name, in_channels=2, num_classes=3).eval()
    with torch.no_grad():
        out = network(torch.randn(1, 2, *size), return_maps=True)
    assert out.logits.shape == (1, 3, *size)
    assert set(out.maps) == set(network.map_specs)
    for key, value in out.maps.items():
        spec = network.map_specs[key]
        expected = tuple(-(-n // s) for n, s in zip(size, spec.stride, strict=True))
        assert value.shape == (1, 1, *expected)
        low, high = spec.value_range
        assert value.min() >= low
        assert value.max() <= high
        assert torch.isfinite(value).all()


def test_every_parameter_gets_a_gradient_at_batch_one(name):
    network = small(name).train()
    out = network(torch.randn(1, 1, 16, 16, 16))
    loss = out.logits.square().mean() + sum(s.square().mean() for s in out.side_logits)
    loss.backward()
    missing = [key for key, p in network.named_parameters() if p.grad is None]
    assert missing == []


def test_maps_do_not_change_the_logits(name):
    network = small(name).eval()
    x = torch.randn(1, 1, 12, 12, 12)
    with torch.no_grad():
        assert torch.equal(network(x).logits, network(x, return_maps=True).logits)
        assert network(x).maps == {}


def test_config_rebuilds_it_bit_equal(name):
    network = small(name, num_classes=4).eval()
    twin = build_network(name, **network.config).eval()
    twin.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 10, 12, 14)
    with torch.no_grad():
        assert torch.equal(network(x).logits, twin(x).logits)
    assert twin.config == network.config


def test_deterministic(name):
    x = torch.randn(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        first, second = (small(name).eval()(x).logits for _ in range(2))
    assert torch.equal(first, second)


def test_neighbours_in_the_batch_do_not_matter_in_eval(name):
    network = small(name).eval()
    x = torch.randn(2, 1, 12, 16, 12)
    with torch.no_grad():
        assert torch.allclose(network(x).logits[:1], network(x[:1]).logits, atol=1e-5)


def test_every_size_in_the_registry_builds(name):
    assert network_presets(name)
    for preset in network_presets(name):
        assert build_network(name, preset=preset).parameter_count() > 1000


def test_axes_are_equal(name):
    """Permuting the input's axes and all kernels permutes the output: no axis is mixed up."""
    order = (2, 0, 1)
    config = {"strides": [(1, 2, 2), (2, 2, 2)]}
    turned = {"strides": [tuple(s[i] for i in order) for s in config["strides"]]}
    network, twin = small(name, **config).eval(), small(name, **turned).eval()
    state = network.state_dict()
    axes = tuple(2 + i for i in order)
    twin.load_state_dict(
        {k: v.permute(0, 1, *axes) if v.ndim == 5 else v for k, v in state.items()}
    )
    x = torch.randn(1, 1, 8, 12, 16)
    with torch.no_grad():
        expected = network(x).logits.permute(0, 1, *axes)
        actual = twin(x.permute(0, 1, *axes)).logits
    assert torch.allclose(expected, actual, atol=1e-4)


def test_maps_lie_where_they_say(name):
    """The gradient of a map voxel is centred on ``stride * j + offset``."""
    network = small(name).eval()
    x = torch.zeros(1, 1, 32, 32, 32, requires_grad=True)
    with torch.no_grad():
        # Averaging weights, no norms: each voxel's footprint is then symmetric.
        for p in network.parameters():
            p.fill_(1e-2)
    for module in network.modules():
        if isinstance(module, ScanNorm3d | torch.nn.BatchNorm3d):
            module.forward = lambda t: t
        if isinstance(module, torch.nn.MaxPool3d):
            kernel = module.kernel_size
            module.forward = lambda t, k=kernel: torch.nn.functional.avg_pool3d(t, k, k)
    maps = network(x + 1, return_maps=True).maps
    grid = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
    for key, spec in network.map_specs.items():
        j = 16 // spec.stride[0]
        (grad,) = torch.autograd.grad(maps[key][0, 0, j, j, j], x, retain_graph=True)
        weight = grad[0, 0].abs()
        centre = (grid * weight).sum((1, 2, 3)) / weight.sum()
        expected = torch.tensor([s * j + o for s, o in zip(spec.stride, spec.offset, strict=True)])
        if name == "additive-attention-unet":
            # The gating signal, upsampled by a transposed convolution, adds up to half a
            # voxel of the coarser grid; the skip's own path is centred.
            assert (centre - expected).abs().max() <= max(spec.stride) + 0.5
        else:
            assert (centre - expected).abs().max() <= 0.1, key


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="choose one of"):
        build_network("resnet-of-dreams")
    with pytest.raises(InputError, match="no size"):
        build_network("attention-unet", preset="gigantic")
    with pytest.raises(InputError, match="can't be built"):
        build_network("attention-unet", colour="blue")


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="two networks"):
        register("attention-unet")(type("Twin", (), {}))
