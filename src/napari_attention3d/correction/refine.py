"""Train a copy of a network on strokes, without forgetting what nobody objected to.

Per step a batch of patches around strokes, and a patch anywhere. The loss is

    Dice + cross-entropy on painted voxels
    + keep * mean over the others of  c * KL(teacher || network)
    + guide * how much attention contradicts strokes on it (`attention.guide`), if there are any

with c the teacher's confidence (1 - entropy / log K), and 0 near strokes that contradict
it. The teacher is the network as it was (Li & Hoiem 2016, "Learning without forgetting"),
or given probabilities. All strokes are in the pool at every step, so earlier ones are
replayed. Batch norms keep their statistics; `ScanNorm3d` takes each patch's, as in its
own training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ..attention.guide import guide_loss
from ..errors import InputError, OutOfMemory
from ..inference.device import Precision, choose_device
from ..inference.preprocess import Placement, Preprocessor
from ..inference.resample import resample
from ..inference.selftest import trusted
from ..models.store import Model
from ..networks.norm import clear_calibration
from ..progress import Job, Progress
from ..training.losses import SegmentationLoss
from ..volumes.volume import Volume
from .grid_voxels import on_grid
from .guided import GuideStrokes
from .learn import ENOUGH_STROKES, TOLERANCE
from .strokes import Painted, Strokes, split_strokes
from .working_copy import working_copy

__all__ = ["RefineOptions", "Refined", "refine_job"]

IGNORE = 65535
OBJECTED = 5
"""Voxels around a contradicting stroke where the teacher is not believed."""

JITTER = 8
"""Most voxels along an axis between a stroke and the middle of its patch."""


@dataclass(frozen=True)
class RefineOptions:
    """How to train.

    Attributes
    ----------
    seconds, steps
        Most of each that the training takes.
    learning_rate
        Of AdamW.
    keep
        Weight of the term that keeps the model; 0: naive fine-tuning.
    guide
        Weight of strokes "look here" and "not here".
    patch
        Largest patch (z, y, x); the card's where that is smaller.
    batch
        Patches around strokes per step.
    patience
        Steps without progress of the smoothed loss after which it stops.
    device
        "auto", "cpu", "mps", "cuda".
    seed
        Decides everything random.
    """

    seconds: float = 60.0
    steps: int = 300
    learning_rate: float = 1e-3
    keep: float = 1.0
    guide: float = 1.0
    patch: tuple[int, int, int] = (48, 48, 48)
    batch: int = 1
    patience: int = 40
    device: str = "auto"
    seed: int = 0


@dataclass
class Refined:
    """Result of `refine_job`.

    Attributes
    ----------
    model
        The better one; the given one is untouched.
    losses
        Per step.
    seconds
        Wall time.
    score, before
        Accuracy on strokes that were held back, of the new and the given network; None
        below 12 strokes.
    lost
        Whether the new one looks worse.
    reason
        Why it stopped: "plateau", "time", "steps".
    warnings
        What the person should know.
    """

    model: Model
    losses: list[float]
    seconds: float
    score: float | None = None
    before: float | None = None
    lost: bool = False
    reason: str = ""
    warnings: list[str] = field(default_factory=list)


def refine_job(
    model: Model,
    scan: Volume,
    corrections: npt.NDArray[Any] | Painted,
    options: RefineOptions | None = None,
    *,
    teacher: npt.NDArray[Any] | None = None,
    attention: npt.NDArray[Any] | None = None,
) -> Job[Refined]:
    """Train a copy of `model` on the strokes of one scan.

    Parameters
    ----------
    model
        Not changed.
    scan
        (Z, Y, X) or (C, Z, Y, X).
    corrections
        (Z, Y, X) on the scan's grid, see `encoding`, or voxels with their strokes.
    options
        See `RefineOptions`.
    teacher
        (K, Z, Y, X) probabilities on the scan's grid to keep to where nothing is painted;
        None: the model's own.
    attention
        (Z, Y, X) strokes "look here" (`attention.guide.LOOK`) and "not here" (`NOT`), 0
        elsewhere, to be followed besides; None: none.

    Yields
    ------
    Progress
        Per step, with ``metrics["loss"]``.

    Raises
    ------
    InputError
        If nothing or something unknown is painted, or attention is and the network has none.
    ModelMismatchError
        If scan and model don't fit together.
    OutOfMemory
        If the memory does not suffice.
    """
    options = options or RefineOptions()
    try:
        return (yield from _refine(model, scan, corrections, options, teacher, attention))
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(
            "the memory does not suffice to learn with this network; use a smaller patch or "
            "another model. Your strokes are kept"
        ) from error


def _refine(
    model: Model,
    scan: Volume,
    corrections: npt.NDArray[Any] | Painted,
    options: RefineOptions,
    teacher: npt.NDArray[Any] | None,
    attention: npt.NDArray[Any] | None,
) -> Job[Refined]:
    begin = time.perf_counter()
    painted = _as_painted(corrections, scan, model.card.class_names)
    yield Progress(0, options.steps, "Preparing the scan")
    prepared = Preprocessor(model.card).prepare(scan)
    voxels = on_grid(painted.voxels, prepared.placement)
    if teacher is not None:
        teacher = _turned(teacher, prepared.placement)
    learner = working_copy(model)
    key = f"working copy {id(model.network)}"
    wanted = choose_device(options.device).device
    device, doubt = trusted(learner.network, wanted, Precision("float32", ""), key)
    network = learner.network.to(device)
    clear_calibration(network)
    held = painted.held_back if painted.count >= ENOUGH_STROKES else np.zeros(len(voxels), bool)
    pool = _Pool(prepared.tensor, voxels, painted, held, teacher, options, model, device)
    if attention is not None and attention.any():
        pool.guide = GuideStrokes(attention, scan, prepared.placement, model)
    result = Refined(learner, [], 0.0, warnings=[doubt] if doubt else [])
    if held.any():
        result.before = pool.accuracy(model.network, held)
    yield from _train(network, pool, options, result)
    network.eval().requires_grad_(False)
    if held.any():
        result.score = pool.accuracy(network, held)
        result.lost = result.score < (result.before or 0.0) - TOLERANCE
    learner.network = network.to("cpu")
    result.seconds = time.perf_counter() - begin
    return result


def _train(network: Any, pool: _Pool, options: RefineOptions, result: Refined) -> Job[None]:
    begin = time.perf_counter()
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    optimiser = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=1e-4)
    loss_of = SegmentationLoss(ignore=IGNORE)
    smooth, best, best_step = float("nan"), math.inf, 0
    result.reason = "steps"
    for step in range(options.steps):
        image, labels, target, weight = pool.batch(step)
        for group in optimiser.param_groups:  # warm-up, so that the first steps wreck nothing
            group["lr"] = options.learning_rate * min(1.0, (step + 1) / 10)
        optimiser.zero_grad(set_to_none=True)
        output = network(image, return_maps=pool.guide is not None)
        loss = loss_of(output.logits, labels)
        if options.keep:
            loss = loss + options.keep * _keep_loss(output.logits, target, weight)
        if pool.guide is not None:
            here = pool.guided(step)
            loss = loss + options.guide * guide_loss(output.maps, here, network.map_specs)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        value = float(loss.detach())
        result.losses.append(value)
        smooth = value if math.isnan(smooth) else 0.9 * smooth + 0.1 * value
        if smooth < 0.99 * best:
            best, best_step = smooth, step
        yield Progress(step + 1, options.steps, "Training the network", None, {"loss": value})
        if step - best_step >= options.patience:
            result.reason = "plateau"
            return
        if time.perf_counter() - begin > options.seconds:
            result.reason = "time"
            return


def _keep_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    log = nnf.log_softmax(logits.float(), dim=1)
    divergence = (target * (torch.log(target.clamp_min(1e-6)) - log)).sum(1)
    return (weight * divergence).sum() / weight.sum().clamp_min(1.0)


class _Pool:
    """Patches of one scan on the model's grid."""

    def __init__(
        self,
        image: Tensor,
        voxels: npt.NDArray[np.intp],
        painted: Painted,
        held: npt.NDArray[np.bool_],
        teacher: npt.NDArray[Any] | None,
        options: RefineOptions,
        model: Model,
        device: torch.device,
    ) -> None:
        self.image, self.painted, self.device, self.options = image, painted, device, options
        self.voxels, self.learned = voxels, ~held
        self.shape = tuple(image.shape[1:])
        self.patch = tuple(map(min, options.patch, model.card.patch_size))
        self.labels = np.full(self.shape, IGNORE, np.int32)
        self.labels[tuple(voxels[self.learned].T)] = painted.values[self.learned]
        self.given = teacher
        self.guide: GuideStrokes | None = None
        self.frozen: Callable[[Tensor], Tensor] | None = None
        if teacher is None and options.keep:
            old = working_copy(model).network.to(device).eval().requires_grad_(False)
            clear_calibration(old)
            self.frozen = lambda x: old(x).logits.float().softmax(1)
        # strokes alike, however long they are; classes alike, however often painted
        values, strokes = painted.values[self.learned], painted.strokes[self.learned]
        odds = 1.0 / np.bincount(strokes)[strokes]
        for value in np.unique(values):
            odds[values == value] /= odds[values == value].sum()
        self.odds = odds / odds.sum()

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (B, C, z, y, x), labels (B, z, y, x), teacher (B, K, ...), its weight (B, ...)."""
        boxes = self._boxes(step)
        image = torch.stack([self.image[(slice(None), *box)] for box in boxes]).to(self.device)
        cut = np.stack([self.labels[box] for box in boxes])
        labels = torch.from_numpy(cut).long().to(self.device)
        if not self.options.keep:
            return image, labels, labels.new_zeros(()), labels.new_zeros(())
        with torch.no_grad():
            if self.frozen is not None:
                target = self.frozen(image)
            else:
                assert self.given is not None
                parts = [np.asarray(self.given[(slice(None), *b)], np.float32) for b in boxes]
                target = torch.from_numpy(np.stack(parts)).to(self.device)
            return image, labels, target, _trust(target, labels)

    def guided(self, step: int) -> Tensor:
        """Strokes on the attention (B, z, y, x) in the patches of `batch`."""
        assert self.guide is not None
        cut = np.stack([self.guide.array[box] for box in self._boxes(step)])
        return torch.from_numpy(cut).long().to(self.device)

    def _boxes(self, step: int) -> list[tuple[slice, ...]]:
        rng = np.random.default_rng((self.options.seed, step))
        centres = self.voxels[self.learned]
        # not always in the middle, but always inside
        most = np.array(
            [min(JITTER, min(p, n) // 4) for p, n in zip(self.patch, self.shape, strict=True)]
        )
        picked = [
            centres[rng.choice(len(centres), p=self.odds)] + rng.integers(-most, most + 1)
            for _ in range(self.options.batch)
        ]
        if self.options.keep:
            picked.append(rng.integers(0, self.shape))
        if self.guide is not None:
            picked.append(self.guide.centre(step, self.options.seed))
        return [self._box(centre) for centre in picked]

    def accuracy(self, network: Any, chosen: npt.NDArray[np.bool_]) -> float:
        """Mean over classes of the share of chosen painted voxels that are right."""
        voxels, values = self.voxels[chosen], self.painted.values[chosen]
        strokes = self.painted.strokes[chosen]
        right = np.zeros(len(values), bool)
        was = next(network.parameters()).device
        network.to(self.device).eval()
        with torch.inference_mode():
            for stroke in np.unique(strokes):
                of = np.flatnonzero(strokes == stroke)
                box = self._box(voxels[of].mean(0).round().astype(int))
                start = np.array([s.start for s in box])
                out = network(self.image[(slice(None), *box)][None].to(self.device)).logits[0]
                inside = voxels[of] - start
                inside = np.clip(inside, 0, np.array(out.shape[1:]) - 1)
                found = out.argmax(0).cpu().numpy()[tuple(inside.T)]
                right[of] = found == values[of]
        network.to(was)
        return float(np.mean([right[values == v].mean() for v in np.unique(values)]))

    def _box(self, centre: npt.NDArray[Any]) -> tuple[slice, ...]:
        box = []
        for at, size, length in zip(centre, self.patch, self.shape, strict=True):
            size = min(size, length)
            start = int(np.clip(int(at) - size // 2, 0, length - size))
            box.append(slice(start, start + size))
        return tuple(box)


def _trust(target: Tensor, labels: Tensor) -> Tensor:
    """Confidence of the teacher, 0 on strokes and near those that contradict it."""
    entropy = -(target * torch.log(target.clamp_min(1e-6))).sum(1)
    weight = (1 - entropy / math.log(target.shape[1])).clamp(0, 1)
    painted = labels != IGNORE
    wrong = painted & (target.argmax(1) != labels)
    near = nnf.max_pool3d(wrong.float()[:, None], 2 * OBJECTED + 1, 1, OBJECTED)[:, 0] > 0
    return weight * (~near) * (~painted)


def _as_painted(
    corrections: npt.NDArray[Any] | Painted, scan: Volume, classes: list[str]
) -> Painted:
    if isinstance(corrections, Painted):
        painted = corrections
    else:
        known = Strokes(scan.geometry.shape, classes)
        whole = known.difference(corrections)
        for stroke in split_strokes(whole) if whole is not None else ():
            known.add(stroke)
        painted = known.painted()
    if not len(painted.voxels):
        raise InputError("nothing is painted yet; paint a stroke where the mask is wrong")
    return painted


def _turned(teacher: npt.NDArray[Any], placement: Placement) -> npt.NDArray[np.float16]:
    """Probabilities (K, Z, Y, X) of the scan on the model's grid; a class at a time."""
    out = np.empty((len(teacher), *placement.grid.shape), np.float16)
    for k in range(len(teacher)):
        share = np.asarray(placement.reorientation.apply(teacher[k]), dtype=np.float32)
        x = torch.from_numpy(np.ascontiguousarray(share))[None]
        out[k] = resample(x, placement.turned, placement.grid)[0].numpy()
    return out
