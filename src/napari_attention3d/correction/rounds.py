"""Rounds that one can go back to: labels, probabilities and weights together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .learn import Learned, NetworkState, Previous

__all__ = ["Round", "RoundHistory", "RoundRecord"]

KEPT_ROUNDS = 12
"""Rounds whose whole state stays in memory; older ones keep their labels only."""


@dataclass
class RoundRecord:
    """What the list of rounds shows.

    Attributes
    ----------
    number
        0 is the mask to start from.
    strokes
        How many it learned from.
    kind
        "start", "fast" or "network".
    seconds
        Wall time.
    score, before, drift, lost
        See `learn.Learned`.
    flipped
        Approved voxels that it would have changed.
    warnings
        In words.
    losses
        Of the network's training, step by step; empty for a fast round.
    network
        Number of the round whose network holds in this one; None: the one to start from.
    movements
        Of brush and eraser, up to which it learned.
    """

    number: int
    strokes: int
    kind: str = "fast"
    seconds: float = 0.0
    score: float | None = None
    before: float | None = None
    drift: float | None = None
    lost: bool = False
    flipped: int = 0
    warnings: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    network: int | None = None
    movements: int = 0

    @classmethod
    def of(cls, learned: Learned, number: int, network: int | None) -> RoundRecord:
        """Record of a result that becomes round `number`, with the network of an earlier one."""
        return cls(
            number=number,
            strokes=learned.strokes,
            kind=learned.kind,
            seconds=learned.seconds,
            score=learned.score,
            before=learned.before,
            drift=learned.drift,
            lost=learned.lost,
            warnings=list(learned.warnings),
            losses=list(learned.losses),
            network=network if learned.network is None else number,
            movements=learned.movements,
        )


@dataclass(frozen=True)
class Round:
    """A state that one can go back to.

    Attributes
    ----------
    record
        What the list shows.
    labels
        (Z, Y, X) as predicted, before strokes and approvals.
    state
        For the next round; None if it was dropped to save memory.
    shown
        (K, z, y, x) smoothed probabilities on the work grid, for `next_place`; or None.
    network
        The network as it is after this round; None: the one to start from.
    """

    record: RoundRecord
    labels: npt.NDArray[Any]
    state: Previous | None
    shown: npt.NDArray[np.float32] | None = None
    network: NetworkState | None = None


class RoundHistory:
    """Rounds in order, and which of them is shown.

    Attributes
    ----------
    rounds
        Round 0 is the mask to start from.
    current
        Index of the round that is shown.
    """

    def __init__(self, first: Round) -> None:
        self.rounds, self.current = [first], 0

    @property
    def shown_round(self) -> Round:
        """The current round."""
        return self.rounds[self.current]

    @property
    def best(self) -> int:
        """Index of the latest round, up to the current, that did not look worse than before."""
        good = [i for i, r in enumerate(self.rounds[: self.current + 1]) if not r.record.lost]
        return good[-1]

    @property
    def can_undo(self) -> bool:
        """Whether there is a round before the current one."""
        return self.current > 0

    @property
    def can_redo(self) -> bool:
        """Whether a round was undone that nothing has replaced."""
        return self.current + 1 < len(self.rounds)

    def go_to(self, index: int) -> Round:
        """Make round `index` the current one. Strokes stay: they are the person's.

        Raises
        ------
        InputError
            If there is no such round.
        """
        if not 0 <= index < len(self.rounds):
            raise InputError(f"there is no round {index}; there are 0 to {len(self.rounds) - 1}")
        self.current = index
        return self.rounds[index]

    def undo(self) -> Round:
        """Go back to the round before: labels, probabilities and weights together.

        Raises
        ------
        InputError
            If there is none.
        """
        if not self.can_undo:
            raise InputError("there is no round to undo")
        return self.go_to(self.current - 1)

    def redo(self) -> Round:
        """Take back an undo.

        Raises
        ------
        InputError
            If there is nothing to redo.
        """
        if not self.can_redo:
            raise InputError("there is no round to redo")
        return self.go_to(self.current + 1)

    def _append(self, made: Round) -> None:
        """Make a round the current one; those that were undone are forgotten."""
        del self.rounds[self.current + 1 :]
        self.rounds.append(made)
        self.current += 1
        oldest = max(0, self.current - KEPT_ROUNDS)
        in_use = {id(kept.network) for kept in self.rounds[oldest:]}
        for i, old in enumerate(self.rounds[:oldest]):
            network = old.network if id(old.network) in in_use else None
            if old.state is not None or old.network is not network:
                self.rounds[i] = replace(old, state=None, shown=None, network=network)
