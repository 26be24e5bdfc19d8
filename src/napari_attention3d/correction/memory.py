"""What to say when the memory ends while something is learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import OutOfMemory
from ..inference.memory import is_out_of_memory

__all__ = ["clear_when_memory_ends"]


@contextmanager
def clear_when_memory_ends() -> Iterator[None]:
    """Tell a person what to do when the memory does not suffice.

    Raises
    ------
    OutOfMemory
        For any error that says so.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "the memory does not suffice to learn from this scan; close other programs or "
            "crop the scan. Your strokes are kept"
        ) from error
