"""The exact pass over a scan: every voxel of every layer once, no blending, no seams."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .parallel import interleaved
from .plans import ExactPlan, across, cut_to, grown
from .runner import Runner
from .sink import Finished, Results, Sink
from .stream import record_graph, stream
from .tiling import Box

__all__ = ["ExactRun"]

_RECORDING = threading.Lock()


@dataclass(frozen=True)
class _Piece:
    """Planes ``first`` to ``last`` of the grid along the axis, within a part of the results."""

    box: Box
    sink: Sink
    first: int
    last: int


class ExactRun:
    """One run of a local network.

    Parameters
    ----------
    runner
        The network, calibrated.
    plan
        How.
    results, wanted
        What to fill: parts of the results.
    maps
        By name: arrays (z, y, x) of ``plan.box.on_stride(stride)`` to fill.
    focus
        Voxel of the grid to begin at.
    """

    def __init__(
        self,
        runner: Runner,
        plan: ExactPlan,
        results: Results,
        wanted: Sequence[Box],
        maps: Mapping[str, Any],
        *,
        focus: Sequence[float] | None = None,
    ) -> None:
        self.runner, self.plan, self.maps = runner, plan, maps
        self.pieces: list[_Piece] = []
        for whole in wanted:
            for part in _cut(whole, plan):
                box, sink = results.part(part)
                self.pieces += self._pieces(box, sink, focus)
        if focus is not None:
            self.pieces.sort(key=lambda piece: self._distance(piece, focus))
        self.total = sum(piece.last - piece.first for piece in self.pieces)

    def left(self) -> list[Box]:
        """Return the parts of the results that are not final."""
        sinks = {id(piece.sink): piece.sink for piece in self.pieces}
        return [box for sink in sinks.values() for box in sink.left()]

    def steps(self) -> Iterator[tuple[int, list[Finished]]]:
        """Compute; yields how many planes are done and what became final."""
        done = 0
        computed = interleaved(self.pieces, self.runner.devices, self._stream)
        try:
            for piece, outputs in computed:
                logits = outputs["logits"]
                finished = self._push(piece, *logits)
                for name in self.maps:
                    if name in outputs:
                        self._put(piece, name, *outputs[name])
                done += logits[1].shape[1 + self.plan.axis]
                yield done, finished
        finally:
            computed.close()  # type: ignore[attr-defined]

    def _pieces(self, box: Box, sink: Sink, focus: Sequence[float] | None) -> list[_Piece]:
        axis, count = self.plan.axis, len(self.runner.devices)
        lo, hi = box.start[axis], box.stop[axis]
        edges = {lo + (hi - lo) * i // count for i in range(count + 1)}
        if focus is not None and lo < int(focus[axis]) < hi:
            # One begins a little before the viewed plane.
            edges.add(max(lo, int(focus[axis]) - self.plan.planes // 2))
        ranges = itertools.pairwise(sorted(edges))
        return [_Piece(box, sink, a, b) for a, b in ranges if a < b]

    def _distance(self, piece: _Piece, focus: Sequence[float]) -> tuple[float, bool]:
        """How far a piece is from the viewed place; of equals, what begins there comes first."""
        start, stop = list(piece.box.start), list(piece.box.stop)
        start[self.plan.axis], stop[self.plan.axis] = piece.first, piece.last
        gaps = [max(a - f, f - (b - 1), 0.0) for a, b, f in zip(start, stop, focus, strict=True)]
        return sum(g * g for g in gaps), piece.first > focus[self.plan.axis]

    def _stream(
        self, device: torch.device, piece: _Piece
    ) -> Iterator[tuple[_Piece, dict[str, tuple[int, Tensor]]]]:
        """Push the scan's planes through; outputs with the plane of the grid they start at."""
        runner, axis = self.runner, self.plan.axis
        network = runner.on(device)
        names = tuple(self.maps)
        shape = self.plan.shape
        crop = across(grown(across(piece.box, axis, shape), network, names, shape), axis, shape)
        with _RECORDING:  # torch records in one thread at a time
            graph = record_graph(network, crop.shape, maps=names, axis=2 + axis)
        strides = {name: runner.specs[name].stride for name in names} | {"logits": (1, 1, 1)}
        graph, held = cut_to(graph, crop, piece.box, strides)
        dtype = getattr(torch, runner.precision.name)
        graph = graph.to(device, dtype)
        ranges = {"logits": (piece.first, piece.last)}
        for name in names:
            stride = runner.specs[name].stride[axis]
            ranges[name] = piece.first // stride, -(-piece.last // stride)

        def source(lo: int, hi: int) -> Tensor:
            x = runner.source.read(_between(crop, axis, lo, hi))
            following = hi, min(2 * hi - lo, self.plan.shape[axis])
            if following[0] < following[1]:
                runner.source.ahead(_between(crop, axis, *following))
            return x[None].to(device, dtype)

        context = runner.precision.context if dtype == torch.float32 else _as_it_is
        at = {name: lo for name, (lo, _) in ranges.items()}
        planes = stream(graph, source, self.plan.planes, ranges=ranges)
        try:
            while True:
                # Not around the yield: who consumes must not run in inference mode.
                with torch.inference_mode(), context(device):
                    output = next(planes, None)
                if output is None:
                    return
                found = {}
                for name, value in output.items():
                    found[name] = at[name], self._inside(piece, held[name], strides[name], value)
                    at[name] += value.shape[2 + axis]
                yield piece, found
        finally:
            planes.close()  # type: ignore[attr-defined]

    def _inside(self, piece: _Piece, held: Box, stride: Sequence[int], value: Tensor) -> Tensor:
        """Cut what lies in the piece's box; (K, z, y, x) float32 on the CPU."""
        want = piece.box.on_stride(stride)
        for axis in range(3):
            if axis != self.plan.axis:
                value = value.narrow(
                    2 + axis, want.start[axis] - held.start[axis], want.shape[axis]
                )
        return value[0].float().cpu()

    def _push(self, piece: _Piece, first: int, logits: Tensor) -> list[Finished]:
        return piece.sink.push(self.plan.axis, first - piece.box.start[self.plan.axis], logits)

    def _put(self, piece: _Piece, name: str, first: int, value: Tensor) -> None:
        stride, axis = self.runner.specs[name].stride, self.plan.axis
        origin, part = self.plan.box.on_stride(stride), piece.box.on_stride(stride)
        where = [
            slice(a - o, b - o) for a, b, o in zip(part.start, part.stop, origin.start, strict=True)
        ]
        begin = first - origin.start[axis]
        where[axis] = slice(begin, begin + value.shape[1 + axis])
        self.maps[name][tuple(where)] = value[0].numpy()


def _as_it_is(device: torch.device) -> AbstractContextManager[None]:
    """Half precision is that of the graph's weights and planes: nothing is cast on the way."""
    return nullcontext()


def _between(box: Box, axis: int, lo: int, hi: int) -> Box:
    start, stop = list(box.start), list(box.stop)
    start[axis], stop[axis] = lo, hi
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _cut(box: Box, plan: ExactPlan) -> list[Box]:
    """Columns along the axis, of about equal width, cut across the longest other axis."""
    across = max((a for a in range(3) if a != plan.axis), key=lambda a: box.shape[a])
    lo, size = box.start[across], box.shape[across]
    parts = max(1, min(plan.parts, size))
    edges = [lo + size * i // parts for i in range(parts + 1)]
    return [_between(box, across, a, b) for a, b in itertools.pairwise(edges)]
