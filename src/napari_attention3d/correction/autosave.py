"""A session folder that is whole at any moment.

::

    session.json            scan, classes; written once, with what is in start/
    start/                  probabilities.zarr, model.safetensors, if there were any
    current.json            the round that is shown
    strokes/000000.safetensors   one file per stroke, in order
    approval/000000.zarr    what was approved; the highest number holds
    rounds/000001/          round.json, labels.zarr, probabilities.zarr (before smoothing),
                            weights.safetensors and network.zarr (if a network was trained)

Probabilities are uint8, 255 is 1. Every file and folder appears by a rename and goes by
one, so a killed program loses at most what it was just writing. What is large is written
beside its place by the worker (`next`), and put there when the window takes the result.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save as as_bytes

from ..errors import InputError, OutputError
from ..models.store import Model, load_model, save_model
from ..volumes.atomic import atomic_folder, atomic_path, flush_file
from ..volumes.volume import Volume
from .autosave_arrays import (
    load,
    load_shares,
    numbered,
    read_json,
    read_tensors,
    save,
    save_shares,
    sweep,
)
from .autosave_rounds import SavedKind, SavedRounds, Weights, write_round
from .encoding import class_type
from .merge import Approval
from .rounds import Round, RoundRecord
from .strokes import Stroke, checked_stroke

__all__ = ["About", "Autosave"]

FORMAT = 1
NEXT = "next"
"""Folder of what is written but does not hold yet."""
Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class About:
    """What a session belongs to."""

    scan: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]


class Autosave:
    """Reads and writes a session folder.

    Parameters
    ----------
    folder
        Its parent must exist.

    Attributes
    ----------
    problems
        What was damaged and left out in reading, in words.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.problems: list[str] = []
        self._rounds: SavedRounds | None = None
        self._late: list[Path] = []

    @staticmethod
    def is_session(folder: Path) -> bool:
        """Whether there is something to resume."""
        return (Path(folder) / "session.json").is_file()

    def begin(
        self,
        scan: Volume,
        classes: Sequence[str],
        labels: Labels,
        probabilities: npt.NDArray[Any] | None = None,
        model: Model | None = None,
    ) -> None:
        """Make the folder, with the mask to start from as round 0.

        Raises
        ------
        InputError
            If it holds a session already, or anything else.
        OutputError
            If it can't be written.
        """
        if self.is_session(self.folder):
            raise InputError(
                f"{self.folder} holds a session already; resume it or choose another folder"
            )
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(f"{self.folder} is not empty; choose a new folder for the session")
        about = {
            "format": FORMAT,
            "scan": scan.name,
            "source": str(scan.source) if scan.source else None,
            "shape": list(scan.geometry.shape),
            "affine": scan.geometry.affine.tolist(),
            "classes": list(classes),
        }
        with atomic_folder(self.folder) as folder:
            for name in ("strokes", "rounds", "approval", "start"):
                (folder / name).mkdir()
            first = Round(RoundRecord(0, 0, "start"), labels, None)
            write_round(folder / "rounds" / _number(0), first, new_network=False)
            if probabilities is not None:
                save_shares(folder / "start" / "probabilities.zarr", probabilities)
            if model is not None:
                save_model(folder / "start" / "model.safetensors", model.network, model.card)
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
            stored = read_json(self.folder / "session.json")
        except InputError as error:
            raise InputError(f"{self.folder} holds no session that can be read") from error
        version = stored.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise InputError(f"{self.folder} is of a newer version; update this program")
        about = _about(stored)
        if about is None or version != FORMAT:
            raise InputError(f"{self.folder} holds no session that can be read")
        if scan is not None and about.shape != scan.geometry.shape:
            raise InputError(
                f"the session is of {about.scan!r}, shape {about.shape}; {scan.name!r} has "
                f"{scan.geometry.shape}: open that scan"
            )
        return about

    def start_probabilities(self) -> npt.NDArray[np.float16] | None:
        """What the model said at the start, or None.

        Raises
        ------
        InputError
            If it is damaged.
        """
        path = self.folder / "start" / "probabilities.zarr"
        if not path.exists():
            return None
        about = self.about()
        return load_shares(path, (len(about.classes), *about.shape), np.float16)

    def start_model(self) -> Model | None:
        """The model as it was at the start, or None.

        Raises
        ------
        Attention3DError
            If it is damaged.
        """
        path = self.folder / "start" / "model.safetensors"
        return load_model(path) if path.exists() else None

    # strokes and approvals

    def add_stroke(self, stroke: Stroke) -> None:
        """Append a stroke; it is on the disk itself at the latest when a round is saved.

        The window's thread paints: it must not wait for a disk that is busy.
        """
        # safetensors writes the buffer as it lies in memory
        payload = as_bytes(
            {
                "voxels": np.ascontiguousarray(stroke.voxels),
                "values": np.ascontiguousarray(stroke.values),
            }
        )
        folder = self.folder / "strokes"
        target = folder / f"{_number(_next(folder))}.safetensors"
        with atomic_path(target, flush=False) as path:
            path.write_bytes(payload)
        self._late.append(target)

    def strokes(self) -> Iterator[Stroke]:
        """All strokes that were finished, in order.

        Raises
        ------
        InputError
            If a file is damaged, or paints outside the scan or no class.
        """
        about = self.about()
        for path in numbered(self.folder / "strokes"):
            if path.stat().st_size == 0:  # the computer lost its power before it was written
                self.problems.append(f"a stroke is lost: {path.name} is empty")
                nothing = np.empty(0, class_type(len(about.classes)))
                yield Stroke(np.empty((0, 3), np.int32), nothing)  # rounds count strokes
                continue
            try:
                stored = read_tensors(path, {"voxels": (-1, 3), "values": (-1,)})
                voxels, values = stored["voxels"], stored["values"]
                if voxels.dtype.kind not in "iu" or values.dtype.kind not in "iu":
                    raise InputError("its numbers are no integers")
                if len(voxels) != len(values):
                    raise InputError("a voxel has no value")
                yield checked_stroke(about.shape, len(about.classes), voxels, values)
            except InputError as error:
                raise InputError(
                    f"the stroke {path} is damaged; remove this file ({error})"
                ) from error

    def write_approval(self, approval: Approval | None, shape: Sequence[int]) -> None:
        """Save what is approved; it holds once `keep_approval` was called.

        Parameters
        ----------
        approval
            None: nothing.
        shape
            The scan's.
        """
        folder = self.folder / "approval"
        known = np.zeros(tuple(shape), np.uint32)
        if approval is not None:
            known = np.where(approval.voxels, approval.labels.astype(np.uint32) + 1, 0)
        sweep(folder)
        with atomic_folder(folder / NEXT) as path:
            save(path / "a", known.astype(np.uint32))

    def keep_approval(self) -> None:
        """Let what `write_approval` wrote hold."""
        folder = self.folder / "approval"
        old, number = numbered(folder), _next(folder)
        _place(folder / NEXT, folder / f"{_number(number)}.zarr")
        for path in old:
            _put_aside(path)

    def approval(self) -> Approval | None:
        """What is approved, or None; what is damaged is left out, and `problems` says so."""
        about = self.about()
        for path in reversed(numbered(self.folder / "approval")):
            try:
                known = load(path / "a", about.shape, [np.uint32])
            except InputError as error:
                self.problems.append(f"what was approved is lost: {error}")
                continue
            voxels = (known > 0) & (known <= len(about.classes))
            labels = np.where(voxels, known - 1, 0).astype(class_type(len(about.classes)))
            return Approval(voxels, labels) if voxels.any() else None
        return None

    # rounds

    def add_round(self, made: Round, *, new_network: bool) -> None:
        """Save a round and make it current; those after it are removed.

        Parameters
        ----------
        made
            The round.
        new_network
            Whether its network was trained in it, and not in an earlier round.
        """
        self.write_round(made, new_network=new_network)
        self.keep_round(made.record.number)

    def write_round(self, made: Round, *, new_network: bool) -> None:
        """Save a round; nothing is seen of it until `keep_round` was called.

        Raises
        ------
        OutputError
            If it can't be written.
        """
        while self._late:
            with suppress(FileNotFoundError):
                flush_file(self._late.pop())
        rounds = self.folder / "rounds"
        sweep(rounds)
        with atomic_folder(rounds / NEXT) as folder:
            write_round(folder, made, new_network=new_network)

    def keep_round(self, number: int) -> None:
        """Make what `write_round` wrote round `number`, the current one; later ones go."""
        rounds = self.folder / "rounds"
        for path in reversed(numbered(rounds)):
            if int(path.name) >= number:
                _put_aside(path)
        _place(rounds / NEXT, rounds / _number(number))
        self.set_current(number)

    def rounds(self, kind: SavedKind, weights: Callable[[], Weights]) -> list[Round]:
        """All rounds in order, as far as none is missing or damaged; `problems` says why not all.

        Parameters
        ----------
        kind, weights
            See `SavedRounds`.

        Raises
        ------
        InputError
            If not even the first one can be read.
        """
        self._rounds = SavedRounds(self.folder / "rounds", kind, weights)
        found, problem = self._rounds.read(self.current())
        if not found:
            raise InputError(
                f"{self.folder} has lost its first round; start a new session ({problem})"
            )
        if problem:
            self.problems.append(f"the session goes on from round {len(found) - 1}: {problem}")
        return found

    def whole(self, made: Round) -> Round:
        """A round of which only the labels are in memory, read again."""
        return made if self._rounds is None else self._rounds.whole(made)

    def set_current(self, index: int) -> None:
        """Note which round is shown."""
        with atomic_path(self.folder / "current.json", flush=False) as path:
            path.write_text(json.dumps({"current": index}))

    def current(self) -> int:
        """The round that is shown; the last there is, if that can't be told."""
        try:
            found = read_json(self.folder / "current.json").get("current")
        except InputError:
            found = None
        if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
            return found
        return max(0, len(numbered(self.folder / "rounds")) - 1)


def _about(stored: dict[str, Any]) -> About | None:
    """What session.json says, if it is of the right kind."""
    name, shape, classes = (stored.get(key) for key in ("scan", "shape", "classes"))
    if not isinstance(name, str) or not isinstance(shape, list) or not isinstance(classes, list):
        return None
    sizes = [n for n in shape if isinstance(n, int) and not isinstance(n, bool) and n > 0]
    texts = [one for one in classes if isinstance(one, str)]
    if len(sizes) != 3 or len(shape) != 3 or len(texts) != len(classes) or len(texts) < 2:
        return None
    return About(name, (sizes[0], sizes[1], sizes[2]), tuple(texts))


def _number(index: int) -> str:
    return f"{index:06d}"


def _next(folder: Path) -> int:
    found = numbered(folder)
    return int(found[-1].name.split(".")[0]) + 1 if found else 0


def _place(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        raise OutputError(f"{target} can't be saved: {error}") from error


def _put_aside(folder: Path) -> None:
    """Take a folder away such that it is whole or gone; the next writing deletes it."""
    folder.rename(folder.with_name(f".gone-{secrets.token_hex(6)}"))
