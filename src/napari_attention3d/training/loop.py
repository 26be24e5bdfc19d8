"""The training loop: a job that yields progress and leaves models and a log behind."""

from __future__ import annotations

import csv
import json
import math
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..errors import InputError
from ..inference.device import choose_device
from ..models.card import ModelCard
from ..models.start import start_weights
from ..models.store import load_model, save_model
from ..networks import SegmentationNetwork, build_network
from ..progress import Job, Progress
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import TrainConfig
from .data import Sampler, make_sampler
from .ema import WeightAverage
from .losses import NetworkLoss, balanced_weights, class_dice, make_loss

__all__ = ["TrainResult", "card_of", "learning_rate", "run_folder", "train_job"]


@dataclass
class TrainResult:
    """What a run left behind.

    Parameters
    ----------
    best, last
        Model files; `best` is the one with the highest validation Dice (with the last
        weights where nothing is kept for validation).
    log
        CSV with one line per step that was logged.
    steps
        Steps done in all.
    score
        Best mean validation Dice of the classes without background, NaN without validation.
    per_class
        Dice by class name at the best validation.
    """

    best: Path
    last: Path
    log: Path
    steps: int
    score: float
    per_class: dict[str, float] = field(default_factory=dict)


def run_folder(output: Path) -> Path:
    """Where a run keeps its checkpoint, last model and log."""
    return output.with_name(output.name.removesuffix(".safetensors") + ".run")


