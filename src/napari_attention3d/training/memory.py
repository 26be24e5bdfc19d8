"""How much memory a training step takes, found by a step without data."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ..inference.estimate import _Meter as StorageMeter
from ..networks.base import SegmentationNetwork

__all__ = ["training_bytes"]

STATE_COPIES = 4
"""Beside the weights: gradient, AdamW's two moments, the average of the weights."""
LOSS_COPIES = 6
"""Values that the loss holds per logit."""
LIBRARIES = 1.5
"""What is taken, over what tensors hold: blocked copies in convolutions, and the allocator
(1.30 to 1.57 times was measured on a CPU, for both networks at 48 to 96 voxels)."""


def training_bytes(network: SegmentationNetwork, patch: Sequence[int], batch: int = 1) -> int:
    """Bytes at the peak of a training step in float32; computes nothing.

    A forward and a backward pass run on tensors without data while a meter follows which
    storages are alive.

    Parameters
    ----------
    network
        Left as it is.
    patch
        Voxels (z, y, x).
    batch
        Patches at once.

    Raises
    ------
    RuntimeError
        If the network can't run without data.
    """
    twin, meter = copy.deepcopy(network).train().requires_grad_(), StorageMeter()
    z, y, x = (int(n) for n in patch)
    with torch.enable_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty((batch, network.in_channels, z, y, x), device=network.device)
        with meter:
            output = twin(image)
            total: Tensor = output.logits.sum() + sum(side.sum() for side in output.side_logits)
            torch.autograd.backward(total)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    logits = 4 * batch * network.num_classes * z * y * x
    return int(LIBRARIES * meter.peak) + STATE_COPIES * weights + LOSS_COPIES * logits
