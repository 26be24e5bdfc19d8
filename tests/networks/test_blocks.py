"""Building blocks: convolutions that keep to the fast kernel."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from napari_attention3d.networks import build_network
from napari_attention3d.networks.blocks import Conv3d

SLOW = "aten::slow_conv3d_forward"
"""The name of torch's loop over a single small volume."""


@pytest.fixture(autouse=True)
def _one_thread():
    """With several threads torch always takes oneDNN."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def slow_kernels(job):
    """Sizes (z, y, x) of the kernels that went through torch's loop."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found, torch.no_grad():
        job()
    events = found.key_averages(group_by_input_shape=True)
    return [
        tuple(event.input_shapes[1][2:])
        for event in events
        if event.key == SLOW
        for _ in range(event.count)
    ]


def test_a_single_small_volume_keeps_to_the_fast_kernel():
    torch.manual_seed(0)
    ours, plain = Conv3d(8, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(1, 8, 10, 10, 10)
    assert slow_kernels(lambda: plain(x)) == [(3, 3, 3)]  # else torch changed: no detour needed
    assert slow_kernels(lambda: ours(x)) == []
    with torch.no_grad():
        assert torch.allclose(ours(x), plain(x), atol=1e-5)


@pytest.mark.parametrize("name", ["attention-unet", "guided-attention"])
def test_the_networks_3x3x3_convolutions_keep_to_it_too(name):
    """A pass over a small tile at batch 1; those that stride do so with no such detour."""
    torch.manual_seed(0)
    network = build_network(name, preset="small").eval()
    strided = [
        m
        for m in network.modules()
        if isinstance(m, nn.Conv3d) and m.kernel_size == (3, 3, 3) and max(m.stride) > 1
    ]
    found = slow_kernels(lambda: network(torch.randn(1, 1, 36, 36, 36)))
    assert found  # the small ones, of 1 x 1 x 1
    assert found.count((3, 3, 3)) <= len(strided)
