"""Train a copy of a network until its attention follows painted strokes.

Per step a patch around a stroke; the loss is `guide_loss` plus what keeps the mask as it
was, ``keep * KL(old || new)`` over the patch (Li & Hoiem 2016, "Learning without
forgetting"). The strokes say where to look, not what is there: no label is needed.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ..errors import InputError
from ..models.store import Model
from ..networks.base import SegmentationNetwork
from ..networks.norm import clear_calibration
from ..progress import Job, Progress
from ..volumes.volume import Volume
from .guide import LOOK, NOT, guide_loss
from .replay import Replay

__all__ = ["PaintOptions", "Painted", "paint_job"]


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

    steps: int = 100
    seconds: float = 60.0
    learning_rate: float = 1e-3
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
    if not specs:
        raise InputError(f"{card.name} has no attention to paint: choose a model with maps")
    painted = _on_grid(replay, strokes)
    places = np.argwhere(painted)
    network, old = _fresh(replay.model.network), _fresh(replay.model.network)
    old.eval().requires_grad_(False)
    network.requires_grad_(True).train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    optimiser = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=1e-4)
    rng = np.random.default_rng(options.seed)
    result = Painted(Model(card.model_copy(update={"sha256": ""}), network))
    begin = time.perf_counter()
    for step in range(options.steps):
        box = replay.window_at(places[rng.integers(len(places))].tolist(), options.patch)
        x = replay.read(box)
        here = torch.from_numpy(painted[box.slices].astype(np.int64))[None].to(x.device)
        output = network(x, return_maps=True)
        guide = guide_loss(output.maps, here, specs)
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
    network.eval().requires_grad_(False)
    return result


def _fresh(network: SegmentationNetwork) -> SegmentationNetwork:
    """Return a copy with weights of its own and no scan's statistics."""
    twin = copy.deepcopy(network)
    clear_calibration(twin)
    return twin


def _divergence(old: SegmentationNetwork, x: Tensor, logits: Tensor) -> Tensor:
    with torch.no_grad():
        before = old(x).logits.float().log_softmax(1)
    after = logits.float().log_softmax(1)
    cost = nnf.kl_div(after, before, reduction="none", log_target=True)
    return cost.sum(1).mean()


def _on_grid(replay: Replay, strokes: Volume) -> npt.NDArray[np.uint8]:
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
