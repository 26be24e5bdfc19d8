"""Everything about a run that is decided before a voxel is read, and its account afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..geometry import Geometry
from ..models.card import ModelCard
from ..networks.base import SegmentationNetwork
from ..volumes.volume import Volume
from .checks import check_kind
from .device import DeviceChoice, Precision, choose_device, choose_precision
from .memory import choose_tile
from .plans import Attempt, ExactPlan, choose_attempt
from .predict import GridPrediction
from .preprocess import (
    Placement,
    Prepared,
    Preprocessor,
    in_memory_bytes,
    turned_region,
)
from .selftest import known_problem, self_test
from .sink import SLAB_BYTES, box_around, label_type
from .tiling import Box

__all__ = [
    "Setup",
    "describe_plan",
    "describe_run",
    "focus_on_grid",
    "held_results",
    "plan_run",
    "set_up",
    "set_up_trusted",
]


CHUNK = 64
"""Planes of a row of chunks, of results on the disk."""


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
    as_asked
        Whether the tile was asked for, and not chosen.
    choice, precision
        Where and how precisely to compute.
    memory
        Bytes that the run may take; None: a share of what is free.
    """

    place: Placement
    target: Geometry
    box: Box
    tile: tuple[int, int, int]
    overlap: float
    choice: DeviceChoice
    precision: Precision
    as_asked: bool = False
    memory: int | None = None

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All that share the work, the first one chosen by the person or for them."""
        return (self.choice.device, *self.choice.others)


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
    memory: int | None = None,
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
    as_asked = tile is not None or overlap is not None
    if tile is None:
        shape = place.grid.shape
        tile = choose_tile(shape, card.patch_size, network, choice.device, chosen.name)
    if overlap is None:
        overlap = card.min_overlap
    box = box_around(target, place.grid)
    return Setup(place, target, box, tile, overlap, choice, chosen, as_asked, memory)


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


def plan_run(
    network: SegmentationNetwork,
    setup: Setup,
    maps: Sequence[str],
    *,
    calibrated: bool = False,
    results: int | None = None,
    reading: int | None = None,
) -> Attempt:
    """Choose engine and plan; see `choose_attempt`.

    Parameters
    ----------
    results
        Bytes of results that are held in memory; None: labels.
    reading
        Bytes of the scan that are held in memory; None: all of the model's grid, if it may.
    """
    target = math.prod(setup.target.shape)
    if results is None:
        results = target
    if reading is None:
        scan = 4 * network.in_channels * math.prod(setup.place.grid.shape)
        reading = min(scan, in_memory_bytes(setup.memory))
    slabs = 0
    if setup.place.is_resampled:  # logits on the scan's own grid, and what they are made of
        slabs = 3 * min(SLAB_BYTES, 4 * network.num_classes * target)
    return choose_attempt(
        network,
        setup.place.grid.shape,
        setup.tile,
        setup.overlap,
        devices=setup.devices,
        precision=setup.precision,
        maps=maps,
        box=setup.box,
        as_asked=setup.as_asked,
        calibrated=calibrated,
        memory=setup.memory,
        beside=results + reading + slabs,
    )


def held_results(
    setup: Setup, classes: int, *, probabilities: bool, uncertainty: bool, stored: bool
) -> int:
    """Bytes of a run's results that are in memory.

    Parameters
    ----------
    stored
        Whether they go to the disk: then only rows of chunks that are not complete.
    """
    voxels = math.prod(setup.target.shape)
    size = label_type(classes).itemsize + 4 * classes * probabilities + 4 * uncertainty
    share = min(1.0, 2 * CHUNK / max(setup.target.shape)) if stored else 1.0
    return int(voxels * size * share)


def focus_on_grid(
    place: Placement, focus: Sequence[float] | None
) -> tuple[float, float, float] | None:
    """Return where on the model's grid a voxel (z, y, x) of the scan's array lies."""
    if focus is None:
        return None
    world = place.scan.to_world(focus)
    if place.turned.unit != place.scan.unit:
        world = place.scan.with_unit(place.turned.unit).to_world(focus)
    z, y, x = place.grid.to_index(world)
    return float(z), float(y), float(x)


def describe_run(
    volume: Volume, setup: Setup, prepared: Prepared, prediction: GridPrediction
) -> dict[str, Any]:
    """Return the run's part of the provenance; JSON-compatible, floats unrounded."""
    grid = setup.place.grid
    # of a file with several, where one was opened as a layer
    chosen = {key: volume.metadata[key] for key in ("channel", "time") if key in volume.metadata}
    return {
        "source": {
            **chosen,
            "name": volume.name,
            "path": str(volume.source) if volume.source else None,
            "shape": [int(n) for n in volume.array.shape],
            "dtype": str(volume.dtype),
            "unit": volume.geometry.unit,
            "spacing": list(volume.geometry.spacing),
            "affine": volume.geometry.affine.tolist(),
        },
        "device": ",".join(str(d) for d in prediction.attempt.devices),
        "device_reason": prediction.attempt.device_reason or setup.choice.reason,
        "precision": prediction.attempt.precision.name,
        "precision_reason": prediction.attempt.precision.reason,
        "grid": {
            "shape": list(grid.shape),
            "spacing": list(grid.spacing),
            "unit": grid.unit,
            "affine": grid.affine.tolist(),
        },
        "plan": describe_plan(prediction.attempt),
        "preprocessing": list(prepared.notes),
        "calibration": {
            name: [list(mean), list(var)] for name, (mean, var) in prediction.calibration.items()
        },
    }


def describe_plan(attempt: Attempt) -> dict[str, Any]:
    """Return the plan's part of the provenance."""
    plan, tiles = attempt.plan, attempt.tiles
    about: dict[str, Any] = {
        "engine": attempt.engine,
        "reason": attempt.reason,
        "box": [list(plan.box.start), list(plan.box.stop)],
        "tile": list(tiles.tile),
        "overlap": attempt.overlap,
    }
    if isinstance(plan, ExactPlan):
        return {**about, "axis": "zyx"[plan.axis], "planes": plan.planes, "columns": plan.parts}
    batch = {"batch": attempt.batch_size}
    return {**about, "tiles": len(plan.tiles), "of_tiles": len(plan.starts_product), **batch}
