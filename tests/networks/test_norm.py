from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from napari_attention3d.networks import (
    AttentionUNet,
    ScanNorm3d,
    calibrating,
    clear_calibration,
    load_calibration,
    read_calibration,
)
from napari_attention3d.networks import norm as norm_module


def randomised(channels=5):
    torch.manual_seed(1)
    norm = ScanNorm3d(channels)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_uncalibrated_is_instance_norm(mode):
    norm = randomised().train(mode == "train")
    x = 3 * torch.randn(2, 5, 4, 5, 6) + 2
    expected = torch.nn.functional.instance_norm(x, weight=norm.weight, bias=norm.bias)
    assert torch.allclose(norm(x), expected, atol=1e-5)


def test_gradients_equal_instance_norms():
    norm = randomised()
    x = torch.randn(2, 5, 4, 3, 3, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    mask = torch.randn(2, 5, 4, 3, 3)
    (norm(x) * mask).sum().backward()
    own = norm.weight.grad.clone()
    norm.weight.grad = None
    expected = torch.nn.functional.instance_norm(y, weight=norm.weight, bias=norm.bias)
    (expected * mask).sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-4)
    assert torch.allclose(own, norm.weight.grad, atol=1e-4)


def test_single_voxel_becomes_the_bias():
    norm = randomised()
    out = norm(torch.randn(1, 5, 1, 1, 1))
    assert torch.allclose(out.flatten(), norm.bias)


def test_calibration_pools_the_batch_and_stays():
    norm = randomised().eval()
    x = torch.randn(3, 5, 4, 4, 4) * torch.tensor([1.0, 2, 3]).view(3, 1, 1, 1, 1)
    with calibrating(norm):
        first = norm(x)
    mean = x.mean(dim=(0, 2, 3, 4), keepdim=True)
    var = x.var(dim=(0, 2, 3, 4), correction=0, keepdim=True)
    shape = (1, 5, 1, 1, 1)
    expected = (x - mean) / (var + norm.eps).sqrt() * norm.weight.view(shape)
    expected = expected + norm.bias.view(shape)
    assert torch.allclose(first, expected, atol=1e-5)
    # Afterwards a crop is normalised as part of the scan, not by itself.
    assert torch.allclose(norm(x[:1, :, :2]), expected[:1, :, :2], atol=1e-5)
    clear_calibration(norm)
    assert not torch.allclose(norm(x[:1, :, :2]), expected[:1, :, :2], atol=1e-2)


def test_calibrated_whole_pass_equals_uncalibrated_one():
    torch.manual_seed(0)
    network = AttentionUNet(channels=(4, 8, 8)).eval()
    x = torch.randn(1, 1, 16, 20, 12)
    with torch.no_grad():
        plain = network(x).logits
        with calibrating(network):
            measured = network(x).logits
        frozen = network(x).logits
    assert torch.allclose(plain, measured, atol=1e-4)
    assert torch.allclose(frozen, measured, atol=1e-6)


def test_calibrated_network_sees_tiles_as_the_scan():
    """The point of it all: the interior of a tile equals that of the whole pass."""
    torch.manual_seed(0)
    network = AttentionUNet(channels=(4, 4, 4)).eval()
    x = torch.randn(1, 1, 64, 16, 16).cumsum(2) * 0.1
    with torch.no_grad(), calibrating(network):
        whole = network(x).logits
    with torch.no_grad():
        tile = network(x[:, :, 16:]).logits
        assert torch.allclose(tile[:, :, 32:], whole[:, :, 48:], atol=1e-5)
        clear_calibration(network)
        tile = network(x[:, :, 16:]).logits
        assert not torch.allclose(tile[:, :, 32:], whole[:, :, 48:], atol=1e-3)


def test_statistics_go_through_json_bit_equal():
    torch.manual_seed(0)
    network = AttentionUNet(channels=(4, 8)).eval()
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        with calibrating(network):
            expected = network(x).logits
        kept = json.loads(json.dumps(read_calibration(network)))
        clear_calibration(network)
        assert read_calibration(network) == {}
        load_calibration(network, kept)
        assert torch.equal(network(x).logits, expected)
    assert not any("mean" in key for key in network.state_dict())


def test_statistics_of_another_network_are_refused():
    with pytest.raises(KeyError, match="belong"):
        load_calibration(AttentionUNet(channels=(4, 8)), {"elsewhere": ([0.0], [1.0])})


def test_statistics_do_not_depend_on_how_the_tensor_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_module, "PART_VOXELS", 60)
    x = torch.randn(2, 3, 7, 5, 6, generator=torch.Generator().manual_seed(0)) * 3 + 5
    var, mean = torch.var_mean(x.double(), dim=(0, 2, 3, 4), correction=0)
    for lies in (x, x.contiguous(memory_format=torch.channels_last_3d)):
        norm = ScanNorm3d(3).eval()
        with calibrating(norm):
            norm(lies)
        torch.testing.assert_close(norm.mean, mean.float())
        torch.testing.assert_close(norm.var, var.float())
