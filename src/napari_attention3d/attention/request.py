"""Compute a map on request, over a whole scan, with the tiles and statistics of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..inference.predict import predict_grid
from ..inference.sink import Finished, Sink
from ..inference.tiling import Box, plan_tiles
from ..progress import Job
from ..volumes.volume import Volume
from .kinds import MapKind, WithMap
from .maps import map_volumes
from .replay import Replay

__all__ = ["expected_seconds", "kind_named", "request_map"]


def expected_seconds(provenance: Mapping[str, Any], kind: MapKind) -> float:
    """Say about how long a map takes, before anything is opened.

    Parameters
    ----------
    provenance
        Of a run, whose time is taken as measure.
    kind
        The map.
    """
    plan, shape = provenance["plan"], provenance["grid"]["shape"]
    start, stop = plan["box"]
    work = 1.0
    if plan["engine"] != "tiles":  # which computes every voxel once; the map's tiles overlap
        tile = [min(t, n) for t, n in zip(plan["tile"], shape, strict=True)]
        tiles = plan_tiles(shape, tile, plan["overlap"], (1, 1, 1))
        box = Box(tuple(start), tuple(stop))
        voxels = sum(math.prod(one.shape) for one in tiles.within(box).tiles)
        work = voxels / math.prod(box.shape)
    return float(provenance["seconds"] * kind.passes * work)


def request_map(replay: Replay, kind: MapKind) -> Job[Volume]:
    """Compute a map of what a run covered, in tiles that are blended like the mask's.

    Parameters
    ----------
    replay
        The run.
    kind
        Of `available_kinds`.

    Yields
    ------
    Progress
        Per tile; closing the generator cancels.

    Raises
    ------
    InputError
        If the network can't show it.
    """
    network = WithMap(replay.network, kind)
    calibration: Mapping[str, Any] | None = None
    if replay.calibration is not None:
        calibration = network.calibration_of(replay.calibration)
    plan = replay.plan.within(replay.box)
    found = yield from predict_grid(
        network,
        replay.prepared.source,
        plan,
        device=replay.model.network.device,
        maps=(kind.name,),
        precision=replay.precision,
        calibration=calibration,
        results=_Nothing(plan.box),
    )
    volumes = map_volumes(
        found.maps,
        network.map_specs,
        replay.grid,
        found.box,
        unit=replay.volume.geometry.unit,
        name=replay.volume.name,
    )
    return volumes[kind.name]


def kind_named(name: str) -> MapKind:
    """Return a kind of map by its name.

    Raises
    ------
    InputError
        If there is none.
    """
    from .kinds import available_kinds

    kinds = {kind.name: kind for kind in available_kinds()}
    if name not in kinds:
        raise InputError(f"no map is called {name!r}; there are: {', '.join(kinds)}")
    return kinds[name]


class _Nothing:
    """Results of a run of which only the map is wanted: takes logits and lets them go."""

    def __init__(self, box: Box) -> None:
        self.box, self.shape = box, box.shape

    def part(self, wanted: Box | None = None) -> tuple[Box, Sink]:
        """A part of the grid needs itself."""
        wanted = wanted or Box((0, 0, 0), self.shape)
        a, b, c = (o + s for o, s in zip(self.box.start, wanted.start, strict=True))
        d, e, f = (o + s for o, s in zip(self.box.start, wanted.stop, strict=True))
        return Box((a, b, c), (d, e, f)), _Drain()


class _Drain:
    def push(self, axis: int, start: int, slab: Tensor) -> list[Finished]:
        """Keep nothing."""
        return []

    def left(self) -> list[Box]:
        """Nothing is kept, so nothing is left."""
        return []
