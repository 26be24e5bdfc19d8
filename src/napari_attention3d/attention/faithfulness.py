"""Does a map show what the network uses? Deletion and insertion curves.

Blocks of the scan are replaced by a filling, those first that the map marks most, and the
mask's own probability is followed (Petsiuk et al. 2018, arXiv:1806.07421, here for masks):
over the voxels that the network gave a class, the mean probability of that class. A map
that is faithful makes it fall quickly (deletion), and rise quickly when blocks are put
back into a scan that was filled all over (insertion). Orders that are drawn at random and
the map's own, turned around, say what a map must beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..analysis.table import Cell, Column, Table
from ..errors import InputError
from ..inference.tiling import Box
from ..progress import Job, Progress
from ..volumes.volume import Volume
from .occlusion import Fill, blocks_mask, fill_in, values_in_blocks
from .replay import Replay

__all__ = [
    "Curve",
    "Faithfulness",
    "FaithfulnessOptions",
    "faithfulness",
    "faithfulness_table",
    "passes_needed",
]

Direction = Literal["deletion", "insertion"]
FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
LEAST = "least attended first"
MOST = "most attended first"
RANDOM = "random"

_Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FaithfulnessOptions:
    """How to test a map.

    Attributes
    ----------
    fill
        "blur": the scan without its detail; "noise": noise of the local mean and spread.
    block
        Edge of the blocks that are replaced, in voxels of the model's grid.
    fractions
        Shares of the blocks, from 0 to 1.
    orders
        How many random orders; their mean is shown.
    sigma
        Of the blur, and of what "local" means, in voxels.
    label
        Class whose voxels are followed; None: all but the background.
    seed
        Of noise and random orders.
    """

    fill: Fill = "blur"
    block: int = 8
    fractions: tuple[float, ...] = FRACTIONS
    orders: int = 2
    sigma: float = 8.0
    label: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Curve:
    """How the mask's probability changes.

    Attributes
    ----------
    order
        Which blocks come first.
    direction
        "deletion" or "insertion".
    fractions
        Shares of the blocks that were replaced (deletion) or are there (insertion).
    scores
        Mean probability of the mask's own classes.
    """

    order: str
    direction: Direction
    fractions: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def area(self) -> float:
        """Area under it: small is faithful for deletion, large for insertion."""
        return float(np.trapezoid(self.scores, self.fractions))


@dataclass(frozen=True)
class Faithfulness:
    """Curves of a map, and what they say.

    Attributes
    ----------
    name
        The map.
    curves
        Both directions of each order.
    voxels
        Voxels of the mask that are followed.
    """

    name: str
    curves: tuple[Curve, ...]
    voxels: int
    notes: tuple[str, ...] = field(default=())

    def curve(self, order: str, direction: Direction) -> Curve:
        """Return one of the curves."""
        return next(c for c in self.curves if (c.order, c.direction) == (order, direction))

    @property
    def gain(self) -> float:
        """Area won over random orders, mean of deletion and insertion; above 0: faithful."""
        deletion = self.curve(RANDOM, "deletion").area - self.curve(MOST, "deletion").area
        insertion = self.curve(MOST, "insertion").area - self.curve(RANDOM, "insertion").area
        return (deletion + insertion) / 2

    @property
    def table(self) -> Table:
        """A row per curve: its area, then its scores."""
        fractions = self.curves[0].fractions
        columns = (
            Column("curve"),
            Column("order"),
            Column("area"),
            *(Column(f"at {100 * f:g} %") for f in fractions),
        )
        rows: list[tuple[Cell, ...]] = [
            (c.direction, c.order, c.area, *c.scores) for c in self.curves
        ]
        return Table(columns, tuple(rows), (self.verdict, *self.notes))

    @property
    def verdict(self) -> str:
        """In words."""
        words = (
            "follows what the network uses"
            if self.gain > 0.02
            else ("says less than chance" if self.gain < -0.02 else "is no better than chance")
        )
        return f"{self.name}: {words} (area won over random orders {self.gain:+.3f})"


def faithfulness_table(results: Sequence[Faithfulness]) -> Table:
    """Return the tables of several maps as one, with the map's name in front."""
    first = results[0].table
    rows = tuple((found.name, *row) for found in results for row in found.table.rows)
    notes = (*(found.verdict for found in results), *results[0].notes)
    return Table((Column("map"), *first.columns), rows, notes)


def passes_needed(options: FaithfulnessOptions, maps: int = 1) -> int:
    """Forward passes that a test of some maps takes: to be told before it begins."""
    inner = sum(0 < f < 1 for f in options.fractions)
    return 2 + 2 * inner * (2 * maps + max(1, options.orders))


