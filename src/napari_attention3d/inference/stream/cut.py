"""Compute only what a part of the planes needs, layer by layer.

A part of a scan's planes needs a margin around it, which is widest at the layers that see
furthest and coarsest. Cut to what the later layers need, the fine layers of the decoder,
which cost most, get next to none: the part costs a fraction of its margin's volume.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from .graph import NotStreamable, StreamGraph, StreamNode
from .ops import Convolution, Narrow, Operation, Pad, Pool, Range, Resize, Transposed

__all__ = ["Window", "cut"]

Window = tuple[Range, Range]
"""Ranges along the two axes of the planes, in their order in (z, y, x)."""


def cut(graph: StreamGraph, wanted: Mapping[str, Window]) -> tuple[StreamGraph, dict[str, Window]]:
    """Leave out what a part of the planes does not need.

    Parameters
    ----------
    graph
        Of the whole planes.
    wanted
        Part of each output's planes.

    Returns
    -------
    tuple
        The graph, and what its outputs hold: a window that covers the wanted one.
    """
    sizes = [_across(graph, node.shape) for node in graph.nodes]
    full = {name: _whole(sizes[number]) for name, number in graph.outputs.items()}
    wanted = {name: _turned(graph, wanted[name]) for name in graph.outputs}
    if wanted == full:
        return graph, {name: _turned(graph, window) for name, window in full.items()}
    try:
        nodes, held = _cut(graph, wanted, sizes)
    except NotStreamable:
        return graph, {name: _turned(graph, window) for name, window in full.items()}
    holds = {name: _turned(graph, held[number]) for name, number in graph.outputs.items()}
    return replace(graph, nodes=nodes), holds


def _cut(
    graph: StreamGraph, wanted: Mapping[str, Window], sizes: list[tuple[int, int]]
) -> tuple[list[StreamNode], list[Window]]:
    held: list[Window | None] = [None] * len(graph.nodes)
    for name, number in graph.outputs.items():
        held[number] = _union(held[number], wanted[name])
    takes: list[Window] = [((0, 0), (0, 0))] * len(graph.nodes)
    nodes = list(graph.nodes)
    for index in reversed(range(len(nodes))):
        node, window = nodes[index], held[index]
        if window is None:  # nobody needs it, so it is never computed
            held[index] = _whole(sizes[index])
            takes[index] = _whole(_inputs(graph, node, sizes))
            continue
        operation, gives = node.operation, []
        ranges = []
        for dim, (lo, hi), size in zip((1, 2), window, _inputs(graph, node, sizes), strict=True):
            operation, a, b, first = _needs(operation, dim, lo, hi, size)
            ranges.append((a, b))
            gives.append((lo - first, hi - first))
        takes[index] = ranges[0], ranges[1]
        nodes[index] = replace(node, operation=operation, gives=(gives[0], gives[1]))
        for source in node.sources:
            if source >= 0:
                held[source] = _union(held[source], takes[index])
    have = [window or _whole(size) for window, size in zip(held, sizes, strict=True)]
    for index, node in enumerate(nodes):
        inside = tuple(
            _minus(takes[index], have[s] if s >= 0 else ((0, 0), (0, 0))) for s in node.sources
        )
        shape = _reshaped(graph, node.shape, have[index])
        nodes[index] = replace(node, takes=inside, shape=shape)
    return nodes, have


def _needs(
    operation: Operation, dim: int, lo: int, hi: int, size: int
) -> tuple[Operation, int, int, int]:
    """Return the operation for a part, the inputs it takes, and its first output's place."""
    if isinstance(operation, Convolution | Pool):
        stride, padding = operation.stride[dim], operation.padding[dim]
        reach = operation.dilation[dim] * (operation.kernel[dim] - 1)
        a = max(0, (lo * stride - padding) // stride * stride)
        return operation, a, min(size, (hi - 1) * stride - padding + reach + 1), a // stride
    if isinstance(operation, Transposed):
        stride, padding = operation.stride[dim], operation.padding[dim]
        reach = operation.dilation[dim] * (operation.weight.shape[2 + dim] - 1)
        a = max(0, (lo + padding - reach) // stride)
        return operation, a, min(size, (hi - 1 + padding) // stride + 1), a * stride
    if isinstance(operation, Resize):
        return _resized(operation, dim, lo, hi, size)
    if isinstance(operation, Pad):
        if operation.before[dim]:
            raise NotStreamable("padding before the first voxel")
        after = list(operation.after)
        after[dim] = max(0, hi - size)
        a, b = min(lo, size - 1), min(hi, size)
        return replace(operation, after=tuple(after)), a, b, a
    if isinstance(operation, Narrow) and operation.dim == dim + 2:
        a, b = lo + operation.start, hi + operation.start
        return replace(operation, start=0, count=b - a), a, b, lo
    return operation, lo, hi, lo


def _resized(
    operation: Resize, dim: int, lo: int, hi: int, size: int
) -> tuple[Operation, int, int, int]:
    out = operation.size[dim]
    if out == size:
        return operation, lo, hi, lo
    if operation.align_corners or out % size:
        raise NotStreamable("resizing by no whole number")
    ratio = out // size
    a = int(max(0.0, (lo + 0.5) / ratio - 0.5))
    b = min(size, math.ceil(max(0.0, (hi - 0.5) / ratio - 0.5)) + 1)
    sizes = list(operation.size)
    sizes[dim] = (b - a) * ratio
    return replace(operation, size=tuple(sizes)), a, b, a * ratio


def _inputs(graph: StreamGraph, node: StreamNode, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    source = node.sources[0]
    return sizes[source] if source >= 0 else _across(graph, graph.shape)


def _across(graph: StreamGraph, shape: tuple[int, ...]) -> tuple[int, int]:
    """Sizes of the planes, as operations have them: the streamed axis swapped to the front."""
    swapped = list(shape)
    swapped[2], swapped[graph.axis] = swapped[graph.axis], swapped[2]
    return swapped[3], swapped[4]


def _reshaped(graph: StreamGraph, shape: tuple[int, ...], window: Window) -> tuple[int, ...]:
    swapped = list(shape)
    swapped[2], swapped[graph.axis] = swapped[graph.axis], swapped[2]
    swapped[3:] = [hi - lo for lo, hi in window]
    swapped[2], swapped[graph.axis] = swapped[graph.axis], swapped[2]
    return tuple(swapped)


def _turned(graph: StreamGraph, window: Window) -> Window:
    """From the order in (z, y, x) to that of operations, and back: only x's is another."""
    return (window[1], window[0]) if graph.axis == 4 else window


def _whole(sizes: tuple[int, int]) -> Window:
    return (0, sizes[0]), (0, sizes[1])


def _union(one: Window | None, other: Window) -> Window:
    if one is None:
        return other
    (a, b), (c, d) = zip(one, other, strict=True)
    return (min(a[0], b[0]), max(a[1], b[1])), (min(c[0], d[0]), max(c[1], d[1]))


def _minus(window: Window, origin: Window) -> Window:
    (a, b), (c, d) = window
    (y, _), (x, _) = origin
    return (a - y, b - y), (c - x, d - x)
