"""What a run will take: tiles, memory and time, before a voxel is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..networks.base import SegmentationNetwork
from ..networks.norm import ScanNorm3d
from .bands import rolling_axis
from .estimate import estimate_forward, rates
from .memory import bytes_per_voxel, fits_whole
from .plans import Attempt, ExactPlan, exact_bytes
from .preprocess import in_memory_bytes
from .runner import calibration_choices
from .setup import Setup, plan_run

__all__ = ["Outlook", "in_words", "outlook"]


@dataclass(frozen=True)
class Outlook:
    """Cost of a run.

    Attributes
    ----------
    tiles
        To compute; 0 where the scan goes through plane by plane.
    bytes
        Memory at the peak, above what the process holds already.
    seconds
        Of the network's passes; None if its speed here is not known.
    attempt
        What will be run.
    """

    tiles: int
    bytes: int
    seconds: float | None
    attempt: Attempt


def outlook(
    network: SegmentationNetwork,
    setup: Setup,
    scan_voxels: int,
    *,
    maps: Sequence[str] = (),
    probe: bool = False,
    calibrated: bool = False,
) -> Outlook:
    """Estimate a run's cost.

    Parameters
    ----------
    network, setup, maps
        Of the run.
    scan_voxels
        Voxels of the scan, all channels.
    probe
        Measure the network's speed where it is not known (`Rates.probe`).
    calibrated
        Whether the scan's statistics are known.
    """
    attempt = plan_run(network, setup, maps, calibrated=calibrated)
    device, precision = setup.choice.device, attempt.precision
    plan, whole = attempt.plan, attempt.tiles
    calibrates = not calibrated and any(isinstance(m, ScanNorm3d) for m in network.modules())
    alone = attempt.engine == "tiles" and len(whole.tiles) == 1
    # Size, tiles at once, how often, and whether the scan's statistics are measured.
    passes: list[tuple[tuple[int, int, int], int, float, bool]] = []
    if isinstance(plan, ExactPlan):
        tiles, planned = 0, exact_bytes(network, plan, maps, precision)
        # As many operations as a tile has per voxel.
        share = math.prod(plan.box.shape) / math.prod(whole.tile)
        work = [(share * estimate_forward(network, whole.tile, precision=precision).flops, False)]
    else:
        tiles, planned, work = len(plan.tiles), 0, []
        batch = attempt.batch_size
        passes.append((plan.tile, batch, tiles / batch, alone and calibrates))
    if calibrates and not alone:
        # The statistics are measured first, over as much at once as fits.
        first = calibration_choices(
            whole, lambda n: fits_whole(n, network, device, precision.name)
        )[0]
        passes.append((first[0].shape, len(first), 1, True))
    results = float(np.prod(setup.target.shape))
    in_memory = min(scan_voxels, in_memory_bytes(setup.memory) / 4)
    around = results + 4.0 * in_memory
    if not isinstance(plan, ExactPlan):  # sums of the rows of tiles that are on their way
        axis = rolling_axis(plan)
        rows = plan.tile[axis] / plan.shape[axis]
        around += 4 * network.num_classes * float(np.prod(setup.box.shape)) * min(1.0, rows)
    try:
        costs = [
            estimate_forward(
                network, size, batch=batch, precision=precision, seen=whole.tile if m else None
            )
            for size, batch, _, m in passes
        ]
    except (RuntimeError, NotImplementedError):  # a network that can't run without data
        voxels = max(batch * float(np.prod(network.padded_size(s))) for s, batch, *_ in passes)
        size = bytes_per_voxel(network, precision.name) * voxels
        return Outlook(tiles, int(size + around), None, attempt)
    work += [(often * c.flops, m) for c, (_, _, often, m) in zip(costs, passes, strict=True)]
    preparing = 8.0 * in_memory
    peak = max(preparing, planned, *(cost.bytes for cost in costs))
    seconds = _seconds(network, attempt, work, probe)
    return Outlook(tiles, int(peak + around), seconds, attempt)


def _seconds(
    network: SegmentationNetwork, attempt: Attempt, work: list[tuple[float, bool]], probe: bool
) -> float | None:
    """Seconds of passes, given as operations and whether they measure statistics."""
    about = network, attempt.devices[0], attempt.precision
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
