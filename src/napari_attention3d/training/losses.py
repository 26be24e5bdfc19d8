"""Losses: Dice + cross-entropy on all outputs; what guided attention adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as nnf

from ..networks import GuidedAttentionNet, NetworkOutput, SegmentationNetwork
from ..networks.guided_module import GuidanceTrace

__all__ = [
    "GuidedAttentionLoss",
    "NetworkLoss",
    "SegmentationLoss",
    "SideLoss",
    "balanced_weights",
    "class_dice",
    "guided_loss",
    "make_loss",
    "reconstruction_loss",
    "shrink_labels",
]


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


def guided_loss(trace: GuidanceTrace, detach_targets: bool = False) -> Tensor:
    """``sum_s mean (z_s^t - z_s^(t+1))^2`` between the codes of successive steps (Sinha & Dolz).

    A mean over elements, as in the paper's code, so that its weight does not depend on the
    resolution. 0 if there is a single step.

    Parameters
    ----------
    trace
        Of the network's output.
    detach_targets
        Let no gradient into the earlier step's code. The paper lets it.
    """
    total = trace.latents[0][0].new_zeros((), dtype=torch.float32)
    for before, after in zip(trace.latents, trace.latents[1:], strict=False):
        for target, code in zip(before, after, strict=True):
            target = target.detach() if detach_targets else target
            total = total + nnf.mse_loss(code.float(), target.float())
    return total


def reconstruction_loss(trace: GuidanceTrace, detach_targets: bool = False) -> Tensor:
    """``sum_s,t mean (in_s^t - R_s^t)^2``: each reconstruction against its own input.

    Parameters
    ----------
    trace, detach_targets
        As in `guided_loss`; targets are the autoencoders' inputs.
    """
    total = trace.inputs[0][0].new_zeros((), dtype=torch.float32)
    for inputs, rebuilt in zip(trace.inputs, trace.reconstructions, strict=True):
        for target, output in zip(inputs, rebuilt, strict=True):
            target = target.detach() if detach_targets else target
            total = total + nnf.mse_loss(output.float(), target.float())
    return total


class GuidedAttentionLoss(nn.Module):
    """``L = a * sum Seg(outputs) + b * L_guided + c * L_rec`` with a, b, c = 1, 0.25, 0.1.

    The outputs are the side logits of the features and of the refined attention of each
    scale and, where a refinement head makes the mask more than their mean, the mask,
    which may count more than one of the others.

    Parameters
    ----------
    segmentation
        Loss of one output.
    grid_stride
        Voxels between the side logits' where they lie on the attention's grid.
    final
        Weight of the mask's own loss, where that of a side output is 1; 0: none.
    weights
        (a, b, c).
    detach_targets
        See `guided_loss`.
    """

    def __init__(
        self,
        segmentation: SegmentationLoss,
        grid_stride: Sequence[int],
        *,
        final: float,
        weights: tuple[float, float, float] = (1.0, 0.25, 0.1),
        detach_targets: bool = False,
    ) -> None:
        super().__init__()
        self.segmentation, self.final = segmentation, final
        self.grid_stride = tuple(int(s) for s in grid_stride)
        self.weights, self.detach_targets = weights, detach_targets

    def forward(self, output: NetworkOutput, labels: Tensor) -> Tensor:
        """Loss of a batch; in evaluation mode that of the mask alone.

        Parameters
        ----------
        output
            Of a `GuidedAttentionNet`.
        labels
            (B, Z, Y, X) integer.
        """
        total = output.logits.new_zeros((), dtype=torch.float32)
        if self.final or not output.side_logits:
            total = total + (self.final or 1.0) * self._one(output.logits, labels)
        for side in output.side_logits:
            total = total + self._one(side, labels)
        total = self.weights[0] * total
        if output.trace is not None:
            guided = guided_loss(output.trace, self.detach_targets)
            rebuilt = reconstruction_loss(output.trace, self.detach_targets)
            total = total + self.weights[1] * guided + self.weights[2] * rebuilt
        return total

    def _one(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.shape[2:] != labels.shape[1:]:
            # Voxel j of the grid lies on voxel stride * j: no interpolation is needed.
            z, y, x = self.grid_stride
            labels = labels[:, ::z, ::y, ::x]
        loss: Tensor = self.segmentation(logits, labels)
        return loss


class SideLoss(nn.Module):
    """`SegmentationLoss` of a network's output and side outputs."""

    def __init__(self, segmentation: SegmentationLoss) -> None:
        super().__init__()
        self.segmentation = segmentation

    def forward(self, output: NetworkOutput, labels: Tensor) -> Tensor:
        """Loss of a batch; labels (B, Z, Y, X)."""
        loss: Tensor = self.segmentation(output.logits, labels, output.side_logits)
        return loss


class NetworkLoss(Protocol):
    """A network's training loss."""

    def __call__(self, output: NetworkOutput, labels: Tensor) -> Tensor:
        """Scalar loss of a batch; labels (B, Z, Y, X)."""


def make_loss(
    network: SegmentationNetwork,
    class_weights: Tensor | None = None,
    ignore: int | None = None,
    side: float = 0.5,
    *,
    guidance: tuple[float, float, float] = (1.0, 0.25, 0.1),
    mask: float = 1.0,
    detach_targets: bool = False,
) -> NetworkLoss:
    """Return the training loss that a network calls for.

    Parameters
    ----------
    network
        Registered or not.
    class_weights, ignore, side
        See `SegmentationLoss`.
    guidance, mask, detach_targets
        See `GuidedAttentionLoss` (weights, final); only guided attention uses them.
    """
    if isinstance(network, GuidedAttentionNet):
        return GuidedAttentionLoss(
            SegmentationLoss(class_weights, ignore),
            network.grid_stride,
            final=mask if network.head is not None else 0.0,
            weights=guidance,
            detach_targets=detach_targets,
        )
    return SideLoss(SegmentationLoss(class_weights, ignore, side))


def class_dice(prediction: Tensor, labels: Tensor, classes: int, ignore: int | None) -> Tensor:
    """Dice of each class (K,); NaN where it is in neither. Labels (Z, Y, X)."""
    known = labels != ignore if ignore is not None else torch.ones_like(labels, dtype=torch.bool)
    scores = []
    for value in range(classes):
        a, b = (prediction == value) & known, (labels == value) & known
        size = int(a.sum() + b.sum())
        scores.append(2 * float((a & b).sum()) / size if size else float("nan"))
    return torch.tensor(scores)
