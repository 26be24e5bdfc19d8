"""How far an output voxel of a local network can see."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from ...networks.base import SegmentationNetwork
from ...networks.norm import ScanNorm3d
from .graph import NotStreamable, StreamGraph, record_graph
from .run import needed_spans

__all__ = ["margin", "reach"]

Size3 = tuple[int, int, int]
LONGEST = 4096
_KNOWN: dict[str, Size3] = {}


def margin(network: SegmentationNetwork, maps: Sequence[str] = ()) -> Size3:
    """Voxels (z, y, x) to add on each side of a box so that its result is that of the whole grid.

    `reach`, rounded up to the network's tile multiple: the box grown by it, aligned to
    `inference.predict.plan_multiple` and cut off at the grid's ends, goes through the
    network by itself.

    Raises
    ------
    NotStreamable
        See `reach`.
    """
    sizes = zip(reach(network, maps), network.tile_multiple, strict=True)
    z, y, x = (-(-r // m) * m for r, m in sizes)
    return z, y, x


def reach(network: SegmentationNetwork, maps: Sequence[str] = ()) -> Size3:
    """Distance in voxels (z, y, x) beyond which the scan changes no voxel of the output.

    Half the receptive field, with norms calibrated; for voxels of a map, each of which
    stands for a block of the scan's, counted from any voxel of its block.

    Parameters
    ----------
    network
        Local. Its norms need not be calibrated.
    maps
        Names of maps that are wanted too.

    Raises
    ------
    NotStreamable
        If there is no such distance: an operation needs the whole grid, or resizes with
        aligned corners, which depends on the size of the whole grid.
    """
    if getattr(network, "align_corners", False):
        raise NotStreamable(f"{network.name} resizes by the size of the whole grid")
    about = [type(network).__qualname__, network.config, sorted(maps)]
    key = json.dumps(about)
    if key not in _KNOWN:
        # A grid is recorded along its longest axis, and is as small as can be along the others.
        z, y, x = (_along(network, maps, axis) for axis in (2, 3, 4))
        _KNOWN[key] = z, y, x
    return _KNOWN[key]


def _along(network: SegmentationNetwork, maps: Sequence[str], axis: int) -> int:
    """Reach along one axis: of all phases of the strides, in the middle of a grid.

    The grid is doubled until what its middle sees ends before the grid does.
    """
    a = axis - 2
    strides = {name: network.map_specs[name].stride[a] for name in maps} | {"logits": 1}
    multiple = math.lcm(network.tile_multiple[a], *strides.values())
    shape = [2 * m for m in network.tile_multiple]
    blocks = 8
    while blocks * multiple <= LONGEST:
        shape[a] = blocks * multiple
        graph = record_graph(with_statistics(network), shape, maps=maps, axis=axis)
        low, high = blocks // 2 * multiple, (blocks // 2 + 1) * multiple
        seen = []
        for name, stride in strides.items():
            for plane in range(low // stride, high // stride):
                start, stop = _source_span(graph, name, plane)
                if start <= 0 or stop >= shape[a]:
                    break
                seen += [(plane + 1) * stride - 1 - start, stop - 1 - plane * stride]
        if len(seen) == 2 * sum(multiple // stride for stride in strides.values()):
            return max(seen)
        blocks *= 2
    raise NotStreamable(f"{network.name} sees further than {LONGEST // 2} voxels")


def _source_span(graph: StreamGraph, name: str, plane: int) -> tuple[int, int]:
    """Planes of the scan that one plane of an output is made of."""
    wanted = dict.fromkeys(graph.outputs, (0, 0)) | {name: (plane, plane + 1)}
    spans = needed_spans(graph, wanted)
    first = [
        node.operation.needs(*span)
        for node, span in zip(graph.nodes, spans, strict=True)
        if -1 in node.sources and span[0] < span[1]
    ]
    return min(lo for lo, _ in first), max(hi for _, hi in first)


def with_statistics(network: SegmentationNetwork) -> SegmentationNetwork:
    """A copy that can be recorded: which values its norms have does not matter here."""
    from ..runner import private_copy

    twin = private_copy(network)
    example = next(network.parameters())
    for norm in twin.modules():
        if isinstance(norm, ScanNorm3d) and norm.mean is None:
            norm.mean, norm.var = (example.new_full((norm.channels,), v) for v in (0.0, 1.0))
    return twin