def card_of(config: TrainConfig, network: SegmentationNetwork) -> ModelCard:
    """Card of the model that a configuration trains."""
    given = set(TrainConfig.model_fields) & set(ModelCard.model_fields) - {"network"}
    return ModelCard(
        network={"name": network.name, **network.config},
        patch_size=max(config.schedule.patch_sizes, key=math.prod),
        **{key: getattr(config, key) for key in given},
    )


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate at a step: linear warm-up, then polynomial (0.9) or cosine decay to 1 %."""
    s = config.schedule
    if step < s.warm_up:
        return s.learning_rate * (step + 1) / s.warm_up
    done = min(1.0, (step - s.warm_up) / max(1, s.steps - s.warm_up))
    shape = (1 - done) ** 0.9 if s.decay == "poly" else 0.5 * (1 + math.cos(math.pi * done))
    return s.learning_rate * max(0.01, shape)


def train_job(config: TrainConfig, output: Path, *, restart: bool = False) -> Job[TrainResult]:
    """Train a model.

    Resumes from the checkpoint in `run_folder` unless told to restart. Closing the job
    saves a checkpoint first, so nothing is lost.

    Parameters
    ----------
    config
        What to train.
    output
        The best model's file (.safetensors).
    restart
        Throw away an earlier run of the same output.

    Yields
    ------
    Progress
        After each step; metrics hold loss and learning rate, and val_dice after a validation.

    Raises
    ------
    InputError
        If data or settings do not fit.
    OutputError
        If the disk is full or the folder can't be written.
    """
    if output.suffix != ".safetensors":
        raise InputError(f"{output} must end in .safetensors")
    run = Trainer(config, output, restart)
    yield Progress(run.step, config.schedule.steps, "Preparing training data")
    run.prepare()
    try:
        while run.step < config.schedule.steps:
            yield run.advance()
    except GeneratorExit:
        run.save_state()
        raise
    return run.finish()


class Trainer:
    """State of a run; `train_job` drives it."""

    def __init__(self, config: TrainConfig, output: Path, restart: bool) -> None:
        self.config, self.output = config, output
        self.folder = run_folder(output)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"can't write to {self.folder.parent}: {error.strerror}") from error
        s = config.schedule
        if s.threads:
            torch.set_num_threads(s.threads)
        torch.manual_seed(config.seed)
        self.device = choose_device(s.device).device
        arguments = {k: v for k, v in config.network.items() if k != "name"}
        arguments |= {"in_channels": len(config.channels), "num_classes": len(config.classes)}
        self.network = build_network(config.network["name"], **arguments)
        if config.init_from:
            self._start_from(config.init_from)
        self.network.to(self.device)
        self.card = card_of(config, self.network)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay
        )
        self.average = WeightAverage(self.network, s.ema)
        self.step, self.best = 0, -math.inf
        self.per_class: dict[str, float] = {}
        self.autocast = _half_precision(s.precision, self.device)
        self.started = time.monotonic()
        self.sampler: Sampler
        self.loss: NetworkLoss
        if restart:
            for name in ("checkpoint.pt", "log.csv"):
                (self.folder / name).unlink(missing_ok=True)
        self._resume()

    def prepare(self) -> None:
        """Load the data (slow)."""
        self.sampler = make_sampler(self.config, self.card, self.device)
        s, weights = self.config.schedule, None
        if s.class_weights == "sqrt":
            weights = balanced_weights(self.sampler.shares()).to(self.device)
        self.loss = make_loss(
            self.network,
            weights,
            self.sampler.ignore,
            s.side_loss,
            guidance=s.guidance,
            mask=s.mask_loss,
            detach_targets=s.detach_targets,
        )

    def advance(self) -> Progress:
        """Do one step, and what is due after it."""
        s = self.config.schedule
        rate = learning_rate(self.config, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        patch = s.patch_sizes[_pick(len(s.patch_sizes), self.config.seed, self.step)]
        images, labels = self.sampler.batch(self.step, patch, s.batch_size)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.network(images)
        loss = self.loss(output, labels)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), s.clip)
        if torch.isfinite(norm):
            self.optimiser.step()
            self.average.update(self.network)
        self.step += 1
        metrics = {"loss": float(loss.detach()), "learning_rate": rate, "grad_norm": float(norm)}
        last = self.step == s.steps
        if self.step % s.validate_every == 0 or last:
            metrics |= self.validate()
        if self.step % s.checkpoint_every == 0 or last:
            self.save_state()
        self._log(metrics)
        message = f"Training, step {self.step} of {s.steps}, loss {metrics['loss']:.3f}"
        if "val_dice" in metrics:
            message += f", validation Dice {metrics['val_dice']:.3f}"
        return Progress(self.step, s.steps, message, metrics=metrics)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Score the averaged weights on the held-back scans; keep them if they are the best."""
        cases = self.sampler.validation()
        names = self.card.class_names
        if not cases:
            self._save_model(self.output, self.average.state_dict(), {})
            return {}
        own = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.state_dict())
        self.network.eval()
        scores = []
        for _, image, labels in cases:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                logits = self.network(image[None]).logits
            scores.append(class_dice(logits[0].argmax(0), labels, len(names), self.sampler.ignore))
        self.network.load_state_dict(own)
        per_class = torch.stack(scores).nanmean(0)
        mean = float(per_class[1:].nanmean())
        found = {n: round(float(v), 4) for n, v in zip(names, per_class, strict=True) if v == v}
        if mean > self.best:
            self.best, self.per_class = mean, found
            metrics = {"validation_dice": found, "validation_mean_dice": round(mean, 4)}
            self._save_model(self.output, self.average.state_dict(), metrics)
        return {"val_dice": mean} | {f"val_{n}": v for n, v in found.items()}

    def save_state(self) -> None:
        """Write the checkpoint and the last model."""
        checkpoint = Checkpoint(
            self.step,
            self.network.state_dict(),
            self.average.state_dict(),
            self.average.updates,
            self.optimiser.state_dict(),
            self.best,
            self._fingerprint(),
        )
        save_checkpoint(self.folder / "checkpoint.pt", checkpoint)
        self._save_model(self.folder / "last.safetensors", self.average.state_dict(), {})

    def finish(self) -> TrainResult:
        """Close the run."""
        if not self.output.exists():
            self._save_model(self.output, self.average.state_dict(), {})
        score = self.best if math.isfinite(self.best) else math.nan
        last = self.folder / "last.safetensors"
        log = self.folder / "log.csv"
        return TrainResult(self.output, last, log, self.step, score, self.per_class)

    # ---- helpers

    def _start_from(self, name: str) -> None:
        state = self.network.state_dict()
        state.update(start_weights(self.network, load_model(name)))
        self.network.load_state_dict(state)

    def _resume(self) -> None:
        found = load_checkpoint(self.folder / "checkpoint.pt", self._fingerprint())
        if found is None:
            return
        self.network.load_state_dict(found.network)
        self.optimiser.load_state_dict(found.optimiser)
        self.average.state = {k: v.to(self.device) for k, v in found.average.items()}
        self.average.updates = found.average_updates
        self.step, self.best = found.step, found.best_score

    def _fingerprint(self) -> str:
        parts: dict[str, Any] = {
            "network": {"name": self.network.name, **self.network.config},
            "classes": self.card.class_names,
        }
        return json.dumps(parts, sort_keys=True)

    def _save_model(self, path: Path, state: dict[str, Tensor], metrics: dict[str, Any]) -> None:
        own = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(state)
        about = {"steps": self.step, "package": __version__, "date": date.today().isoformat()}
        card = self.card.model_copy(update={"metrics": {"training": about, **metrics}})
        save_model(path, self.network, card, dtype=torch.float16)
        self.network.load_state_dict(own)

    def _log(self, metrics: dict[str, float]) -> None:
        path = self.folder / "log.csv"
        fields = ["step", "seconds", "loss", "learning_rate", "grad_norm", "val_dice"]
        fields += [f"val_{name}" for name in self.card.class_names]
        new = not path.exists()
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fields, restval="")
            if new:
                writer.writeheader()
            row = {k: f"{v:.6g}" for k, v in metrics.items() if k in fields}
            seconds = f"{time.monotonic() - self.started:.1f}"
            writer.writerow({"step": self.step, "seconds": seconds, **row})


def _pick(count: int, *seeds: int) -> int:
    generator = torch.Generator().manual_seed(sum(s * 7919**i for i, s in enumerate(seeds)))
    return int(torch.randint(count, (1,), generator=generator))


def _half_precision(precision: str, device: torch.device) -> bool:
    """Whether bfloat16 autocast is used; on the CPU only where the processor has it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
