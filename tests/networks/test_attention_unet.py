from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_attention3d.networks import AttentionUNet, build_network, calibrating


def test_shapes_of_an_anisotropic_network():
    network = AttentionUNet(
        channels=(4, 8, 8, 8),
        strides=[(1, 2, 2), (2, 2, 2), (2, 2, 2)],
        kernels=[(1, 3, 3), 3, 3, 3],
        ungated_levels=0,
    ).eval()
    with torch.no_grad():
        out = network(torch.randn(1, 1, 10, 64, 64), return_maps=True)
    assert out.logits.shape == (1, 2, 10, 64, 64)
    assert [tuple(m.shape[2:]) for m in out.maps.values()] == [
        (10, 32, 32),
        (5, 16, 16),
        (3, 8, 8),
    ]


def counted(c, classes=2):
    """Parameters by hand: isotropic 3x3x3 kernels, one gate per level but the first."""
    levels = len(c)
    total = 0
    for i in range(levels):  # encoder: two convolutions with norms
        total += 27 * (1 if i == 0 else c[i - 1]) * c[i] + 27 * c[i] ** 2 + 4 * c[i]
    total += c[-1] ** 2 + 2 * c[-1]  # gating signal
    for i in range(levels - 1):
        total += c[i + 1] * c[i]  # reduction before upsampling
        total += 27 * 2 * c[i] * c[i] + 27 * c[i] ** 2 + 4 * c[i]  # decoder
        total += c[i] * classes + classes  # head
        if i > 0:
            total += 8 * c[i] ** 2 + (c[i + 1] * c[i] + c[i]) + (c[i] + 1)  # theta, phi, psi
            total += c[i] ** 2 + 2 * c[i]  # output transform
    return total


@pytest.mark.parametrize("preset", ["tiny", "small", "base", "large"])
def test_parameter_counts(preset):
    network = build_network("attention-unet", preset=preset)
    assert network.parameter_count() == counted(network.channels)


def test_all_gates_open_is_the_plain_network():
    """Forced alpha = 1 and no output transform: the ungated network with the same weights."""
    torch.manual_seed(0)
    gated = AttentionUNet(channels=(4, 8, 8), ungated_levels=0, out_transform=False).eval()
    plain = AttentionUNet(channels=(4, 8, 8), ungated_levels=2).eval()
    state = gated.state_dict()
    plain.load_state_dict({k: state[k] for k in plain.state_dict()})
    for level in gated.gates.values():
        nn.init.zeros_(level[0].psi.weight)
        nn.init.constant_(level[0].psi.bias, 50.0)
    x = torch.randn(1, 1, 16, 12, 8)
    with torch.no_grad():
        assert torch.allclose(gated(x).logits, plain(x).logits, atol=1e-5)


def test_flip_equivariance_on_divisible_sizes():
    torch.manual_seed(0)
    network = AttentionUNet(channels=(4, 8, 8)).eval()
    twin = AttentionUNet(channels=(4, 8, 8)).eval()
    twin.load_state_dict(
        {k: v.flip(2) if v.ndim == 5 else v for k, v in network.state_dict().items()}
    )
    x = torch.randn(1, 1, 16, 12, 8)
    with torch.no_grad():
        assert torch.allclose(twin(x.flip(2)).logits, network(x).logits.flip(2), atol=1e-4)


def test_translation_by_the_stride_in_the_interior():
    torch.manual_seed(0)
    network = AttentionUNet(channels=(4, 4)).eval()
    x = torch.randn(1, 1, 40, 8, 8)
    with torch.no_grad():
        with calibrating(network):
            whole = network(x).logits
        moved = network(x[:, :, 2:]).logits
    assert torch.allclose(moved[:, :, 16:-16], whole[:, :, 18:-16], atol=1e-6)


def test_padding_leaves_divisible_sizes_alone():
    torch.manual_seed(0)
    network = AttentionUNet(channels=(4, 8)).eval()
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        logits, _, _ = network._forward_padded(x, False)
        assert torch.equal(network(x).logits, logits)


def test_deep_supervision_outputs():
    x = torch.randn(1, 1, 16, 16, 16)
    separate = AttentionUNet(channels=(4, 8, 8), deep_supervision="separate")
    assert [tuple(s.shape[2:]) for s in separate.train()(x).side_logits] == [(8, 8, 8)]
    assert separate.eval()(x).side_logits == ()
    fused = AttentionUNet(channels=(4, 8, 8), deep_supervision="fused")
    out = fused.train()(x)
    assert out.side_logits == ()
    assert out.logits.shape == (1, 2, 16, 16, 16)
    out.logits.sum().backward()
    assert all(head.weight.grad is not None for head in fused.heads)


def test_two_gates_per_level_show_their_mean():
    torch.manual_seed(0)
    network = AttentionUNet(channels=(4, 8), ungated_levels=0, gates_per_level=2).eval()
    seen = []
    for gate in network.gates["0"]:
        gate.psi.register_forward_hook(lambda m, i, o: seen.append(o.sigmoid()))
    with torch.no_grad():
        out = network(torch.randn(1, 1, 8, 8, 8), return_maps=True)
    assert torch.allclose(out.maps["gate-level-1"], (seen[0] + seen[1]) / 2)


def test_bfloat16_agrees():
    torch.manual_seed(0)
    network = AttentionUNet(num_classes=3, channels=(8, 16, 16)).eval()
    x = torch.randn(1, 1, 24, 24, 24)
    with torch.no_grad():
        exact = network(x).logits
        with torch.autocast("cpu", torch.bfloat16):
            fast = network(x).logits
    assert torch.isfinite(fast).all()
    assert (exact.argmax(1) == fast.argmax(1)).float().mean() > 0.97


@pytest.mark.parametrize(
    "config",
    [
        {"channels": (8,)},
        {"channels": (8, 16), "strides": [2, 2]},
        {"channels": (8, 16), "kernels": [3]},
        {"channels": (8, 16), "kernels": [3, 2]},
        {"num_classes": 1},
        {"in_channels": 0},
        {"gates_per_level": 3},
        {"norm": "layer"},
        {"act": "swish"},
        {"deep_supervision": "deep"},
    ],
)
def test_senseless_settings_are_refused(config):
    with pytest.raises(ValueError, match=r".+"):
        AttentionUNet(**config)


@pytest.mark.parametrize("gates", [0, 2])
def test_learns_a_sphere(gates):
    """Ten steps on one small scan lower the loss: gradients point the right way."""
    torch.manual_seed(0)
    network = AttentionUNet(channels=(8, 8, 8), ungated_levels=2 - gates)
    z, y, x = torch.meshgrid(*[torch.arange(16) - 8.0] * 3, indexing="ij")
    truth = ((z**2 + y**2 + x**2) < 25).long()[None]
    scan = truth[:, None] + 0.5 * torch.randn(1, 1, 16, 16, 16)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(network(scan).logits, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
