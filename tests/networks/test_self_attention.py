"""Position and channel attention against the naive formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as nnf
from torch.nn.attention import SDPBackend, sdpa_kernel

from napari_attention3d.networks.self_attention import (
    ChannelAttention,
    PositionAttention,
    attending_within,
    channel_matrix,
    fused_attention,
)


def naive(q, k, v):
    """softmax(q k^T) v, with all N x N pairs."""
    return torch.softmax(q @ k.transpose(1, 2), dim=2) @ v


def tokens(n, c, m=None, sd=1.0, batch=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    m = m or n
    # Products of two such vectors have standard deviation `sd`.
    unit = math.sqrt(sd / math.sqrt(4))
    q = torch.randn(batch, n, 4, generator=g, dtype=torch.float64) * unit
    k = torch.randn(batch, m, 4, generator=g, dtype=torch.float64) * unit
    v = torch.randn(batch, m, c, generator=g, dtype=torch.float64)
    return q, k, v


@pytest.mark.parametrize("sd", [0.7, 25.0])
@pytest.mark.parametrize(("n", "c", "m"), [(1, 5, 1), (7, 8, 7), (64, 12, 64), (513, 3, 65)])
def test_fused_equals_the_naive_formula(n, c, m, sd):
    q, k, v = tokens(n, c, m, sd)
    expected = naive(q, k, v)
    actual = fused_attention(q.float(), k.float(), v.float()).double()
    assert actual.shape == expected.shape
    assert (actual - expected).norm() / expected.norm() <= 1e-5
    assert (actual - expected).abs().max() <= 2e-5 * v.abs().max()


@pytest.mark.parametrize("sd", [0.7, 25.0])
@pytest.mark.parametrize(("n", "c", "m"), [(1, 5, 1), (7, 8, 7), (64, 12, 64), (513, 3, 65)])
def test_gradients_equal_the_naive_ones(n, c, m, sd):
    exact = [t.requires_grad_() for t in tokens(n, c, m, sd)]
    naive(*exact).square().sum().backward()
    single = [t.detach().float().requires_grad_() for t in exact]
    fused_attention(*single).square().sum().backward()
    for a, b in zip(exact, single, strict=True):
        if n == 1 and a is not exact[2]:
            # One key gets all the weight, whatever its logit: no gradient, in both.
            assert a.grad.abs().max() == 0
            assert b.grad.abs().max() <= 1e-5 * exact[2].grad.abs().max()
        else:
            assert (a.grad - b.grad).norm() / a.grad.norm() <= 1e-4


def test_no_scale_slips_in():
    q, k, v = (t.float() for t in tokens(32, 8, sd=5.0))
    scaled = nnf.scaled_dot_product_attention(q, k, v)
    assert not torch.allclose(fused_attention(q, k, v), scaled, atol=1e-2)


def test_the_fused_kernel_is_taken():
    """This raises if the shapes would send torch to the path that builds N x N."""
    attention = PositionAttention(12)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        attention(torch.randn(1, 12, 5, 6, 7)).sum().backward()


def test_memory_does_not_hold_n_by_n():
    """Nothing as large as N x N is ever allocated, forward or backward."""
    n = 16**3
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for item in out if isinstance(out, tuple | list) else (out,):
                if isinstance(item, torch.Tensor):
                    sizes.append(item.numel())
            return out

    x = torch.randn(1, 16, 16, 16, 16, requires_grad=True)
    attention = PositionAttention(16)
    with Watch():
        attention(x).sum().backward()
    assert max(sizes) <= 64 * n
    assert max(sizes) < n * n / 50


def test_bfloat16_is_left_outside():
    attention = PositionAttention(8)
    with torch.no_grad():
        attention.gamma.fill_(1)
        attention.query.weight.mul_(8)
    x = torch.randn(1, 8, 5, 5, 5)
    q, k, v = (t.flatten(2).transpose(1, 2) for t in (attention.query(x), attention.key(x), x))
    with torch.autocast("cpu", torch.bfloat16):
        inside = fused_attention(q, k, v)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, fused_attention(q, k, v))


def position(x, attention):
    """The equation, with loops over batch and N x N."""
    q, k, v = (c(x).flatten(2).double() for c in (attention.query, attention.key, attention.value))
    p = torch.softmax(torch.einsum("bci,bcj->bij", q, k), dim=2)
    gathered = torch.einsum("bij,bcj->bci", p, v).reshape(x.shape)
    return attention.gamma * gathered + x


def test_position_attention_is_the_equation():
    torch.manual_seed(0)
    attention = PositionAttention(10).requires_grad_(False)
    attention.gamma.fill_(0.7)
    x = torch.randn(2, 10, 3, 4, 5)
    assert torch.allclose(attention(x).double(), position(x, attention), atol=2e-5)


def test_position_attention_does_not_see_the_order_of_voxels():
    torch.manual_seed(0)
    attention = PositionAttention(8).requires_grad_(False)
    attention.gamma.fill_(1)
    x = torch.randn(1, 8, 4, 4, 4)
    order = torch.randperm(64)
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    expected = attention(x).flatten(2)[..., order]
    assert torch.allclose(attention(shuffled).flatten(2), expected, atol=1e-5)


def test_gamma_zero_is_the_identity():
    x = torch.randn(2, 8, 3, 4, 5)
    assert torch.equal(PositionAttention(8)(x), x)
    for mode in ("cosine", "danet", "softmax"):
        assert torch.equal(ChannelAttention(mode)(x), x)


def test_pooled_keys_equal_the_naive_formula():
    torch.manual_seed(0)
    attention = PositionAttention(8, kv_pool=(1, 2, 2)).requires_grad_(False)
    attention.gamma.fill_(1)
    x = torch.randn(1, 8, 3, 4, 5)  # 5 is odd: the last cell has one voxel along x
    q, k, v = attention.query(x), attention.key(x), attention.value(x)

    def cells(t):
        rows = [t[..., i : i + 2].mean(-1) for i in (0, 2)] + [t[..., 4]]
        t = torch.stack(rows, dim=-1)
        return torch.stack([t[:, :, :, i : i + 2].mean(3) for i in (0, 2)], dim=3)

    flat = [t.flatten(2).transpose(1, 2) for t in (q, cells(k), cells(v))]
    expected = naive(*flat).transpose(1, 2).reshape(x.shape) + x
    assert torch.allclose(attention(x), expected, atol=1e-5)


def test_windows_equal_attention_in_each_window():
    torch.manual_seed(0)
    attention = PositionAttention(8, window=(2, 3, 4)).requires_grad_(False)
    whole = PositionAttention(8).requires_grad_(False)
    whole.load_state_dict(attention.state_dict())
    for module in (attention, whole):
        module.gamma.fill_(1)
    x = torch.randn(2, 8, 3, 6, 7)  # the last windows along z and x are not full
    actual = attention(x)
    for z in (0, 2):
        for y in (0, 3):
            for w in (0, 4):
                box = (..., slice(z, z + 2), slice(y, y + 3), slice(w, w + 4))
                assert torch.allclose(actual[box], whole(x[box]), atol=1e-5)


def test_pooling_and_windows_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        PositionAttention(8, kv_pool=2, window=4)


def test_few_channels_still_have_keys():
    assert PositionAttention(3).query.out_channels == 4


@pytest.mark.parametrize("mode", ["cosine", "danet", "softmax"])
def test_channel_matrix_rows_sum_to_one(mode):
    matrix = channel_matrix(torch.randn(2, 6, 100), mode)
    assert matrix.shape == (2, 6, 6)
    assert (matrix >= 0).all()
    assert torch.allclose(matrix.sum(2), torch.ones(2, 6), atol=1e-6)


def test_channel_attention_is_the_equation():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 4, 5)
    flat = x.flatten(2).double()
    energy = flat @ flat.transpose(1, 2)
    for mode in ("danet", "softmax"):
        attention = ChannelAttention(mode).requires_grad_(False)
        attention.gamma.fill_(0.3)
        sign = 1 if mode == "softmax" else -1
        matrix = torch.softmax(sign * energy, dim=2)  # max - E shifts each row by a constant
        expected = 0.3 * (matrix @ flat) + flat
        assert torch.allclose(attention(x).flatten(2).double(), expected, atol=1e-5)
    attention = ChannelAttention("cosine").requires_grad_(False)
    attention.gamma.fill_(1)
    cosine = torch.stack([torch.corrcoef(sample) for sample in flat])
    expected = torch.softmax(math.e * cosine, dim=2) @ flat + flat
    assert torch.allclose(attention(x).flatten(2).double(), expected, atol=1e-5)


def test_channels_permute():
    torch.manual_seed(0)
    attention = ChannelAttention().requires_grad_(False)
    attention.gamma.fill_(1)
    x, order = torch.randn(1, 7, 3, 4, 5), torch.randperm(7)
    assert torch.allclose(attention(x[:, order]), attention(x)[:, order], atol=1e-6)


def entropy(matrix):
    return -(matrix * matrix.clamp_min(1e-12).log()).sum(2).mean() / math.log(matrix.shape[-1])


def test_cosine_does_not_saturate_with_size():
    """The published forms become one-hot in 3D; the cosine form does not depend on N."""
    g = torch.Generator().manual_seed(0)
    found = {}
    for n in (8**3, 24**3):
        x = torch.randn(1, 16, n, generator=g).relu()
        for mode in ("cosine", "softmax", "danet"):
            found[mode, n] = float(entropy(channel_matrix(x, mode, torch.tensor(math.e))))
    assert found["cosine", 8**3] == pytest.approx(found["cosine", 24**3], rel=0.02)
    assert found["cosine", 24**3] > 0.5
    assert found["softmax", 24**3] < 0.01
    assert found["danet", 24**3] < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    x = (50 * torch.randn(1, 8, 24, 24, 24)).to(dtype)
    for mode in ("cosine", "danet", "softmax"):
        attention = ChannelAttention(mode).requires_grad_(False)
        attention.gamma.fill_(0.1)
        with torch.autocast("cpu", torch.bfloat16):
            out = attention(x)
        assert out.dtype == dtype
        assert torch.isfinite(out).all()


def test_compiled_without_a_break():
    torch.manual_seed(0)
    attention = PositionAttention(8, kv_pool=2).requires_grad_(False)
    attention.gamma.fill_(1)
    x = torch.randn(1, 8, 4, 6, 4)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), attention(x), atol=1e-5)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="residual or multiply"):
        PositionAttention(8, combine="add")
    with pytest.raises(ValueError, match="cosine, danet or softmax"):
        ChannelAttention("dot")


@pytest.mark.parametrize("pool", [1, 2])
def test_attending_within_parts_is_attention_of_each_part(pool: int) -> None:
    torch.manual_seed(0)
    module = PositionAttention(8, kv_pool=pool).eval()
    torch.nn.init.constant_(module.gamma, 0.5)
    x = torch.randn(2, 8, 6, 4, 7)
    with torch.no_grad():
        with attending_within(module, (3, 4, 4)):
            found = module(x)
        for z in (slice(0, 3), slice(3, 6)):
            for w in (slice(0, 3), slice(3, 7)):  # no larger than asked for, about equal
                part = x[:, :, z, :, w].contiguous()
                torch.testing.assert_close(found[:, :, z, :, w], module(part), atol=1e-5, rtol=1e-5)
        # Afterwards as before, and a field that holds all changes nothing.
        whole = module(x)
        assert not torch.allclose(found, whole, atol=1e-4)
        with attending_within(module, (6, 4, 7)):
            torch.testing.assert_close(module(x), whole, atol=1e-5, rtol=1e-5)
