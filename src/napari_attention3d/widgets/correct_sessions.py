"""Where correction sessions are saved, and which of them belong to a scan. No torch, no Qt."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from platformdirs import user_data_path

from ..errors import DAMAGED

if TYPE_CHECKING:
    from ..volumes.volume import Volume

__all__ = ["SavedSession", "discard", "new_folder", "saved_sessions", "sessions_folder"]


@dataclass(frozen=True)
class SavedSession:
    """A session of a scan that can be resumed.

    Attributes
    ----------
    folder
        Where it is.
    classes
        Names, background first.
    strokes, rounds
        How many; the mask to start from is no round.
    changed
        Seconds since the epoch.
    """

    folder: Path
    classes: tuple[str, ...]
    strokes: int
    rounds: int
    changed: float

    @property
    def text(self) -> str:
        """One line for a list: when, what is in it."""
        when = time.strftime("%d %b %H:%M", time.localtime(self.changed))
        return f"{when}: {_many(self.strokes, 'stroke')}, {_many(self.rounds, 'round')}"


def sessions_folder() -> Path:
    """Folder of the sessions; NAPARI_ATTENTION3D_SESSIONS overrides it. May not exist."""
    override = os.environ.get("NAPARI_ATTENTION3D_SESSIONS")
    if override:
        return Path(override)
    return Path(user_data_path("napari-attention3d", appauthor=False)) / "sessions"


def new_folder(scan_name: str) -> Path:
    """Path for a new session; its parent exists then.

    Raises
    ------
    OSError
        If the parent can't be made.
    """
    parent = sessions_folder()
    parent.mkdir(parents=True, exist_ok=True)
    head = re.sub(r"[^A-Za-z0-9._-]+", "-", scan_name).strip("-._")[:60] or "scan"
    return parent / f"{head}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def saved_sessions(scan: Volume, but: Sequence[Path] = ()) -> list[SavedSession]:
    """Sessions of a scan that hold strokes or rounds, the latest first.

    A session is of a scan if it has its grid, and its name or its file.

    Parameters
    ----------
    scan
        The scan.
    but
        Folders to leave out.
    """
    found = []
    for file in sessions_folder().glob("*/session.json"):
        if file.parent in but:
            continue
        try:
            about = json.loads(file.read_text())
            if not _belongs(about, scan):
                continue
            classes = tuple(str(name) for name in about["classes"])
            strokes = list((file.parent / "strokes").glob("[0-9]*.safetensors"))
            rounds = list((file.parent / "rounds").glob("[0-9]*"))
            changed = max(path.stat().st_mtime for path in (*strokes, *rounds, file))
        except DAMAGED:
            continue  # damaged, or just being removed: nothing to offer
        if strokes or len(rounds) > 1:
            found.append(
                SavedSession(file.parent, classes, len(strokes), max(0, len(rounds) - 1), changed)
            )
    return sorted(found, key=lambda one: one.changed, reverse=True)


def _belongs(about: dict[str, object], scan: Volume) -> bool:
    if about.get("shape") != list(scan.geometry.shape):
        return False
    if not np.allclose(np.asarray(about.get("affine"), float), scan.geometry.affine, atol=1e-4):
        return False
    source = about.get("source")
    return about.get("scan") == scan.name or (source is not None and source == str(scan.source))


def discard(folder: Path) -> None:
    """Remove a session such that it is whole or gone."""
    aside = folder.with_name(f".gone-{secrets.token_hex(6)}")
    try:
        folder.rename(aside)
    except OSError:
        return  # gone already, or not ours to remove
    shutil.rmtree(aside, ignore_errors=True)


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
