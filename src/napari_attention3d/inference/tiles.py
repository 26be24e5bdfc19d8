"""Planned tiles: overlapping, blended, each band given out as soon as its tiles are in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .bands import BandSums, rolling_axis, rolling_order
from .estimate import rates
from .parallel import in_order
from .runner import Runner
from .sink import Finished, Sink
from .tiling import Box, TilePlan

__all__ = ["Part", "TileRun"]

SURE = 10.0
"""Logit of the background in tiles that are not computed."""


@dataclass
class _Computed:
    boxes: list[Box]
    logits: Tensor
    maps: dict[str, Tensor]


class Part:
    """Writes into an array at an offset."""

    def __init__(self, array: Any, start: Sequence[int]) -> None:
        self.array, self.start = array, start

    def __setitem__(self, index: tuple[slice, ...], value: Any) -> None:
        moved = (
            slice(o + (s.start or 0), o + (s.stop if s.stop is not None else n))
            for s, o, n in zip(index, self.start, value.shape, strict=True)
        )
        self.array[tuple(moved)] = value


class TileRun:
    """One run over a plan's tiles.

    Parameters
    ----------
    runner
        The network, calibrated (or about to be: a single tile measures as it goes).
    plan
        The tiles.
    sink
        Takes the blended logits of the plan's box.
    maps
        By name: arrays (z, y, x) of ``plan.box.on_stride(stride)`` to fill.
    batch_size
        Tiles of equal size per forward pass.
    focus
        Voxel of the grid to begin at.
    skip_empty
        Take tiles of one single intensity for background without computing them.
    """

    def __init__(
        self,
        runner: Runner,
        plan: TilePlan,
        sink: Sink,
        maps: Mapping[str, Any],
        *,
        batch_size: int = 1,
        focus: Sequence[float] | None = None,
        skip_empty: bool = False,
    ) -> None:
        self.runner, self.plan, self.sink, self.maps = runner, plan, sink, maps
        self.skip_empty = skip_empty
        self.axis = rolling_axis(plan)
        tiles = rolling_order(plan, self.axis, focus)
        self.batches = _batches(tiles, batch_size)
        self.sums = BandSums(plan, self.axis)
        self.map_sums = {n: BandSums(plan, self.axis, s.stride) for n, s in runner.specs.items()}

    def steps(self) -> Iterator[tuple[int, list[Finished]]]:
        """Compute the tiles; yields how many are done and what became final."""
        done = 0
        # Closed here and not by the garbage collector, so that no thread outlives a cancel.
        computed = in_order(range(len(self.batches)), self.runner.devices, self._compute)
        try:
            for found in computed:
                finished = self._add(found)
                done += len(found.boxes)
                yield done, finished
        finally:
            computed.close()  # type: ignore[attr-defined]

    def _compute(self, device: torch.device, number: int) -> _Computed:
        runner, boxes = self.runner, self.batches[number]
        batch = torch.stack([runner.source.read(box) for box in boxes])
        # What this device is likely to compute next is read while it computes.
        for following in self.batches[number + len(runner.devices) :][:1]:
            runner.source.ahead(*following)
        if self.skip_empty and bool((batch.amax((2, 3, 4)) == batch.amin((2, 3, 4))).all()):
            return self._empty(boxes)
        begin = time.perf_counter()
        single = len(self.plan.starts_product) == 1
        measuring = single and runner.calibrates and not runner.calibration
        # If the only tile is the whole grid, measuring its statistics is predicting it.
        output = runner.measure(batch) if measuring else runner.compute(device, batch)
        found = _Computed(
            boxes,
            output.logits.float().cpu(),
            {name: output.maps[name].float().cpu() for name in self.maps},
        )
        if boxes[0].shape == self.plan.tile and len(runner.devices) == 1:
            seconds = time.perf_counter() - begin  # for the next outlook
            about = runner.network, device, runner.precision, self.plan.tile, seconds, len(boxes)
            rates.learn(*about, measuring=measuring)
        return found

    def _empty(self, boxes: list[Box]) -> _Computed:
        logits = torch.zeros((len(boxes), self.runner.network.num_classes, *boxes[0].shape))
        logits[:, 0] = SURE
        maps = {
            name: torch.zeros(
                (len(boxes), 1, *boxes[0].on_stride(self.runner.specs[name].stride).shape)
            )
            for name in self.maps
        }
        return _Computed(boxes, logits, maps)

    def _add(self, found: _Computed) -> list[Finished]:
        finished: list[Finished] = []
        for index, box in enumerate(found.boxes):
            for start, slab in self.sums.add(box, found.logits[index]):
                finished += self.sink.push(self.axis, start, slab)
            for name, sums in self.map_sums.items():
                for start, slab in sums.add(box, found.maps[name][index]):
                    where = [slice(None)] * 3
                    where[self.axis] = slice(start, start + slab.shape[1 + self.axis])
                    self.maps[name][tuple(where)] = slab[0].numpy()
        return finished


def _batches(tiles: Sequence[Box], size: int) -> list[list[Box]]:
    batches: list[list[Box]] = []
    for tile in tiles:
        if batches and len(batches[-1]) < size and batches[-1][0].shape == tile.shape:
            batches[-1].append(tile)
        else:
            batches.append([tile])
    return batches
