"""A network as a graph of operations that can be streamed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...networks.base import SegmentationNetwork
from ...networks.norm import ScanNorm3d
from .ops import (
    Convolution,
    Crop,
    Narrow,
    Operation,
    Pad,
    Pointwise,
    Pool,
    Range,
    Resize,
    Transposed,
)
from .record import Call, Value, record_calls

__all__ = ["NotStreamable", "StreamGraph", "record_graph"]

aten = torch.ops.aten


class NotStreamable(Exception):
    """The network has an operation that needs the whole grid, or that is not known here."""


@dataclass
class StreamNode:
    """An operation and the numbers of the nodes that feed it (-1: the scan)."""

    operation: Operation
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    """Of the output, along the streamed axis the whole of it."""
    takes: tuple[tuple[Range, Range], ...] | None = None
    """Parts of the sources' planes that are its input; None: all of them. See `cut`."""
    gives: tuple[Range, Range] | None = None
    """Part of the computed planes that is its output; None: all."""


@dataclass
class StreamGraph:
    """A network for one grid.

    Attributes
    ----------
    axis
        Dimension that is streamed (2, 3 or 4).
    shape
        Of the scan (1, C, Z, Y, X).
    nodes
        In the order of computation.
    outputs
        Node of each output: "logits" and the names of maps.
    device, dtype
        Where and in what precision the nodes compute.
    """

    axis: int
    shape: tuple[int, ...]
    nodes: list[StreamNode] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> StreamGraph:
        """Return a copy whose weights lie on a device, in float32 or half precision."""
        nodes = [replace(node, operation=node.operation.to(device, dtype)) for node in self.nodes]
        return replace(self, nodes=nodes, device=device, dtype=dtype)

    def planes(self, number: int) -> int:
        """Planes of a node, along the axis; -1: of the scan."""
        return (self.shape if number < 0 else self.nodes[number].shape)[self.axis]


def record_graph(
    network: SegmentationNetwork,
    shape: Sequence[int],
    *,
    maps: Sequence[str] = (),
    axis: int | None = None,
) -> StreamGraph:
    """Record a network's operations for a grid; computes nothing.

    The norms' statistics become part of the weights: of another scan, record another graph.

    Parameters
    ----------
    network
        In evaluation mode, its norms calibrated.
    shape
        Of the grid (z, y, x).
    maps
        Names of attention maps that are wanted too.
    axis
        Dimension to stream (2, 3 or 4); None: the longest.

    Raises
    ------
    NotStreamable
        If an operation needs the whole grid at once.
    """
    if network.locality != "local":
        raise NotStreamable(f"{network.name} looks at the whole tile at once")
    if any(isinstance(m, ScanNorm3d) and m.mean is None for m in network.modules()):
        raise NotStreamable("the norms' statistics were not measured yet")
    full = (1, network.in_channels, *(int(n) for n in shape))
    axis = axis or 2 + max(range(3), key=lambda a: full[2 + a])

    calls, results = record_calls(network, full, maps)
    weight = next(network.parameters())
    builder = _Builder(StreamGraph(axis, full), calls, results)
    return builder.build(("logits", *maps)).to(weight.device, weight.dtype)


_POINTWISE: set[Any] = {
    aten.relu.default,
    aten.relu_.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.sigmoid.default,
    aten.logit.default,
    aten.clamp.default,
    aten.add.Tensor,
    aten.add_.Tensor,
    aten.mul.Tensor,
    aten.mul_.Tensor,
    aten.div.Tensor,
    aten.sub.Tensor,
    aten._prelu_kernel.default,
}
_ALIASES: set[Any] = {
    aten.detach.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
}
# What they do in place on a plane would change the buffer that others read.
_OUT_OF_PLACE: dict[Any, Any] = {
    aten.relu_.default: aten.relu.default,
    aten.leaky_relu_.default: aten.leaky_relu.default,
    aten.add_.Tensor: aten.add.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
}
_NORMS: set[Any] = {
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
}


