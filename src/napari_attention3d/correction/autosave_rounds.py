"""A round's folder: written, and read as far as it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as as_bytes

from ..errors import InputError
from .autosave_arrays import (
    load,
    load_shares,
    numbered,
    read_json,
    read_tensors,
    save,
    save_shares,
)
from .encoding import class_type
from .learn import NetworkState, Previous
from .rounds import KEPT_ROUNDS, Round, RoundRecord

__all__ = ["SavedKind", "SavedRounds", "Weights", "write_round"]

Weights = dict[str, tuple[int, ...]]
_TEXTS: dict[str, Callable[[Any], bool]] = {
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0,
    "str": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "float": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "list[str]": lambda v: isinstance(v, list) and all(isinstance(one, str) for one in v),
    "list[float]": lambda v: isinstance(v, list) and all(isinstance(o, int | float) for o in v),
}


@dataclass(frozen=True)
class SavedKind:
    """What a session's arrays must be like.

    Attributes
    ----------
    shape, work_shape
        Of the scan and of the work grid (z, y, x).
    classes
        How many, background included.
    """

    shape: tuple[int, int, int]
    work_shape: tuple[int, int, int]
    classes: int


def write_round(folder: Path, made: Round, *, new_network: bool) -> None:
    """Write a round into a folder."""
    folder.mkdir(exist_ok=True)
    save(folder / "labels.zarr", made.labels)
    if made.state is not None:
        save_shares(folder / "probabilities.zarr", made.state.probabilities)
    if made.network is not None and new_network:
        arrays = {k: np.ascontiguousarray(v) for k, v in made.network.weights.items()}
        (folder / "weights.safetensors").write_bytes(as_bytes(arrays))
        save_shares(folder / "network.zarr", made.network.probabilities)
    (folder / "round.json").write_text(json.dumps(asdict(made.record)))


class SavedRounds:
    """Rounds in a folder.

    Parameters
    ----------
    folder
        It holds one folder per round.
    kind
        Of the session.
    weights
        Names and shapes of its network's weights; asked only if a network was trained.
    """

    def __init__(self, folder: Path, kind: SavedKind, weights: Callable[[], Weights]) -> None:
        self.folder, self.kind, self._ask = folder, kind, weights
        self._weights: Weights | None = None

    def read(self, current: int | None = None) -> tuple[list[Round], str]:
        """All rounds in order, as far as they are whole, and why not all, in words.

        Parameters
        ----------
        current
            The round that is shown: those long before it get their labels only, as they
            would have while working. None: the last.
        """
        found, problem = self._with_labels()
        shown = len(found) - 1 if current is None else min(current, len(found) - 1)
        needed = {r.record.network for r in found[max(0, shown - KEPT_ROUNDS) :]}
        networks: dict[int | None, NetworkState | None] = {None: None}
        for number in sorted(n for n in needed if n is not None):
            try:
                networks[number] = self._network(number)
            except InputError as error:
                problem = str(error)
                uses = [i for i, r in enumerate(found) if r.record.network == number]
                found = found[: min(uses, default=len(found))]
        for index, made in enumerate(found):
            network = networks.get(made.record.network)
            if index < shown - KEPT_ROUNDS:
                found[index] = Round(made.record, made.labels, None, None, network)
                continue
            try:
                state = self._state(made.record)
            except InputError as error:
                return found[:index], str(error)
            found[index] = Round(made.record, made.labels, state, None, network)
        return found, problem

    def whole(self, made: Round) -> Round:
        """A round that keeps its labels only, with all there is of it; as it is if damaged."""
        number = made.record.network
        try:
            network = made.network
            if network is None and number is not None:
                network = self._network(number)
            return Round(made.record, made.labels, self._state(made.record), None, network)
        except InputError:
            return made

    def _with_labels(self) -> tuple[list[Round], str]:
        found: list[Round] = []
        for path in numbered(self.folder):
            if path.name != f"{len(found):06d}":
                return found, f"{path.parent / f'{len(found):06d}'} is missing"
            try:
                record = self._record(path, len(found))
                dtype = class_type(self.kind.classes)
                labels = load(path / "labels.zarr", self.kind.shape, [dtype])
                if int(labels.max(initial=0)) >= self.kind.classes:
                    raise InputError(f"{path} has a label that is no class")
            except InputError as error:
                return found, str(error)
            found.append(Round(record, labels, None))
        return found, ""

    def _record(self, path: Path, number: int) -> RoundRecord:
        stored = read_json(path / "round.json")
        for one in fields(RoundRecord):
            value, kind = stored.get(one.name), str(one.type)
            optional = kind.endswith(" | None")
            if one.name not in stored and one.name not in ("number", "strokes"):
                continue  # of an older version
            if optional and value is None:
                continue
            if not _TEXTS[kind.removesuffix(" | None")](value):
                raise InputError(f"{path / 'round.json'} is damaged ({one.name})")
        try:
            record = RoundRecord(**stored)
        except TypeError as error:
            raise InputError(f"{path / 'round.json'} is of another version") from error
        source = record.network
        if record.number != number or (source is not None and not 0 < source <= number):
            raise InputError(f"{path / 'round.json'} belongs to another round")
        return record

    def _state(self, record: RoundRecord) -> Previous | None:
        path = self.folder / f"{record.number:06d}" / "probabilities.zarr"
        if not path.exists():
            if record.number:
                raise InputError(f"{path} is missing")
            return None
        shape = (self.kind.classes, *self.kind.work_shape)
        return Previous(load_shares(path, shape, np.float32), record.strokes)

    def _network(self, number: int) -> NetworkState:
        folder = self.folder / f"{number:06d}"
        if self._weights is None:
            self._weights = self._ask()
        shape = (self.kind.classes, *self.kind.shape)
        return NetworkState(
            read_tensors(folder / "weights.safetensors", self._weights),
            load_shares(folder / "network.zarr", shape, np.float16),
        )
