"""Outputs equal those of MONAI's own AttentionUnet with the same weights."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import AttentionUnet

from napari_attention3d.networks import AdditiveAttentionUNet
from napari_attention3d.networks.additive_attention_unet import monai_keys

CASES = [
    {"channels": (4, 8, 16), "strides": ((2, 2, 2), (2, 2, 2)), "in": 1, "out": 2},
    {"channels": (4, 8, 8, 16), "strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2)), "in": 2, "out": 3},
    {"channels": (4, 6), "strides": ((2, 1, 2),), "in": 1, "out": 5},
]


def build(case):
    torch.manual_seed(0)
    theirs = AttentionUnet(3, case["in"], case["out"], case["channels"], case["strides"])
    # A fresh norm is the identity and would hide swapped layers.
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        elif isinstance(module, torch.nn.PReLU):
            torch.nn.init.uniform_(module.weight, 0.1, 0.9)
    ours = AdditiveAttentionUNet(case["in"], case["out"], case["channels"], case["strides"])
    source = theirs.state_dict()
    state, used = {}, set()
    keys = monai_keys(len(case["channels"]))
    for name in ours.state_dict():
        prefix = max((p for p in keys if name.startswith(p + ".")), key=len)
        other = keys[prefix] + name.removeprefix(prefix)
        state[name] = source[other]
        used.add(other)
    assert used == set(source)
    ours.load_state_dict(state)
    return ours, theirs


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [False, True])
def test_same_output(case, training):
    ours, theirs = build(case)
    ours.train(training), theirs.train(training)
    x = torch.randn(2, case["in"], 16, 24, 32)
    with torch.no_grad():
        expected, actual = theirs(x), ours(x).logits
    assert (expected - actual).abs().max() <= 1e-5


def test_every_tensor_matters():
    ours, theirs = build(CASES[0])
    ours.eval(), theirs.eval()
    x = torch.randn(1, 1, 16, 16, 24)
    with torch.no_grad():
        expected = theirs(x)
        for name, tensor in ours.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            kept = tensor.clone()
            tensor.add_(torch.rand_like(tensor) + 0.1)
            changed = (ours(x).logits - expected).abs().max()
            tensor.copy_(kept)
            # A bias before the instance norm is taken out again by its mean.
            if ".conv.bias" in name and name.startswith("merges"):
                assert changed < 1e-4, name
            else:
                assert changed > 1e-6, name
        assert (
            torch.equal(ours(x).logits, theirs(x)) or (ours(x).logits - expected).abs().max() < 1e-5
        )


def test_maps_are_the_gates_coefficients():
    ours, theirs = build(CASES[0])
    ours.eval(), theirs.eval()
    seen = []
    for module in theirs.modules():
        if type(module).__name__ == "AttentionBlock":
            module.psi.register_forward_hook(lambda m, i, o: seen.append(o))
    x = torch.randn(1, 1, 16, 16, 24)
    with torch.no_grad():
        theirs(x)
        maps = ours(x, return_maps=True).maps
    seen = sorted(seen, key=lambda t: -t.numel())
    assert list(maps) == ["gate-level-0", "gate-level-1"]
    for a, b in zip(maps.values(), seen, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
