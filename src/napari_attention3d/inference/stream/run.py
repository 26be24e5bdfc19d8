"""Push a scan's planes through a recorded network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .graph import StreamGraph, StreamNode
from .ops import LAYOUT, Range, laid_out

__all__ = ["needed_spans", "stream"]

Source = Callable[[int, int], Tensor]
Ranges = Mapping[str, tuple[int, int]]


def stream(
    graph: StreamGraph, source: Source, planes: int, *, ranges: Ranges | None = None
) -> Iterator[dict[str, Tensor]]:
    """Run a recorded network over a scan, some planes at a time.

    Parameters
    ----------
    graph
        From `record_graph`.
    source
        Returns planes ``lo`` to ``hi`` of the scan along the graph's axis: (1, C, Z, Y, X),
        of any floating type, on any device. It is asked for planes in order, for none below
        the first that is needed, and for those that two steps share more than once.
    planes
        Logit planes per step: more are faster and take more memory.
    ranges
        Planes ``(lo, hi)`` of each output that are wanted; what is not named is wanted
        whole. A map may be left out by an empty range, the logits may not.

    Yields
    ------
    dict
        New planes of each output since the last step, each of its range once and in order:
        "logits" (1, K, ...), `planes` at a time, and the maps, which may be ahead of them;
        float32 (float64 for a graph of that precision) on the graph's device.

    Raises
    ------
    ValueError
        If a range names no output or goes beyond its planes.
    """
    run = Pass(graph, source, planes, full_ranges(graph, ranges))
    while not run.finished:
        yield run.step()


def full_ranges(graph: StreamGraph, ranges: Ranges | None) -> dict[str, Range]:
    """Complete the ranges of `stream` by the outputs that they do not name."""
    found = {name: (0, graph.planes(number)) for name, number in graph.outputs.items()}
    for name, (lo, hi) in (ranges or {}).items():
        if name not in found:
            raise ValueError(f"{name} is none of the outputs {', '.join(found)}")
        least = 1 if name == "logits" else 0
        if lo < 0 or lo + least > hi or hi > found[name][1]:
            raise ValueError(f"planes {lo} to {hi} of {name}, which has {found[name][1]}")
        found[name] = lo, hi
    return found


def needed_spans(graph: StreamGraph, ranges: Mapping[str, Range]) -> list[Range]:
    """Planes ``(start, stop)`` of each node that the wanted outputs are made of."""
    spans = [(graph.planes(number), 0) for number in range(len(graph.nodes))]

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


class Buffer:
    """Planes of one node that others still need."""

    def __init__(self, start: int) -> None:
        self.high = start
        self.parts: list[tuple[int, Tensor]] = []

    def push(self, planes: Tensor) -> None:
        """Append planes."""
        self.parts.append((self.high, planes))
        self.high += planes.shape[2]

    def pieces(self, lo: int, hi: int) -> list[tuple[int, Tensor]]:
        """Planes ``lo`` to ``hi`` as they lie, each with its first plane's number."""
        found = []
        for start, part in self.parts:
            a, b = max(lo, start), min(hi, start + part.shape[2])
            if a < b:
                whole = b - a == part.shape[2]
                found.append((a, part if whole else part.narrow(2, a - start, b - a)))
        return found

    def drop(self, below: int) -> None:
        """Let go of planes that nobody needs; a part that is half gone is copied."""
        kept = []
        for start, part in self.parts:
            gone, count = below - start, part.shape[2]
            if gone >= count:
                continue
            if 2 * gone >= count:
                part, start = part.narrow(2, gone, count - gone).clone(), below
            kept.append((start, part))
        self.parts = kept

    def size(self) -> int:
        """Bytes held."""
        return sum(part.numel() * part.element_size() for _, part in self.parts)


