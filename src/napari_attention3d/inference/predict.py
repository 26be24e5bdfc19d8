"""A network over a grid, tile by tile: logits and attention maps, blended."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError, OutOfMemory
from ..networks.base import NetworkOutput, SegmentationNetwork
from ..networks.norm import ScanNorm3d, calibrating, load_calibration, read_calibration
from ..progress import Job, Progress
from .device import Precision
from .estimate import rates
from .memory import fits_whole, halve_tile, is_out_of_memory, release
from .tiling import Box, TilePlan, plan_tiles

__all__ = ["Calibration", "GridPrediction", "plan_multiple", "predict_adaptively", "predict_grid"]

Calibration = dict[str, tuple[list[float], list[float]]]
CALIBRATION_TILES = 8
EXACT = Precision("float32", "the default")


@dataclass
class GridPrediction:
    """What a network says about a part of a grid.

    Attributes
    ----------
    box
        The part, on the model's grid.
    logits
        (K, z, y, x) float32 on the CPU, of the box's shape.
    maps
        By name, (z, y, x) float32 of the shape of ``box.on_stride(stride)``.
    calibration
        Statistics of the scan-calibrated norms; empty if the network has none.
    plan
        The tiles that were computed.
    warnings
        What the person should know (a smaller tile was taken).
    """

    box: Box
    logits: Tensor
    maps: dict[str, npt.NDArray[np.float32]]
    calibration: Calibration
    plan: TilePlan
    warnings: list[str] = field(default_factory=list)


def plan_multiple(network: SegmentationNetwork) -> tuple[int, int, int]:
    """Return what tiles must start at multiples of: common multiple of all strides."""
    strides = [network.tile_multiple, *(spec.stride for spec in network.map_specs.values())]
    z, y, x = (math.lcm(*(int(s[axis]) for s in strides)) for axis in range(3))
    return z, y, x


def predict_grid(
    network: SegmentationNetwork,
    tensor: Tensor,
    plan: TilePlan,
    *,
    device: torch.device,
    maps: Sequence[str] = (),
    batch_size: int = 1,
    precision: Precision = EXACT,
    calibration: Mapping[str, tuple[list[float], list[float]]] | None = None,
    whole_grid_calibration: bool = True,
) -> Job[GridPrediction]:
    """Run a network over a grid.

    The statistics of scan-calibrated norms are measured first, over the whole grid or
    over tiles spread over it, and then hold for every tile. The network given is left as
    it is: the run works on a copy that shares its weights and has its own statistics, so
    that a run that was cancelled, or another one at the same time, changes nothing.

    Parameters
    ----------
    network
        Moved to `device` if it is not there yet (and kept there).
    tensor
        float32 (C, z, y, x), normalised.
    plan
        Tiles of the tensor's grid; `TilePlan.within` for a part of it.
    device
        Where to compute; results are gathered on the CPU.
    maps
        Names of attention maps to return.
    batch_size
        Tiles of equal size per forward pass.
    precision
        See `choose_precision`.
    calibration
        Statistics of an earlier run over the same scan, used instead of measuring.
    whole_grid_calibration
        Measure over the whole grid if it is not too large, else over tiles.

    Yields
    ------
    Progress
        Before the first tile and after each one; closing the generator cancels.

    Raises
    ------
    OutOfMemory
        If the memory of the device did not suffice; all that was taken is free again.
    InputError
        If the network returned values that are not finite.
    """
    runner = _Runner(network.to(device), tensor, plan, device, tuple(maps), precision)
    ran_out = False
    try:
        yield Progress(0, len(plan.tiles), "Measuring the scan's intensities")
        if calibration is not None:
            load_calibration(runner.network, calibration)
        elif runner.calibrates and len(plan.starts_product) > 1:
            runner.calibrate(whole_grid_calibration)
        done = 0
        for batch in _batches(plan.tiles, batch_size):
            runner.add(batch)
            done += len(batch)
            yield Progress(done, len(plan.tiles), f"Segmenting, tile {done} of {len(plan.tiles)}")
        return runner.result()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        ran_out = True
        raise OutOfMemory(
            f"memory of {device} ran out for tiles of {' x '.join(map(str, plan.tile))} voxels; "
            "choose a smaller tile, close other programs or choose another device"
        ) from error
    finally:
        runner.close(collect=ran_out)


def predict_adaptively(
    network: SegmentationNetwork,
    tensor: Tensor,
    tile: Sequence[int],
    overlap: float,
    *,
    device: torch.device,
    maps: Sequence[str] = (),
    precision: Precision = EXACT,
    box: Box | None = None,
    calibration: Mapping[str, tuple[list[float], list[float]]] | None = None,
) -> Job[GridPrediction]:
    """Run `predict_grid`, with smaller tiles each time the memory runs out.

    What comes out equals a run that had the smaller tiles from the start.

    Parameters
    ----------
    tile, overlap
        Where to start: see `plan_tiles`.
    box
        The part of the grid that is wanted; None is all of it.

    Raises
    ------
    OutOfMemory
        If even the smallest tile does not fit.
    """
    multiple = plan_multiple(network)
    warnings: list[str] = []
    size: tuple[int, int, int] | None = (int(tile[0]), int(tile[1]), int(tile[2]))
    whole_grid = True
    while True:
        plan = plan_tiles(tensor.shape[1:], size or tile, overlap, multiple)
        if box is not None:
            plan = plan.within(box)
        try:
            result = yield from predict_grid(
                network,
                tensor,
                plan,
                device=device,
                maps=maps,
                precision=precision,
                calibration=calibration,
                whole_grid_calibration=whole_grid,
            )
        except OutOfMemory as error:
            smaller = halve_tile(plan.tile, multiple)
            if smaller is None:
                raise OutOfMemory(
                    f"the memory of {device} does not suffice even for tiles of "
                    f"{' x '.join(map(str, plan.tile))} voxels; close other programs, choose a "
                    "region of the scan or another device"
                ) from error
            size, whole_grid = smaller, False
            warnings.append(
                f"memory of {device} ran out; went on with tiles of "
                f"{' x '.join(map(str, smaller))} voxels"
            )
        else:
            result.warnings[:0] = warnings
            return result


def private_copy(network: SegmentationNetwork) -> SegmentationNetwork:
    """Return a copy in evaluation mode with modules of its own that shares weights and buffers."""
    shared = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in shared}).eval()


def _batches(tiles: Sequence[Box], size: int) -> list[list[Box]]:
    batches: list[list[Box]] = []
    for tile in tiles:
        if batches and len(batches[-1]) < size and batches[-1][0].shape == tile.shape:
            batches[-1].append(tile)
        else:
            batches.append([tile])
    return batches


class _Runner:
    """The state of one run: a private network and the sums so far."""

    def __init__(
        self,
        network: SegmentationNetwork,
        tensor: Tensor,
        plan: TilePlan,
        device: torch.device,
        maps: tuple[str, ...],
        precision: Precision,
    ) -> None:
        self.network = private_copy(network)
        self.tensor, self.plan, self.device = tensor, plan, device
        self.specs = {name: network.map_specs[name] for name in maps}
        self.precision = precision
        self.logits: Tensor | None = None
        self.maps: dict[str, Tensor] = {}
        self.calibrates = any(isinstance(m, ScanNorm3d) for m in self.network.modules())

    def calibrate(self, whole_grid: bool) -> None:
        """Measure the norms' statistics over the grid, or over tiles spread over it.

        Over fewer tiles where the memory would not suffice, or runs out.
        """
        choices = calibration_choices(self.plan, self.fits, whole_grid)
        for index, boxes in enumerate(choices):
            try:
                with calibrating(self.network):
                    self.forward(boxes)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or index == len(choices) - 1:
                    raise
            release(self.device, collect=True)

    def fits(self, voxels: int) -> bool:
        """Whether so many voxels may go through the network at once."""
        return fits_whole(voxels, self.network, self.device, self.precision.name)

    def forward(self, boxes: Sequence[Box]) -> NetworkOutput:
        """Run the network over boxes of equal shape."""
        batch = torch.stack([self.tensor[(slice(None), *box.slices)] for box in boxes])
        with torch.inference_mode(), self.precision.context(self.device):
            output: NetworkOutput = self.network(
                batch.to(self.device), return_maps=bool(self.specs)
            )
        return output

    def add(self, boxes: Sequence[Box]) -> None:
        """Compute tiles and add them to the sums."""
        begin = time.perf_counter()
        single = len(self.plan.starts_product) == 1
        measuring = single and self.calibrates and not read_calibration(self.network)
        if measuring:
            # The only tile is the whole grid: measuring its statistics is predicting it.
            with calibrating(self.network):
                output = self.forward(boxes)
        else:
            output = self.forward(boxes)
        if self.logits is None:
            self.logits = torch.zeros((output.logits.shape[1], *self.plan.box.shape))
            for name, spec in self.specs.items():
                self.maps[name] = torch.zeros(self.plan.box.on_stride(spec.stride).shape)
        for index, box in enumerate(boxes):
            self._blend(self.logits, output.logits[index], box, (1, 1, 1))
            for name, spec in self.specs.items():
                self._blend(self.maps[name], output.maps[name][index, 0], box, spec.stride)
        if boxes[0].shape == self.plan.tile:  # how fast this network is, for the next outlook
            seconds = time.perf_counter() - begin
            about = self.network, self.device, self.precision, self.plan.tile, seconds, len(boxes)
            rates.learn(*about, measuring=measuring)

    def _blend(self, total: Tensor, part: Tensor, box: Box, stride: Sequence[int]) -> None:
        """Add a tile's values, weighted, where they fall into the wanted box."""
        have, want = box.on_stride(stride), self.plan.box.on_stride(stride)
        lo = [max(a, b) for a, b in zip(have.start, want.start, strict=True)]
        hi = [min(a, b) for a, b in zip(have.stop, want.stop, strict=True)]
        into: Any = tuple(slice(a - s, b - s) for a, b, s in zip(lo, hi, want.start, strict=True))
        out: Any = tuple(slice(a - s, b - s) for a, b, s in zip(lo, hi, have.start, strict=True))
        values = part[(..., *out)].float().cpu()
        for axis, weights in enumerate(self.plan.weights(box, stride)):
            share = torch.from_numpy(weights[out[axis]])
            if not bool((share == 1).all()):
                values = values * share.reshape([-1 if a == axis else 1 for a in range(3)])
        total[(..., *into)] += values

    def result(self) -> GridPrediction:
        """Return the blended logits and maps."""
        if self.logits is None:
            raise ValueError("the plan has no tiles")
        if not bool(torch.isfinite(self.logits).all()):
            step = (
                "run it with precision exact"
                if self.precision.name != "float32"
                else "the model or its normalisation does not suit this scan"
            )
            raise InputError(f"the network returned values that are not finite; {step}")
        return GridPrediction(
            self.plan.box,
            self.logits,
            {name: value.numpy() for name, value in self.maps.items()},
            read_calibration(self.network),
            self.plan,
        )

    def close(self, *, collect: bool) -> None:
        """Let go of everything this run took."""
        self.logits, self.maps = None, {}
        del self.network, self.tensor
        release(self.device, collect=collect)


