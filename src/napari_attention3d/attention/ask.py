"""Ask a voxel: what it attends to, who attends to it, where attention gathers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry import Geometry
from ..inference.resample import axis_positions
from ..inference.stream.margin import reach
from ..inference.tiling import Box
from ..networks.self_attention import PositionRecord
from ..volumes.volume import Volume
from .asked import asked_of
from .parts import has_position_attention
from .replay import Look, Replay
from .rows import (
    attention_column,
    attention_received,
    attention_row,
    attention_to,
    strongest_targets,
)

__all__ = [
    "ALL_SCALES",
    "Answer",
    "Kind",
    "Targets",
    "ask",
    "box_to_ask",
    "gate_values",
    "lines",
    "values_at",
]

Kind = Literal["row", "column", "label", "hubs"]
ALL_SCALES = "all-scales"
"""Name of the mean over the scales of the last step."""
WIDEST = 160
"""Voxels along each axis of the window from which values of gates are taken: seconds."""

MEANING = {
    "row": "share of its attention that the asked voxel gives to each place; sums to 1",
    "column": "share of its attention that each place gives to the asked voxel",
    "label": "share of its attention that each place gives to the label",
    "hubs": "share of all attention in the tile that falls on each place; sums to 1",
}


@dataclass(frozen=True)
class Answer:
    """What the network says about a place, and how far it could look.

    Attributes
    ----------
    kind
        "row", "column", "label" or "hubs".
    voxel
        That was asked (z, y, x), in the scan's array.
    index
        The voxel of the attention's grid (within the tile) that answered.
    box
        The tile, on the model's grid; beyond it the network could not look.
    support
        The tile's voxels in the world, in the scan's unit.
    centred
        True if the tile was laid around the voxel, and so is not one that made the mask.
    volumes
        Per scale and step, by map name, and their mean over the last step's scales under
        `ALL_SCALES`; each on the attention's grid.
    additions
        By map name: length of what position attention adds at the voxel, against the
        features that it adds to. Near 0: the row hardly matters for the mask.
    probabilities
        (K,) of the classes at the voxel, by this tile alone.
    lost
        Largest share of a row that fell on the filling of a tile smaller than the
        network's least size.
    """

    kind: Kind
    voxel: tuple[float, float, float]
    index: tuple[int, int, int]
    box: Box
    support: Geometry
    centred: bool
    volumes: dict[str, Volume]
    additions: dict[str, float] = field(default_factory=dict)
    probabilities: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    lost: float = 0.0


@dataclass(frozen=True)
class Targets:
    """Where a voxel looks most.

    Attributes
    ----------
    origin
        The asked voxel (z, y, x) in the world, in the scan's unit.
    places
        (n, 3) in the world, strongest first.
    shares
        (n,) of the voxel's attention.
    """

    origin: npt.NDArray[np.float64]
    places: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]


def box_to_ask(replay: Replay, voxel: Sequence[float], *, centred: bool = False) -> Box:
    """Return the tile that `ask` would look into.

    Raises
    ------
    InputError
        If the voxel is outside the scan.
    """
    place = replay.on_grid(voxel)
    return replay.window_at(place) if centred else replay.tile_at(place)


def ask(
    replay: Replay,
    voxel: Sequence[float],
    kind: Kind = "row",
    *,
    centred: bool = False,
    mask: Volume | None = None,
) -> Answer:
    """Ask the position attention of the tile that counts most at a voxel.

    The tile is computed alone, as in the run; again it costs milliseconds.

    Parameters
    ----------
    replay
        The run.
    voxel
        (z, y, x) in the scan's array, fractions allowed.
    kind
        "row": what the voxel attends to; "column": who attends to it; "label": who
        attends to `mask`; "hubs": what all attend to.
    centred
        Use a window around the voxel instead, which did not make the mask.
    mask
        (Z, Y, X) on the scan's own grid, not 0 inside the label.

    Raises
    ------
    InputError
        If the network has no position attention, the voxel lies outside the scan, or
        the label has no voxel in the tile.
    """
    if not has_position_attention(replay.network):
        raise InputError(
            f"{replay.model.card.name} has no position attention: its gates tell how much passes "
            "at a place, not where a place looks; ask a guided-attention model"
        )
    if kind == "label" and mask is None:
        raise InputError("choose a label first: there is no mask to ask about")
    place = replay.on_grid(voxel)
    box = replay.window_at(place) if centred else replay.tile_at(place)
    look = replay.look(box)
    index = _index(replay, look, place)
    asked = _question(kind, index, replay, look, mask)
    raw = {name: asked(record) for name, record in look.records.items()}
    last = max(name.rsplit("-", 1)[1] for name in raw)
    final = [row for name, row in raw.items() if name.endswith(f"-step-{last}")]
    raw[ALL_SCALES] = torch.stack(final).mean(0)
    volumes, lost = {}, 0.0
    for name, row in raw.items():
        volumes[name], outside = _place(replay, box, name, row, kind, f"step {last}")
        told = volumes[name].metadata
        question = {**told["attention"], "voxel": [float(v) for v in voxel], "centred": centred}
        about = {**told, "provenance": asked_of(replay, question)}
        volumes[name] = volumes[name].replace(metadata=about)
        lost = max(lost, outside)
    z, y, x = (float(v) for v in voxel)
    return Answer(
        kind=kind,
        voxel=(z, y, x),
        index=index,
        box=box,
        support=replay.geometry_of(box),
        centred=centred,
        volumes=volumes,
        additions={name: float(ratio[index]) for name, ratio in look.additions.items()},
        probabilities=_probabilities(look, place),
        lost=lost if kind in ("row", "hubs") else 0.0,
    )


def lines(replay: Replay, answer: Answer, name: str, count: int = 12) -> Targets:
    """Return the strongest targets of an asked voxel.

    Parameters
    ----------
    replay, answer
        An answer of kind "row", and what gave it.
    name
        Scale and step, or `ALL_SCALES`.
    count
        How many at most.
    """
    look = replay.look(answer.box)
    names = [n for n in look.records if name in (n, ALL_SCALES)]
    if name == ALL_SCALES:
        last = max(n.rsplit("-", 1)[1] for n in names)
        names = [n for n in names if n.endswith(f"-step-{last}")]
    places, shares = [], []
    for one in names:
        index, share = strongest_targets(look.records[one], answer.index, count)
        geometry = replay.map_geometry(one, answer.box)
        places.append(geometry.to_world(index.numpy()))
        shares.append(share.numpy().astype(np.float64) / len(names))
    where, how_much = np.concatenate(places), np.concatenate(shares)
    order = np.argsort(-how_much, kind="stable")[:count]
    # Not the middle of the attention's voxel, which may lie in another slice of the scan.
    origin = replay.volume.geometry.to_world(answer.voxel)
    return Targets(origin, where[order], how_much[order])


def gate_values(replay: Replay, voxel: Sequence[float]) -> dict[str, float]:
    """Return the value of each map of the network at a voxel, from a window around it.

    For a network without position attention. Its values are those of the whole scan where
    the window holds all that the network sees from there (`inference.stream.margin.reach`);
    a wider reach is cut to `WIDEST` voxels, whose rim changes the values a little.

    Raises
    ------
    InputError
        If the voxel lies outside the scan.
    """
    place = replay.on_grid(voxel)
    size = [
        min(max(2 * r + 1 + m, p), WIDEST)
        for r, m, p in zip(
            reach(replay.network, list(replay.network.map_specs)),
            replay.network.tile_multiple,
            replay.model.card.patch_size,
            strict=True,
        )
    ]
    box = replay.window_at(place, size)
    look = replay.look(box)
    values = {}
    for name, array in look.maps.items():
        spec = replay.model.network.map_specs[name]
        index = tuple(
            min(max(round((p - o) / s) - a, 0), n - 1)
            for p, o, s, a, n in zip(
                place,
                spec.offset,
                spec.stride,
                box.on_stride(spec.stride).start,
                array.shape,
                strict=True,
            )
        )
        values[name] = float(array[index])
    return values


def values_at(volumes: Mapping[str, Volume], world: Sequence[float]) -> dict[str, float]:
    """Return the nearest voxel's value of each map at a place of the world.

    Parameters
    ----------
    volumes
        (Z, Y, X) each.
    world
        (z, y, x) in the maps' unit.

    Returns
    -------
    dict
        Only the maps that reach there.
    """
    found = {}
    for name, volume in volumes.items():
        index = np.round(volume.geometry.to_index(world)).astype(int)
        if all(0 <= i < n for i, n in zip(index, volume.array.shape, strict=True)):
            found[name] = float(volume.array[tuple(index)])
    return found


def _index(replay: Replay, look: Look, place: Sequence[float]) -> tuple[int, int, int]:
    """Voxel of the attention's grid nearest to a place of the model's grid."""
    name, record = next(iter(look.records.items()))
    spec = replay.model.network.map_specs[name]
    index = [
        min(max(round((p - a - o) / s), 0), n - 1)
        for p, a, o, s, n in zip(
            place, look.box.start, spec.offset, spec.stride, record.queries.shape[2:], strict=True
        )
    ]
    return index[0], index[1], index[2]


def _question(
    kind: Kind, index: tuple[int, int, int], replay: Replay, look: Look, mask: Volume | None
) -> Callable[[PositionRecord], Tensor]:
    if kind == "row":
        return lambda record: attention_row(record, index)
    if kind == "column":
        return lambda record: attention_column(record, index)
    if kind == "hubs":
        return attention_received
    assert mask is not None
    name, record = next(iter(look.records.items()))
    target = torch.zeros(tuple(record.queries.shape[2:]))
    part = _label_on_grid(replay, look.box, name, mask)
    target[: part.shape[0], : part.shape[1], : part.shape[2]] = part
    if not bool(target.any()):
        raise InputError("the label has no voxel in the tile that was looked at; click nearer")
    return lambda record: attention_to(record, target)


def _label_on_grid(replay: Replay, box: Box, name: str, mask: Volume) -> Tensor:
    """Share of the label in each voxel of the attention's grid, counted voxel by voxel."""
    if mask.geometry.shape != replay.volume.geometry.shape:
        raise InputError("the mask does not lie on the scan's grid; run again or choose another")
    place = replay.prepared.placement
    turned = np.asarray(place.reorientation.apply(np.asarray(mask.array) != 0))
    spec = replay.model.network.map_specs[name]
    part = box.on_stride(spec.stride)
    # Which voxel of the attention's grid each of the scan's belongs to, per axis.
    shares = turned.astype(np.float32)
    positions = axis_positions(replay.grid, place.turned)
    for axis, line in enumerate(positions):
        cell = np.round((line - spec.offset[axis]) / spec.stride[axis]).astype(int)
        shares = _mean_by_cell(shares, axis, cell - part.start[axis], part.shape[axis])
    return torch.from_numpy(shares)


