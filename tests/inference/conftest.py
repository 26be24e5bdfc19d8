"""Networks whose right answer is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from napari_attention3d.networks.base import MapSpec, NetworkOutput, SegmentationNetwork
from napari_attention3d.networks.norm import ScanNorm3d

SEEN: list[tuple[int, ...]] = []
"""Shapes of the batches that PointNetwork has seen; the runs work on copies of a network."""


class PointNetwork(SegmentationNetwork):
    """Logits (0, norm(x) - threshold); a map of 4 x 2 x 1 block means that divides by the block."""

    name = "test-point"

    def __init__(self, threshold: float = 0.5, norm: bool = False) -> None:
        super().__init__()
        self.in_channels, self.num_classes = 1, 2
        self.threshold = nn.Parameter(torch.tensor(threshold))
        self.norm = ScanNorm3d(1) if norm else nn.Identity()

    @property
    def config(self) -> dict[str, Any]:
        return {"threshold": float(self.threshold), "norm": isinstance(self.norm, ScanNorm3d)}

    @property
    def total_stride(self) -> tuple[int, int, int]:
        return (4, 2, 1)

    @property
    def map_specs(self) -> Mapping[str, MapSpec]:
        return {"means": MapSpec("means", "block means", (4, 2, 1), (1.5, 0.5, 0.0))}

    def forward(self, x: Tensor, return_maps: bool = False) -> NetworkOutput:
        SEEN.append(tuple(x.shape))
        logit = self.norm(x) - self.threshold
        maps = {}
        if return_maps:
            extra = [-n % s for n, s in zip(x.shape[2:], self.total_stride, strict=True)]
            padded = nn.functional.pad(x, (0, extra[2], 0, extra[1], 0, extra[0]), mode="replicate")
            maps["means"] = nn.functional.avg_pool3d(padded, self.total_stride)
        return NetworkOutput(torch.cat((torch.zeros_like(logit), logit), 1), maps, ())


@pytest.fixture
def seen() -> list[tuple[int, ...]]:
    """Shapes of all batches that reached a PointNetwork in this test."""
    SEEN.clear()
    return SEEN


@pytest.fixture
def point_network() -> Callable[..., PointNetwork]:
    """Build a PointNetwork."""
    return PointNetwork
