"""Train a copy of a network until its attention follows painted strokes.

Per step a patch around a stroke and one from anywhere; the loss is `guide_loss` plus what
keeps the mask as it was, ``keep * KL(old || new)`` over both (Li & Hoiem 2016, "Learning
without forgetting"). The strokes say where to look, not what is there: no label is needed.
Norms keep the run's statistics of the scan meanwhile, so that attention is moved by the
weights and not by what a patch happens to hold.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ..errors import InputError
from ..inference.tiling import Box
from ..models.store import Model
from ..networks.base import SegmentationNetwork
from ..networks.norm import clear_calibration, load_calibration
from ..progress import Job, Progress
from ..volumes.volume import Volume
from .guide import LOOK, NOT, guide_loss
from .replay import Replay

__all__ = ["PaintOptions", "Painted", "check_paintable", "paint_job", "strokes_on_grid"]


@dataclass(frozen=True)
class PaintOptions:
    """How to train.

    Attributes
    ----------
    steps, seconds
        Most of each.
    learning_rate
        Of AdamW.
    keep
        Weight of the term that keeps the mask.
    patch
        Largest patch (z, y, x) on the model's grid.
    seed
        Of the places.
    """

    steps: int = 60
    seconds: float = 60.0
    learning_rate: float = 2e-4
    keep: float = 1.0
    patch: tuple[int, int, int] = (48, 48, 48)
    seed: int = 0


@dataclass
class Painted:
    """Result of `paint_job`.

    Attributes
    ----------
    model
        The new one; the given one is untouched.
    guide, keep
        Both terms of the loss, per step.
    """

    model: Model
    guide: list[float] = field(default_factory=list)
    keep: list[float] = field(default_factory=list)


def paint_job(replay: Replay, strokes: Volume, options: PaintOptions | None = None) -> Job[Painted]:
    """Train a copy of a run's network on strokes "look here" and "not here".

    Parameters
    ----------
    replay
        The run.
    strokes
        (Z, Y, X) integers on the scan's own grid: `guide.LOOK`, `guide.NOT`, 0 elsewhere.
    options
        See `PaintOptions`.

    Yields
    ------
    Progress
        Per step, with ``metrics["loss"]``.

    Raises
    ------
    InputError
        If the network has no maps, the strokes lie on another grid, or nothing is painted.
    """
    options = options or PaintOptions()
    card = replay.model.card
    specs = replay.model.network.map_specs
    check_paintable(replay.model)
    painted = strokes_on_grid(replay, strokes)
    network, old = _fresh(replay), _fresh(replay)
    network.requires_grad_(True)
    optimiser = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=1e-4)
    result = Painted(Model(card.model_copy(update={"sha256": ""}), network))
    begin = time.perf_counter()
    for step, boxes in enumerate(_places(replay, painted, options)):
        x = torch.cat([replay.read(box) for box in boxes])
        here = np.stack([painted[box.slices] for box in boxes]).astype(np.int64)
        for group in optimiser.param_groups:  # warm-up, so that the first steps wreck nothing
            group["lr"] = options.learning_rate * min(1.0, (step + 1) / 10)
        output = network(x, return_maps=True)
        guide = guide_loss(output.maps, torch.from_numpy(here).to(x.device), specs)
        keep = _divergence(old, x, output.logits)
        loss = guide + options.keep * keep
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        result.guide.append(float(guide.detach()))
        result.keep.append(float(keep.detach()))
        value = {"loss": float(loss.detach())}
        yield Progress(step + 1, options.steps, "Moving the attention", None, value)
        if time.perf_counter() - begin > options.seconds:
            break
    clear_calibration(network)
    network.requires_grad_(False)
    return result


def _places(
    replay: Replay, painted: npt.NDArray[np.uint8], options: PaintOptions
) -> Iterator[list[Box]]:
    """Boxes of each step: around a stroke, both kinds in turns, and anywhere."""
    kinds = [places for value in (LOOK, NOT) if len(places := np.argwhere(painted == value))]
    rng = np.random.default_rng(options.seed)
    for step in range(options.steps):
        places = kinds[step % len(kinds)]
        chosen = places[rng.integers(len(places))].tolist()
        anywhere = rng.integers(0, painted.shape).tolist()
        yield [replay.window_at(place, options.patch) for place in (chosen, anywhere)]


def check_paintable(model: Model) -> None:
    """Refuse a model without maps that could be drawn anywhere.

    Raises
    ------
    InputError
        If it has none.
    """
    if not model.network.map_specs:
        raise InputError(
            f"{model.card.name} has no attention to paint: its network returns no maps; choose an "
            "attention U-Net or a guided-attention model"
        )


def _fresh(replay: Replay) -> SegmentationNetwork:
    """Return a copy of a run's network with weights of its own and the run's statistics."""
    twin = copy.deepcopy(replay.model.network).eval().requires_grad_(False)
    clear_calibration(twin)
    if replay.calibration:
        load_calibration(twin, replay.calibration)
    return twin


def _divergence(old: SegmentationNetwork, x: Tensor, logits: Tensor) -> Tensor:
    with torch.no_grad():
        before = old(x).logits.float().log_softmax(1)
    after = logits.float().log_softmax(1)
    cost = nnf.kl_div(after, before, reduction="none", log_target=True)
    return cost.sum(1).mean()


def strokes_on_grid(replay: Replay, strokes: Volume) -> npt.NDArray[np.uint8]:
    """Return strokes (z, y, x) on a run's grid: each painted voxel goes to the nearest one.

    Raises
    ------
    InputError
        If they lie on another grid than the scan, or nothing is painted.
    """
    scan = replay.volume.geometry
    if strokes.geometry.shape != scan.shape:
        raise InputError("the strokes do not lie on the scan's grid; paint in a layer of its size")
    array = np.asarray(strokes.array)
    found = np.argwhere((array == LOOK) | (array == NOT))
    if not len(found):
        raise InputError("nothing is painted: label 1 says look here, label 2 not here")
    grid = replay.grid if replay.grid.unit == scan.unit else replay.grid.with_unit(scan.unit)
    index = np.round(grid.to_index(scan.to_world(found))).astype(int)
    index = np.clip(index, 0, np.array(grid.shape) - 1)
    result = np.zeros(grid.shape, np.uint8)
    result[tuple(index.T)] = array[tuple(found.T)]
    return result
