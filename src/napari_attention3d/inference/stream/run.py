"""Push a scan's planes through a recorded network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .graph import StreamGraph

__all__ = ["peak_bytes", "stream"]

Source = Callable[[int, int], Tensor]


class _Buffer:
    """Planes of one node that others still need."""

    def __init__(self, axis: int) -> None:
        self.axis, self.low, self.high = axis, 0, 0
        self.parts: list[tuple[int, Tensor]] = []

    def push(self, planes: Tensor) -> None:
        self.parts.append((self.high, planes))
        self.high += planes.shape[self.axis]

    def get(self, lo: int, hi: int) -> Tensor:
        pieces = []
        for start, part in self.parts:
            stop = start + part.shape[self.axis]
            a, b = max(lo, start), min(hi, stop)
            if a < b:
                whole = a == start and b == stop
                pieces.append(part if whole else part.narrow(self.axis, a - start, b - a))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=self.axis)

    def drop(self, below: int) -> None:
        """Let go of planes that nobody needs; a part that is mostly gone is copied."""
        kept = []
        for start, part in self.parts:
            count = part.shape[self.axis]
            if start + count <= below:
                continue
            gone = below - start
            if gone > 0:
                part = part.narrow(self.axis, gone, count - gone).clone()
                start = below
            kept.append((start, part))
        self.parts, self.low = kept, max(self.low, below)

    def size(self) -> int:
        return sum(part.numel() * part.element_size() for _, part in self.parts)


class _Pass:
    """One run over a graph."""

    def __init__(self, graph: StreamGraph, source: Source) -> None:
        self.graph, self.source = graph, source
        self.axis = graph.axis
        count = len(graph.nodes)
        self.buffers = [_Buffer(self.axis) for _ in range(count)]
        self.users: list[list[int]] = [[] for _ in range(count)]
        for index, node in enumerate(graph.nodes):
            for number in node.sources:
                if number >= 0:
                    self.users[number].append(index)
        self.finals = {number: name for name, number in graph.outputs.items()}
        self.given = dict.fromkeys(graph.outputs, 0)
        self.peak = 0

    def advance(self, goal: dict[str, int]) -> dict[str, Tensor]:
        """Compute the outputs up to `goal` planes and return what is new of each."""
        nodes, buffers = self.graph.nodes, self.buffers
        want = [0] * len(nodes)
        for name, planes in goal.items():
            want[self.graph.outputs[name]] = planes
        for index in reversed(range(len(nodes))):
            if want[index] <= buffers[index].high:
                continue
            need = nodes[index].operation.needs(buffers[index].high, want[index])[1]
            for number in nodes[index].sources:
                if number >= 0:
                    want[number] = max(want[number], need)
        for index, node in enumerate(nodes):
            lo, hi = buffers[index].high, want[index]
            if hi <= lo:
                continue
            a, b = node.operation.needs(lo, hi)
            parts = [self.source(a, b) if s < 0 else buffers[s].get(a, b) for s in node.sources]
            out = node.operation.run(lo, hi, a, parts)
            buffers[index].push(out)
            self._note(parts, out)
            del parts, out
            for number in set(node.sources):
                if number >= 0:
                    self._trim(number)
        return self._new(goal)

    def _new(self, goal: dict[str, int]) -> dict[str, Tensor]:
        found = {}
        for name, planes in goal.items():
            number, start = self.graph.outputs[name], self.given[name]
            if planes > start:
                found[name] = self.buffers[number].get(start, planes)
                self.given[name] = planes
                self._trim(number)
        return found

    def _trim(self, number: int) -> None:
        """Drop the planes of a node that none of its users needs any more."""
        needed = self.buffers[number].high
        for user in self.users[number]:
            done, operation = self.buffers[user].high, self.graph.nodes[user].operation
            if done < operation.planes:
                needed = min(needed, operation.needs(done, done + 1)[0])
        if number in self.finals:
            needed = min(needed, self.given[self.finals[number]])
        self.buffers[number].drop(needed)

    def _note(self, parts: list[Tensor], out: Tensor) -> None:
        if out.device.type == "meta":
            held = sum(buffer.size() for buffer in self.buffers)
            now = sum(p.numel() * p.element_size() for p in parts)
            self.peak = max(self.peak, held + now)


def stream(graph: StreamGraph, source: Source, planes: int) -> Iterator[dict[str, Tensor]]:
    """Run a recorded network over a scan, some planes at a time.

    Parameters
    ----------
    graph
        From `record_graph`.
    source
        Returns planes ``lo`` to ``hi`` of the scan along the graph's axis: (1, C, Z, Y, X).
    planes
        Logit planes per step: more are faster and take more memory.

    Yields
    ------
    dict
        New planes of each output since the last step: "logits" (1, K, ...) and the maps,
        of which a step may have none.
    """
    run = _Pass(graph, source)
    yield from _steps(run, planes)


def _steps(run: _Pass, planes: int) -> Iterator[dict[str, Tensor]]:
    graph = run.graph
    total = {n: graph.nodes[i].shape[graph.axis] for n, i in graph.outputs.items()}
    done = 0
    while done < total["logits"]:
        done = min(total["logits"], done + planes)
        goal = {name: count * done // total["logits"] for name, count in total.items()}
        yield run.advance(goal)


def peak_bytes(graph: StreamGraph, planes: int) -> int:
    """Bytes of planes alive at the peak of `stream`, found by a run without data.

    Weights and the convolution library's own buffers come on top.
    """
    meta = graph.to(torch.device("meta"))

    def source(lo: int, hi: int) -> Tensor:
        shape = list(graph.shape)
        shape[graph.axis] = hi - lo
        return torch.empty(shape, device="meta")

    run = _Pass(meta, source)
    for _ in _steps(run, planes):
        pass
    return run.peak
