"""What answers about a run say of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..provenance import made_with, origin

if TYPE_CHECKING:
    from .replay import Replay

__all__ = ["asked_of"]


def asked_of(replay: Replay, question: dict[str, Any]) -> dict[str, Any]:
    """Provenance of a map, a mask or a table that a run was asked for.

    Parameters
    ----------
    question
        What was asked, JSON-compatible.
    """
    return made_with(model=replay.model.origin, source=origin(replay.volume), asked=question)
