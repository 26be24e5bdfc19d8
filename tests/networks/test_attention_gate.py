from __future__ import annotations

import pytest
import torch

from napari_attention3d.networks import build_network
from napari_attention3d.networks.attention_gate import AdditiveGate, GridGate


def naive_grid_gate(gate, skip, gating):
    """Reference: the equations, written with plain tensor algebra for stride 2."""
    b, c, z, y, x = skip.shape
    blocks = skip.reshape(b, c, z // 2, 2, y // 2, 2, x // 2, 2)
    theta = torch.einsum("bczpyqxr,ocpqr->bozyx", blocks, gate.theta.weight)
    phi = torch.einsum("bczyx,oc->bozyx", gating, gate.phi.weight[:, :, 0, 0, 0])
    phi = phi + gate.phi.bias.view(1, -1, 1, 1, 1)
    hidden = (theta + phi).clamp_min(0)
    logit = torch.einsum("bczyx,c->bzyx", hidden, gate.psi.weight[0, :, 0, 0, 0]) + gate.psi.bias
    return (1 / (1 + torch.exp(-logit)))[:, None]


def test_coefficients_follow_the_equations():
    torch.manual_seed(0)
    gate = GridGate(4, 6)
    skip, gating = torch.randn(2, 4, 8, 6, 4), torch.randn(2, 6, 4, 3, 2)
    out, alpha = gate(skip, gating)
    assert out.shape == skip.shape
    assert torch.allclose(alpha, naive_grid_gate(gate, skip, gating), atol=1e-6)


def test_range_is_not_squeezed_by_a_second_sigmoid():
    torch.manual_seed(0)
    gate = GridGate(4, 4, psi_bias=0.0)
    skip = 30 * torch.randn(1, 4, 16, 16, 16)
    _, alpha = gate(skip, 30 * torch.randn(1, 4, 8, 8, 8))
    assert alpha.min() >= 0
    assert alpha.max() <= 1
    with torch.no_grad():
        gate.psi.weight.mul_(-1)
    _, other = gate(skip, 30 * torch.randn(1, 4, 8, 8, 8))
    assert min(alpha.min(), other.min()) < 0.05
    assert max(alpha.max(), other.max()) > 0.95


@pytest.mark.parametrize(("bias", "expected"), [(30.0, 1.0), (-30.0, 0.0)])
def test_psi_bias_opens_and_shuts(bias, expected):
    gate = GridGate(3, 3, out_transform=False)
    torch.nn.init.constant_(gate.psi.bias, bias)
    torch.nn.init.zeros_(gate.psi.weight)
    skip = torch.randn(1, 3, 6, 6, 6)
    out, alpha = gate(skip, torch.randn(1, 3, 3, 3, 3))
    assert torch.allclose(alpha, torch.full_like(alpha, expected), atol=1e-6)
    assert torch.allclose(out, expected * skip, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_starts_open(seed):
    """A network's own initialisation: no gate holds half back, all together let 80 % through."""
    torch.manual_seed(seed)
    network = build_network("attention-unet", preset="small").eval()
    with torch.no_grad():
        maps = network(torch.randn(1, 1, 32, 32, 32), return_maps=True).maps
        means = torch.tensor([float(m.mean()) for m in maps.values()])
        assert means.min() > 0.6
        assert 0.8 < means.mean() < 0.99
        for gate in network.modules():
            if isinstance(gate, GridGate):
                assert float(gate.psi.bias) == 3
                gate.psi.weight.zero_()  # what the bias alone lets through
        maps = network(torch.randn(1, 1, 32, 32, 32), return_maps=True).maps
        assert all(torch.allclose(m, torch.tensor(0.9526), atol=1e-4) for m in maps.values())


def test_odd_skip_sizes_keep_their_last_plane():
    gate = GridGate(2, 2, out_transform=False)
    skip = torch.randn(1, 2, 7, 5, 9, requires_grad=True)
    out, _ = gate(skip, torch.randn(1, 2, 4, 3, 5))
    out.sum().backward()
    assert out.shape == skip.shape
    assert (skip.grad[:, :, -1] != 0).any()


def test_additive_gate_is_a_convex_weight():
    gate = AdditiveGate(4, 4, inner_channels=2, norm="batch").eval()
    skip = torch.randn(1, 4, 5, 6, 7)
    out, alpha = gate(skip, torch.randn(1, 4, 5, 6, 7))
    assert torch.allclose(out, alpha * skip)
    assert ((alpha > 0) & (alpha < 1)).all()
