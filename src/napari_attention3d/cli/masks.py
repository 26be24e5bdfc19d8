"""Reading masks for the commands that measure, compare and clean them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import say

if TYPE_CHECKING:
    from ..volumes import Volume

__all__ = ["read_mask"]


def read_mask(path: Path) -> Volume:
    """Read a mask, say what was assumed, and find the names of its classes.

    A mask that `segment` wrote says which model made it. If that model is installed its
    names are taken, unless the labels are no longer its classes but objects.
    """
    from ..volumes import read_volume

    mask = read_volume(path)
    for note in mask.notes:
        say(f"note: {note}")
    classes = mask.metadata.get("classes") or _classes_of_model(mask.metadata.get("provenance"))
    return mask.replace(metadata={**mask.metadata, "classes": classes}) if classes else mask


def _classes_of_model(provenance: Any) -> list[dict[str, Any]]:
    if not isinstance(provenance, dict):
        return []
    model = provenance.get("model")
    sha256 = model.get("sha256") if isinstance(model, dict) else None
    steps = provenance.get("clean_up") or []
    if not sha256 or any("instances" in step for step in steps):
        return []
    from ..models.store import list_models

    for info in list_models():
        if info.card is not None and info.card.sha256 == sha256:
            return [one.model_dump() for one in info.card.classes]
    return []
