"""Force attention open or shut, or switch a channel off, and see how the mask changes.

If a map matters, the mask must change when what it shows is taken away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..analysis.compare import DISAGREEMENT
from ..analysis.table import Cell, Column, Table
from ..errors import InputError
from ..inference.runner import private_copy
from ..inference.sink import Finished, Sink, check_finite, label_type
from ..inference.tiling import Box
from ..networks.base import SegmentationNetwork
from ..progress import Job
from ..volumes.volume import Volume
from .asked import asked_of
from .parts import channel_parts, gate_parts, position_parts
from .passes import goes_exactly, run_again
from .replay import Replay

__all__ = [
    "DISAGREEMENT",
    "Change",
    "Effect",
    "LabelResults",
    "changed_network",
    "effect_between",
    "effect_of",
    "switchable",
]

How = Literal["one", "zero", "scaled", "channel-off"]
_SURE = 1e4
"""Logit whose sigmoid is 1, and with a minus 0, in every number format."""


@dataclass(frozen=True)
class Change:
    """What to force in a network.

    Attributes
    ----------
    part
        Name of the map: a gate's level ("gate-level-2"), or scale and step of a guided
        network ("guided-scale-1-step-2"), where position attention is meant.
    how
        "one": alpha = 1, all passes (gates only); "zero": nothing passes, or position
        attention adds nothing; "scaled": times `factor`; "channel-off": this channel of
        what goes into channel attention is 0 (guided networks only).
    factor
        0 or more; alpha stays at most 1.
    channel
        Number of the channel, from 0.
    """

    part: str
    how: How
    factor: float = 1.0
    channel: int = 0

    @property
    def text(self) -> str:
        """In words."""
        if self.how == "channel-off":
            return f"{self.part}, channel {self.channel + 1} off"
        value = {"one": "forced to 1", "zero": "forced to 0", "scaled": f"times {self.factor:g}"}
        return f"{self.part} {value[self.how]}"


@dataclass(frozen=True)
class Effect:
    """The mask before and after.

    Attributes
    ----------
    changes
        What was forced.
    before, after
        (Z, Y, X) labels of the box that was computed, on the model's grid.
    difference
        As `analysis.compare.DISAGREEMENT`: 1 only before, 2 only after, 3 another class.
    table
        A row per class and one for the whole foreground: Dice of before and after,
        volumes before, after and changed.
    """

    changes: tuple[Change, ...]
    before: Volume
    after: Volume
    difference: Volume
    table: Table

    @property
    def dice(self) -> float:
        """Of the whole foreground; 1 if there is none before and after."""
        value = self.table.column("Dice")[-1]
        return 1.0 if value is None else float(value)

    @property
    def changed_voxels(self) -> int:
        """Voxels of the model's grid whose class changed."""
        return int(np.count_nonzero(self.difference.array))


def switchable(network: SegmentationNetwork) -> dict[str, tuple[str, ...]]:
    """Return what can be forced in a network: names of maps, and how."""
    found: dict[str, tuple[str, ...]] = {}
    for name in gate_parts(network):
        found[name] = ("one", "zero", "scaled")
    for name in position_parts(network):
        found[name] = ("zero", "scaled")
    return found


@contextmanager
def changed_network(network: SegmentationNetwork, changes: Sequence[Change]) -> Iterator[None]:
    """Force changes in a network while the context lasts.

    Raises
    ------
    InputError
        If the network has no such part, or it can't be forced that way.
    """
    with ExitStack() as stack:
        for change in changes:
            for hook in _hooks(network, change):
                stack.callback(hook.remove)
        yield


