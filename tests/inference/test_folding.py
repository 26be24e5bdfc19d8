"""Norms and activations folded into convolutions: the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_attention3d.inference.folding import Folded, fold
from napari_attention3d.inference.runner import private_copy
from napari_attention3d.inference.stream.ops import in_onednn
from napari_attention3d.networks import build_network, calibrating
from napari_attention3d.networks.blocks import ConvNormAct
from napari_attention3d.networks.norm import ScanNorm3d

pytestmark = pytest.mark.skipif(not in_onednn(torch.zeros(1)), reason="torch without oneDNN")


def lively(network: nn.Module) -> nn.Module:
    """Weights, slopes and statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, ScanNorm3d | nn.BatchNorm3d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
        for name, weight in network.named_parameters():
            if name.endswith("gamma"):
                weight.fill_(0.4)
    return network.eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("act", ["relu", "leakyrelu", "prelu"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
def test_a_convolution_takes_up_what_follows_it(act, norm, stride) -> None:
    block = lively(ConvNormAct(3, 5, norm=norm, act=act, stride=stride, bias=True))
    x = noise(2, 3, 7, 8, 9)
    with torch.inference_mode(), calibrating(block):
        block(x)
    with torch.inference_mode():
        expected = block(x)
        assert fold(block)
        assert [type(part) for part in block] == [Folded, nn.Identity, nn.Identity]
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("depth", [10, 50])
def test_a_folded_network_computes_the_same(norm, depth) -> None:
    torch.manual_seed(0)
    network = lively(
        build_network(
            "guided-attention",
            depth=depth,
            widths=(4, 4, 8, 8),
            features=4,
            head_width=4,
            norm=norm,
        )
    )
    x = noise(2, 1, 24, 20, 28)
    with torch.inference_mode(), calibrating(network):
        network(x)
    folded = private_copy(network)
    assert fold(folded)
    left = [m for m in folded.modules() if isinstance(m, ScanNorm3d | nn.BatchNorm3d | nn.Conv3d)]
    assert not left
    with torch.inference_mode():
        for batch in (x, x[:1]):
            expected, found = network(batch, return_maps=True), folded(batch, return_maps=True)
            scale = float(expected.logits.std())
            torch.testing.assert_close(
                found.logits / scale, expected.logits / scale, atol=5e-3, rtol=0
            )
            assert found.maps.keys() == expected.maps.keys()
    assert any(isinstance(m, nn.Conv3d) for m in network.modules())


def test_norms_that_are_to_be_measured_stay() -> None:
    network = lively(ConvNormAct(2, 4, norm="instance"))
    x = noise(1, 2, 6, 6, 6)
    twin = private_copy(network)
    assert fold(twin)
    assert isinstance(twin.conv, Folded)
    assert isinstance(twin.norm, ScanNorm3d)
    with torch.inference_mode():
        torch.testing.assert_close(twin(x), network(x), atol=1e-5, rtol=1e-5)
