"""What a long job says while it runs."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Job", "Progress", "finish"]

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """One step of a job.

    Parameters
    ----------
    done, total
        Steps finished and steps in all; ``total`` may grow (0: not known yet).
    message
        What is going on, in plain words ("Segmenting, tile 3 of 12").
    partial
        Anything the job can show already, else None.
    metrics
        Figures for curves and logs (training loss, validation Dice).
    """

    done: int
    total: int
    message: str = ""
    partial: Any = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Share done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


# A job is a generator that yields Progress and returns its result. Closing it cancels it.
Job = Generator[Progress, None, T]


def finish(job: Job[T], look: Callable[[Progress], object] | None = None) -> T:
    """Drive a job to its end and return its result.

    Parameters
    ----------
    look
        Called with each step.
    """
    while True:
        try:
            step = next(job)
        except StopIteration as end:
            result: T = end.value
            return result
        if look is not None:
            look(step)
