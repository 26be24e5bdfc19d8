"""What a run will take: tiles, memory and time, before a voxel is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..networks.base import SegmentationNetwork
from ..networks.norm import ScanNorm3d
from .estimate import estimate_forward, rates
from .memory import bytes_per_voxel, fits_whole
from .predict import calibration_choices, plan_multiple
from .setup import Setup
from .tiling import plan_tiles

__all__ = ["Outlook", "in_words", "outlook"]


@dataclass(frozen=True)
class Outlook:
    """Cost of a run.

    Attributes
    ----------
    tiles
        To compute.
    bytes
        Memory at the peak, above what the process holds already.
    seconds
        Of the network's passes; None if its speed here is not known.
    """

    tiles: int
    bytes: int
    seconds: float | None


def outlook(
    network: SegmentationNetwork, setup: Setup, scan_voxels: int, *, probe: bool = False
) -> Outlook:
    """Estimate a run's cost.

    Parameters
    ----------
    network, setup
        Of the run.
    scan_voxels
        Voxels of the scan, all channels.
    probe
        Measure the network's speed where it is not known (`Rates.probe`).
    """
    grid, device, precision = setup.place.grid, setup.choice.device, setup.precision
    whole = plan_tiles(grid.shape, setup.tile, setup.overlap, plan_multiple(network))
    plan = whole.within(setup.box)
    calibrates = any(isinstance(m, ScanNorm3d) for m in network.modules())
    alone = len(whole.tiles) == 1
    # Size, tiles at once, how often, and whether the scan's statistics are measured.
    passes = [(plan.tile, 1, len(plan.tiles), alone and calibrates)]
    if calibrates and not alone:
        # The statistics are measured first, over as much at once as fits.
        first = calibration_choices(
            whole, lambda n: fits_whole(n, network, device, precision.name)
        )[0]
        passes.append((first[0].shape, len(first), 1, True))
    logits = 4 * network.num_classes * float(np.prod(setup.box.shape))
    around = logits + 8.0 * scan_voxels
    try:
        costs = [
            estimate_forward(network, size, batch=batch, precision=precision)
            for size, batch, *_ in passes
        ]
    except (RuntimeError, NotImplementedError):  # a network that can't run without data
        voxels = max(batch * float(np.prod(network.padded_size(s))) for s, batch, *_ in passes)
        size = bytes_per_voxel(network, precision.name) * voxels
        return Outlook(len(plan.tiles), int(size + around), None)
    work = [(often * c.flops, m) for c, (_, _, often, m) in zip(costs, passes, strict=True)]
    peak = max(cost.bytes for cost in costs)
    return Outlook(len(plan.tiles), int(peak + around), _seconds(network, setup, work, probe))


def _seconds(
    network: SegmentationNetwork, setup: Setup, work: list[tuple[float, bool]], probe: bool
) -> float | None:
    """Seconds of passes, given as operations and whether they measure statistics."""
    about = network, setup.choice.device, setup.precision
    seconds = 0.0
    try:
        if probe:
            rates.probe(*about)
        for flops, measuring in work:
            rate = rates.known(*about, measuring=measuring)
            if not rate:
                return None
            seconds += flops / rate
    except (RuntimeError, NotImplementedError):
        return None  # the device does not take it; the run will say so
    return seconds


def in_words(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds >= 90:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(0.1, seconds):.1f} s"
