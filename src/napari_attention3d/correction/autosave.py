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
one, so a killed program loses at most what it was just writing.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ..errors import InputError
from ..models.store import Model, load_model, save_model
from ..volumes.atomic import atomic_folder, atomic_path
from ..volumes.volume import Volume
from .learn import NetworkState, Previous
from .merge import Approval
from .rounds import Round, RoundRecord
from .strokes import Stroke

__all__ = ["About", "Autosave"]

FORMAT = 1
Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class About:
    """What a session belongs to."""

    scan: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]


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
            _write_round(folder / "rounds" / _number(0), first, new_network=False)
            if probabilities is not None:
                _save(folder / "start" / "probabilities.zarr", _shares(probabilities))
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
            stored = json.loads((self.folder / "session.json").read_text())
            about = About(stored["scan"], tuple(stored["shape"]), tuple(stored["classes"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{self.folder} holds no session that can be read") from error
        if stored.get("format") != FORMAT:
            raise InputError(f"{self.folder} is of a newer version; update this program")
        if scan is not None and about.shape != scan.geometry.shape:
            raise InputError(
                f"the session is of {about.scan!r}, shape {about.shape}; {scan.name!r} has "
                f"{scan.geometry.shape}: open that scan"
            )
        return about

    def start_probabilities(self) -> npt.NDArray[np.float16] | None:
        """What the model said at the start, or None."""
        path = self.folder / "start" / "probabilities.zarr"
        return _load_shares(path, np.float16) if path.exists() else None

    def start_model(self) -> Model | None:
        """The model as it was at the start, or None."""
        path = self.folder / "start" / "model.safetensors"
        return load_model(path) if path.exists() else None

    # strokes and approvals

    def add_stroke(self, stroke: Stroke) -> None:
        """Append a stroke."""
        # safetensors writes the buffer as it lies in memory
        payload = save(
            {
                "voxels": np.ascontiguousarray(stroke.voxels),
                "values": np.ascontiguousarray(stroke.values),
            }
        )
        folder = self.folder / "strokes"
        with atomic_path(folder / f"{_number(_next(folder))}.safetensors") as path:
            path.write_bytes(payload)

    def strokes(self) -> Iterator[Stroke]:
        """All strokes that were finished, in order.

        Raises
        ------
        InputError
            If a file is damaged.
        """
        for path in _numbered(self.folder / "strokes"):
            try:
                stored = load_file(path)
                yield Stroke(stored["voxels"], stored["values"])
            except (SafetensorError, OSError, KeyError) as error:
                raise InputError(f"the stroke {path} is damaged; remove this file") from error

    def approve(self, approval: Approval) -> None:
        """Save what is approved."""
        folder = self.folder / "approval"
        old, number = _numbered(folder), _next(folder)
        known = np.where(approval.voxels, approval.labels.astype(np.int32) + 1, 0)
        with atomic_folder(folder / f"{_number(number)}.zarr") as path:
            _save(path / "a", known.astype(np.uint32))
        for path in old:
            _remove(path)

    def approval(self) -> Approval | None:
        """What is approved, or None."""
        found = _numbered(self.folder / "approval")
        if not found:
            return None
        known = _load(found[-1] / "a")
        voxels = known > 0
        labels = np.where(voxels, known - 1, 0)
        return Approval(voxels, labels.astype(np.uint16)) if voxels.any() else None

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
        number = made.record.number
        for path in reversed(_numbered(self.folder / "rounds")):
            if int(path.name) >= number:
                _remove(path)
        with atomic_folder(self.folder / "rounds" / _number(number)) as folder:
            _write_round(folder, made, new_network=new_network)
        self.set_current(number)

    def rounds(self) -> list[Round]:
        """All rounds in order, as far as none is missing.

        Raises
        ------
        InputError
            If not even the first one can be read.
        """
        found: list[Round] = []
        networks: dict[int | None, NetworkState | None] = {None: None}
        for path in _numbered(self.folder / "rounds"):
            if int(path.name) != len(found):
                break
            made = _read_round(path)
            if made.network is not None:
                networks[made.record.number] = made.network
            network = networks.get(made.record.network)
            found.append(Round(made.record, made.labels, made.state, None, network))
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


def _number(index: int) -> str:
    return f"{index:06d}"


def _numbered(folder: Path) -> list[Path]:
    """Finished files or folders, in order; what was just being written begins with a dot."""
    return sorted(p for p in folder.glob("[0-9]*") if p.name.split(".")[0].isdigit())


def _next(folder: Path) -> int:
    found = _numbered(folder)
    return int(found[-1].name.split(".")[0]) + 1 if found else 0


def _remove(folder: Path) -> None:
    """Remove a folder such that it is whole or gone, never half there."""
    aside = folder.with_name(f".gone-{secrets.token_hex(6)}")
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _write_round(folder: Path, made: Round, *, new_network: bool) -> None:
    folder.mkdir(exist_ok=True)
    _save(folder / "labels.zarr", made.labels)
    if made.state is not None:
        _save(folder / "probabilities.zarr", _shares(made.state.probabilities))
    if made.network is not None and new_network:
        arrays = {k: np.ascontiguousarray(v) for k, v in made.network.weights.items()}
        (folder / "weights.safetensors").write_bytes(save(arrays))
        _save(folder / "network.zarr", _shares(made.network.probabilities))
    (folder / "round.json").write_text(json.dumps(asdict(made.record)))


def _read_round(folder: Path) -> Round:
    record = RoundRecord(**json.loads((folder / "round.json").read_text()))
    shares, weights = folder / "probabilities.zarr", folder / "weights.safetensors"
    state = network = None
    if shares.exists():
        state = Previous(_load_shares(shares, np.float32), record.strokes)
    if weights.exists():
        network = NetworkState(
            load_file(weights), _load_shares(folder / "network.zarr", np.float16)
        )
    return Round(record, _load(folder / "labels.zarr"), state, None, network)


def _shares(probabilities: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Class by class, so that no float copy of all is made."""
    out = np.empty(probabilities.shape, np.uint8)
    for k in range(len(out)):
        share = np.asarray(probabilities[k], dtype=np.float32)
        out[k] = np.rint(np.clip(share, 0, 1) * 255)
    return out


def _load_shares(path: Path, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    stored = _load(path)
    out = np.empty(stored.shape, dtype)
    for k in range(len(out)):
        out[k] = stored[k].astype(np.float32) / 255
    return out


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    chunks = tuple(min(n, 64 if i >= array.ndim - 3 else 1) for i, n in enumerate(array.shape))
    store = zarr.create_array(path, shape=array.shape, dtype=array.dtype, chunks=chunks)
    store[...] = array


def _load(path: Path) -> npt.NDArray[Any]:
    return np.asarray(zarr.open_array(path, mode="r")[...])
