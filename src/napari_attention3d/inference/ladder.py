"""What to do when memory runs out, and before it can: the next smaller plan."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ..errors import OutOfMemory
from ..networks.base import SegmentationNetwork
from . import plans
from .bands import rolling_axis
from .device import Precision
from .estimate import estimate_forward
from .memory import available_bytes, bytes_per_voxel, halve_tile
from .plans import (
    EACH_ONCE,
    KEPT_TO,
    Attempt,
    ExactPlan,
    exact_bytes,
    fitted,
    less_planes,
    plan_multiple,
)
from .stream import NotStreamable
from .tiling import TilePlan, plan_tiles

__all__ = ["attempt_bytes", "begins_anew", "fitted_attempt", "smaller"]


def fitted_attempt(network: SegmentationNetwork, attempt: Attempt) -> tuple[Attempt, list[str]]:
    """Return the attempt, or the next smaller one that fits the memory, before it begins.

    On a CPU nothing is raised when memory runs out within a container: the kernel kills
    the process. So what does not fit what is there, or was allowed, is not begun. A GPU
    raises an error, and the run then goes on smaller.

    Returns
    -------
    tuple
        The attempt, and what to tell the person.

    Raises
    ------
    OutOfMemory
        If even the smallest does not fit; it tells how much it would take.
    """
    device, told = attempt.devices[0], list[str]()
    if device.type != "cpu" and attempt.memory is None:
        return attempt, told
    most = available_bytes(device)
    if attempt.memory is not None:
        most = min(most, int(KEPT_TO * attempt.memory) - attempt.beside)
    while (need := attempt_bytes(network, attempt)) > most:
        less = smaller(network, attempt)
        if less is None or less[0].devices != attempt.devices:
            raise OutOfMemory(_too_much(attempt, need, most))
        told = [*told, f"memory of {device} would not suffice; {less[1]}"]
        attempt = less[0]
    return attempt, told


def _too_much(attempt: Attempt, need: int, most: int) -> str:
    """Say how much would be needed, in terms of what was allowed or is free."""
    memory, device = attempt.memory, attempt.devices[0]
    if memory is not None and most >= int(KEPT_TO * memory) - attempt.beside:
        least = (need + attempt.beside) / KEPT_TO
        return (
            f"even the smallest plan takes about {_size(least)}, more than the {_size(memory)} "
            "that it may take; allow it that much, choose a region of the scan or another device"
        )
    return (
        f"even the smallest plan takes about {_size(need)}, more than the {_size(most)} that "
        f"are free for {device}; close other programs, choose a region of the scan or another "
        "device"
    )


def _size(count: float) -> str:
    """Round up: a plan that is told to need so much must fit it."""
    return (
        f"{math.ceil(count / 1e8) / 10:.1f} GB" if count >= 1e9 else f"{math.ceil(count / 1e6)} MB"
    )


def attempt_bytes(network: SegmentationNetwork, attempt: Attempt) -> int:
    """Bytes that an attempt's passes take at their peak, and the sums and maps they fill."""
    plan = attempt.plan
    box = plan.box
    held = 4 * sum(
        math.prod(box.on_stride(network.map_specs[name].stride).shape) for name in attempt.maps
    )
    if isinstance(plan, ExactPlan):
        return held + exact_bytes(network, plan, attempt.maps, attempt.precision)
    axis = rolling_axis(plan)
    rows = min(1.0, plan.tile[axis] / plan.shape[axis])
    if len(plan.tiles) > 1:  # the sums of rows of tiles that are on their way
        held += int(4 * network.num_classes * rows * math.prod(box.shape))
    batch, precision = attempt.batch_size, attempt.precision
    # A single tile measures itself, as the outlook has it; else nothing is new about `seen`.
    seen = plan.tile if len(plan.starts_product) == 1 else None
    try:
        cost = estimate_forward(network, plan.tile, batch=batch, precision=precision, seen=seen)
        return held + cost.bytes
    except (RuntimeError, NotImplementedError):  # a network that can't run without data
        voxels = batch * math.prod(network.padded_size(plan.tile))
        return held + int(voxels * bytes_per_voxel(network, precision.name))


def begins_anew(old: Attempt, new: Attempt) -> bool:
    """Whether what the old plan finished differs from what the new one gives."""
    if isinstance(old.plan, TilePlan) and isinstance(new.plan, TilePlan):
        return old.plan.tile != new.plan.tile
    return isinstance(old.plan, TilePlan)


def smaller(network: SegmentationNetwork, attempt: Attempt) -> tuple[Attempt, str] | None:
    """Return what to try after memory ran out, and what to tell the person.

    A network that looks at whole tiles keeps its tiles, whose size is part of the model:
    one tile at a time, then no maps, then the CPU. Local networks take less at once.
    """
    device = attempt.devices[0]
    plan = attempt.plan
    if isinstance(plan, ExactPlan):
        less = less_planes(network, plan, attempt.maps)
        if less is not None:
            many = f" in {less.parts} columns" if less.parts > 1 else ""
            text = f"went on with {less.planes} plane{'s' * (less.planes > 1)} at a time{many}"
            return replace(attempt, plan=less), text
    elif network.locality != "local":
        if attempt.batch_size > 1:
            return replace(attempt, batch_size=1), "went on with one tile at a time"
        if attempt.maps:
            return replace(attempt, maps=()), "went on without the attention maps"
    else:
        less_tiles = _smaller_tiles(network, attempt, plan)
        if less_tiles is not None:
            return less_tiles
    if device != torch.device("cpu"):
        cpu = (torch.device("cpu"),)
        why = f"the memory of {device} did not suffice"
        on_cpu = replace(attempt, devices=cpu, precision=Precision("float32", why))
        return replace(on_cpu, device_reason=why), "went on with the CPU"
    return None


def _smaller_tiles(
    network: SegmentationNetwork, attempt: Attempt, plan: TilePlan
) -> tuple[Attempt, str] | None:
    """For a local network: the exact pass where that is possible, else half the tile."""
    multiple = plan_multiple(network)
    size = halve_tile(plan.tile, multiple)
    if size is None:
        return None
    tiles = plan_tiles(plan.shape, size, attempt.overlap, multiple)
    half = replace(attempt, plan=tiles.within(plan.box), tiles=tiles)
    text = f"went on with tiles of {' x '.join(map(str, size))} voxels"
    if attempt.as_asked:
        return half, text
    axis = max(range(3), key=lambda a: plan.shape[a])
    exact = ExactPlan(plan.shape, plan.box, axis, plans.PLANES)
    try:
        exact = fitted(network, exact, attempt.maps, attempt.precision, attempt.room)
    except NotStreamable:
        return half, text
    return replace(half, plan=exact, reason=EACH_ONCE), "went on plane by plane"
