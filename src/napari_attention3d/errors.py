"""Errors that a person can act on.

Every error that this package raises on purpose derives from `Attention3DError`.
Its message is one line that says what is wrong, what was expected and what to do
next; the window shows it as it is and the command line prints it as it is.
"""

from __future__ import annotations

from typing import Self

__all__ = [
    "DAMAGED",
    "Attention3DError",
    "InputError",
    "JobCancelled",
    "ModelFileError",
    "ModelMismatchError",
    "OutOfMemory",
    "OutputError",
    "TimePointNeeded",
    "VolumeFormatError",
    "first_line",
]


DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""What reading a file that is damaged or not ours may raise."""
LONGEST = 900
"""Characters of a message: what it quotes of a file may be of any length."""


class Attention3DError(Exception):
    """Base of all errors raised on purpose."""

    def __str__(self) -> str:
        """Return the message; of a very long one the beginning and the end."""
        text = super().__str__()
        if len(text) <= LONGEST:
            return text
        return f"{text[: LONGEST - 300]} … {text[-290:]}"


class InputError(Attention3DError):
    """What the user gave can't be used as it is (exit code 2)."""


class VolumeFormatError(InputError):
    """A file is missing, unreadable, damaged or not of a supported format."""


class TimePointNeeded(InputError):
    """A file is a series in time, of which one point has to be chosen.

    Attributes
    ----------
    times
        How many there are.
    """

    times: int = 0

    @classmethod
    def of(cls, name: str, times: int, what: str = "time points", hint: str = "") -> Self:
        """Build it for a file of that name."""
        error = cls(
            f"{name} has {times} {what}, choose one with --time (0 to {times - 1}), in a recipe "
            f"with time:{hint}"
        )
        error.times = times
        return error


class ModelFileError(InputError):
    """A model file is missing, damaged, unsafe or incomplete."""


class ModelMismatchError(InputError):
    """A scan and a model do not fit together (channels, units, size)."""


class OutputError(Attention3DError):
    """A result could not be written; nothing half-written was left behind."""


class OutOfMemory(Attention3DError):
    """The memory of the device did not suffice, even for the smallest plan."""


class JobCancelled(Attention3DError):
    """The person cancelled the job (exit code 130)."""


def first_line(error: BaseException, longest: int = 160) -> str:
    """First line of what another library says, cut to `longest` characters; never empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:longest]
