"""A network over a grid: the engine that suits it, the next smaller plan when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import OutOfMemory
from ..networks.base import SegmentationNetwork
from ..progress import Job, Progress
from .allocator import packed
from .device import Precision
from .exact import ExactRun
from .ladder import begins_anew, fitted_attempt, smaller
from .memory import is_out_of_memory
from .plans import Attempt, ExactPlan, choose_attempt, plan_multiple
from .runner import Calibration, Runner, private_copy, spread_tiles
from .sink import Logits, Results, in_memory
from .source import Source, as_source
from .tiles import Part, TileRun
from .tiling import Box, TilePlan
from .trial import try_precision

__all__ = [
    "Calibration",
    "GridPrediction",
    "plan_multiple",
    "predict_adaptively",
    "predict_grid",
    "private_copy",
    "run_attempts",
    "spread_tiles",
]

EXACT = Precision("float32", "the default")


@dataclass
class GridPrediction:
    """What a network says about a part of a grid.

    Attributes
    ----------
    box
        The part, on the model's grid.
    results
        What was filled.
    maps
        By name, (z, y, x) float32 of the shape of ``box.on_stride(stride)``.
    calibration
        Statistics of the scan-calibrated norms; empty if the network has none.
    attempt
        How it was computed in the end.
    warnings
        What the person should know (memory ran out and what was done).
    """

    box: Box
    results: Results
    maps: dict[str, npt.NDArray[np.float32]]
    calibration: dict[str, tuple[list[float], list[float]]]
    attempt: Attempt
    warnings: list[str] = field(default_factory=list)

    @property
    def plan(self) -> TilePlan | ExactPlan:
        """Tiles, or the exact pass."""
        return self.attempt.plan

    @property
    def logits(self) -> Tensor:
        """(K, z, y, x) float32 on the CPU, if logits were what was wanted."""
        if not isinstance(self.results, Logits):
            raise TypeError("the results of this run are not logits")
        return self.results.logits


@dataclass
class _State:
    """What stays when memory runs out and another attempt follows."""

    results: Results
    maps: dict[str, Any]
    todo: list[Box]
    calibration: Calibration | None
    whole_grid: bool = True


def predict_grid(
    network: SegmentationNetwork,
    scan: Tensor | Source,
    plan: TilePlan | ExactPlan,
    *,
    device: torch.device | Sequence[torch.device],
    maps: Sequence[str] = (),
    batch_size: int = 1,
    precision: Precision = EXACT,
    calibration: Calibration | None = None,
    whole_grid_calibration: bool = True,
    tiles: TilePlan | None = None,
    results: Results | None = None,
    focus: Sequence[float] | None = None,
    skip_empty: bool = False,
) -> Job[GridPrediction]:
    """Run a network over a grid, by one plan.

    The statistics of scan-calibrated norms are measured first, over the whole grid or
    over tiles spread over it, and then hold for everything. The network given is left as
    it is: the run works on a copy that shares its weights and has its own statistics, so
    that a run that was cancelled, or another one at the same time, changes nothing.

    Parameters
    ----------
    network
        Moved to the device if it is not there yet (and kept there).
    scan
        float32 (C, z, y, x), normalised; or a `Source` of it.
    plan
        Tiles of the scan's grid (`TilePlan.within` for a part of it), or an exact pass.
    device
        Where to compute; several share the work. Results are gathered on the CPU.
    maps
        Names of attention maps to return.
    batch_size
        Tiles of equal size per forward pass.
    precision
        See `choose_precision`.
    calibration
        Statistics of an earlier run over the same scan, used instead of measuring.
    whole_grid_calibration
        Measure over the whole grid if it is not too large, else over tiles.
    tiles
        What to measure over, for an exact pass; default: the wanted box.
    results
        What to fill; default: the logits of the plan's box.
    focus
        Voxel (z, y, x) of the grid to begin at.
    skip_empty
        See `TileRun`.

    Yields
    ------
    Progress
        Before the first step and after each one, with what became final
        (`Finished`); closing the generator cancels. A step is one pass of the network:
        some planes, a batch of tiles, or what the scan's statistics are measured over,
        which all layers need at once.

    Raises
    ------
    OutOfMemory
        If the memory of the device did not suffice; all that was taken is free again.
    InputError
        If the network returned values that are not finite.
    """
    devices = (device,) if isinstance(device, torch.device) else tuple(device)
    if isinstance(plan, ExactPlan):
        tiles = tiles or TilePlan(
            plan.shape, plan.box.shape, ((0,), (0,), (0,)), (plan.box,), plan.box
        )
    else:
        tiles = plan
    attempt = Attempt(plan, tiles, 0.0, devices, precision, tuple(maps), batch_size)
    state = _begin(network, attempt, results or Logits(network.num_classes, plan.box), in_memory)
    state.calibration, state.whole_grid = calibration, whole_grid_calibration
    return (yield from _attempt(network, as_source(scan), attempt, state, focus, skip_empty))


def _begin(
    network: SegmentationNetwork,
    attempt: Attempt,
    results: Results,
    allocate: Callable[[str, tuple[int, ...], np.dtype[Any]], Any],
) -> _State:
    box, maps = attempt.plan.box, {}
    for name in attempt.maps:
        shape = box.on_stride(network.map_specs[name].stride).shape
        maps[name] = allocate(name, shape, np.dtype(np.float32))
    return _State(results, maps, [Box((0, 0, 0), results.shape)], None)


def _attempt(
    network: SegmentationNetwork,
    source: Source,
    attempt: Attempt,
    state: _State,
    focus: Sequence[float] | None,
    skip_empty: bool,
) -> Job[GridPrediction]:
    """Run over what is left to do; what was done stays done when memory runs out."""
    devices = attempt.devices
    room = None if attempt.memory is None else attempt.room
    runner = Runner(network, source, devices, attempt.precision, attempt.maps, room=room)
    ran_out = False
    try:
        yield Progress(0, _total(attempt), "Measuring the scan's intensities")
        single = attempt.engine == "tiles" and len(attempt.tiles.starts_product) == 1
        if state.calibration is not None or (runner.calibrates and not single):
            runner.calibrate(attempt.tiles, state.whole_grid, state.calibration)
            state.calibration = runner.calibration
        attempt = yield from _settled(runner, attempt)
        if attempt.engine == "exact":
            yield from _exact(runner, attempt, state, focus)
        else:
            yield from _tiles(runner, attempt, state, focus, skip_empty)
        maps = {name: state.maps[name] for name in attempt.maps}
        return GridPrediction(
            attempt.plan.box, state.results, maps, runner.calibration, attempt, runner.warnings
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        ran_out = True
        raise OutOfMemory(
            f"memory of {devices[0]} ran out; close other programs, choose a region of the "
            "scan or another device"
        ) from error
    finally:
        runner.close(collect=ran_out)


def _settled(runner: Runner, attempt: Attempt) -> Job[Attempt]:
    """Return the attempt at a precision that is not on trial any more."""
    if attempt.precision.on_trial:
        trial = yield from try_precision(runner, attempt)
        attempt = replace(attempt, precision=trial.precision)
        runner.precision = attempt.precision
    return attempt


def _total(attempt: Attempt) -> int:
    plan = attempt.plan
    return plan.box.shape[plan.axis] if isinstance(plan, ExactPlan) else len(plan.tiles)


def _exact(
    runner: Runner, attempt: Attempt, state: _State, focus: Sequence[float] | None
) -> Job[None]:
    plan = attempt.plan
    assert isinstance(plan, ExactPlan)
    maps = {name: state.maps[name] for name in attempt.maps}
    run = ExactRun(runner, plan, state.results, state.todo, maps, focus=focus)
    try:
        with packed() if plan.is_small else nullcontext():
            for done, finished in run.steps():
                text = f"Segmenting, plane {done} of {run.total}"
                yield Progress(done, run.total, text, finished or None)
    finally:
        state.todo = run.left()


def _tiles(
    runner: Runner,
    attempt: Attempt,
    state: _State,
    focus: Sequence[float] | None,
    skip_empty: bool,
) -> Job[None]:
    whole = attempt.plan
    assert isinstance(whole, TilePlan)
    todo, state.todo = state.todo, []
    origin = {n: whole.box.on_stride(s.stride).start for n, s in runner.specs.items()}
    for number, wanted in enumerate(todo):
        box, sink = state.results.part(wanted)
        plan = whole.within(box)
        maps = {}
        for name, spec in runner.specs.items():
            first = box.on_stride(spec.stride).start
            offset = [a - o for a, o in zip(first, origin[name], strict=True)]
            maps[name] = Part(state.maps[name], offset)
        run = TileRun(
            runner,
            plan,
            sink,
            maps,
            batch_size=attempt.batch_size,
            focus=focus,
            skip_empty=skip_empty,
        )
        try:
            for done, finished in run.steps():
                text = f"Segmenting, tile {done} of {len(plan.tiles)}"
                yield Progress(done, len(plan.tiles), text, finished or None)
        except BaseException:
            state.todo = [*sink.left(), *todo[number + 1 :]]
            raise


def predict_adaptively(
    network: SegmentationNetwork,
    scan: Tensor | Source,
    tile: Sequence[int],
    overlap: float,
    *,
    device: torch.device | Sequence[torch.device],
    maps: Sequence[str] = (),
    precision: Precision = EXACT,
    box: Box | None = None,
    calibration: Calibration | None = None,
    as_asked: bool = False,
    memory: int | None = None,
    **options: Any,
) -> Job[GridPrediction]:
    """Choose a plan and run it, with smaller ones from where it was when memory runs out.

    Parameters
    ----------
    tile, overlap, box, as_asked, memory
        See `choose_attempt`.
    **options
        Of `run_attempts`.

    Raises
    ------
    OutOfMemory
        If even the smallest plan does not fit.
    """
    source = as_source(scan)
    devices = (device,) if isinstance(device, torch.device) else tuple(device)
    attempt = choose_attempt(
        network,
        source.shape[1:],
        tile,
        overlap,
        devices=devices,
        precision=precision,
        maps=maps,
        box=box,
        as_asked=as_asked,
        calibrated=calibration is not None,
        memory=memory,
    )
    return (yield from run_attempts(network, source, attempt, calibration=calibration, **options))


def run_attempts(
    network: SegmentationNetwork,
    source: Source,
    attempt: Attempt,
    *,
    calibration: Calibration | None = None,
    results: Results | None = None,
    allocate: Callable[[str, tuple[int, ...], np.dtype[Any]], Any] = in_memory,
    focus: Sequence[float] | None = None,
    skip_empty: bool = False,
) -> Job[GridPrediction]:
    """Run a plan, and the next smaller one each time memory runs out.

    What is final stays; only the rest is computed by the next plan. Tiles of another size
    begin anew, so that the result is that of a run which had them from the start.

    Parameters
    ----------
    network, source, calibration, results, focus, skip_empty
        See `predict_grid`.
    attempt
        From `choose_attempt`.
    allocate
        Makes the maps' arrays.

    Raises
    ------
    OutOfMemory
        If even the smallest plan does not fit.
    """
    attempt, warnings = fitted_attempt(network, attempt)
    wanted = results or Logits(network.num_classes, attempt.plan.box)
    state = _begin(network, attempt, wanted, allocate)
    state.calibration = calibration
    while True:
        try:
            found = yield from _attempt(network, source, attempt, state, focus, skip_empty)
        except OutOfMemory as error:
            device = attempt.devices[0]
            less = smaller(network, attempt)
            if less is None:
                raise OutOfMemory(
                    f"the memory of {device} does not suffice even for the smallest plan; close "
                    "other programs, choose a region of the scan or another device"
                ) from error
            if begins_anew(attempt, less[0]):
                state.todo = [Box((0, 0, 0), wanted.shape)]
            attempt = less[0]
            state.whole_grid = False
            warnings.append(f"memory of {device} ran out; {less[1]}")
        else:
            found.warnings[:0] = warnings
            return found
