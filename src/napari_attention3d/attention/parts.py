"""Which parts of a network can be asked, forced or switched off, by name."""

from __future__ import annotations

import inspect
import re

from torch import nn

from ..networks.attention_gate import AdditiveGate, GridGate
from ..networks.base import SegmentationNetwork
from ..networks.self_attention import ChannelAttention, PositionAttention

__all__ = ["channel_parts", "gate_parts", "has_position_attention", "position_parts"]

_REFINE = re.compile(r"refine\.(\d+)\.(\d+)\.(position|channel)$")


def has_position_attention(network: SegmentationNetwork) -> bool:
    """Whether one can ask what a voxel attends to."""
    return "keep" in inspect.signature(network.forward).parameters


def position_parts(network: SegmentationNetwork) -> dict[str, PositionAttention]:
    """Position attentions under the names of their maps."""
    found = {}
    for name, module in network.named_modules():
        match = _REFINE.search(name)
        if match and isinstance(module, PositionAttention):
            found[_map_name(match)] = module
    return found


def channel_parts(network: SegmentationNetwork) -> dict[str, ChannelAttention]:
    """Channel attentions under the names of the maps that they go into."""
    found = {}
    for name, module in network.named_modules():
        match = _REFINE.search(name)
        if match and isinstance(module, ChannelAttention):
            found[_map_name(match)] = module
    return found


def gate_parts(network: SegmentationNetwork) -> dict[str, list[nn.Module]]:
    """Attention gates under the names of their maps: the gates of a level together."""
    names = [name for name in network.map_specs if name.startswith("gate-")]
    levels: dict[str, list[nn.Module]] = {}
    for path, module in network.named_modules():
        if isinstance(module, GridGate | AdditiveGate):
            levels.setdefault(path.split(".")[1], []).append(module)
    # Levels are registered finest first, as the maps are named.
    ordered = [levels[key] for key in sorted(levels, key=int)]
    return dict(zip(names, ordered, strict=True))


def _map_name(match: re.Match[str]) -> str:
    return f"guided-scale-{int(match[1]) + 1}-step-{int(match[2]) + 1}"
