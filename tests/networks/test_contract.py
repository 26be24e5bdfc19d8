"""What every registered network must do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napari_attention3d.errors import InputError
from napari_attention3d.models import ModelCard, load_model, save_model
from napari_attention3d.models.card import Channel, SegmentationClass
from napari_attention3d.networks import (
    ScanNorm3d,
    build_network,
    network_names,
    network_presets,
    register,
)
from napari_attention3d.training.losses import make_loss

GUIDED = {"widths": (4, 4, 8, 8), "features": 8, "head_width": 4}
SMALL = {
    "attention-unet": {"channels": (4, 8, 8)},
    "additive-attention-unet": {"channels": (4, 8, 8)},
    "guided-attention": {**GUIDED, "variant": "refined"},
    "guided-attention/paper": {**GUIDED, "variant": "paper", "head_width": 0},
    "guided-attention/simplified": {**GUIDED, "variant": "simplified"},
    "guided-attention/windows": {**GUIDED, "window": 4, "channel_attention": "danet"},
    "guided-attention/bounded": {
        **GUIDED,
        "norm": "group",
        "attention_act": "sigmoid",
        "kv_pool": 2,
        "steps": 3,
    },
    "guided-attention/dilated": {**GUIDED, "dilated": True, "shortcut": "A"},
    "guided-attention/depth 50": {**GUIDED, "depth": 50},
    "oktay-attention-unet": {"channels": (4, 8, 8)},
    "oktay-attention-unet/multi": {"channels": (4, 8, 8), "gates_per_level": 2},
    "attention-unet/two gates": {
        "channels": (4, 8, 8),
        "gates_per_level": 2,
        "deep_supervision": "fused",
        "norm": "batch",
    },
    "attention-unet/group": {"channels": (4, 8, 8), "norm": "group"},
}
SIZES = [(9, 9, 9), (17, 20, 32), (33, 31, 15), (4, 4, 4), (1, 2, 3)]


def turn(value, order):
    """Permute one triple, or each of a list."""
    if isinstance(value, list):
        return [turn(v, order) for v in value]
    return tuple(value[i] for i in order)


@pytest.fixture(params=network_names())
def name(request):
    return request.param


@pytest.fixture(params=sorted({*network_names(), *SMALL}))
def case(request):
    """A network, or one of its variants."""
    return request.param


def small(case, **config):
    torch.manual_seed(0)
    return build_network(case.split("/")[0], **{**SMALL[case], **config})


@pytest.mark.parametrize("size", SIZES)
def test_any_size(case, size):
    network = small(case, in_channels=2, num_classes=3).eval()
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
        assert high is None or value.max() <= high
        assert torch.isfinite(value).all()
        if high is None:  # no bound to hold it to: it must at least tell places apart
            assert value.max() > 0
            assert value.numel() == 1 or value.std() > 1e-6 * value.mean()


def test_every_parameter_gets_a_gradient_at_batch_one(case):
    network = small(case).train()
    labels = torch.randint(2, (1, 16, 16, 16))
    make_loss(network)(network(torch.randn(1, 1, 16, 16, 16)), labels).backward()
    missing = [key for key, p in network.named_parameters() if p.grad is None]
    assert missing == []


def test_maps_do_not_change_the_logits(case):
    network = small(case).eval()
    x = torch.randn(1, 1, 12, 12, 12)
    with torch.no_grad():
        assert torch.equal(network(x).logits, network(x, return_maps=True).logits)
        assert network(x).maps == {}


def test_config_rebuilds_it_bit_equal(case):
    network = small(case, num_classes=4).eval()
    twin = build_network(network.name, **network.config).eval()
    twin.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 10, 12, 14)
    with torch.no_grad():
        assert torch.equal(network(x).logits, twin(x).logits)
    assert twin.config == network.config


def test_deterministic(case):
    x = torch.randn(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        first, second = (small(case).eval()(x).logits for _ in range(2))
    assert torch.equal(first, second)


def test_neighbours_in_the_batch_do_not_matter_in_eval(case):
    network = small(case).eval()
    x = torch.randn(2, 1, 12, 16, 12)
    other = torch.stack((x[0], 5 * torch.randn(1, 12, 16, 12)))
    alone = 1e-4  # other kernels are taken, whose rounding depends on the processor
    with torch.no_grad():
        found = network(x).logits[:1]
        assert torch.allclose(found, network(other).logits[:1], atol=1e-5)
        assert torch.allclose(found, network(x[:1]).logits, atol=alone)


def test_every_size_in_the_registry_builds(name):
    assert network_presets(name)
    for preset in network_presets(name):
        assert build_network(name, preset=preset).parameter_count() > 1000


SECTIONS = {
    "attention-unet": "Attention U-Net",
    "guided-attention": "Guided attention",
    "oktay-attention-unet": "Oktay attention U-Net",
    "additive-attention-unet": "Additive attention U-Net",
}


def test_parameter_counts_are_as_documented(name):
    text = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {SECTIONS[name]}\n")[1].split("\n## ")[0]
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in section.splitlines()]
    documented = {
        row[0]: int(row[-1].replace(" ", ""))
        for row in rows
        if row and row[-1].replace(" ", "").isdigit() and len(row[-1]) > 4
    }
    built = {p: build_network(name, preset=p).parameter_count() for p in network_presets(name)}
    assert documented == built


def test_saved_and_loaded_bit_equal(case, tmp_path):
    network = small(case, num_classes=3).eval()
    classes = tuple(SegmentationClass(name=f"class {i}", colour="#ffffff") for i in range(3))
    card = ModelCard(
        name="test",
        title="Test",
        network={"name": network.name, **network.config},
        classes=classes,
        channels=(Channel(name="intensity"),),
    )
    loaded = load_model(save_model(tmp_path / "test.safetensors", network, card)).network
    x = torch.randn(1, 1, 12, 10, 9)
    with torch.no_grad():
        assert torch.equal(network(x).logits, loaded(x).logits)
    for key, value in network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key])


def test_axes_are_equal(case):
    """Permuting the input's axes and all kernels permutes the output: no axis is mixed up."""
    order = (2, 0, 1)
    thick = {"strides": [(1, 2, 2), (2, 2, 2)]}
    if case.startswith("guided-attention"):
        thick = {"stem_stride": (1, 2, 2), "strides": [(2, 2, 2), (2, 2, 1), (2, 2, 2)]}
    turned = {k: turn(v, order) for k, v in thick.items()}
    network, twin = small(case, **thick).eval(), small(case, **turned).eval()
    state = network.state_dict()
    axes = tuple(2 + i for i in order)
    twin.load_state_dict(
        {k: v.permute(0, 1, *axes) if v.ndim == 5 else v for k, v in state.items()}
    )
    x = torch.randn(1, 1, 8, 12, 16)
    with torch.no_grad():
        expected = network(x).logits.permute(0, 1, *axes)
        actual = twin(x.permute(0, 1, *axes)).logits
    # An axis mixed up shows as a difference of about 1; fifty layers round to 5e-4.
    assert torch.allclose(expected, actual, atol=2e-3 if "depth 50" in case else 1e-4)


def test_maps_lie_where_they_say(case):
    """The gradient of a map voxel is centred on ``stride * j + offset``."""
    network = small(case).eval()
    if network.locality == "global":
        pytest.skip("every voxel sees all; its encoder is tested in test_guided_attention.py")
    x = torch.zeros(1, 1, 32, 32, 32, requires_grad=True)
    with torch.no_grad():
        # Averaging weights, no norms: each voxel's footprint is then symmetric.
        for p in network.parameters():
            p.fill_(1e-2)
    for module in network.modules():
        if isinstance(module, ScanNorm3d | torch.nn.BatchNorm3d | torch.nn.GroupNorm):
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
        if case == "additive-attention-unet":
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