def effect_of(
    replay: Replay, changes: Sequence[Change], box: Box | None = None, before: Volume | None = None
) -> Job[Effect]:
    """Compute the mask with a network as it is and with changes forced.

    Both in the run's tiles, with the run's statistics of the scan: a norm that measured
    anew would undo a part of the change.

    Parameters
    ----------
    replay
        The run.
    changes
        What to force.
    box
        Part of the model's grid; None: what the run covered.
    before
        `Effect.before` of the same run and box, to save computing it again.

    Yields
    ------
    Progress
        Per tile; closing the generator cancels.

    Raises
    ------
    InputError
        If the network can't be changed that way.
    """
    box = box or replay.box
    network = private_copy(replay.network)
    with changed_network(network, changes):  # says what can't be forced, before it is computed
        exactly = goes_exactly(replay, network)
    if before is None or before.geometry.shape != box.shape:
        first = yield from _labels(replay, (), box, exactly)
    else:
        first = np.asarray(before.array)
    second = yield from _labels(replay, changes, box, exactly)
    words = "; ".join(change.text for change in changes) or "nothing forced"
    return effect_between(replay, box, first, second, words, changes)


def effect_between(
    replay: Replay,
    box: Box,
    first: npt.NDArray[Any],
    second: npt.NDArray[Any],
    words: str,
    changes: Sequence[Change] = (),
) -> Effect:
    """Compare two masks (z, y, x) of a box of a run's grid.

    Parameters
    ----------
    words
        What was done between them.
    """
    difference = np.zeros(first.shape, np.uint8)
    difference[(first > 0) & (second == 0)] = 1
    difference[(first == 0) & (second > 0)] = 2
    difference[(first > 0) & (second > 0) & (first != second)] = 3
    place, name = replay.geometry_of(box), replay.volume.name
    card = replay.model.card
    about: dict[str, Any] = {
        "kind": "labels",
        "classes": [c.model_dump() for c in card.classes],
        "changes": [change.text for change in changes] or [words],
    }
    made = asked_of(replay, {"changes": about["changes"]})
    about["provenance"] = made
    moved = {"kind": "labels", "provenance": made}
    return Effect(
        tuple(changes),
        Volume(first, place, f"{name} before", metadata=about),
        Volume(second, place, f"{name} {words}", metadata=about),
        Volume(difference, place, f"{name} change, {words}", metadata=moved),
        replace(_table(first, second, card.class_names, replay, words), made=made),
    )


def _hooks(network: SegmentationNetwork, change: Change) -> list[Any]:
    gates, positions, channels = gate_parts(network), position_parts(network), {}
    if change.how == "channel-off":
        channels = channel_parts(network)
        if change.part not in channels:
            raise InputError(_unknown(change.part, channels, "channel attention"))
        return [channels[change.part].register_forward_pre_hook(_without(change.channel))]
    if change.factor < 0:
        raise InputError(
            f"the factor {change.factor:g} of {change.part} is negative; use 0 or more"
        )
    if change.part in gates:
        force = _forced(change)
        return [
            gate.get_submodule("psi").register_forward_hook(force) for gate in gates[change.part]
        ]
    if change.part not in positions:
        raise InputError(_unknown(change.part, {**gates, **positions}, "attention to force"))
    if change.how == "one":
        raise InputError(f"{change.part} is no gate: force it to 0, or scale it")
    factor = 0.0 if change.how == "zero" else change.factor
    return [positions[change.part].register_forward_hook(_scaled(factor))]


def _unknown(part: str, known: dict[str, Any], what: str) -> str:
    names = ", ".join(known) if known else "none"
    return f"the network has no {what} called {part!r}; there is: {names}"


def _forced(change: Change) -> Any:
    """On psi's output, the logit of alpha."""

    def hook(_: nn.Module, __: Any, logit: Tensor) -> Tensor:
        # Each operation is one that the exact pass knows.
        if change.how == "one":
            return logit * 0 + _SURE
        if change.how == "zero" or change.factor == 0:
            return logit * 0 - _SURE
        if change.factor == 1:
            return logit  # near 1 a float32 sigmoid has lost what the logit says
        alpha = (logit.sigmoid() * change.factor).clamp(max=1.0)
        return torch.logit(alpha).clamp(-_SURE, _SURE)

    return hook


