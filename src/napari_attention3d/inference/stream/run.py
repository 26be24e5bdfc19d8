"""Push a scan's planes through a recorded network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from .graph import StreamGraph
from .ops import Range

__all__ = ["peak_bytes", "stream"]

Source = Callable[[int, int], Tensor]
Ranges = Mapping[str, tuple[int, int]]


class _Buffer:
    """Planes of one node that others still need."""

    def __init__(self, axis: int, start: int) -> None:
        self.axis, self.low, self.high = axis, start, start
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

    def __init__(
        self, graph: StreamGraph, source: Source, planes: int, ranges: dict[str, Range]
    ) -> None:
        self.graph, self.source = graph, source
        self.axis, self.ranges = graph.axis, ranges
        count = len(graph.nodes)
        spans = needed_spans(graph, ranges)
        self.stop = [stop for _, stop in spans]
        total = graph.shape[self.axis]
        self.chunk = [-(-planes * node.shape[self.axis] // total) for node in graph.nodes]
        self.buffers = [_Buffer(self.axis, start) for start, _ in spans]
        self.users: list[list[int]] = [[] for _ in range(count)]
        for index, node in enumerate(graph.nodes):
            for number in node.sources:
                if number >= 0:
                    self.users[number].append(index)
        self.names: list[list[str]] = [[] for _ in range(count)]
        for name, number in graph.outputs.items():
            self.names[number].append(name)
        self.given = {name: lo for name, (lo, _) in ranges.items()}
        self.peak = 0

    def advance(self, goal: dict[str, int]) -> dict[str, Tensor]:
        """Compute the outputs up to `goal` planes and return what is new of each."""
        found = {}
        for name, planes in goal.items():
            self._compute(self.graph.outputs[name], planes)
        for name, number in self.graph.outputs.items():
            start, stop = self.given[name], min(self.buffers[number].high, self.ranges[name][1])
            if stop > start:
                found[name] = self.buffers[number].get(start, stop)
                self.given[name] = stop
                self._trim(number)
        return found

    def _compute(self, index: int, planes: int) -> None:
        """Bring a node up to `planes`, a chunk at a time, pulling what the chunk needs."""
        node, buffer = self.graph.nodes[index], self.buffers[index]
        while buffer.high < planes:
            lo, hi = buffer.high, min(buffer.high + self.chunk[index], self.stop[index])
            a, b = node.operation.needs(lo, hi)
            for number in node.sources:
                if number >= 0:
                    self._compute(number, b)
            parts = [
                self.source(a, b) if s < 0 else self.buffers[s].get(a, b) for s in node.sources
            ]
            out = node.operation.run(lo, hi, a, parts)
            buffer.push(out)
            self._note(parts, out)
            del parts, out
            for number in set(node.sources):
                if number >= 0:
                    self._trim(number)

    def _trim(self, number: int) -> None:
        """Drop the planes of a node that none of its users needs any more."""
        needed = self.buffers[number].high
        for user in self.users[number]:
            done, operation = self.buffers[user].high, self.graph.nodes[user].operation
            if done < self.stop[user]:
                needed = min(needed, operation.needs(done, done + 1)[0])
        needed = min([needed, *(self.given[name] for name in self.names[number])])
        self.buffers[number].drop(needed)

    def _note(self, parts: list[Tensor], out: Tensor) -> None:
        if out.device.type == "meta":
            held = sum(buffer.size() for buffer in self.buffers)
            now = sum(p.numel() * p.element_size() for p in parts)
            self.peak = max(self.peak, held + now)


def needed_spans(graph: StreamGraph, ranges: Mapping[str, Range]) -> list[Range]:
    """Planes ``(start, stop)`` of each node that the wanted outputs are made of."""
    spans = [(node.shape[graph.axis], 0) for node in graph.nodes]

    def want(number: int, lo: int, hi: int) -> None:
        if number >= 0 and lo < hi:
            start, stop = spans[number]
            spans[number] = min(start, lo), max(stop, hi)

    for name, (lo, hi) in ranges.items():
        want(graph.outputs[name], lo, hi)
    for index in reversed(range(len(spans))):
        start, stop = spans[index]
        if start < stop:
            node = graph.nodes[index]
            for number in node.sources:
                want(number, *node.operation.needs(start, stop))
    return [(min(start, stop), stop) for start, stop in spans]


def stream(
    graph: StreamGraph, source: Source, planes: int, *, ranges: Ranges | None = None
) -> Iterator[dict[str, Tensor]]:
    """Run a recorded network over a scan, some planes at a time.

    Parameters
    ----------
    graph
        From `record_graph`.
    source
        Returns planes ``lo`` to ``hi`` of the scan along the graph's axis: (1, C, Z, Y, X).
        It is asked for planes in order, for none below the first that is needed, and for
        those that two steps share more than once.
    planes
        Logit planes per step: more are faster and take more memory.
    ranges
        Planes ``(lo, hi)`` of each output that are wanted; what is not named is wanted
        whole. A map may be left out by an empty range, the logits may not.

    Yields
    ------
    dict
        New planes of each output since the last step, each of its range once and in order:
        "logits" (1, K, ...), `planes` at a time, and the maps, which may be ahead of them.

    Raises
    ------
    ValueError
        If a range names no output or goes beyond its planes.
    """
    yield from _steps(_Pass(graph, source, planes, full_ranges(graph, ranges)), planes)


def full_ranges(graph: StreamGraph, ranges: Ranges | None) -> dict[str, Range]:
    """Complete the ranges of `stream` by the outputs that they do not name."""
    found = {n: (0, graph.nodes[i].shape[graph.axis]) for n, i in graph.outputs.items()}
    for name, (lo, hi) in (ranges or {}).items():
        if name not in found:
            raise ValueError(f"{name} is none of the outputs {', '.join(found)}")
        least = 1 if name == "logits" else 0
        if lo < 0 or lo + least > hi or hi > found[name][1]:
            raise ValueError(f"planes {lo} to {hi} of {name}, which has {found[name][1]}")
        found[name] = lo, hi
    return found


def _steps(run: _Pass, planes: int) -> Iterator[dict[str, Tensor]]:
    first, last = run.ranges["logits"]
    done = first
    while done < last:
        done = min(last, done + planes)
        goal = {
            name: lo + (hi - lo) * (done - first) // (last - first)
            for name, (lo, hi) in run.ranges.items()
        }
        yield run.advance(goal)


def peak_bytes(graph: StreamGraph, planes: int, ranges: Ranges | None = None) -> int:
    """Bytes of planes alive at the peak of `stream`, found by a run without data.

    Weights and the convolution library's own buffers come on top.
    """
    meta = graph.to(torch.device("meta"))

    def source(lo: int, hi: int) -> Tensor:
        shape = list(graph.shape)
        shape[graph.axis] = hi - lo
        return torch.empty(shape, device="meta")

    run = _Pass(meta, source, planes, full_ranges(graph, ranges))
    for _ in _steps(run, planes):
        pass
    return run.peak
