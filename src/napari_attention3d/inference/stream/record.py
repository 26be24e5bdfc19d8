"""The calls that a network makes, written down by a run without data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ...networks.base import SegmentationNetwork

__all__ = ["Call", "Value", "record_calls"]


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the scan."""

    number: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """An operation of torch: its arguments (`Value`, weights, numbers) and its result."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Value

    @property
    def values(self) -> list[Value]:
        """Those of the arguments that depend on the scan."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Value)]


def record_calls(
    network: SegmentationNetwork, shape: Sequence[int], maps: Sequence[str]
) -> tuple[list[Call], list[Value]]:
    """Return a network's calls, and its outputs: logits and maps. The scan is value 0.

    It runs on tensors that have a shape and no data; weights stand in the calls as they
    are, and what is computed from weights alone is computed.
    """
    shared = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    twin = copy.deepcopy(network, {id(weight): weight for weight in shared.values()})
    blank = {name: torch.empty_like(weight, device="meta") for name, weight in shared.items()}
    recorder = _Recorder({id(blank[name]): weight.detach() for name, weight in shared.items()})
    with torch.inference_mode(False), torch.no_grad():
        dtype = next(network.parameters()).dtype
        scan = torch.empty(tuple(shape), dtype=dtype, device="meta")
        recorder.note(scan)
        with recorder:
            options = {"return_maps": bool(maps)}
            output = torch.func.functional_call(twin, blank, (scan,), options)
    outputs = [output.logits, *(output.maps[name] for name in maps)]
    return recorder.calls, [recorder.values[id(tensor)] for tensor in outputs]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, weights: dict[int, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self.values: dict[int, Value] = {}
        self.calls: list[Call] = []
        self.alive: list[Tensor] = []  # their identities must not go to other tensors

    def note(self, tensor: Tensor) -> Value:
        """Number a tensor; one that was changed in place gets a new number."""
        value = Value(len(self.alive), tuple(tensor.shape))
        self.alive.append(tensor)
        self.values[id(tensor)] = value
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named, options = tree_map(self._known, (args, kwargs or {}))
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple | list) else out
        tensors = [leaf for leaf in tree_leaves((named, options)) if isinstance(leaf, Tensor)]
        if any(isinstance(leaf, Value) for leaf in tree_leaves((named, options))):
            self.calls.append(Call(func, named, options, self.note(first)))
        elif isinstance(first, Tensor) and tensors and not any(t.is_meta for t in tensors):
            self.weights[id(first)] = func(*named, **options)
            self.alive.append(first)
        return out

    def _known(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return self.values.get(id(leaf), self.weights.get(id(leaf), leaf))
