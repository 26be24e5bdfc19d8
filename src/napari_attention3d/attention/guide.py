"""Paint the attention: strokes "look here" and "not here" as a term of a network's loss.

Maps of a forward pass are drawn towards 1 under "look here" and towards 0 under "not
here" (Li et al. 2018, arXiv:1802.10171, supervise attention alike); what is not painted
costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ..networks.base import MapSpec

__all__ = ["LOOK", "NOT", "guide_loss", "strokes_on_map"]

LOOK, NOT = 1, 2
"""Values of the strokes; 0 is not painted."""
_SURE = 1e-4


def strokes_on_map(strokes: Tensor, spec: MapSpec, shape: torch.Size) -> Tensor:
    """Bring strokes to the grid of a map.

    Parameters
    ----------
    strokes
        (B, Z, Y, X) integers on the input's grid: `LOOK`, `NOT`, or 0.
    spec
        The map's.
    shape
        Of the map (z, y, x).

    Returns
    -------
    Tensor
        (B, 2, z, y, x): share of each cell that is painted `LOOK`, and `NOT`. A cell is
        the voxels that are nearest to its centre.
    """
    both = torch.stack((strokes == LOOK, strokes == NOT), 1).float()
    for axis, (stride, offset, count) in enumerate(
        zip(spec.stride, spec.offset, shape, strict=True)
    ):
        line = torch.arange(both.shape[2 + axis], device=both.device)
        cell = torch.floor((line - offset) / stride + 0.5).long().clamp(0, count - 1)
        size = [*both.shape]
        size[2 + axis] = count
        both = both.new_zeros(size).index_add_(2 + axis, cell, both) / stride
    return both.clamp(max=1)


def guide_loss(maps: Mapping[str, Tensor], strokes: Tensor, specs: Mapping[str, MapSpec]) -> Tensor:
    """Return how much maps contradict strokes; differentiable in the maps.

    Parameters
    ----------
    maps
        (B, 1, z, y, x) by name, of ``network(x, return_maps=True)``.
    strokes
        (B, Z, Y, X) integers on the input's grid: `LOOK`, `NOT`, or 0.
    specs
        The network's.

    Returns
    -------
    Tensor
        Mean over the maps of the binary cross-entropy under strokes, "look" and "not"
        counting alike however much is painted; 0 where nothing is. A map without an upper
        end (m >= 0) counts as ``m / (m + its mean over the volume)``: what is compared is
        whether a place is above or below the map's own mean.

    Raises
    ------
    ValueError
        If there is no map.
    """
    if not maps:
        raise ValueError("there is no map to guide: ask the network for its maps")
    total = strokes.new_zeros((), dtype=torch.float32)
    for name, raw in maps.items():
        spec, value = specs[name], raw.float()
        if spec.value_range[1] is None:
            mean = value.mean(dim=(2, 3, 4), keepdim=True).detach().clamp(min=1e-6)
            value = value / (value + mean)
        share = _SURE + (1 - 2 * _SURE) * value[:, 0]  # a bounded cost, and a slope everywhere
        painted = strokes_on_map(strokes, spec, raw.shape[2:])
        for target, weight in ((1.0, painted[:, 0]), (0.0, painted[:, 1])):
            if not bool(weight.any()):
                continue
            cost = nnf.binary_cross_entropy(
                share, torch.full_like(share, target), weight, reduction="sum"
            )
            total = total + cost / weight.sum()
    return total / len(maps)
