"""A network made ready for one scan: private copies, calibrated, on one or several devices."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from ..networks.base import NetworkOutput, SegmentationNetwork
from ..networks.norm import (
    Calibration,
    ScanNorm3d,
    calibrating,
    load_calibration,
    read_calibration,
)
from ..networks.self_attention import attending_within
from .device import Precision
from .estimate import field_of
from .folding import fold
from .memory import bytes_per_voxel, fits_whole, halve_tile, is_out_of_memory, release
from .openvino_tiles import OpenVinoTiles
from .source import Source
from .tiling import Box, TilePlan

__all__ = ["Calibration", "Runner", "calibration_choices", "private_copy", "spread_tiles"]

CALIBRATION_TILES = 8


def private_copy(network: SegmentationNetwork) -> SegmentationNetwork:
    """Return a copy in evaluation mode with modules of its own that shares weights and buffers."""
    shared = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in shared}).eval()


class Runner:
    """A run's own network: what it measures of the scan stays with it.

    Parameters
    ----------
    network
        Left as it is, but for being moved to the first device.
    source
        The scan.
    devices
        Where to compute; the first one measures.
    precision
        See `choose_precision`.
    maps
        Names of attention maps to return.
    room
        Bytes that a pass may take; None: a share of what is free.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        source: Source,
        devices: Sequence[torch.device],
        precision: Precision,
        maps: Sequence[str],
        *,
        room: int | None = None,
    ) -> None:
        self.room = room
        self.network = private_copy(network.to(devices[0]))
        self.source, self.devices, self.precision = source, tuple(devices), precision
        self.specs = {name: network.map_specs[name] for name in maps}
        self.calibrates = any(isinstance(m, ScanNorm3d) for m in self.network.modules())
        self.warnings: list[str] = []
        self._copies: dict[torch.device, SegmentationNetwork] = {}
        self._openvino: OpenVinoTiles | None = None
        self._copying = threading.Lock()

    @property
    def calibration(self) -> dict[str, tuple[list[float], list[float]]]:
        """Statistics of the scan-calibrated norms; empty if there are none, or not yet."""
        return read_calibration(self.network)

    def calibrate(self, plan: TilePlan, whole_grid: bool, known: Calibration | None = None) -> None:
        """Measure the norms' statistics over the grid, or over tiles spread over it.

        Over fewer tiles where the memory would not suffice, or runs out; always at full
        precision. Position attention sees no more than a tile then, as in the run: over
        the whole grid it would take time that grows with the square of it, for statistics
        of something that is never run. Statistics that are known are taken instead.
        """
        if known is not None:
            load_calibration(self.network, known)
            return
        choices = calibration_choices(plan, self.fits, whole_grid)
        if self.room is not None and self.network.locality == "local":
            choices = [self._narrowed(boxes) for boxes in choices]
        for index, boxes in enumerate(choices):
            try:
                self.measure(torch.stack([self.source.read(box) for box in boxes]), plan.tile)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or index == len(choices) - 1:
                    raise
            release(self.devices[0], collect=True)
            fewer = len(choices[index + 1])
            self.warnings = [
                f"memory of {self.devices[0]} ran out; the scan's intensities were measured over "
                f"{fewer} tile{'s' * (fewer > 1)}"
            ]

    def _narrowed(self, boxes: list[Box]) -> list[Box]:
        """Where not even one tile fits what was allowed: the middle of it."""
        if len(boxes) > 1:
            return boxes
        (box,), size = boxes, boxes[0].shape
        while not self.fits(math.prod(size)):
            half = halve_tile(size, self.network.tile_multiple)
            if half is None:
                break
            size = half
        start = [a + (n - m) // 2 for a, n, m in zip(box.start, box.shape, size, strict=True)]
        stop = [a + m for a, m in zip(start, size, strict=True)]
        return [Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))]

    def measure(self, batch: Tensor, tile: Sequence[int] | None = None) -> NetworkOutput:
        """Run the network over a batch and keep its statistics.

        Parameters
        ----------
        batch
            (B, C, z, y, x).
        tile
            What position attention sees at once; None: all of the batch's.
        """
        device = self.devices[0]
        twin = self._quickest(self.network, device)
        within = attending_within(twin, field_of(self.network, tile)) if tile else nullcontext()
        self._copies[device] = twin
        try:
            with calibrating(twin), within:
                output = self.compute(device, batch)
        finally:
            del self._copies[device]
        if twin is not self.network:
            load_calibration(self.network, read_calibration(twin))
        return output

    def _quickest(self, network: SegmentationNetwork, device: torch.device) -> SegmentationNetwork:
        """Return what computes tiles in the least time, with the same weights."""
        # Local networks' tiles stay as torch computes them: their quick way is the exact pass.
        plain = device.type != "cpu" or self.precision.name != "float32"
        if plain or network.locality == "local":
            return network
        twin = private_copy(network)
        return twin if fold(twin) else network

    def fits(self, voxels: int) -> bool:
        """Whether so many voxels may go through the network at once."""
        # In full precision, whatever the run's: that is how it is measured.
        if self.room is not None and voxels * bytes_per_voxel(self.network) > self.room:
            return False
        return fits_whole(voxels, self.network, self.devices[0], self.precision.name)

    def on(self, device: torch.device) -> SegmentationNetwork:
        """Return the calibrated network on a device."""
        with self._copying:  # asked for by the threads of several devices
            if device not in self._copies:
                twin = self.network
                if device != self.devices[0]:
                    twin = copy.deepcopy(twin).to(device)
                    if self.calibration:
                        load_calibration(twin, self.calibration)
                self._copies[device] = self._quickest(twin, device)
            return self._copies[device]

    def _computing(self, device: torch.device) -> SegmentationNetwork | OpenVinoTiles:
        """Return what computes tiles on a device: OpenVINO where it was chosen."""
        network = self.on(device)
        first = device == self.devices[0]  # whose network the run's own is
        chosen = self.precision.openvino and device.type == "cpu" and first
        measuring = self.calibrates and not self.calibration
        if not chosen or measuring or network.locality == "local":
            return network
        with self._copying:
            if self._openvino is None:
                names = tuple(self.specs)
                self._openvino = OpenVinoTiles(self.network, network, names, self._warn)
            return self._openvino

    def _warn(self, text: str) -> None:
        self.warnings.append(text)

    def forward(self, device: torch.device, boxes: Sequence[Box]) -> NetworkOutput:
        """Run the network over boxes of equal shape."""
        batch = torch.stack([self.source.read(box) for box in boxes])
        return self.compute(device, batch)

    def compute(self, device: torch.device, batch: Tensor) -> NetworkOutput:
        """Run the network over a batch."""
        with torch.inference_mode(), self.precision.context(device):
            network = self._computing(device)
            output: NetworkOutput = network(batch.to(device), return_maps=bool(self.specs))
        return output

    def close(self, *, collect: bool) -> None:
        """Let go of everything this run took."""
        self.source.close()
        self._copies.clear()
        self._openvino = None
        del self.network
        for device in self.devices:
            release(device, collect=collect)


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