def faithfulness(
    replay: Replay,
    box: Box,
    maps: Mapping[str, Volume | _Array],
    options: FaithfulnessOptions | None = None,
) -> Job[list[Faithfulness]]:
    """Test maps in one window of the scan, against the same random orders.

    Parameters
    ----------
    replay
        The run.
    box
        The window, on the model's grid.
    maps
        By name: volumes, or their means in the window's blocks (`values_in_blocks`).
    options
        See `FaithfulnessOptions`.

    Yields
    ------
    Progress
        Per forward pass; closing the generator cancels.

    Raises
    ------
    InputError
        If the window holds no voxel of the class, or a map does not reach it.
    """
    options = options or FaithfulnessOptions()
    if options.block < 1 or list(options.fractions) != sorted({0.0, 1.0, *options.fractions}):
        raise InputError("blocks need an edge of 1 or more; fractions must rise from 0 to 1")
    means = {
        name: values_in_blocks(one, replay, box, options.block) if isinstance(one, Volume) else one
        for name, one in maps.items()
    }
    curves = _Curves(replay, box, options, passes_needed(options, len(means)))
    grid = tuple(-(-n // options.block) for n in box.shape)
    chance = []
    rng = np.random.default_rng(options.seed)
    for _ in range(max(1, options.orders)):
        chance.append((yield from curves.follow(RANDOM, rng.permutation(int(np.prod(grid))))))
    random = [_mean_curve([pair[i] for pair in chance]) for i in range(2)]
    notes = (
        f"{options.fill} of sigma {options.sigma:g}, blocks of {options.block} voxels, window "
        f"{' x '.join(map(str, box.shape))}; {curves.voxels} voxels of the mask followed",
    )
    found = []
    for name, one in means.items():
        drawn = np.random.default_rng(options.seed).permutation(one.size)
        # Among equals the order is drawn: a map that is 0 in most places must not gain
        # or lose by where these lie.
        most = drawn[np.argsort(-one.ravel()[drawn], kind="stable")]
        first = yield from curves.follow(MOST, most)
        last = yield from curves.follow(LEAST, most[::-1].copy())
        found.append(Faithfulness(name, (*first, *last, *random), curves.voxels, notes))
    return found


class _Curves:
    """Follows the mask's probability in a window whose blocks are replaced."""

    def __init__(self, replay: Replay, box: Box, options: FaithfulnessOptions, total: int) -> None:
        self.options, self.total, self.done = options, total, 0
        self.x = replay.read(box)
        self.scored = _Scored(replay, self.x, options)
        array = self.x[0].cpu().numpy()
        filled = fill_in(array, options.fill, options.sigma, options.seed)
        self.filled = torch.from_numpy(filled).to(self.x)[None]
        self.grid = tuple(-(-n // options.block) for n in box.shape)
        self._ends: dict[bool, float] = {}

    @property
    def voxels(self) -> int:
        """Voxels that are followed."""
        return self.scored.voxels

    def follow(self, order: str, blocks: npt.NDArray[np.int64]) -> Job[tuple[Curve, Curve]]:
        """Take blocks out in an order, and put them back in the same order."""
        found = []
        for direction in get_args(Direction):
            scores = []
            for fraction in self.options.fractions:
                first = blocks[: round(fraction * len(blocks))]
                scores.append((yield from self._score(direction, fraction, first)))
            found.append(Curve(order, direction, self.options.fractions, tuple(scores)))
        return found[0], found[1]

    def _score(
        self, direction: Direction, fraction: float, first: npt.NDArray[np.int64]
    ) -> Job[float]:
        gone = fraction if direction == "deletion" else 1 - fraction
        if gone in (0, 1) and bool(gone) in self._ends:
            return self._ends[bool(gone)]
        words = f"Testing maps, pass {self.done + 1} of {self.total}"
        yield Progress(self.done, self.total, words)
        shape, edge = self.x.shape[2:], self.options.block
        chosen = blocks_mask(first, self.grid, shape, edge).to(self.x.device)
        there = ~chosen if direction == "deletion" else chosen
        score = self.scored(torch.where(there, self.x, self.filled))
        self.done += 1
        if gone in (0, 1):
            self._ends[bool(gone)] = score
        return score


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    scores = np.mean([c.scores for c in curves], axis=0).tolist()
    return Curve(curves[0].order, curves[0].direction, curves[0].fractions, tuple(scores))


class _Scored:
    """Mean probability, over a window's mask, of the classes that it was given."""

    def __init__(self, replay: Replay, x: Tensor, options: FaithfulnessOptions) -> None:
        self.replay = replay
        self.classes = replay.forward(x).logits[0].argmax(0)
        wanted = options.label
        self.where = self.classes > 0 if wanted is None else self.classes == wanted
        self.voxels = int(self.where.sum())
        if not self.voxels:
            names = replay.model.card.class_names
            known = wanted is not None and 0 <= wanted < len(names)
            what = names[wanted] if known and wanted is not None else "label"
            raise InputError(f"the network finds no {what} in this window; choose another place")

    def __call__(self, x: Tensor) -> float:
        """Of a changed window."""
        shares = torch.softmax(self.replay.forward(x).logits[0].float(), 0)
        own = shares.gather(0, self.classes[None])[0]
        return float(own[self.where].mean())
