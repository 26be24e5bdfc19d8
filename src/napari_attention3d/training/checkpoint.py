"""Checkpoints: whatever moment the run is killed, the last good state is on disk whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelFileError
from ..volumes.atomic import atomic_path

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]


@dataclass
class Checkpoint:
    """State of a run after `step` steps."""

    step: int
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    average_updates: int
    optimiser: dict[str, Any]
    best_score: float
    fingerprint: str
    """Identifies network and classes; a checkpoint of another run is refused."""
    seconds: float = 0.0
    """Time that the training took so far."""
    per_class: dict[str, float] = field(default_factory=dict)
    """Dice by class name at the best validation."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: temporary file, flushed to disk, then renamed.

    Raises
    ------
    OutputError
        If the disk is full or the folder can't be written.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(vars(checkpoint), file)


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """Read a checkpoint; None if there is none.

    Raises
    ------
    ModelFileError
        If it is damaged or belongs to another configuration.
    """
    if not path.exists():
        return None
    hint = "train with --restart to begin anew"
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint = Checkpoint(**raw)
    except Exception as e:  # damaged bytes make the reader raise whatever they like
        raise ModelFileError(f"checkpoint {path} can't be read; {hint}") from e
    if checkpoint.fingerprint != fingerprint:
        raise ModelFileError(f"checkpoint {path} belongs to another network; {hint}")
    return checkpoint
