"""Nothing beyond the margin matters, and something at the reach does."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from napari_attention3d.inference.predict import plan_multiple
from napari_attention3d.inference.stream import NotStreamable, margin, reach
from napari_attention3d.inference.tiling import Box
from napari_attention3d.networks import build_network, calibrating, clear_calibration

LOCAL = {
    "attention-unet": {"channels": (4, 6)},
    "attention-unet/three": {"channels": (4, 4, 4)},
    "attention-unet/thick": {"channels": (4, 4, 4), "strides": [(1, 2, 2), 3], "act": "prelu"},
    "attention-unet/flat": {"channels": (4, 4), "kernels": [(1, 3, 3), 3], "ungated_levels": 0},
    "attention-unet/fused": {"channels": (4, 4, 4), "deep_supervision": "fused", "norm": "batch"},
    "additive-attention-unet": {"channels": (4, 4)},
    "oktay-attention-unet": {"channels": (4, 4, 4)},
}


def build(case):
    torch.manual_seed(0)
    network = build_network(case.split("/")[0], **LOCAL[case]).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.1)
    with torch.no_grad(), calibrating(network):
        network.float()(torch.randn(1, 1, 24, 24, 24))
    return network.double()  # the statistics too: they are buffers


def forward(network, x):
    with torch.no_grad():
        output = network(x, return_maps=True)
    return {"logits": output.logits, **output.maps}


def strides(network):
    return {"logits": (1, 1, 1)} | {n: s.stride for n, s in network.map_specs.items()}


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("case", LOCAL)
def test_nothing_beyond_the_reach_matters_and_something_at_it_does(case, axis):
    network = build(case)
    maps = list(network.map_specs)
    far, multiple = reach(network, maps)[axis], plan_multiple(network)[axis]
    assert far <= margin(network, maps)[axis] < far + network.tile_multiple[axis]
    shape = [2 * m for m in plan_multiple(network)]
    shape[axis] = (2 * (far // multiple) + 5) * multiple
    x = torch.randn(1, 1, *shape, dtype=torch.float64)
    before = forward(network, x)
    seen = 0
    for phase in range(multiple):
        touched = far + multiple + phase
        y = x.clone()
        y.select(2 + axis, touched).uniform_(-30, 30)
        after = forward(network, y)
        for name, stride in strides(network).items():
            change = (after[name] - before[name]).abs().amax(dim=(0, 1, *_others(axis)))
            moved = change.nonzero()[:, 0].tolist()
            low, high = moved[0] * stride[axis], (moved[-1] + 1) * stride[axis] - 1
            seen = max(seen, touched - low, high - touched)
    assert seen == far


def _others(axis):
    return [d for d in (2, 3, 4) if d != 2 + axis]


@pytest.mark.parametrize("case", LOCAL)
def test_a_box_grown_by_the_margin_gives_what_the_whole_grid_gives(case):
    network = build(case)
    maps = list(network.map_specs)
    grow, multiple = margin(network, maps), plan_multiple(network)
    shape = tuple(2 * g + 2 * m + 5 for g, m in zip(grow, multiple, strict=True))
    x = torch.randn(1, 1, *shape, dtype=torch.float64)
    whole = forward(network, x)
    middle = tuple(n // 2 for n in shape)
    for start, size in (((0, 0, 0), (3, 2, 1)), (middle, (1, 5, 4)), (shape, (2, 3, 1))):
        box = Box(
            tuple(min(a, n - s) for a, n, s in zip(start, shape, size, strict=True)),
            tuple(min(a + s, n) for a, n, s in zip(start, shape, size, strict=True)),
        )
        low = [max(0, (a - g) // m * m) for a, g, m in zip(box.start, grow, multiple, strict=True)]
        high = [
            min(n, math.ceil((b + g) / m) * m)
            for b, g, m, n in zip(box.stop, grow, multiple, shape, strict=True)
        ]
        part = forward(network, x[(..., *(slice(a, b) for a, b in zip(low, high, strict=True)))])
        for name, stride in strides(network).items():
            want = box.on_stride(stride)
            have = [
                slice(a - lo // s, b - lo // s)
                for a, b, lo, s in zip(want.start, want.stop, low, stride, strict=True)
            ]
            difference = part[name][(..., *have)] - whole[name][(..., *want.slices)]
            assert float(difference.abs().max()) < 1e-10


def test_statistics_need_not_be_measured():
    network = build("attention-unet")
    twin = copy.deepcopy(network)
    clear_calibration(twin)
    assert margin(twin) == margin(network)
    assert all(norm.mean is None for norm in twin.modules() if hasattr(norm, "measuring"))


def test_maps_see_less_than_logits_or_as_much():
    network = build("attention-unet/three")
    assert reach(network) <= reach(network, list(network.map_specs))


@pytest.mark.parametrize("name", ["attention-unet", "guided-attention"])
def test_what_depends_on_the_whole_grid_has_no_margin(name):
    config = {"align_corners": True} if name == "attention-unet" else {}
    with pytest.raises(NotStreamable, match="whole"):
        margin(build_network(name, channels=(4, 4), **config) if config else build_network(name))


def test_every_registered_local_network_is_among_them() -> None:
    """A new one must be added to the cases above."""
    from napari_attention3d.networks import registry

    names = registry.network_names()
    local = {name for name in names if registry._known(name).locality == "local"}
    assert local == {case.split("/")[0] for case in LOCAL}
