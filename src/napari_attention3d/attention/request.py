"""Compute a map on request, over a whole scan, with the statistics of a run.

After an exact run, entropy comes from the exact pass too: it is that of the probabilities which
made the mask. Spread under flips compares four passes with each other, in tiles that are
blended. Models for the other kinds are never run exactly, so that theirs are the run's tiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import InputError
from ..inference.sink import Finished, Sink, check_finite
from ..inference.tiling import Box, plan_tiles
from ..progress import Job
from ..volumes.volume import Volume
from .asked import asked_of
from .entropy import Entropy
from .kinds import MapKind, WithMap
from .maps import map_volumes
from .passes import goes_exactly, run_again
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
    if plan["engine"] != "tiles" and kind.name != Entropy.name:
        # The run computed every voxel once; the map's tiles overlap.
        tile = [min(t, n) for t, n in zip(plan["tile"], shape, strict=True)]
        tiles = plan_tiles(shape, tile, plan["overlap"], (1, 1, 1))
        box = Box(tuple(start), tuple(stop))
        voxels = sum(math.prod(one.shape) for one in tiles.within(box).tiles)
        work = voxels / math.prod(box.shape)
    return float(provenance["seconds"] * kind.passes * work)


def request_map(replay: Replay, kind: MapKind) -> Job[Volume]:
    """Compute a map of what a run covered.

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
    box = replay.box
    if isinstance(kind, Entropy) and goes_exactly(replay, replay.network):
        # All that is needed is what the mask was made of: by the very pass that made it.
        result = _OfLogits(kind, box)
        yield from run_again(
            replay,
            replay.network,
            box,
            results=result,
            calibration=replay.calibration,
            exactly=True,
        )
        maps = {kind.name: result.array}
    else:
        calibration: Mapping[str, Any] | None = None
        if replay.calibration is not None:
            calibration = network.calibration_of(replay.calibration)
        found = yield from run_again(
            replay,
            network,
            box,
            results=_Nothing(box),
            calibration=calibration,
            maps=(kind.name,),
            exactly=False,
        )
        maps = found.maps
    volumes = map_volumes(
        maps,
        network.map_specs,
        replay.grid,
        box,
        unit=replay.volume.geometry.unit,
        name=replay.volume.name,
    )
    found_map = volumes[kind.name]
    about = {**found_map.metadata, "provenance": asked_of(replay, {"map": kind.name})}
    return found_map.replace(metadata=about)


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
        return Box((a, b, c), (d, e, f)), self._sink(wanted)

    def _sink(self, wanted: Box) -> Sink:
        return _Drain()


class _OfLogits(_Nothing):
    """Results of a run of which a function of the logits is wanted."""

    def __init__(self, kind: Entropy, box: Box) -> None:
        super().__init__(box)
        self.kind = kind
        self.array = np.zeros(box.shape, np.float32)

    def _sink(self, wanted: Box) -> Sink:
        return _Function(self.kind, self.array[wanted.slices])


class _Drain:
    def push(self, axis: int, start: int, slab: Tensor) -> list[Finished]:
        """Keep nothing."""
        return []

    def left(self) -> list[Box]:
        """Nothing is kept, so nothing is left."""
        return []


class _Function(_Drain):
    def __init__(self, kind: Entropy, array: npt.NDArray[np.float32]) -> None:
        self.kind, self.array = kind, array

    def push(self, axis: int, start: int, slab: Tensor) -> list[Finished]:
        """Compute the map of a slab (K, z, y, x)."""
        check_finite(slab)
        part = [slice(None)] * 3
        part[axis] = slice(start, start + slab.shape[1 + axis])
        self.array[tuple(part)] = self.kind.of_logits(slab[None])[0, 0].numpy()
        return []
