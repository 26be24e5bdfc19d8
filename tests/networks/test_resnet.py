"""The residual encoder: features equal MONAI's, and lie where they say."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.resnet import ResNet, ResNetFeatures
from torch import nn

from napari_attention3d.networks.resnet import BLOCKS, ResNetEncoder, upsample_centred

WIDTHS = (4, 8, 12, 16)


class Theirs(ResNet):
    forward = ResNetFeatures.forward


def pair(depth, shortcut, channels=1):
    torch.manual_seed(depth)
    block = "bottleneck" if depth == 50 else "basic"
    theirs = Theirs(
        block,
        BLOCKS[depth],
        list(WIDTHS),
        n_input_channels=channels,
        conv1_t_stride=2,
        shortcut_type=shortcut,
        feed_forward=False,
        bias_downsample=False,
    )
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.6, 1.2)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.6, 1.5)
    ours = ResNetEncoder(channels, depth, WIDTHS, shortcut=shortcut, norm="batch")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("training", [False, True])
def test_features_equal_monais(depth, shortcut, training):
    ours, theirs = pair(depth, shortcut, channels=2)
    ours.train(training), theirs.train(training)
    x = torch.randn(2, 2, 33, 40, 36)
    with torch.no_grad():
        for a, b in zip(ours(x), theirs(x), strict=True):
            assert a.shape == b.shape
            scale = b.abs().max().clamp(min=1)
            assert (a - b).abs().max() / scale <= 1e-5


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"depth": 50},
        {"dilated": True},
        {"stem_stride": (1, 2, 2), "stem_pool": 1, "strides": [(1, 2, 2), (2, 2, 2), (2, 1, 2)]},
        {"stem_kernel": 5, "stem_stride": 1, "stem_pool": 2, "shortcut": "A"},
    ],
)
@pytest.mark.parametrize("size", [(16, 16, 16), (9, 17, 30), (1, 2, 3)])
def test_shapes_are_those_of_the_declared_strides(config, size):
    encoder = ResNetEncoder(1, **{"depth": 10, **config}, widths=WIDTHS, norm="batch").eval()
    with torch.no_grad():
        stem, *levels = encoder(torch.randn(1, 1, *size))
    assert stem.shape[1:] == (
        4,
        *(-(-n // s) for n, s in zip(size, encoder.stem_stride, strict=True)),
    )
    for level, width, stride in zip(
        levels, encoder.out_channels, encoder.feature_strides, strict=True
    ):
        assert level.shape[1:] == (
            width,
            *(-(-n // s) for n, s in zip(size, stride, strict=True)),
        )


def averaging(encoder):
    """Equal weights, no norms, average for maximum: footprints are symmetric then."""
    with torch.no_grad():
        for p in encoder.parameters():
            p.fill_(0.02)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.forward = lambda t: t
        if isinstance(module, nn.MaxPool3d):
            module.forward = lambda t, s=module.stride: nn.functional.avg_pool3d(t, 3, s, 1)
    return encoder.eval()


@pytest.mark.parametrize("config", [{}, {"dilated": True}, {"shortcut": "A", "stem_stride": 1}])
def test_voxel_j_lies_on_input_voxel_stride_times_j(config):
    encoder = averaging(ResNetEncoder(1, 10, (1, 1, 1, 1), norm="batch", **config))
    x = torch.ones(1, 1, 48, 48, 48, requires_grad=True)
    _, *levels = encoder(x)
    grid = torch.stack(torch.meshgrid(*[torch.arange(48.0)] * 3, indexing="ij"))
    for level, stride in list(zip(levels, encoder.feature_strides, strict=True))[:2]:
        j = 24 // stride[0]
        (grad,) = torch.autograd.grad(level[0, 0, j, j, j], x, retain_graph=True)
        centre = (grid * grad[0, 0]).sum((1, 2, 3)) / grad.sum()
        expected = torch.tensor([float(s * j) for s in stride])
        assert (centre - expected).abs().max() <= 0.05


def test_the_gradient_passes_through_shortcut_a():
    """MONAI's and MedicalNet's cut it off."""
    encoder = ResNetEncoder(1, 10, WIDTHS, shortcut="A", norm="batch")
    block = encoder.layer2[0]
    x = torch.randn(1, 4, 8, 8, 8, requires_grad=True)
    block.downsample(x).sum().backward()
    assert x.grad[:, :, ::2, ::2, ::2].eq(1).all()
    assert x.grad.sum() == 4 * 4**3


def test_values_that_do_not_fit_are_refused():
    for config, word in (
        ({"depth": 101}, "depth is 101"),
        ({"widths": (4, 8)}, "four widths"),
        ({"strides": (2, 2)}, "three strides"),
        ({"shortcut": "C"}, "shortcut 'C'"),
        ({"stem_kernel": 4}, "odd"),
        ({"norm": "layer"}, "norm 'layer'"),
    ):
        with pytest.raises(ValueError, match=word):
            ResNetEncoder(**{"widths": WIDTHS, **config})


# ---- upsample_centred


@pytest.mark.parametrize("factor", [(2, 2, 2), (1, 2, 4), (4, 1, 1)])
def test_a_linear_ramp_stays_on_its_voxels(factor):
    coarse = (4, 5, 6)
    size = [n * f - (f > 1) for n, f in zip(coarse, factor, strict=True)]
    axes = [torch.arange(float(n)) * f for n, f in zip(coarse, factor, strict=True)]
    ramp = sum(
        torch.meshgrid(*(a * w for a, w in zip(axes, (1, 10, 100), strict=True)), indexing="ij")
    )
    out = upsample_centred(ramp[None, None], factor, size)
    assert out.shape[2:] == tuple(size)
    # Up to the last voxel of the coarse grid it is exact, past it the value holds.
    inside = tuple(slice(0, (n - 1) * f + 1) for n, f in zip(coarse, factor, strict=True))
    axes = [torch.arange(float(s.stop)) for s in inside]
    expected = sum(
        torch.meshgrid(*(a * w for a, w in zip(axes, (1, 10, 100), strict=True)), indexing="ij")
    )
    assert torch.allclose(out[0, 0][inside], expected, atol=1e-3)
    assert torch.equal(out[0, 0][:: factor[0], :: factor[1], :: factor[2]], ramp)


def test_factor_one_only_crops():
    x = torch.randn(1, 2, 3, 4, 5)
    assert torch.equal(upsample_centred(x, (1, 1, 1), (3, 3, 3)), x[:, :, :, :3, :3])
