"""Record a network as a graph of operations that can be streamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from ...networks.base import SegmentationNetwork
from ...networks.norm import ScanNorm3d
from .ops import Convolution, Crop, Operation, Pad, Pointwise, Pool, Resize, Transposed

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
    """Of the whole output."""


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
    """

    axis: int
    shape: tuple[int, ...]
    nodes: list[StreamNode] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> StreamGraph:
        """Return a copy whose weights lie on a device."""
        nodes = [replace(node, operation=node.operation.to(device, dtype)) for node in self.nodes]
        return StreamGraph(self.axis, self.shape, nodes, self.outputs)


def record_graph(
    network: SegmentationNetwork,
    shape: Sequence[int],
    *,
    maps: Sequence[str] = (),
    axis: int | None = None,
) -> StreamGraph:
    """Record a network's operations for a grid; computes nothing.

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
    names = ["logits", *maps]

    def run(x: Tensor) -> tuple[Tensor, ...]:
        output = network(x, return_maps=bool(maps))
        return (output.logits, *(output.maps[name] for name in maps))

    parameter = next(network.parameters())
    example = torch.empty(full, dtype=parameter.dtype, device="cpu")
    with torch.inference_mode(False), torch.no_grad():
        traced = make_fx(run, tracing_mode="fake", _allow_non_fake_inputs=True)(example)
    return _Builder(traced, axis, full).build(names)


_POINTWISE: set[Any] = {
    aten.relu.default,
    aten.relu_.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.sigmoid.default,
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


class _Builder:
    """Turns recorded calls into operations, folding norms and ReLUs into convolutions."""

    def __init__(self, traced: fx.GraphModule, axis: int, shape: tuple[int, ...]) -> None:
        self.traced, self.axis = traced, axis
        self.graph = StreamGraph(axis, shape)
        self.number: dict[fx.Node, int] = {}
        self.constant: dict[fx.Node, Tensor] = {}

    def build(self, names: Sequence[str]) -> StreamGraph:
        """Walk the recorded calls."""
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.number[node] = -1
            elif node.op == "get_attr":
                value = self.traced
                for part in str(node.target).split("."):
                    value = getattr(value, part)
                assert isinstance(value, Tensor)
                self.constant[node] = value.detach()
            elif node.op == "call_function" and node.users:
                self._call(node)
            elif node.op == "output":
                for name, source in zip(names, node.args[0], strict=True):
                    self.graph.outputs[name] = self.number[source]
        return self.graph

    # ---- calls

    def _call(self, node: fx.Node) -> None:
        target, args = node.target, node.args
        first = args[0] if args else None
        if not any(self._streams(a) for a in node.all_input_nodes):
            if node.all_input_nodes and all(a in self.constant for a in node.all_input_nodes):
                self._evaluate(node)
            return
        if target in _ALIASES or self._is_doubling(node):
            assert isinstance(first, fx.Node)
            self.number[node] = self.number[first]
        elif getattr(target, "__name__", "") == "getitem":
            assert isinstance(first, fx.Node)
            if args[1] == 0 and first in self.number:
                self.number[node] = self.number[first]
        elif target is aten.convolution.default:
            self._convolution(node)
        elif target is aten.native_batch_norm.default:
            self._norm(node)
        elif target in _POINTWISE or target is aten.cat.default:
            self._pointwise(node)
        elif target is aten.slice.Tensor:
            self._slice(node)
        elif target in (aten.max_pool3d_with_indices.default, aten.avg_pool3d.default):
            self._pool(node)
        elif target is aten.upsample_trilinear3d.default:
            size: Any = args[1]
            self._add(node, Resize, size=tuple(size), align_corners=bool(args[2]))
        elif target is aten.replication_pad3d.default:
            pads: Any = args[1]
            self._add(node, Pad, pads=tuple(pads))
        else:
            raise NotStreamable(f"operation {target} is not known to the exact pass")

    def _is_doubling(self, node: fx.Node) -> bool:
        """Whether this belongs to a single sample sent through a convolution twice."""
        if node.target is aten.expand.default:
            return True
        return node.target is aten.slice.Tensor and bool(node.args[1] == 0)

    def _convolution(self, node: fx.Node) -> None:
        weight, bias, stride, padding, dilation, transposed, extra, groups = node.args[1:]
        assert isinstance(weight, fx.Node)
        settings: dict[str, Any] = {
            "weight": self.constant[weight],
            "bias": self.constant[bias] if isinstance(bias, fx.Node) else None,
            "stride": _triple(stride),
            "padding": _triple(padding),
            "dilation": _triple(dilation),
            "groups": groups,
        }
        if transposed:
            self._add(node, Transposed, output_padding=_triple(extra), **settings)
        else:
            kernel = tuple(settings["weight"].shape[2:])
            self._add(node, Convolution, kernel=kernel, **settings)

    def _norm(self, node: fx.Node) -> None:
        """``y = x * scale + shift``, in the convolution before it if nobody else reads that."""
        x, weight, bias, mean, var, training, _, eps = node.args
        if training:
            raise NotStreamable("a norm takes its statistics from the whole tile")
        assert isinstance(x, fx.Node)
        assert isinstance(mean, fx.Node)
        assert isinstance(var, fx.Node)
        assert isinstance(eps, float)
        scale = torch.rsqrt(self.constant[var].double() + eps)
        if isinstance(weight, fx.Node):
            scale = scale * self.constant[weight].double()
        shift = -self.constant[mean].double() * scale
        if isinstance(bias, fx.Node):
            shift = shift + self.constant[bias].double()
        before = self.graph.nodes[self.number[x]].operation
        if isinstance(before, Convolution) and len(x.users) == 1 and not before.relu:
            dtype, w = before.weight.dtype, before.weight.double()
            old = 0.0 if before.bias is None else before.bias.double()
            before.weight = (w * scale.reshape(-1, 1, 1, 1, 1)).to(dtype)
            before.bias = (old * scale + shift).to(dtype)
            self.number[node] = self.number[x]
            return
        dtype = self.constant[mean].dtype
        a, b = (t.to(dtype).reshape(1, -1, 1, 1, 1) for t in (scale, shift))
        self._add(node, Pointwise, call=lambda t, b, a: torch.addcmul(b, t, a), constants=(b, a))

    def _pointwise(self, node: fx.Node) -> None:
        first = node.args[0]
        if node.target in (aten.relu_.default, aten.relu.default) and isinstance(first, fx.Node):
            before = self.graph.nodes[self.number[first]] if self.number[first] >= 0 else None
            alone = len(first.users) == 1
            if before and isinstance(before.operation, Convolution) and alone:
                before.operation.relu = True
                self.number[node] = self.number[first]
                return
        target: Any = _OUT_OF_PLACE.get(node.target, node.target)
        if node.target is aten.cat.default:
            dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            if dim != 1:
                raise NotStreamable(f"tensors are joined along dimension {dim}")
            self._add(node, Pointwise, call=lambda *parts: torch.cat(parts, dim=1))
            return
        # Where each argument comes from: the planes, the constants, or the call itself.
        order: list[tuple[str, Any]] = []
        constants: list[Tensor] = []
        for argument in node.args:
            if self._streams(argument):
                order.append(("part", None))
            elif isinstance(argument, fx.Node):
                order.append(("constant", None))
                constants.append(self.constant[argument])
            else:
                order.append(("value", argument))
        count = sum(kind == "part" for kind, _ in order)
        extra = dict(node.kwargs)

        def call(*tensors: Tensor) -> Tensor:
            parts, fixed = iter(tensors[:count]), iter(tensors[count:])
            pick = {"part": lambda v: next(parts), "constant": lambda v: next(fixed)}
            full = [pick[kind](v) if kind in pick else v for kind, v in order]
            out: Tensor = target(*full, **extra)
            return out

        self._add(node, Pointwise, call=call, constants=tuple(constants))

    def _slice(self, node: fx.Node) -> None:
        dim: Any = node.args[1]
        start: Any = node.args[2] if len(node.args) > 2 else 0
        count = self._shape(node)[dim]
        if len(node.args) > 4 and node.args[4] != 1:
            raise NotStreamable("a map is thinned out")
        if dim == self.axis:
            self._add(node, Crop, start=int(start))
        else:
            self._add(node, Pointwise, call=lambda t: t.narrow(dim, start, count))

    def _pool(self, node: fx.Node) -> None:
        args = list(node.args)
        kernel = _triple(args[1])
        stride = _triple(args[2]) if len(args) > 2 and args[2] else kernel
        padding = _triple(args[3]) if len(args) > 3 else (0, 0, 0)
        largest = node.target is aten.max_pool3d_with_indices.default
        if not largest and padding != (0, 0, 0):
            raise NotStreamable("a mean over padded windows")
        self._add(node, Pool, kernel=kernel, stride=stride, padding=padding, largest=largest)

    # ---- helpers

    def _streams(self, value: object) -> bool:
        return isinstance(value, fx.Node) and value in self.number

    def _evaluate(self, node: fx.Node) -> None:
        target: Any = node.target

        def value(a: Any) -> Any:
            return self.constant[a] if isinstance(a, fx.Node) else a

        args = fx.map_arg(node.args, lambda a: self.constant[a])
        result = target(*args, **node.kwargs)
        if isinstance(result, Tensor):
            self.constant[node] = result

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        value = node.meta["val"]
        value = value[0] if isinstance(value, tuple | list) else value
        return tuple(int(n) for n in value.shape)

    def _add(self, node: fx.Node, kind: Callable[..., Operation], **settings: Any) -> None:
        flat = [a for arg in node.args for a in (arg if isinstance(arg, list | tuple) else [arg])]
        sources = tuple(self.number[a] for a in flat if isinstance(a, fx.Node) and self._streams(a))
        shape = self._shape(node)
        if len(shape) != 5:
            raise NotStreamable(f"a tensor of shape {shape} is not a volume")
        shape = (1, *shape[1:])  # 2 where a small sample goes through a convolution twice
        planes = tuple(
            self.graph.shape[self.axis] if s < 0 else self.graph.nodes[s].shape[self.axis]
            for s in sources
        )
        operation = kind(self.axis, planes, shape[self.axis], **settings)
        self.number[node] = len(self.graph.nodes)
        self.graph.nodes.append(StreamNode(operation, sources, shape))


def _triple(value: Any) -> tuple[int, int, int]:
    values = [int(v) for v in value]
    z, y, x = values * 3 if len(values) == 1 else values
    return z, y, x
