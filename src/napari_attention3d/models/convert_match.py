"""Filling a network with another's tensors: each one in its place, or none at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ModelFileError
from ..networks import SegmentationNetwork

__all__ = ["Converted", "WeightsMismatchError", "fill", "under"]

COUNTER = "num_batches_tracked"


class Converted(NamedTuple):
    """A filled network.

    Attributes
    ----------
    network
        With the weights.
    dropped
        Names of tensors that are not needed.
    inferred
        What the weights told about the network.
    assumed
        What they did not tell, in sentences.
    """

    network: SegmentationNetwork
    dropped: list[str]
    inferred: dict[str, Any]
    assumed: list[str]


class WeightsMismatchError(ModelFileError):
    """A file's tensors do not fit a network; nothing was loaded.

    Parameters
    ----------
    file, network
        What was to be put where, in words.
    missing
        Names that the network needs and the file lacks.
    unexpected
        Names in the file that the network has no place for.
    wrong
        Name to (shape in the file, shape that the network needs).
    hint
        What may be the reason.
    """

    def __init__(
        self,
        file: str,
        network: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        wrong: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
        hint: str = "",
    ) -> None:
        self.missing, self.unexpected = tuple(missing), tuple(unexpected)
        self.wrong = dict(wrong or {})
        counts = [
            f"{len(keys)} {what} ({', '.join(list(keys)[:2])}{', ...' if len(keys) > 2 else ''})"
            for keys, what in (
                (self.missing, "missing"),
                (self.unexpected, "unexpected"),
                (self.wrong, "of another shape"),
            )
            if keys
        ]
        super().__init__(
            f"{file} does not fit {network}: tensors {', '.join(counts)}; nothing was loaded"
            + (f"; {hint}" if hint else "")
        )

    @property
    def lines(self) -> list[str]:
        """One line for each key that does not fit."""
        lines = [f"missing      {key}" for key in self.missing]
        lines += [f"unexpected   {key}" for key in self.unexpected]
        for key, (found, needed) in self.wrong.items():
            lines.append(f"wrong shape  {key}: {_shape(found)}, the network needs {_shape(needed)}")
        return lines


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def under(prefixes: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Return the source's name of each of `names`, from pairs of prefixes.

    Parameters
    ----------
    prefixes
        Prefix of ours to prefix of theirs; the longest one that fits counts.
    names
        Of our tensors.

    Raises
    ------
    KeyError
        If a name has no prefix: the table is incomplete.
    """
    found = {}
    for name in names:
        if name.endswith(COUNTER):
            continue
        fitting = [p for p in prefixes if name.startswith(p + ".")]
        if not fitting:
            raise KeyError(f"no counterpart is known for {name!r}")
        prefix = max(fitting, key=len)
        found[name] = prefixes[prefix] + name.removeprefix(prefix)
    return found


def fill(
    network: nn.Module,
    source: Mapping[str, Tensor],
    names: Mapping[str, str],
    *,
    file: str,
    what: str,
    drop: str = "",
    hint: str = "",
) -> list[str]:
    """Put each tensor of `source` in its place, or raise and change nothing.

    Parameters
    ----------
    network
        To fill.
    source
        Tensors by their own names.
    names
        Our name to theirs, for all tensors of `network` but the batch norms' counters.
    file, what
        The file and the network, in words, for the message.
    drop
        Regular expression of names that may be left over, beside the counters.
    hint
        For the message.

    Returns
    -------
    list of str
        Names of `source` that were dropped.

    Raises
    ------
    WeightsMismatchError
        If the tensors are not one to one.
    """
    own = network.state_dict()
    places = {name: tensor.shape for name, tensor in own.items() if not name.endswith(COUNTER)}
    theirs = set(names.values())
    if set(places) != set(names) or len(theirs) != len(names):
        raise ValueError("the table of names is not one to one with the network's tensors")
    drop = rf".*{COUNTER}|{drop}" if drop else rf".*{COUNTER}"
    dropped = [key for key in source if re.fullmatch(drop, key)]
    missing = [key for key in names.values() if key not in source]
    unexpected = [key for key in source if key not in theirs and key not in dropped]
    wrong = {
        key: (tuple(source[key].shape), tuple(places[ours]))
        for ours, key in names.items()
        if key in source and source[key].shape != places[ours]
    }
    if missing or unexpected or wrong:
        raise WeightsMismatchError(
            file, what, missing=missing, unexpected=unexpected, wrong=wrong, hint=hint
        )
    state = {ours: source[key] for ours, key in names.items()}
    for name, tensor in own.items():
        if name.endswith(COUNTER):
            state[name] = torch.zeros_like(tensor)
    network.load_state_dict(state, strict=True)
    return dropped