class _Builder:
    """Turns recorded calls into operations, folding norms and ReLUs into convolutions."""

    def __init__(self, graph: StreamGraph, calls: list[Call], results: list[Value]) -> None:
        self.graph, self.calls, self.results = graph, calls, results
        self.number: dict[int, int] = {0: -1}
        self.joined: dict[int, tuple[int, ...]] = {}
        """Of tensors that no node holds, for their one reader joins the parts itself."""
        self.readers: dict[int, list[Any]] = defaultdict(list)
        for call in calls:
            for value in call.values:
                self.readers[value.number].append(call.target)
        for value in results:
            self.readers[value.number].append(None)

    def build(self, names: Sequence[str]) -> StreamGraph:
        """Walk the recorded calls."""
        kinds: dict[Any, Callable[[Call], None]] = {
            aten.convolution.default: self._convolution,
            aten.slice.Tensor: self._slice,
            aten.max_pool3d_with_indices.default: self._pool,
            aten.avg_pool3d.default: self._pool,
            aten.upsample_trilinear3d.default: self._resize,
            aten.replication_pad3d.default: self._pad,
            aten.cat.default: self._join,
            **dict.fromkeys(_POINTWISE, self._pointwise),
            **dict.fromkeys(_NORMS, self._norm),
            **dict.fromkeys(_ALIASES, self._alias),
        }
        for call in self.calls:
            if not self.readers[call.result.number]:
                continue
            if call.target not in kinds:
                raise NotStreamable(f"operation {call.target} is not known to the exact pass")
            kinds[call.target](call)
        for name, value in zip(names, self.results, strict=True):
            self.graph.outputs[name] = self.number[value.number]
        return self.graph

    # ---- calls

    def _alias(self, call: Call) -> None:
        self.number[call.result.number] = self.number[call.values[0].number]

    def _convolution(self, call: Call) -> None:
        weight, bias, stride, padding, dilation, transposed, extra, groups = call.args[1:]
        settings: dict[str, Any] = {
            "weight": weight.transpose(2, self.graph.axis),
            "bias": bias,
            "stride": self._swapped(_triple(stride)),
            "padding": self._swapped(_triple(padding)),
            "dilation": self._swapped(_triple(dilation)),
            "groups": groups,
        }
        if transposed:
            room = self._swapped(_triple(extra))
            self._add(call, Transposed, output_padding=room, **settings)
        else:
            self._add(call, Convolution, kernel=tuple(settings["weight"].shape[2:]), **settings)

    def _norm(self, call: Call) -> None:
        """``y = x * scale + shift``, in the convolution before it if nobody else reads that."""
        weight, bias, mean, var = call.args[1:5]
        if call.target is aten.native_batch_norm.default and call.args[5]:
            raise NotStreamable("a norm takes its statistics from the whole tile")
        scale = torch.rsqrt(var.double() + call.args[-1])
        scale = scale if weight is None else scale * weight.double()
        shift = -mean.double() * scale
        shift = shift if bias is None else shift + bias.double()
        before = self._private(call)
        if before is not None and before.slope is None and before.groups == 1:
            dtype, out = before.weight.dtype, 1 if isinstance(before, Transposed) else 0
            shape = [-1 if d == out else 1 for d in range(5)]
            old = 0.0 if before.bias is None else before.bias.double()
            before.weight = (before.weight.double() * scale.reshape(shape)).to(dtype)
            before.bias = (old * scale + shift).to(dtype)
            self._alias(call)
            return
        a, b = (t.to(mean.dtype).reshape(1, -1, 1, 1, 1) for t in (scale, shift))
        self._add(call, Pointwise, call=lambda t, b, a: torch.addcmul(b, t, a), constants=(b, a))

    def _pointwise(self, call: Call) -> None:
        slopes = {aten.relu_: 0.0, aten.relu: 0.0, aten.leaky_relu_: 0.01, aten.leaky_relu: 0.01}
        slope = slopes.get(call.target.overloadpacket)
        before = self._private(call)
        if slope is not None and before is not None and before.slope is None:
            before.slope = float(call.args[1]) if len(call.args) > 1 else slope
            self._alias(call)
            return
        target = _OUT_OF_PLACE.get(call.target, call.target)
        constants = tuple(a for a in call.args if isinstance(a, Tensor))
        if any(constant.is_meta for constant in constants):
            raise NotStreamable("a tensor is made within the network")
        count, extra = len(call.values), dict(call.kwargs)

        def compute(*tensors: Tensor) -> Tensor:
            parts, fixed = iter(tensors[:count]), iter(tensors[count:])
            pick = {Value: parts, Tensor: fixed}
            full = [next(pick[type(a)]) if type(a) in pick else a for a in call.args]
            out: Tensor = target(*full, **extra)
            return out

        self._add(call, Pointwise, call=compute, constants=constants)

    def _join(self, call: Call) -> None:
        if call.args[1:] != (1,):
            raise NotStreamable(f"tensors are joined along dimension {[*call.args, 0][1]}")
        if self.readers[call.result.number] == [aten.convolution.default]:
            self.joined[call.result.number] = tuple(self.number[v.number] for v in call.values)
        else:
            self._add(call, Pointwise, call=lambda *parts: torch.cat(parts, dim=1))

    def _slice(self, call: Call) -> None:
        dim, start = call.args[1], (*call.args, 0)[2]
        if len(call.args) > 4 and call.args[4] != 1:
            raise NotStreamable("a map is thinned out")
        if dim == self.graph.axis:
            self._add(call, Crop, start=int(start))
        else:
            count = call.result.shape[dim]
            here = self.graph.axis if dim == 2 else dim
            self._add(call, Narrow, dim=here, start=start, count=count)

    def _pool(self, call: Call) -> None:
        kernel = _triple(call.args[1])
        stride = _triple(call.args[2]) if len(call.args) > 2 and call.args[2] else kernel
        padding = _triple(call.args[3]) if len(call.args) > 3 else (0, 0, 0)
        largest = call.target is aten.max_pool3d_with_indices.default
        if not largest and padding != (0, 0, 0):
            raise NotStreamable("a mean over padded windows")
        sizes = {"kernel": kernel, "stride": stride, "padding": padding}
        swapped = {name: self._swapped(size) for name, size in sizes.items()}
        self._add(call, Pool, largest=largest, **swapped)

    def _resize(self, call: Call) -> None:
        size = self._swapped(_triple(call.args[1]))
        self._add(call, Resize, size=size, align_corners=bool(call.args[2]))

    def _pad(self, call: Call) -> None:
        x0, x1, y0, y1, z0, z1 = call.args[1]
        before, after = self._swapped((z0, y0, x0)), self._swapped((z1, y1, x1))
        self._add(call, Pad, before=before, after=after)

    # ---- helpers

    def _swapped(self, sizes: tuple[int, int, int]) -> tuple[int, ...]:
        """Put the streamed axis first, as operations have it."""
        swapped, a = list(sizes), self.graph.axis - 2
        swapped[0], swapped[a] = swapped[a], swapped[0]
        return tuple(swapped)

    def _private(self, call: Call) -> Convolution | Transposed | None:
        """Return the convolution that feeds a call, if nobody else reads it."""
        value = call.values[0]
        number = self.number.get(value.number, -1)
        if number < 0 or len(self.readers[value.number]) > 1:
            return None
        before = self.graph.nodes[number].operation
        return before if isinstance(before, Convolution | Transposed) else None

    def _add(self, of: Call, kind: Callable[..., Operation], **settings: Any) -> None:
        shape = of.result.shape
        if len(shape) != 5:
            raise NotStreamable(f"a tensor of shape {shape} is not a volume")
        sources: list[int] = []
        for value in of.values:
            sources += self.joined.get(value.number) or (self.number[value.number],)
        planes = tuple(self.graph.planes(source) for source in sources)
        operation = kind(planes, shape[self.graph.axis], **settings)
        self.number[of.result.number] = len(self.graph.nodes)
        self.graph.nodes.append(StreamNode(operation, tuple(sources), shape))


def _triple(value: Any) -> tuple[int, int, int]:
    values = [int(v) for v in value]
    z, y, x = values * 3 if len(values) == 1 else values
    return z, y, x
