"""Dice + cross-entropy on the output and, more lightly, on the side outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as nnf

__all__ = ["SegmentationLoss", "balanced_weights", "shrink_labels"]


def balanced_weights(shares: Tensor) -> Tensor:
    """Class weights, one over the square root of the share, at most 10 times the smallest.

    Parameters
    ----------
    shares
        (K,), sums to 1.

    Returns
    -------
    Tensor
        (K,), mean 1 over the voxels.
    """
    raw = shares.clamp_min(1e-6).rsqrt()
    raw = raw.clamp_max(10 * float(raw.min()))
    return raw / float((raw * shares).sum().clamp_min(1e-6))


def shrink_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest labels (B, Z, Y, X) on a coarser grid over the same box."""
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    return nnf.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest-exact")[
        :, 0
    ].to(labels.dtype)


class SegmentationLoss(nn.Module):
    """Soft Dice (MONAI) + cross-entropy, and the same on side logits, each halved.

    Parameters
    ----------
    class_weights
        (K,) for the cross-entropy, or None.
    ignore
        Label that is not scored.
    side
        Weight of each deeper side output relative to the one above it; 0: none.
    """

    class_weights: Tensor | None

    def __init__(
        self, class_weights: Tensor | None = None, ignore: int | None = None, side: float = 0.5
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights)
        self.ignore, self.side = ignore, side
        self.dice = DiceLoss(softmax=True, include_background=True, batch=True)

    def forward(self, logits: Tensor, labels: Tensor, sides: Sequence[Tensor] = ()) -> Tensor:
        """Loss of a batch.

        Parameters
        ----------
        logits
            (B, K, Z, Y, X).
        labels
            (B, Z, Y, X) integer.
        sides
            Side logits (B, K, z, y, x), finest first.
        """
        total = self._one(logits, labels)
        weight, norm = 1.0, 1.0
        for side in sides if self.side > 0 else ():
            weight *= self.side
            total = total + weight * self._one(side, shrink_labels(labels, side.shape[2:]))
            norm += weight
        return total / norm

    def _one(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits, target = logits.float(), labels.long()
        weights = self.class_weights
        if self.ignore is None:
            one_hot = nnf.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
            dice: Tensor = self.dice(logits, one_hot)
            return dice + nnf.cross_entropy(logits, target, weight=weights)
        # Partial loss: only labelled voxels, gathered into one row, count in both terms.
        known = target != self.ignore
        if not bool(known.any()):
            return logits.sum() * 0
        flat = logits.movedim(1, -1)[known].T[None]
        truth = target[known][None]
        one_hot = nnf.one_hot(truth, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        overlap: Tensor = self.dice(flat, one_hot)
        return overlap + nnf.cross_entropy(flat, truth, weight=weights)


def class_dice(prediction: Tensor, labels: Tensor, classes: int, ignore: int | None) -> Tensor:
    """Dice of each class (K,); NaN where it is in neither. Labels (Z, Y, X)."""
    known = labels != ignore if ignore is not None else torch.ones_like(labels, dtype=torch.bool)
    scores = []
    for value in range(classes):
        a, b = (prediction == value) & known, (labels == value) & known
        size = int(a.sum() + b.sum())
        scores.append(2 * float((a & b).sum()) / size if size else float("nan"))
    return torch.tensor(scores)
