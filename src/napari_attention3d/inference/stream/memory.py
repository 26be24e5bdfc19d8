"""How much memory a pass takes, found by a rehearsal without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .graph import StreamGraph, StreamNode
from .ops import Range
from .run import Pass, Ranges, full_ranges

__all__ = ["peak_bytes"]


def peak_bytes(graph: StreamGraph, planes: int, ranges: Ranges | None = None) -> int:
    """Bytes of planes alive at the peak of `stream`, found by a run without data.

    Weights and the convolution library's own buffers come on top.
    """
    run = Rehearsal(graph, planes, full_ranges(graph, ranges))
    while not run.finished:
        run.step()
    return run.peak


class Rehearsal(Pass):
    """A pass over tensors that have a shape and no data."""

    def __init__(self, graph: StreamGraph, planes: int, ranges: dict[str, Range]) -> None:
        super().__init__(replace(graph, device=torch.device("meta")), self._read, planes, ranges)
        self.peak = 0

    def _read(self, lo: int, hi: int) -> Tensor:
        shape = list(self.graph.shape)
        shape[self.graph.axis] = hi - lo
        return torch.empty(shape, device="meta", dtype=self.graph.dtype)

    def _run(self, node: StreamNode, lo: int, hi: int) -> Tensor:
        shape = list(node.shape)
        shape[2], shape[self.graph.axis] = shape[self.graph.axis], shape[2]
        shape[2] = hi - lo
        out = torch.empty(shape, device="meta", dtype=self.graph.dtype)
        _, parts = self._inputs(node, lo, hi)
        held = sum(buffer.size() for buffer in self.buffers)
        copies = 1 if node.gives is None else 2  # before and after it is cut
        self.peak = max(self.peak, held + _bytes(parts) + copies * _bytes([out]))
        return out


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
