"""What a run will take: tiles, memory and time, before a voxel is read."""

from __future__ import annotations

from collections.abc import Sequence
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
    voxels = float(np.prod(network.padded_size(plan.tile)))
    passes = float(len(plan.tiles))
    if len(whole.tiles) > 1 and any(isinstance(m, ScanNorm3d) for m in network.modules()):
        # The statistics are measured first, over as much at once as fits.
        first = calibration_choices(
            whole, lambda n: fits_whole(n, network, device, precision.name)
        )[0]
        measured = float(sum(np.prod(network.padded_size(box.shape)) for box in first))
        passes, voxels = passes + measured / voxels, max(voxels, measured)
    logits = 4 * network.num_classes * float(np.prod(setup.box.shape))
    size = bytes_per_voxel(network, precision.name) * voxels + logits + 8.0 * scan_voxels
    seconds = _seconds(network, setup, plan.tile, passes, probe)
    return Outlook(len(plan.tiles), int(size), seconds)


def _seconds(
    network: SegmentationNetwork, setup: Setup, tile: Sequence[int], passes: float, probe: bool
) -> float | None:
    device, precision = setup.choice.device, setup.precision
    try:
        rate = (rates.probe if probe else rates.known)(network, device, precision)
        if rate is None:
            return None
        return passes * estimate_forward(network, tile, precision=precision).flops / rate
    except (RuntimeError, NotImplementedError):
        return None  # a network that can't run without data


def in_words(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds >= 90:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(0.1, seconds):.1f} s"
