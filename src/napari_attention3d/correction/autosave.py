"""A session folder that is whole at any moment.

::

    session.json            scan, classes; written once
    current.json            the round that is shown
    strokes/000000.safetensors   one file per stroke, in order
    approval.zarr           what was approved
    rounds/000001/          labels.zarr, probabilities.zarr (uint8, 255 is 1),
                            weights.safetensors (if a network was trained), round.json

Every file and folder appears by a rename, so a killed program loses at most what it was
just writing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ..errors import InputError
from ..volumes.atomic import atomic_folder, atomic_path
from ..volumes.volume import Volume
from .merge import Approval
from .strokes import Stroke

__all__ = ["About", "Autosave", "RoundRecord", "SavedRound"]

FORMAT = 1
Labels = npt.NDArray[Any]


@dataclass
class RoundRecord:
    """What one knows of a round, see `learn.Learned`."""

    number: int
    strokes: int
    seconds: float = 0.0
    score: float | None = None
    before: float | None = None
    drift: float | None = None
    lost: bool = False
    flipped: int = 0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class About:
    """What a session belongs to."""

    scan: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class SavedRound:
    """A round as read back."""

    record: RoundRecord
    labels: Labels
    probabilities: npt.NDArray[np.float32] | None
    weights: dict[str, Any] | None


class Autosave:
    """Reads and writes a session folder.

    Parameters
    ----------
    folder
        Its parent must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @staticmethod
    def is_session(folder: Path) -> bool:
        """Whether there is something to resume."""
        return (Path(folder) / "session.json").is_file()

    def begin(self, scan: Volume, classes: tuple[str, ...], labels: Labels) -> None:
        """Make the folder, with the mask to start from as round 0.

        Raises
        ------
        InputError
            If it holds a session already.
        OutputError
            If it can't be written.
        """
        if self.is_session(self.folder):
            raise InputError(
                f"{self.folder} holds a session already; resume it or choose another folder"
            )
        about = {
            "format": FORMAT,
            "scan": scan.name,
            "source": str(scan.source) if scan.source else None,
            "shape": list(scan.geometry.shape),
            "affine": scan.geometry.affine.tolist(),
            "classes": list(classes),
        }
        with atomic_folder(self.folder) as folder:
            (folder / "strokes").mkdir()
            (folder / "rounds").mkdir()
            _write_round(folder / "rounds" / _number(0), RoundRecord(0, 0), labels, None, None)
            (folder / "current.json").write_text(json.dumps({"current": 0}))
            (folder / "session.json").write_text(json.dumps(about, indent=1))

    def about(self, scan: Volume | None = None) -> About:
        """What the session belongs to; with a scan, whether it is this one.

        Raises
        ------
        InputError
            If there is no session, or the scan's shape is another.
        """
        try:
            stored = json.loads((self.folder / "session.json").read_text())
            about = About(stored["scan"], tuple(stored["shape"]), tuple(stored["classes"]))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{self.folder} holds no session that can be read") from error
        if stored.get("format") != FORMAT:
            raise InputError(f"{self.folder} is of a newer version; update this program")
        if scan is not None and about.shape != scan.geometry.shape:
            raise InputError(
                f"the session is of {about.scan!r}, shape {about.shape}; {scan.name!r} has "
                f"{scan.geometry.shape}: open that scan"
            )
        return about

    def add_stroke(self, index: int, stroke: Stroke) -> None:
        """Append a stroke."""
        payload = save({"voxels": stroke.voxels, "values": np.ascontiguousarray(stroke.values)})
        target = self.folder / "strokes" / f"{_number(index)}.safetensors"
        with atomic_path(target) as path:
            path.write_bytes(payload)

    def strokes(self) -> Iterator[Stroke]:
        """All strokes that were finished, in order."""
        for path in sorted((self.folder / "strokes").glob("[0-9]*.safetensors")):
            try:
                stored = load_file(path)
                yield Stroke(stored["voxels"], stored["values"])
            except (SafetensorError, OSError, KeyError) as error:
                raise InputError(f"the stroke {path} is damaged; remove this file") from error

    def approve(self, approval: Approval) -> None:
        """Save what is approved."""
        both = np.stack((approval.voxels.astype(approval.labels.dtype), approval.labels))
        with atomic_folder(self.folder / "approval.zarr") as path:
            _save(path / "a.zarr", both)

    def approval(self) -> Approval | None:
        """What is approved, or None."""
        path = self.folder / "approval.zarr" / "a.zarr"
        if not path.exists():
            return None
        both = _load(path)
        return Approval(both[0].astype(bool), both[1])

    def add_round(
        self,
        record: RoundRecord,
        labels: Labels,
        probabilities: npt.NDArray[np.float32],
        weights: dict[str, Any] | None,
    ) -> None:
        """Save a round and make it current; those after it are removed."""
        for path in self._round_folders():
            if int(path.name) >= record.number:
                shutil.rmtree(path, ignore_errors=True)
        with atomic_folder(self.folder / "rounds" / _number(record.number)) as folder:
            _write_round(folder, record, labels, probabilities, weights)
        self.set_current(record.number)

    def rounds(self) -> list[SavedRound]:
        """All whole rounds in order, as far as none is missing."""
        found: list[SavedRound] = []
        for path in self._round_folders():
            if int(path.name) != len(found):
                break
            record = RoundRecord(**json.loads((path / "round.json").read_text()))
            shares = path / "probabilities.zarr"
            weights = path / "weights.safetensors"
            found.append(
                SavedRound(
                    record,
                    _load(path / "labels.zarr"),
                    _load(shares).astype(np.float32) / 255 if shares.exists() else None,
                    load_file(weights) if weights.exists() else None,
                )
            )
        if not found:
            raise InputError(f"{self.folder} has lost its first round; start a new session")
        return found

    def set_current(self, index: int) -> None:
        """Note which round is shown."""
        with atomic_path(self.folder / "current.json") as path:
            path.write_text(json.dumps({"current": index}))

    def current(self) -> int:
        """The round that is shown."""
        return int(json.loads((self.folder / "current.json").read_text())["current"])

    def _round_folders(self) -> list[Path]:
        folders = (self.folder / "rounds").glob("[0-9]*")
        return sorted(p for p in folders if p.name.isdigit() and (p / "round.json").is_file())


def _number(index: int) -> str:
    return f"{index:06d}"


def _write_round(
    folder: Path,
    record: RoundRecord,
    labels: Labels,
    probabilities: npt.NDArray[np.float32] | None,
    weights: dict[str, Any] | None,
) -> None:
    folder.mkdir(exist_ok=True)
    _save(folder / "labels.zarr", labels)
    if probabilities is not None:
        shares = np.rint(np.clip(probabilities, 0, 1) * 255).astype(np.uint8)
        _save(folder / "probabilities.zarr", shares)
    if weights is not None:
        arrays = {k: np.ascontiguousarray(v) for k, v in weights.items()}
        (folder / "weights.safetensors").write_bytes(save(arrays))
    (folder / "round.json").write_text(json.dumps(asdict(record)))


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    chunks = tuple(min(n, 64 if i >= array.ndim - 3 else 1) for i, n in enumerate(array.shape))
    store = zarr.create_array(path, shape=array.shape, dtype=array.dtype, chunks=chunks)
    store[...] = array


def _load(path: Path) -> npt.NDArray[Any]:
    return np.asarray(zarr.open_array(path, mode="r")[...])
