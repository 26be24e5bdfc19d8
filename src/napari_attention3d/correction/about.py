"""What a corrected mask says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..provenance import made_with, origin

if TYPE_CHECKING:
    from .session import CorrectionSession

__all__ = ["how_corrected"]


def how_corrected(session: CorrectionSession, **settings: Any) -> dict[str, Any]:
    """Provenance of a session's mask as it is now.

    Parameters
    ----------
    settings
        JSON-compatible, to be told, too.
    """
    model = session.start_model
    return made_with(
        model=None if model is None else model.origin,
        source=origin(session.scan),
        corrections={
            "strokes": len(session.strokes),
            "voxels": sum(len(one.voxels) for one in session.strokes.items),
            "rounds": [r.record.kind for r in session.rounds],
            **({"settings": settings} if settings else {}),
        },
    )
