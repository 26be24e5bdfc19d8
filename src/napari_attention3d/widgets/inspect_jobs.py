"""Longer work of the Inspect tab for the worker's thread. No Qt, no viewer."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from ..inference.tiling import Box
from ..progress import Progress
from .inspect_tasks import Desk, RunRecord

if TYPE_CHECKING:
    from ..attention.channels import ChannelBench
    from ..attention.faithfulness import Faithfulness, FaithfulnessOptions
    from ..attention.replay import Replay
    from ..attention.switches import Change, Effect
    from ..volumes.volume import Volume

__all__ = ["Bench", "bench_job", "effect_job", "map_job", "parts_job", "test_job"]

Voxel = Sequence[float]


@dataclass(frozen=True)
class Bench:
    """A channel attention, and the run that it belongs to."""

    replay: Replay
    found: ChannelBench
    box: Box
    """The tile, on the model's grid."""


def parts_job(
    desk: Desk, record: RunRecord
) -> Generator[Progress, None, tuple[dict[str, tuple[str, ...]], list[str], dict[str, str]]]:
    """Say what of a run's network can be forced, where it has channel attention, and titles."""
    from ..attention.parts import channel_parts
    from ..attention.switches import switchable

    replay = yield from desk.replay(record)
    network = replay.network
    titles = {name: spec.title for name, spec in replay.model.network.map_specs.items()}
    return switchable(network), list(channel_parts(network)), titles


def map_job(desk: Desk, record: RunRecord, name: str) -> Generator[Progress, None, Volume]:
    """Compute a map on request."""
    from ..attention.request import kind_named, request_map

    kind = kind_named(name)
    replay = yield from desk.replay(record)
    return (yield from request_map(replay, kind))


def effect_job(
    desk: Desk, record: RunRecord, changes: Sequence[Change], where: Voxel | Box | None
) -> Generator[Progress, None, Effect]:
    """Force changes in a tile, or the one that counts most at a voxel; None: all that was run."""
    from ..attention.switches import effect_of

    replay = yield from desk.replay(record)
    box = where if isinstance(where, Box) else _box(replay, where)
    return (yield from effect_of(replay, changes, box))


def bench_job(
    desk: Desk, record: RunRecord, part: str, voxel: Voxel
) -> Generator[Progress, None, Bench]:
    """Look into a channel attention in the tile that counts most at a voxel."""
    from ..attention.channels import channel_bench

    replay = yield from desk.replay(record)
    box = _box(replay, voxel)
    assert box is not None
    yield Progress(0, 0, "Looking into the channels …")
    return Bench(replay, channel_bench(replay, box, part), box)


def test_job(
    desk: Desk,
    record: RunRecord,
    maps: Mapping[str, Volume],
    voxel: Voxel,
    options: FaithfulnessOptions,
) -> Generator[Progress, None, list[Faithfulness]]:
    """Test maps in a window around a voxel."""
    from ..attention.faithfulness import faithfulness

    if not maps:
        raise InputError("no map is shown: open the eye of one in the list first")
    replay = yield from desk.replay(record)
    size = [min(64, n) for n in replay.plan.tile]
    box = replay.window_at(replay.on_grid(voxel), size)
    return (yield from faithfulness(replay, box, maps, options))


def _box(replay: Replay, voxel: Voxel | None) -> Box | None:
    return None if voxel is None else replay.tile_at(replay.on_grid(voxel))
