"""Everything about a run that is decided before a voxel is read, and its account afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..geometry import Geometry
from ..models.card import ModelCard
from ..networks.base import SegmentationNetwork
from ..volumes.volume import Volume
from .device import DeviceChoice, Precision, choose_device, choose_precision
from .memory import choose_tile
from .predict import GridPrediction
from .preprocess import Placement, Prepared, Preprocessor, check_kind, turned_region
from .resample import axis_positions
from .selftest import known_problem, self_test
from .tiling import Box

__all__ = ["Setup", "box_around", "describe_run", "set_up", "set_up_trusted"]


@dataclass(frozen=True)
class Setup:
    """How a scan will be segmented.

    Attributes
    ----------
    place
        The scan's grid and the model's.
    target
        Where labels are wanted: the scan's grid, or a region of it, in the model's axes.
    box
        The part of the model's grid that the target needs.
    tile, overlap
        See `plan_tiles`.
    choice, precision
        Where and how precisely to compute.
    """

    place: Placement
    target: Geometry
    box: Box
    tile: tuple[int, int, int]
    overlap: float
    choice: DeviceChoice
    precision: Precision


def set_up(
    volume: Volume,
    card: ModelCard,
    network: SegmentationNetwork,
    *,
    device: str = "auto",
    precision: str = "auto",
    region: Sequence[Sequence[int]] | None = None,
    tile: tuple[int, int, int] | None = None,
    overlap: float | None = None,
    channel: int | None = None,
) -> Setup:
    """Decide how to segment a scan; reads no voxels. Arguments as in `SegmentOptions`.

    Raises
    ------
    InputError, ModelMismatchError
        If scan, model, region and device don't fit together.
    """
    check_kind(volume)
    preprocessor = Preprocessor(card)
    preprocessor.check_channels(volume if channel is None else volume.channel(channel))
    place = preprocessor.place(volume.geometry)
    choice = choose_device(device)
    chosen = choose_precision(precision, choice.device)
    target = turned_region(place, region)
    if tile is None:
        shape = place.grid.shape
        tile = choose_tile(shape, card.patch_size, network, choice.device, chosen.name)
    if overlap is None:
        overlap = card.min_overlap
    box = box_around(target, place.grid)
    return Setup(place, target, box, tile, overlap, choice, chosen)


def set_up_trusted(
    volume: Volume,
    card: ModelCard,
    network: SegmentationNetwork,
    *,
    weights: str,
    test: bool,
    **options: Any,
) -> tuple[Setup, str]:
    """As `set_up`, but on the CPU where the chosen device does not pass its self-test.

    Parameters
    ----------
    volume, card, network, **options
        Of `set_up`.
    weights
        Tells these weights from others, see `self_test`.
    test
        Run the test if it was not run yet; else only heed what an earlier one found.

    Returns
    -------
    tuple
        The setup, and what is wrong with the device that was not taken (empty: nothing).
    """
    setup = set_up(volume, card, network, **options)
    look = self_test if test else known_problem
    problem = look(network, setup.choice.device, setup.precision, weights)
    if problem:
        setup = set_up(volume, card, network, **(options | {"device": "cpu"}))
        reason = f"the self-test found that {problem}"
        setup = replace(setup, choice=replace(setup.choice, reason=reason))
    return setup, problem


def box_around(target: Geometry, grid: Geometry) -> Box:
    """Return the grid's voxels that interpolation at the target's centres reads."""
    start, stop = [], []
    for where, size in zip(axis_positions(grid, target), grid.shape, strict=True):
        start.append(int(np.clip(np.floor(where.min()), 0, size - 1)))
        stop.append(int(np.clip(np.ceil(where.max()), 0, size - 1)) + 1)
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def describe_run(
    volume: Volume, setup: Setup, prepared: Prepared, prediction: GridPrediction
) -> dict[str, Any]:
    """Return the run's part of the provenance; JSON-compatible, floats unrounded."""
    plan, grid = prediction.plan, setup.place.grid
    return {
        "source": {
            "name": volume.name,
            "path": str(volume.source) if volume.source else None,
            "shape": [int(n) for n in volume.array.shape],
            "dtype": str(volume.dtype),
            "unit": volume.geometry.unit,
            "spacing": list(volume.geometry.spacing),
            "affine": volume.geometry.affine.tolist(),
        },
        "device": str(setup.choice.device),
        "device_reason": setup.choice.reason,
        "precision": setup.precision.name,
        "precision_reason": setup.precision.reason,
        "grid": {
            "shape": list(grid.shape),
            "spacing": list(grid.spacing),
            "unit": grid.unit,
            "affine": grid.affine.tolist(),
        },
        "plan": {
            "tile": list(plan.tile),
            "overlap": setup.overlap,
            "tiles": len(plan.tiles),
            "of_tiles": len(plan.starts_product),
            "box": [list(plan.box.start), list(plan.box.stop)],
        },
        "preprocessing": list(prepared.notes),
        "calibration": {
            name: [list(mean), list(var)] for name, (mean, var) in prediction.calibration.items()
        },
    }
