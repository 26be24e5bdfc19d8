"""The state of a training run, step by step; `train_job` drives it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..errors import Attention3DError, OutOfMemory
from ..inference.memory import is_out_of_memory, release
from ..models.card import ModelCard
from ..models.start import start_weights
from ..models.store import load_model, save_model
from ..networks import SegmentationNetwork, build_network
from ..progress import Progress
from .cases import CaseSource
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import TrainConfig
from .data import Sampler, make_sampler
from .ema import WeightAverage
from .losses import NetworkLoss, SegmentationLoss, balanced_weights, class_dice, make_loss
from .processes import Processes
from .runs import RunFolder
from .where import training_device

__all__ = ["TrainResult", "Trainer", "card_of", "learning_rate"]

WHOLE = 4
"""A scan of up to this many patches' voxels is validated in one pass."""
MOST_LOST = 20
"""Steps in a row without a finite gradient after which the run is given up."""


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
    warnings
        What the person should know.
    """

    best: Path
    last: Path
    log: Path
    steps: int
    score: float
    per_class: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def card_of(config: TrainConfig, network: SegmentationNetwork) -> ModelCard:
    """Card of the model that a configuration trains."""
    given = set(TrainConfig.model_fields) & set(ModelCard.model_fields) - {"network"}
    return ModelCard(
        network={"name": network.name, **network.config},
        patch_size=max(config.schedule.patch_sizes, key=math.prod),
        **{key: getattr(config, key) for key in given},
    )


def learning_rate(config: TrainConfig, step: int, share: float = 0.0) -> float:
    """Rate at a step: linear warm-up, then polynomial (0.9) or cosine decay to 1 %.

    Parameters
    ----------
    config
        Its schedule counts.
    step
        Steps done.
    share
        Of the time that is used up, where time ends the run.
    """
    s = config.schedule
    if step < s.warm_up:
        return s.learning_rate * (step + 1) / s.warm_up
    done = min(1.0, max(share, (step - s.warm_up) / max(1, s.steps - s.warm_up)))
    shape = (1 - done) ** 0.9 if s.decay == "poly" else 0.5 * (1 + math.cos(math.pi * done))
    return s.learning_rate * max(0.01, shape)


class Trainer:
    """Network, optimiser, data and files of a run.

    Parameters
    ----------
    config
        What to train.
    output
        The best model's file.
    restart
        Forget an earlier run of the same output.
    cases
        The training set in memory, instead of the configuration's folders.
    processes
        Those that train together.
    """

    def __init__(
        self,
        config: TrainConfig,
        output: Path,
        restart: bool = False,
        cases: Sequence[CaseSource] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.config, self.cases, self.processes = config, cases, processes or Processes()
        s = config.schedule
        self.share = self.processes.share(s.batch_size)
        self.files = RunFolder(output)
        self.files.make()
        if s.threads:
            torch.set_num_threads(s.threads)
        torch.manual_seed(config.seed)
        arguments = {k: v for k, v in config.network.items() if k != "name"}
        arguments |= {"in_channels": len(config.channels), "num_classes": len(config.classes)}
        self.network = build_network(config.network["name"], **arguments)
        if config.init_from:
            self._start_from(config.init_from)
        key = f"to train: {self.network.config} {config.init_from} {config.seed}"
        self.device, self.autocast, self.doubt = training_device(
            self.network, s.device, s.precision, key, self.processes
        )
        self.network.to(self.device)
        self.card = card_of(config, self.network)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay
        )
        self.average = WeightAverage(self.network, s.ema)
        self.step, self.best, self.seconds, self.lost = 0, -math.inf, 0.0, 0
        self.per_class: dict[str, float] = {}
        self.sampler: Sampler
        self.loss: NetworkLoss
        self.wrapped: nn.Module
        if restart and self.processes.is_first:
            self.files.clear()
        self.processes.wait()
        self._resume()
        self.processes.wait()

    @property
    def is_done(self) -> bool:
        """Whether steps or time are used up."""
        s = self.config.schedule
        return self.step >= s.steps or (s.seconds is not None and self.seconds >= s.seconds)

    def prepare(self) -> None:
        """Load the data (slow)."""
        if self.processes.is_first:
            self.files.write_config(self.config)
        self.sampler = make_sampler(self.config, self.card, self.device, self.cases)
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
        self.wrapped = self.processes.wrap(self.network)
        if self.processes.count > 1 and isinstance(self.loss, nn.Module):
            for part in self.loss.modules():
                if isinstance(part, SegmentationLoss):
                    part.over_processes = self.processes.add_up

    def advance(self) -> Progress:
        """Do one step, and what is due after it.

        Raises
        ------
        OutOfMemory
            If a step needs more memory than there is.
        Attention3DError
            If the training diverges.
        """
        s, began = self.config.schedule, time.monotonic()
        used = self.seconds / s.seconds if s.seconds is not None else 0.0
        rate = learning_rate(self.config, self.step, used)
        try:
            metrics = self._update(rate)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            release(self.device, collect=True)
            raise OutOfMemory(
                f"a training step with patches of {' x '.join(map(str, self.card.patch_size))} "
                f"voxels and a batch of {s.batch_size} does not fit the memory; choose a smaller "
                "preset, or a smaller patch or batch"
            ) from error
        self.step += 1
        took = time.monotonic() - began
        self.seconds = (
            self.processes.agree(self.seconds + took) if s.seconds else (self.seconds + took)
        )
        if self.processes.is_first:
            metrics |= self._afterwards(metrics)
        message = f"Training, step {self.step} of {s.steps}, loss {metrics['loss']:.3f}"
        if "val_dice" in metrics:
            message += f", validation Dice {metrics['val_dice']:.3f}"
        return Progress(*self._done(), message, metrics=metrics)

    def _update(self, rate: float) -> dict[str, float]:
        """Do a step; what there is to log of it."""
        s = self.config.schedule
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        patch = s.patch_sizes[_pick(len(s.patch_sizes), self.config.seed, self.step)]
        images, labels = self.sampler.batch(self.step, patch, *self.share)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.wrapped(images)
        loss = self.loss(output, labels)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), s.clip)
        if torch.isfinite(norm):
            self.optimiser.step()
            self.average.update(self.network)
        self.lost = 0 if torch.isfinite(norm) else self.lost + 1
        if self.lost >= MOST_LOST:
            raise Attention3DError(
                f"the training diverged: {MOST_LOST} steps in a row without a finite gradient; "
                "train anew with a lower learning rate, or with precision fp32"
            )
        parts = {name: float(part) for name, part in self.loss.parts.items()}
        total = {"loss": float(loss.detach()), "learning_rate": rate, "grad_norm": float(norm)}
        return total | parts

    def _afterwards(self, metrics: dict[str, float]) -> dict[str, float]:
        """Validate, log and save, as it is due."""
        s, found = self.config.schedule, {}
        if self.step % s.validate_every == 0 or self.is_done:
            found = self.validate()
        row = {k: f"{v:.6g}" for k, v in (metrics | found).items()}
        row |= {"step": str(self.step), "seconds": f"{self.seconds:.1f}"}
        # First the log: of lines beyond the checkpoint resuming takes out what is too much, but a
        # step that only the checkpoint knows would be missing in it for good.
        self.files.add_to_log(self.card.class_names, row)
        if self.step % s.checkpoint_every == 0 or self.is_done:
            self.save_state()
        return found

    def _done(self) -> tuple[int, int]:
        """Steps done and in all; of the time, if that ends the run sooner."""
        s = self.config.schedule
        if s.seconds is not None and self.step and self.seconds > 0:
            expected = math.ceil(self.step * s.seconds / self.seconds)
            return self.step, max(self.step, min(s.steps, expected))
        return self.step, s.steps

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Score the averaged weights on the held-back scans; keep them if they are the best."""
        cases = self.sampler.validation()
        names = self.card.class_names
        if not cases:
            self._save_model(self.files.output, self.average.state_dict(), {})
            return {}
        own = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.state_dict())
        self.network.eval()
        scores = []
        for _, image, labels in cases:
            found = self._predict(image)
            scores.append(class_dice(found, labels.cpu(), len(names), self.sampler.ignore))
        self.network.load_state_dict(own)
        per_class = torch.stack(scores).nanmean(0)
        mean = float(per_class[1:].nanmean())
        known = {n: round(float(v), 4) for n, v in zip(names, per_class, strict=True) if v == v}
        if mean > self.best:
            self.best, self.per_class = mean, known
            metrics = {"validation_dice": known, "validation_mean_dice": round(mean, 4)}
            self._save_model(self.files.output, self.average.state_dict(), metrics)
        return {"val_dice": mean} | {f"val_{n}": v for n, v in known.items()}

    def _predict(self, image: Tensor) -> Tensor:
        """Labels (Z, Y, X), on the CPU, of an image (C, Z, Y, X): in one pass, or in windows."""
        from monai.inferers import sliding_window_inference

        def logits_of(x: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                out: Tensor = self.network(x).logits
            return out.float()

        patch = self.card.patch_size
        whole = math.prod(image.shape[1:]) <= WHOLE * math.prod(patch)
        if self.network.locality == "global":  # it sees all of a patch: as it will be used
            whole = all(n <= p for n, p in zip(image.shape[1:], patch, strict=True))
        if whole:
            return logits_of(image[None].to(self.device))[0].argmax(0).cpu()
        logits: Any = sliding_window_inference(
            image[None], patch, 1, logits_of, 0.25, "gaussian", sw_device=self.device, device="cpu"
        )
        labels: Tensor = logits[0].argmax(0)
        return labels

    def save_state(self) -> None:
        """Write the checkpoint and the last model; only the first process does."""
        if not self.processes.is_first:
            return
        checkpoint = Checkpoint(
            self.step,
            self.network.state_dict(),
            self.average.state_dict(),
            self.average.updates,
            self.optimiser.state_dict(),
            self.best,
            self._fingerprint(),
            self.seconds,
            self.per_class,
        )
        save_checkpoint(self.files.checkpoint, checkpoint)
        self._save_model(self.files.last, self.average.state_dict(), {})
        self.files.write_progress(self.step, self.config.schedule.steps, self.is_done)

    def stop(self) -> None:
        """Leave a run that can go on, and the best model so far."""
        self.save_state()
        if self.processes.is_first and self.step and not self.files.output.exists():
            self._save_model(self.files.output, self.average.state_dict(), {})

    def finish(self) -> TrainResult:
        """Close the run."""
        files = self.files
        if self.processes.is_first and not files.output.exists():
            self._save_model(files.output, self.average.state_dict(), {})
        self.processes.wait()
        score = self.best if math.isfinite(self.best) else math.nan
        return TrainResult(
            files.output,
            files.last,
            files.log,
            self.step,
            score,
            self.per_class,
            [self.doubt] if self.doubt else [],
        )

    # ---- helpers

    def _start_from(self, name: str) -> None:
        state = self.network.state_dict()
        state.update(start_weights(self.network, load_model(name)))
        self.network.load_state_dict(state)

    def _resume(self) -> None:
        found = load_checkpoint(self.files.checkpoint, self._fingerprint())
        if found is None:
            if self.processes.is_first:
                self.files.cut_log(0)
            return
        self.network.load_state_dict(found.network)
        self.optimiser.load_state_dict(found.optimiser)
        self.average.state = {k: v.to(self.device) for k, v in found.average.items()}
        self.average.updates = found.average_updates
        self.step, self.best = found.step, found.best_score
        self.seconds, self.per_class = found.seconds, found.per_class
        if self.processes.is_first:
            self.files.cut_log(self.step)

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


def _pick(count: int, *seeds: int) -> int:
    generator = torch.Generator().manual_seed(sum(s * 7919**i for i, s in enumerate(seeds)))
    return int(torch.randint(count, (1,), generator=generator))