class Pass:
    """One run over a graph: what each node has computed and still holds."""

    def __init__(
        self, graph: StreamGraph, source: Source, planes: int, ranges: dict[str, Range]
    ) -> None:
        self.graph, self.source, self.ranges = graph, source, ranges
        self.planes, self.done = planes, ranges["logits"][0]
        spans = needed_spans(graph, ranges)
        self.stop = [stop for _, stop in spans]
        self.buffers = [Buffer(start) for start, _ in spans]
        count = len(graph.nodes)
        # As many planes of each node at a time as make up `planes` of the scan.
        self.chunk = [-(-planes * graph.planes(i) // graph.planes(-1)) for i in range(count)]
        self.users: list[list[int]] = [[] for _ in range(count)]
        for index, node in enumerate(graph.nodes):
            for number in {*node.sources} - {-1}:
                self.users[number].append(index)
        self.given = {name: lo for name, (lo, _) in ranges.items()}

    @property
    def finished(self) -> bool:
        """Whether all was given out."""
        return self.done == self.ranges["logits"][1]

    def step(self) -> dict[str, Tensor]:
        """Compute some planes of the logits and as much of the maps; return what is new."""
        first, last = self.ranges["logits"]
        self.done = min(last, self.done + self.planes)
        for name, (lo, hi) in self.ranges.items():
            goal = lo + (hi - lo) * (self.done - first) // (last - first)
            self._compute(self.graph.outputs[name], goal)
        found = {}
        for name, number in self.graph.outputs.items():
            lo, hi = self.given[name], min(self.buffers[number].high, self.ranges[name][1])
            if hi > lo:
                found[name] = self._given_out(self._gather([(number, None)], lo, hi))
                self.given[name] = hi
                self._trim(number)
        return found

    def _given_out(self, planes: Tensor) -> Tensor:
        planes = planes.transpose(2, self.graph.axis)
        return planes if planes.dtype == torch.float64 else planes.float()

    def _compute(self, index: int, planes: int) -> None:
        """Bring a node up to `planes`, a chunk at a time, pulling what the chunk needs."""
        node, buffer = self.graph.nodes[index], self.buffers[index]
        while buffer.high < planes:
            lo, hi = buffer.high, min(buffer.high + self.chunk[index], self.stop[index])
            _, need = node.operation.needs(lo, hi)
            for number in node.sources:
                if number >= 0:
                    self._compute(number, need)
            buffer.push(self._run(node, lo, hi))
            for number in {*node.sources} - {-1}:
                self._trim(number)

    def _run(self, node: StreamNode, lo: int, hi: int) -> Tensor:
        a, parts = self._inputs(node, lo, hi)
        out = node.operation.run(lo, hi, a, parts)
        return out if node.gives is None else laid_out(_part(out, node.gives))

    def _inputs(self, node: StreamNode, lo: int, hi: int) -> tuple[int, list[Tensor]]:
        """Return what an operation runs on for planes ``lo`` to ``hi``, and its first plane."""
        operation = node.operation
        a, b = operation.window(lo, hi)
        takes = node.takes or (None,) * len(node.sources)
        pairs = list(zip(node.sources, takes, strict=True))
        groups = [pairs] if operation.joins else [[pair] for pair in pairs]
        return a, [self._gather(group, a, b, operation.outside) for group in groups]

    def _gather(
        self,
        sources: Sequence[tuple[int, tuple[Range, Range] | None]],
        a: int,
        b: int,
        outside: float | None = None,
    ) -> Tensor:
        """Planes ``a`` to ``b``, channels of all sources side by side, as one block of memory."""
        lo, hi = max(a, 0), min(b, self.graph.planes(sources[0][0]))
        found = []
        for source, take in sources:
            pieces = self._scan(lo, hi) if source < 0 else self.buffers[source].pieces(lo, hi)
            if take is not None:
                pieces = [(at, _part(piece, take)) for at, piece in pieces]
            found.append(pieces)
        if len(found) == 1 and len(found[0]) == 1 and (lo, hi) == (a, b):
            whole = found[0][0][1]
            return whole if sources[0][1] is None else laid_out(whole)
        example = found[0][0][1]
        channels = sum(pieces[0][1].shape[1] for pieces in found)
        out = torch.empty(
            (1, channels, b - a, *example.shape[3:]),
            dtype=self.graph.dtype,
            device=example.device,
            memory_format=LAYOUT,
        )
        if (lo, hi) != (a, b):
            assert outside is not None
            out[:, :, : lo - a].fill_(outside)
            out[:, :, hi - a :].fill_(outside)
        channel = 0
        for pieces in found:
            width = pieces[0][1].shape[1]
            for start, piece in pieces:
                into = out.narrow(2, start - a, piece.shape[2])
                into.narrow(1, channel, width).copy_(piece)
            channel += width
        return out

    def _scan(self, lo: int, hi: int) -> list[tuple[int, Tensor]]:
        planes = self.source(lo, hi).to(self.graph.device, self.graph.dtype)
        return [(lo, laid_out(planes.transpose(2, self.graph.axis)))]

    def _trim(self, number: int) -> None:
        """Drop the planes of a node that none of its users needs any more."""
        needed = self.buffers[number].high
        for user in self.users[number]:
            done = self.buffers[user].high
            if done < self.stop[user]:
                operation = self.graph.nodes[user].operation
                needed = min(needed, operation.needs(done, done + 1)[0])
        for name, output in self.graph.outputs.items():
            if output == number:
                needed = min(needed, self.given[name])
        self.buffers[number].drop(needed)


def _part(planes: Tensor, window: tuple[Range, Range]) -> Tensor:
    (a, b), (c, d) = window
    if (a, c) == (0, 0) and tuple(planes.shape[3:]) == (b, d):
        return planes
    return planes.narrow(3, a, b - a).narrow(4, c, d - c)