def _mean_by_cell(
    array: npt.NDArray[np.float32], axis: int, cell: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float32]:
    moved = np.moveaxis(array, axis, 0)
    result = np.zeros((count, *moved.shape[1:]), np.float32)
    inside = (cell >= 0) & (cell < count)
    np.add.at(result, cell[inside], moved[inside])
    number = np.bincount(cell[inside], minlength=count)[:count]
    result /= np.maximum(number, 1).reshape(-1, 1, 1)
    return np.moveaxis(result, 0, axis)


def _probabilities(look: Look, place: Sequence[float]) -> npt.NDArray[np.float32]:
    z, y, x = (
        min(max(round(p - a), 0), n - 1)
        for p, a, n in zip(place, look.box.start, look.box.shape, strict=True)
    )
    shares: npt.NDArray[np.float32] = torch.softmax(look.logits[:, z, y, x], 0).numpy()
    return shares


def _place(
    replay: Replay, box: Box, name: str, row: Tensor, kind: Kind, last: str
) -> tuple[Volume, float]:
    """A row as a volume, and the share that the filling of a small tile took."""
    specs = replay.model.network.map_specs
    key = name if name in specs else next(n for n in specs if n.startswith("guided"))
    geometry = replay.map_geometry(key, box)
    z, y, x = geometry.shape
    array = row.numpy()[:z, :y, :x].astype(np.float32)
    lost = float(row.sum() - array.sum())
    title = f"all scales, {last}" if name == ALL_SCALES else _short(specs[name].title)
    about: dict[str, Any] = {"kind": kind, "scale": name, "meaning": MEANING[kind]}
    return Volume(array, geometry, f"{kind}, {title}", metadata={"attention": about}), lost


def _short(title: str) -> str:
    return title.removeprefix("guided attention, ")