def _scaled(factor: float) -> Any:
    """On position attention: what it adds to its input, times a factor."""

    def hook(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if getattr(module, "gamma", None) is None:  # it multiplies: factor 0 leaves the input
            return factor * out + (1 - factor) * given[0]
        return given[0] + factor * (out - given[0])

    return hook


def _without(channel: int) -> Any:
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = given[0]
        if not 0 <= channel < x.shape[1]:
            raise InputError(f"there is no channel {channel + 1}; there are {x.shape[1]}")
        kept = torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
        kept[channel] = 0
        return (x * kept.reshape(1, -1, 1, 1, 1), *given[1:])

    return hook


def _labels(
    replay: Replay, changes: Sequence[Change], box: Box, exactly: bool
) -> Job[npt.NDArray[Any]]:
    network = private_copy(replay.network)
    with changed_network(network, changes):
        # The engine works on a copy, which takes the hooks along.
        result = LabelResults(network.num_classes, box)
        yield from run_again(
            replay, network, box, results=result, calibration=replay.calibration, exactly=exactly
        )
    return result.labels


def _table(
    first: npt.NDArray[Any],
    second: npt.NDArray[Any],
    names: Sequence[str],
    replay: Replay,
    words: str,
) -> Table:
    count = len(names)
    pairs = first.astype(np.int64) * count + second
    both = np.bincount(pairs.ravel(), minlength=count * count).reshape(count, count)
    voxel = replay.geometry_of(replay.box).voxel_volume
    unit = replay.volume.geometry.unit
    rows: list[tuple[Cell, ...]] = []

    def row(number: int | None, name: str, a: int, b: int, common: int, changed: int) -> None:
        dice = 2 * common / (a + b) if a + b else None
        rows.append((number, name, dice, a * voxel, b * voxel, changed * voxel))

    for k in range(1, count):
        a, b, common = int(both[k].sum()), int(both[:, k].sum()), int(both[k, k])
        if a + b:
            row(k, names[k], a, b, common, a + b - 2 * common)
    a, b, common = int(both[1:].sum()), int(both[:, 1:].sum()), int(both[1:, 1:].sum())
    row(None, "foreground", a, b, common, int(both.sum() - np.trace(both)))
    unit = "voxels" if unit == "pixel" else f"{unit}3"
    columns = (
        Column("label"),
        Column("name"),
        Column("Dice"),
        *(Column(name, unit) for name in ("before", "after", "changed")),
    )
    notes = (
        f"{replay.model.card.name}: {words}",
        "Before and after on the model's own grid; Dice of 1: the change does nothing.",
    )
    return Table(columns, tuple(rows), notes)


class LabelResults:
    """Results of a run: the class of each voxel of the model's grid."""

    def __init__(self, classes: int, box: Box) -> None:
        self.box, self.shape = box, box.shape
        self.labels = np.zeros(box.shape, label_type(classes))

    def part(self, wanted: Box | None = None) -> tuple[Box, Sink]:
        """A part of the grid needs itself."""
        wanted = wanted or Box((0, 0, 0), self.shape)
        a, b, c = (o + s for o, s in zip(self.box.start, wanted.start, strict=True))
        d, e, f = (o + s for o, s in zip(self.box.start, wanted.stop, strict=True))
        return Box((a, b, c), (d, e, f)), _LabelSink(self.labels[wanted.slices])


class _LabelSink:
    def __init__(self, labels: npt.NDArray[Any]) -> None:
        self.labels = labels

    def push(self, axis: int, start: int, slab: Tensor) -> list[Finished]:
        """Take the class of the largest logit."""
        check_finite(slab)
        part = [slice(None)] * 3
        part[axis] = slice(start, start + slab.shape[1 + axis])
        self.labels[tuple(part)] = slab.argmax(0).numpy()
        return []

    def left(self) -> list[Box]:
        """Nothing can be continued: a change is computed anew."""
        return []
