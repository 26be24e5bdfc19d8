"""What painting the attention changed: maps and mask, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..analysis.table import Cell, Column, Table
from ..inference.plans import plan_multiple
from ..inference.tiling import Box
from ..models.store import Model
from ..progress import Job
from ..volumes.volume import Volume
from .guide import LOOK, NOT, strokes_on_map
from .maps import map_volumes
from .paint import strokes_on_grid
from .passes import goes_exactly, run_again
from .replay import Replay
from .switches import Effect, LabelResults, effect_between

__all__ = ["Moved", "around_strokes", "moved_job"]

_Maps = Mapping[str, npt.NDArray[np.float32]]
_AROUND = 16
"""Voxels of the model's grid that are compared on each side of the strokes."""


@dataclass(frozen=True)
class Moved:
    """Attention and mask before and after.

    Attributes
    ----------
    before, after
        By map name, each on its own grid: the maps.
    effect
        The mask: before, after, difference, Dice.
    table
        A row per map, and one for their mean: share of the map (%) under "look here" and
        under "not here", before and after.
    """

    before: dict[str, Volume]
    after: dict[str, Volume]
    effect: Effect
    table: Table

    def change(self, name: str) -> Volume:
        """Return after minus before of a map."""
        old, new = self.before[name], self.after[name]
        return new.replace(array=np.asarray(new.array) - np.asarray(old.array))

    def shares(self, value: int) -> tuple[float, float] | None:
        """Return the maps' mean share (%) under `LOOK` or `NOT`, before and after; None: unpainted.

        That is the last row of the table.
        """
        head = {LOOK: "look", NOT: "not"}[value]
        old, new = (self.table.column(f"{head}, {when}")[-1] for when in ("before", "after"))
        return None if old is None or new is None else (float(old), float(new))


def around_strokes(replay: Replay, strokes: Volume) -> Box:
    """Return the box around all strokes on the model's grid, a little larger, within the run."""
    places = np.argwhere(strokes_on_grid(replay, strokes))
    low, high = places.min(0) - _AROUND, places.max(0) + 1 + _AROUND
    return _aligned(replay, Box(tuple(low.tolist()), tuple(high.tolist())))


def moved_job(replay: Replay, model: Model, strokes: Volume, box: Box | None = None) -> Job[Moved]:
    """Compare a run's attention and mask with those of a model trained from its own.

    Before: the run's network, statistics and engine. After: the new network's, with the
    scan's statistics measured anew, as a new run would.

    Parameters
    ----------
    replay
        The run.
    model
        The trained copy.
    strokes
        (Z, Y, X) on the scan's own grid: `guide.LOOK`, `guide.NOT`, 0 elsewhere.
    box
        Part of the model's grid; None: what the run covered.

    Yields
    ------
    Progress
        Per step of both passes; closing the generator cancels.

    Raises
    ------
    InputError
        If nothing is painted, or the strokes lie on another grid.
    """
    box = _aligned(replay, box or replay.box)
    painted = strokes_on_grid(replay, strokes)[box.slices]
    specs = replay.model.network.map_specs
    names = tuple(specs)
    exactly = goes_exactly(replay, replay.network, names)
    arrays: list[_Maps] = []
    labels = []
    for network, calibration in ((replay.network, replay.calibration), (model.network, None)):
        result = LabelResults(network.num_classes, box)
        found = yield from run_again(
            replay,
            network,
            box,
            results=result,
            calibration=calibration,
            maps=names,
            exactly=exactly,
        )
        labels.append(result.labels)
        arrays.append(found.maps)
    placed = [
        map_volumes(
            maps,
            specs,
            replay.grid,
            box,
            unit=replay.volume.geometry.unit,
            name=replay.volume.name,
        )
        for maps in arrays
    ]
    effect = effect_between(replay, box, labels[0], labels[1], "attention painted")
    return Moved(placed[0], placed[1], effect, _table(replay, painted, arrays[0], arrays[1]))


def _table(replay: Replay, painted: npt.NDArray[np.uint8], before: _Maps, after: _Maps) -> Table:
    specs = replay.model.network.map_specs
    strokes = torch.from_numpy(painted.astype(np.int64))[None]
    rows: list[tuple[Cell, ...]] = []
    for name, old in before.items():
        weights = strokes_on_map(strokes, specs[name], torch.Size(old.shape))[0].numpy()
        cells: list[Cell] = []
        for weight in weights:
            for array in (old, after[name]):
                total = float(array.sum(dtype=np.float64))
                under = float((array * weight).sum(dtype=np.float64))
                cells.append(100 * under / total if weight.any() and total else None)
        rows.append((specs[name].title, *cells))
    mean: list[Cell] = []
    for column in range(1, 5):
        known = [value for row in rows if isinstance(value := row[column], float)]
        mean.append(float(np.mean(known)) if known else None)
    rows.append(("mean of the maps", *mean))
    columns = (
        Column("map"),
        *(
            Column(f"{head}, {when}", "%")
            for head in ("look", "not")
            for when in ("before", "after")
        ),
    )
    notes = (
        f"{replay.model.card.name}: attention under the strokes",
        "Share of each map that lies under strokes “look here” and “not here”, of all of it in "
        "the part compared.",
    )
    return Table(columns, tuple(rows), notes)


def _aligned(replay: Replay, box: Box) -> Box:
    """Return the smallest box around another that coarse maps begin with, within the run's."""
    start, stop = [], []
    multiple = plan_multiple(replay.model.network)
    whole = replay.box
    for a, b, m, lo, hi in zip(box.start, box.stop, multiple, whole.start, whole.stop, strict=True):
        start.append(max(a // m * m, lo // m * m))
        stop.append(min(-(-b // m) * m, hi))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
