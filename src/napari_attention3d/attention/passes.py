"""Run a network again over what a run covered, by the engine that made its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..inference.plans import ExactPlan
from ..inference.predict import Calibration, GridPrediction, predict_grid
from ..inference.sink import Results
from ..inference.stream import NotStreamable, record_graph
from ..inference.stream.margin import with_statistics
from ..inference.tiling import Box, TilePlan
from ..networks.base import SegmentationNetwork
from ..progress import Job
from .replay import Replay

__all__ = ["goes_exactly", "run_again"]


def goes_exactly(replay: Replay, network: SegmentationNetwork, maps: Sequence[str] = ()) -> bool:
    """Whether a network can take the exact pass, as the run that is asked did.

    Parameters
    ----------
    replay
        The run.
    network
        The run's own, changed or trained.
    maps
        Names of maps that are wanted too.
    """
    if replay.exact is None:
        return False
    try:
        smallest = [2 * n for n in network.tile_multiple]
        record_graph(with_statistics(network), smallest, maps=maps)
    except NotStreamable:
        return False
    return True


def run_again(
    replay: Replay,
    network: SegmentationNetwork,
    box: Box,
    *,
    results: Results,
    calibration: Calibration | None,
    maps: Sequence[str] = (),
    exactly: bool | None = None,
) -> Job[GridPrediction]:
    """Run a network over a part of a run's grid: each voxel once, or in the run's tiles.

    With the run's own network and statistics, what comes out for a voxel is what the run
    found there, whatever part is asked for.

    Parameters
    ----------
    replay
        The run.
    network
        Its own, changed or trained; left as it is.
    box
        On the model's grid.
    results
        What to fill.
    calibration
        Statistics of the scan; None: measured anew, as a new run would.
    maps
        Names of maps to return.
    exactly
        Exact pass or tiles; None: as `goes_exactly` says.

    Yields
    ------
    Progress
        Per step; closing the generator cancels.
    """
    if exactly is None:
        exactly = goes_exactly(replay, network, maps)
    plan: TilePlan | ExactPlan = replay.plan.within(box)
    if exactly and replay.exact is not None:
        plan = replace(replay.exact, box=box)
    return (
        yield from predict_grid(
            network,
            replay.prepared.source,
            plan,
            device=replay.model.network.device,
            maps=maps,
            precision=replay.precision,
            calibration=calibration,
            tiles=replay.plan,
            results=results,
        )
    )