def calibration_choices(
    plan: TilePlan, fits: Callable[[int], bool], whole_grid: bool = True
) -> list[list[Box]]:
    """Return what the statistics can be measured over at once, the best first.

    Parameters
    ----------
    plan
        Tiles of the grid.
    fits
        Whether so many voxels may go through the network at once.
    whole_grid
        Whether the whole grid is a choice.
    """
    choices: list[list[Box]] = []
    if whole_grid and fits(math.prod(plan.shape)):
        choices.append([Box((0, 0, 0), plan.shape)])
    count = min(CALIBRATION_TILES, len(plan.starts_product))
    while count >= 1:
        if count == 1 or fits(count * math.prod(plan.tile)):
            choices.append(spread_tiles(plan, count))
        count //= 2
    return choices


def spread_tiles(plan: TilePlan, count: int) -> list[Box]:
    """Return up to `count` boxes of the plan's nominal size, spread evenly over the whole grid."""
    corners = plan.starts_product
    count = min(count, len(corners))
    chosen = [corners[round(i * (len(corners) - 1) / max(1, count - 1))] for i in range(count)]
    boxes = []
    for corner in dict.fromkeys(chosen):
        # The last tiles may reach past the grid: moved back, so that all are alike.
        start = tuple(min(c, n - t) for c, n, t in zip(corner, plan.shape, plan.tile, strict=True))
        stop = tuple(a + t for a, t in zip(start, plan.tile, strict=True))
        boxes.append(Box(start, stop))  # type: ignore[arg-type]
    return boxes
