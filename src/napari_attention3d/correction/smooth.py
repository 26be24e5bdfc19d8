"""Probabilities made to follow the scan's edges: random walker with a prior.

Minimises, for each class k (Grady 2005, "Multilabel random walker image segmentation
using prior models", eq. 9),

    sum over neighbours ij  w_ij (x_i - x_j)^2  +  gamma * sum_i (x_i - p_i)^2

with x = 1 or 0 at painted voxels, ``w_ij = exp(-beta (g_i - g_j)^2 / s^2) + eps``, g the
smoothed scan and s its root mean square difference; the exponents of channels add up.
Solved by conjugate gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from .features import ScanFeatures

__all__ = ["Edges", "random_walk", "scan_edges"]

FLOOR = 0.02
ITERATIONS = 30

Edges = tuple[Tensor, Tensor, Tensor]
"""Weights between neighbours along z, y and x."""


def scan_edges(features: ScanFeatures) -> tuple[Edges, float]:
    """Weights of a scan, and the gamma that suits its noise.

    A noisy scan is smoothed more before its edges are taken, its edges count less and its
    neighbours more: the voxel's own probability is worth less there.
    """
    apart = [np.zeros(1, np.float32)] * 3
    for channel, noise in zip(features.channels, features.noise, strict=True):
        sigma = (0.6 + 1.5 * noise) / features.ratio
        x = ndimage.gaussian_filter(channel, np.where(sigma < 0.25, 0.0, sigma))
        squares = [np.diff(x, axis=axis) ** 2 for axis in range(3)]
        size = sum(s.size for s in squares)
        mean = sum(float(s.sum()) for s in squares) / max(1, size) + 1e-12
        scale = 3.0 / (1 + 3.3 * noise) / mean
        apart = [a + scale * s for a, s in zip(apart, squares, strict=True)]
    # the clearest channel says where borders are
    calm = 1 + 3.3 * min(features.noise)
    weights = [
        torch.from_numpy((np.exp(-a) + FLOOR) / ratio**2).float()
        for a, ratio in zip(apart, features.ratio, strict=True)
    ]
    return (weights[0], weights[1], weights[2]), 0.3 / calm


def random_walk(
    prior: npt.NDArray[np.float32],
    edges: Edges,
    gamma: float,
    voxels: npt.NDArray[Any],
    values: npt.NDArray[Any],
    iterations: int = ITERATIONS,
) -> npt.NDArray[np.float32]:
    """Smooth probabilities.

    Parameters
    ----------
    prior
        (K, Z, Y, X), sums to 1 over K.
    edges, gamma
        From `scan_edges`; a larger gamma keeps closer to the prior.
    voxels, values
        Painted voxels (N, 3) and their classes (N,): certain.
    iterations
        Of conjugate gradients; each spreads by a voxel.

    Returns
    -------
    ndarray
        (K, Z, Y, X), 0 to 1.
    """
    result = np.empty_like(prior)
    where = tuple(torch.from_numpy(np.ascontiguousarray(v)) for v in voxels.T)
    free = torch.ones(prior.shape[1:])
    free[where] = 0
    degree = torch.full(prior.shape[1:], gamma)
    for axis, weight in enumerate(edges):
        n = prior.shape[1 + axis] - 1
        degree.narrow(axis, 1, n).add_(weight)
        degree.narrow(axis, 0, n).add_(weight)
    painted = torch.from_numpy(np.ascontiguousarray(values))
    for k in range(prior.shape[0]):  # class by class: the caches hold one
        p = torch.from_numpy(prior[k])
        x = p.clone()
        x[where] = (painted == k).float()
        _solve(x, p, edges, gamma, degree, free, iterations)
        result[k] = x.clamp_(0, 1).numpy()
    return result


def _solve(
    x: Tensor,
    prior: Tensor,
    edges: Edges,
    gamma: float,
    degree: Tensor,
    free: Tensor,
    iterations: int,
) -> None:
    """Conjugate gradients with the diagonal as preconditioner, in place."""
    residual = (gamma * prior - _laplacian(x, edges, degree)) * free
    direction = residual / degree
    size = torch.sum(residual * direction)
    for _ in range(iterations):
        if float(size) < 1e-8 * x.numel():
            break
        moved = _laplacian(direction, edges, degree).mul_(free)
        step = size / (torch.sum(direction * moved) + 1e-20)
        x.add_(direction * step)
        residual.sub_(moved.mul_(step))
        scaled = residual / degree
        new = torch.sum(residual * scaled)
        direction.mul_(new / (size + 1e-20)).add_(scaled)
        size = new


def _laplacian(x: Tensor, edges: Edges, degree: Tensor) -> Tensor:
    out = degree * x
    for axis, weight in enumerate(edges):
        n = x.shape[axis] - 1
        out.narrow(axis, 1, n).sub_(weight * x.narrow(axis, 0, n))
        out.narrow(axis, 0, n).sub_(weight * x.narrow(axis, 1, n))
    return out
