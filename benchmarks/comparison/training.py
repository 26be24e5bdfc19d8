"""One training run and its scores, the same for every network."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from napari_attention3d.training.losses import balanced_weights, make_loss

from .builders import build, parameter_count
from .cases import Case
from .scoring import score

RATE, WEIGHT_DECAY, CLIP, WARM_UP = 1e-3, 1e-4, 1.0, 20


def cosine_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to 1 % of the rate."""
    if step < WARM_UP:
        return RATE * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return RATE * max(0.01, 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """Network, loss and optimiser; `step` does one update."""

    def __init__(
        self, network: nn.Module, weights: Tensor | None, ignore: int | None, device: torch.device
    ) -> None:
        self.network, self.device = network.to(device), device
        weights = None if weights is None else weights.to(device)
        # Dice + cross-entropy on logits for every network; ours add their own side losses.
        self.loss = make_loss(network, weights, ignore)  # type: ignore[arg-type]
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)

    def step(self, images: Tensor, labels: Tensor, rate: float = RATE) -> float:
        """One update; the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        output = self.network(images.to(self.device))
        loss = self.loss(output, labels.to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        if torch.isfinite(norm):
            self.optimiser.step()
        return float(loss.detach())


def run(
    case: Case, name: str, seed: int, steps: int, device: torch.device
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Train a network of BUILDERS and score it.

    Yields
    ------
    tuple
        Steps done, and at the end the record of the run (None before).
    """
    torch.manual_seed(seed)
    network = build(name, len(case.classes))
    weights = balanced_weights(case.sampler.shares())
    trainer = Trainer(network, weights, case.sampler.ignore, device)
    losses, used = [], 0.0
    for step in range(steps):
        images, labels = case.sampler.batch(step, case.patch, 1)
        began = time.process_time()
        losses.append(trainer.step(images, labels.long(), cosine_rate(step, steps)))
        used += time.process_time() - began
        yield step + 1, None
    last = losses[-min(50, len(losses)) :]
    yield (
        steps,
        {
            "case": case.name,
            "network": name,
            "seed": seed,
            "steps": steps,
            "patch": list(case.patch),
            "parameters": parameter_count(network),
            "training_cpu_seconds": round(used, 1),
            "last_losses_mean": sum(last) / len(last),
            "scores": score(network, case, device),
        },
    )
