"""Every registered size and variant, at its full width: shapes of a training step, no numbers.

Fake tensors have shapes only, so a network of 95 million parameters takes no memory here.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from napari_attention3d.networks import build_network, network_names, network_presets

SIZE = (33, 40, 36)
VARIANTS = {
    "attention-unet": {
        "two gates": {"gates_per_level": 2},
        "joined": {"deep_supervision": "fused"},
        "batch": {"norm": "batch"},
        "group": {"norm": "group"},
    },
    "guided-attention": {
        "paper": {"variant": "paper"},
        "simplified": {"variant": "simplified"},
        "windows": {"window": 4, "kv_pool": 1},
        "group": {"norm": "group", "attention_act": "sigmoid", "steps": 3},
        "dilated": {"dilated": True, "shortcut": "A"},
        "depth 50": {"depth": 50},
        "stride 2": {"stem_pool": 1, "head_width": 0, "kv_pool": 4},
    },
}
QUICK = ("guided-attention, preset small",)
"""The others take minutes together."""


def cases():
    found = {}
    for name in network_names():
        presets = network_presets(name)
        for preset in presets:
            found[f"{name}, preset {preset}"] = (name, {"preset": preset})
        first = next(iter(presets))
        for title, config in VARIANTS.get(name, {}).items():
            found[f"{name}, {title}"] = (name, {"preset": first, **config})
    return [
        pytest.param(*case, id=title, marks=[] if title in QUICK else pytest.mark.long)
        for title, case in found.items()
    ]


@pytest.mark.parametrize(("name", "config"), cases())
def test_a_training_step_has_the_right_shapes(name, config):
    with FakeTensorMode():
        network = build_network(name, in_channels=2, num_classes=5, **config).train()
        out = network(torch.empty(1, 2, *SIZE), return_maps=True)
        assert out.logits.shape == (1, 5, *SIZE)
        for side in out.side_logits:
            assert side.shape[:2] == (1, 5)
            assert all(1 <= n <= size for n, size in zip(side.shape[2:], SIZE, strict=True))
        assert set(out.maps) == set(network.map_specs)
        for key, value in out.maps.items():
            stride = network.map_specs[key].stride
            assert value.shape[2:] == tuple(-(-n // s) for n, s in zip(SIZE, stride, strict=True))
        parts = [out.logits, *out.side_logits]
        if out.trace is not None:
            groups = (out.trace.latents, out.trace.reconstructions)
            parts += [t for group in groups for step in group for t in step]
            for inputs, rebuilt in zip(out.trace.inputs, out.trace.reconstructions, strict=True):
                assert [t.shape for t in inputs] == [t.shape for t in rebuilt]
        sum(part.square().mean() for part in parts).backward()
        missing = [key for key, p in network.named_parameters() if p.grad is None]
        assert missing == []
