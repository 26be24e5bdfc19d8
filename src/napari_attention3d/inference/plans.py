"""Which engine runs a network over a grid, how, and why."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..networks.base import SegmentationNetwork
from ..networks.norm import ScanNorm3d
from .device import Precision
from .estimate import LIBRARY_BYTES
from .memory import available_bytes, bytes_per_voxel, fits_whole
from .stream import NotStreamable, StreamGraph, cut, margin, peak_bytes, record_graph
from .stream.margin import with_statistics
from .tiling import Box, TilePlan, plan_tiles

__all__ = [
    "Attempt",
    "ExactPlan",
    "across",
    "budget",
    "choose_attempt",
    "cut_to",
    "exact_bytes",
    "fitted",
    "grown",
    "less_planes",
    "plan_multiple",
]

EACH_ONCE = "the network looks no further than a bounded distance: each voxel once"
PLANES = 16
"""Planes of the logits per step, where memory allows: more gain little."""
SMALLEST_PART = 32
"""Voxels across, below which a column is not cut further."""
SHARE = 0.6
"""Share of the free memory that a run plans to use."""
KEPT_TO = 0.85
"""Share of the memory that was allowed which a run plans to use: predictions are not exact."""
HOLES = 1.08
"""What the heap takes for its buffers, over their size (measured)."""
SLABS = 2
"""Copies of the logits of a step: as they come, and as they become labels."""
BATCH = 2
"""Tiles per pass on a CPU, where torch computes single small volumes slowly."""


@dataclass(frozen=True)
class ExactPlan:
    """How the exact pass goes over a grid.

    Parameters
    ----------
    shape
        Voxels of the grid along (z, y, x).
    box
        The part that is wanted.
    axis
        Along which planes are pushed through (0 to 2).
    planes
        Planes of the logits per step.
    parts
        Columns that the planes are cut into.
    """

    shape: tuple[int, int, int]
    box: Box
    axis: int
    planes: int
    parts: int = 1

    @property
    def is_small(self) -> bool:
        """Whether it was cut down for lack of memory."""
        return self.planes < PLANES or self.parts > 1


@dataclass(frozen=True)
class Attempt:
    """A plan, and what else is settled before a run.

    Parameters
    ----------
    plan
        Tiles, or an exact pass.
    tiles
        Tiles of the grid: what the scan's statistics are measured over, and the plan
        itself for a network that needs them.
    overlap
        Of the tiles.
    devices, precision, maps, batch_size
        See `predict_grid`.
    as_asked
        Whether these very tiles were asked for.
    reason
        Why this engine, in words.
    device_reason
        Why these devices, if not because they were chosen.
    memory
        Bytes that the whole run may take; None: a share of what is free.
    beside
        Bytes of it that go to other things than passes of the network: the scan, results.
    """

    plan: TilePlan | ExactPlan
    tiles: TilePlan
    overlap: float
    devices: tuple[torch.device, ...]
    precision: Precision
    maps: tuple[str, ...] = ()
    batch_size: int = 1
    as_asked: bool = False
    reason: str = ""
    device_reason: str = ""
    memory: int | None = None
    beside: int = 0

    @property
    def room(self) -> int:
        """Bytes that passes of the network may plan to take now, on the first device."""
        return budget(self.devices[0], self.memory, self.beside)

    @property
    def engine(self) -> str:
        """Either "exact" or "tiles"."""
        return "exact" if isinstance(self.plan, ExactPlan) else "tiles"


def plan_multiple(network: SegmentationNetwork) -> tuple[int, int, int]:
    """Return what tiles must start at multiples of: common multiple of all strides."""
    strides = [network.tile_multiple, *(spec.stride for spec in network.map_specs.values())]
    z, y, x = (math.lcm(*(int(s[axis]) for s in strides)) for axis in range(3))
    return z, y, x


def grown(box: Box, network: SegmentationNetwork, maps: Sequence[str], shape: Sequence[int]) -> Box:
    """Return all that a box's result depends on: a part that the network can do by itself.

    The whole grid if that depends on the grid's size.
    """
    if all(a == 0 and b == n for a, b, n in zip(box.start, box.stop, shape, strict=True)):
        return box
    try:
        more = margin(network, maps)
    except NotStreamable:
        z, y, x = (int(n) for n in shape)
        return Box((0, 0, 0), (z, y, x))
    start, stop = [], []
    for a, b, m, s, n in zip(box.start, box.stop, more, plan_multiple(network), shape, strict=True):
        start.append(max(0, (a - m) // s * s))
        stop.append(min(int(n), -(-(b + m) // s) * s))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def cut_to(
    graph: StreamGraph, crop: Box, part: Box, strides: Mapping[str, Sequence[int]]
) -> tuple[StreamGraph, dict[str, Box]]:
    """Leave out of a crop's graph what a part does not need.

    Parameters
    ----------
    graph
        Recorded for the crop.
    crop, part
        See `grown`.
    strides
        Of each output.

    Returns
    -------
    tuple
        The graph, and the box that each output has on its own grid.
    """
    axes = [a for a in range(3) if a != graph.axis - 2]
    have = {name: crop.on_stride(stride) for name, stride in strides.items()}
    wanted = {}
    for name, stride in strides.items():
        box = part.on_stride(stride)
        (y, x) = ((box.start[a] - have[name].start[a], box.shape[a]) for a in axes)
        wanted[name] = (y[0], y[0] + y[1]), (x[0], x[0] + x[1])
    graph, held = cut(graph, wanted)
    boxes = {}
    for name, window in held.items():
        start, stop = list(have[name].start), list(have[name].stop)
        for axis, (lo, hi) in zip(axes, window, strict=True):
            start[axis], stop[axis] = start[axis] + lo, start[axis] + hi
        boxes[name] = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return graph, boxes


def across(box: Box, axis: int, shape: Sequence[int]) -> Box:
    """Return the box, with the whole grid along the axis."""
    start, stop = list(box.start), list(box.stop)
    start[axis], stop[axis] = 0, int(shape[axis])
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def choose_attempt(
    network: SegmentationNetwork,
    shape: Sequence[int],
    tile: Sequence[int],
    overlap: float,
    *,
    devices: Sequence[torch.device],
    precision: Precision,
    maps: Sequence[str] = (),
    box: Box | None = None,
    as_asked: bool = False,
    calibrated: bool = False,
    memory: int | None = None,
    beside: int = 0,
) -> Attempt:
    """Choose engine and plan.

    Parameters
    ----------
    network, devices, precision, maps
        Of the run.
    shape
        Of the grid (z, y, x).
    tile, overlap
        Of the tiles: see `plan_tiles`.
    box
        The part that is wanted; None: all.
    as_asked
        Whether these very tiles were asked for.
    calibrated
        Whether the scan's statistics are known already.
    memory, beside
        See `Attempt`.
    """
    z, y, x = (int(n) for n in shape)
    grid = (z, y, x)
    box = box or Box((0, 0, 0), grid)
    multiple = plan_multiple(network)
    tiles = plan_tiles(grid, tile, overlap, multiple)
    once = Precision("float32", "one pass: a trial of another precision would take as long")
    if len(tiles.tiles) == 1 and (network.locality != "local" or as_asked) and precision.on_trial:
        precision = once
    common = Attempt(tiles.within(box), tiles, overlap, tuple(devices), precision, tuple(maps))
    common = replace(common, memory=memory, beside=beside)
    if network.locality != "local":
        batch = BATCH if devices[0].type == "cpu" and len(tiles.tiles) > 1 else 1
        reason = f"{network.name} looks at a whole tile at once"
        return replace(common, batch_size=batch, reason=reason)
    if as_asked:
        return replace(common, as_asked=True, reason="these tiles were asked for")
    limit = common.room
    voxels = math.prod(grid)
    at_once = once if precision.on_trial else precision
    # Whatever part is wanted: the statistics are measured over the whole grid anyway.
    measures = not calibrated and any(isinstance(m, ScanNorm3d) for m in network.modules())
    if (
        measures
        and len(devices) == 1
        and fits_whole(voxels, network, devices[0], at_once.name)
        and (memory is None or voxels * bytes_per_voxel(network, at_once.name) <= limit)
    ):
        whole = plan_tiles(grid, grid, overlap, multiple)
        reason = "the grid goes through at once, which measures the scan too"
        whole_plan = whole.within(box)
        return replace(common, plan=whole_plan, tiles=whole, precision=at_once, reason=reason)
    plan = ExactPlan(grid, box, max(range(3), key=lambda a: grid[a]), PLANES)
    try:
        plan = fitted(network, plan, maps, precision, limit)
    except NotStreamable as error:
        return replace(common, reason=f"no exact pass: {error}")
    return replace(common, plan=plan, reason=EACH_ONCE)


def budget(device: torch.device, memory: int | None = None, beside: int = 0) -> int:
    """Bytes that passes of a network may plan to take on a device.

    Parameters
    ----------
    memory, beside
        See `Attempt`.
    """
    free = int(SHARE * available_bytes(device))
    if memory is None:
        return free
    return max(0, min(int(KEPT_TO * memory) - beside, free))


def fitted(
    network: SegmentationNetwork,
    plan: ExactPlan,
    maps: Sequence[str],
    precision: Precision,
    limit: int,
) -> ExactPlan:
    """Return the plan with as many planes per step, and as few columns, as the limit allows.

    Raises
    ------
    NotStreamable
        If the network can't be streamed.
    """
    while exact_bytes(network, plan, maps, precision) > limit:
        less = less_planes(network, plan, maps)
        if less is None:
            break  # the smallest: let it try
        plan = less
    return plan


def less_planes(
    network: SegmentationNetwork, plan: ExactPlan, maps: Sequence[str]
) -> ExactPlan | None:
    """Return the plan that takes less memory, or None."""
    if plan.planes > 1:
        return replace(plan, planes=plan.planes // 2)
    across = [a for a in range(3) if a != plan.axis]
    widest = max(plan.box.shape[a] for a in across)
    if widest // (2 * plan.parts) < SMALLEST_PART:
        return None
    try:
        margin(network, maps)
    except NotStreamable:
        return None
    return replace(plan, parts=2 * plan.parts, planes=PLANES // 4)


def exact_bytes(
    network: SegmentationNetwork, plan: ExactPlan, maps: Sequence[str], precision: Precision
) -> int:
    """Bytes that an exact pass takes at its peak, on its device."""
    about = [type(network).__qualname__, network.config, list(maps), precision.name]
    key = json.dumps(about), plan
    if key not in _BYTES:
        _BYTES[key] = _exact_bytes(network, plan, maps, precision)
    return _BYTES[key]


_BYTES: dict[tuple[str, ExactPlan], int] = {}


def _exact_bytes(
    network: SegmentationNetwork, plan: ExactPlan, maps: Sequence[str], precision: Precision
) -> int:
    widest = max((a for a in range(3) if a != plan.axis), key=lambda a: plan.box.shape[a])
    start, stop = list(plan.box.start), list(plan.box.stop)
    if plan.parts > 1:  # a column in the middle has a margin on both sides
        width = -(-plan.box.shape[widest] // plan.parts)
        start[widest] += (plan.box.shape[widest] - width) // 2
        stop[widest] = start[widest] + width
    part = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    crop = across(grown(part, network, maps, plan.shape), plan.axis, plan.shape)
    graph = record_graph(with_statistics(network), crop.shape, maps=maps, axis=2 + plan.axis)
    strides = {name: network.map_specs[name].stride for name in maps} | {"logits": (1, 1, 1)}
    graph, _ = cut_to(graph, crop, part, strides)
    lo, hi = plan.box.start[plan.axis], plan.box.stop[plan.axis]
    size = torch.finfo(getattr(torch, precision.name)).bits // 8
    alive = int(HOLES * peak_bytes(graph, plan.planes, {"logits": (lo, hi)}) * size / 4)
    # Beside the pass: its folded weights, and float32 logits on their way to labels.
    step = plan.planes * math.prod(part.shape) // part.shape[plan.axis]
    weights = sum(p.numel() for p in network.parameters()) * size
    return alive + weights + SLABS * 4 * network.num_classes * step + LIBRARY_BYTES
