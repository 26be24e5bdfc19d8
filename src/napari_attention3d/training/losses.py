"""Losses: Dice + cross-entropy on all outputs; what guided attention adds to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
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


SMOOTH = 1e-5
"""Of the Dice, so that it is defined where a class is neither there nor predicted."""


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


def shrink_labels(labels: Tensor, size: Sequence[int], ignore: int | None = None) -> Tensor:
    """Labels (B, Z, Y, X) on a coarser grid over the same box.

    The label nearest to a coarse voxel's centre; with `ignore` the nearest one inside the
    coarse voxel that is known, so that thin strokes and single slices are not lost.
    """
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    if ignore is not None:
        return _nearest_known(labels, size, ignore)
    return nnf.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest-exact")[
        :, 0
    ].to(labels.dtype)


def _nearest_known(labels: Tensor, size: Sequence[int], ignore: int) -> Tensor:
    closeness = torch.full((1, 1, 1), 4.0, device=labels.device)  # above 0 everywhere
    for axis, (fine, coarse) in enumerate(zip(labels.shape[1:], size, strict=True)):
        place = (torch.arange(fine, device=labels.device) + 0.5) * coarse / fine
        view = [1, 1, 1]
        view[axis] = -1
        closeness = closeness - (place - place.floor() - 0.5).abs().view(view)
    score = closeness * (labels != ignore)
    shape: Any = tuple(size)
    best, index = nnf.adaptive_max_pool3d(score[:, None], shape, return_indices=True)
    # Where nothing is known the scores are all 0, and any voxel's label is `ignore`.
    return labels.flatten(1).gather(1, index.flatten(1)).view(best[:, 0].shape)


class SegmentationLoss(nn.Module):
    """Soft Dice + cross-entropy, and the same on side logits, each halved.

    Both are made of sums over the known voxels of the batch,

        Dice = 1 - mean_k (2 I_k + e) / (P_k + T_k + e),  CE = sum w nll / sum w,

    with I, P and T the sums of p*t, p and t of a class and e = 1e-5: so several processes
    that add up their sums have the loss, and the gradient, of one with the whole batch.

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
        self.over_processes: Callable[[Tensor], Tensor] | None = None
        """Adds a tensor up over the processes of a run, differentiably."""

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
            small = shrink_labels(labels, side.shape[2:], self.ignore)
            total = total + weight * self._one(side, small)
            norm += weight
        return total / norm

    def _one(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits, target = logits.float(), labels.long()
        classes = logits.shape[1]
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        known = None
        if self.ignore is not None:
            known = target != self.ignore
            target = torch.where(known, target, 0)
            p = p * known[:, None]
        weights = logits.new_ones(classes) if self.class_weights is None else self.class_weights
        voxel_weights = weights[target]
        one_hot = target[:, None] == torch.arange(classes, device=target.device).view(-1, 1, 1, 1)
        if known is not None:
            voxel_weights = voxel_weights * known
            one_hot = one_hot & known[:, None]
        axes = (0, 2, 3, 4)
        entropy = -log_p.gather(1, target[:, None])[:, 0] * voxel_weights
        sums = torch.cat(
            [
                torch.where(one_hot, p, 0).sum(axes),
                p.sum(axes),
                one_hot.sum(axes),
                torch.stack([entropy.sum(), voxel_weights.sum()]),
            ]
        )
        if self.over_processes is not None:
            sums = self.over_processes(sums)
        both, ours, theirs = sums[: 3 * classes].view(3, classes)
        if float(sums[-1].detach()) == 0:  # nothing is labelled here
            return logits.sum() * 0
        dice = 1 - (2 * both + SMOOTH) / (ours + theirs + SMOOTH)
        loss: Tensor = dice.mean() + sums[-2] / sums[-1]
        return loss


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
    for before, after in itertools.pairwise(trace.latents):
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
        self.parts: dict[str, Tensor] = {}

    def forward(self, output: NetworkOutput, labels: Tensor) -> Tensor:
        """Loss of a batch; in evaluation mode that of the mask alone.

        Parameters
        ----------
        output
            Of a `GuidedAttentionNet`.
        labels
            (B, Z, Y, X) integer.

        Returns
        -------
        Tensor
            Scalar. `parts` then holds, for a log, what it is the sum of, and the mean norm of
            each scale's refined features.
        """
        total = output.logits.new_zeros((), dtype=torch.float32)
        if self.final or not output.side_logits:
            total = total + (self.final or 1.0) * self._one(output.logits, labels)
        for side in output.side_logits:
            total = total + self._one(side, labels)
        total = self.weights[0] * total
        self.parts = {"segmentation": total.detach()}
        if output.trace is not None:
            guided = self.weights[1] * guided_loss(output.trace, self.detach_targets)
            rebuilt = self.weights[2] * reconstruction_loss(output.trace, self.detach_targets)
            total = total + guided + rebuilt
            self.parts |= {"guided": guided.detach(), "reconstruction": rebuilt.detach()}
            for scale, strength in enumerate(output.trace.strengths, start=1):
                self.parts[f"strength_scale_{scale}"] = strength
        return total

    def _one(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.shape[2:] != labels.shape[1:]:
            # Voxel j of the grid lies on voxel stride * j: no interpolation is needed.
            labels = self._on_grid(labels, logits.shape[2:])
        loss: Tensor = self.segmentation(logits, labels)
        return loss

    def _on_grid(self, labels: Tensor, size: Sequence[int]) -> Tensor:
        z, y, x = self.grid_stride
        ignore = self.segmentation.ignore
        if ignore is None:
            return labels[:, ::z, ::y, ::x]
        # Moved by half a stride, so that a grid voxel lies in the middle of its cell. What is
        # left beyond the last cell gets one of its own, and then counts to the last.
        pad: list[int] = []
        cells: list[int] = []
        for axis in (2, 1, 0):
            stride, length = self.grid_stride[axis], labels.shape[1 + axis]
            low = stride // 2
            cells.insert(0, max(int(size[axis]), -(-(low + length) // stride)))
            pad += [low, cells[0] * stride - low - length]
        found = shrink_labels(nnf.pad(labels, pad, value=ignore), cells, ignore)
        for axis, (count, wanted) in enumerate(zip(cells, size, strict=True), start=1):
            for extra in range(int(wanted), count):
                last = found.select(axis, int(wanted) - 1)
                beyond = found.select(axis, extra)
                last.copy_(torch.where(last == ignore, beyond, last))
            found = found.narrow(axis, 0, int(wanted))
        return found


class SideLoss(nn.Module):
    """`SegmentationLoss` of a network's output and side outputs."""

    def __init__(self, segmentation: SegmentationLoss) -> None:
        super().__init__()
        self.segmentation = segmentation
        self.parts: dict[str, Tensor] = {}

    def forward(self, output: NetworkOutput, labels: Tensor) -> Tensor:
        """Loss of a batch; labels (B, Z, Y, X)."""
        loss: Tensor = self.segmentation(output.logits, labels, output.side_logits)
        return loss


class NetworkLoss(Protocol):
    """A network's training loss."""

    parts: dict[str, Tensor]
    """Figures of the last batch for a log, by name; empty if there is nothing to tell."""

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
