"""What every segmentation network promises to the rest of the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .guided_module import GuidanceTrace

__all__ = ["MapSpec", "NetworkOutput", "SegmentationNetwork"]


@dataclass(frozen=True)
class MapSpec:
    """An attention map that a network can return.

    Parameters
    ----------
    name
        File-name-like, unique in the network ("gate-level-2").
    title
        What the person reads ("attention gate, level 2").
    stride, offset
        Voxel ``j`` of the map is centred on input voxel ``stride * j + offset`` (z, y, x).
    value_range
        Smallest and largest possible value; None: no bound.
    description
        What it means, in one sentence.
    primary
        Whether it is among those that "all maps" means; the others are asked for by name.
    """

    name: str
    title: str
    stride: tuple[int, int, int]
    offset: tuple[float, float, float]
    value_range: tuple[float, float | None] = (0.0, 1.0)
    description: str = ""
    primary: bool = True


class NetworkOutput(NamedTuple):
    """Result of a forward pass.

    Attributes
    ----------
    logits
        (B, K, Z, Y, X), size of the input. Softmax is applied outside, once.
    maps
        By `MapSpec.name`: (B, 1, z, y, x); empty unless asked for.
    side_logits
        Deep-supervision logits at the size of their level, finest first; empty in eval.
    trace
        In training, what the losses of guided attention compare; None otherwise.
    """

    logits: Tensor
    maps: dict[str, Tensor]
    side_logits: tuple[Tensor, ...]
    trace: GuidanceTrace | None = None


class SegmentationNetwork(nn.Module):
    """Base class of networks: (B, C, Z, Y, X) float in, `NetworkOutput` out, any size."""

    name: ClassVar[str]
    """Name in the registry."""
    locality: Literal["local", "global"] = "local"
    """"local" if an output voxel depends on a bounded neighbourhood once norms are frozen."""

    in_channels: int
    num_classes: int

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this network (JSON-compatible)."""
        raise NotImplementedError(f"{type(self).__name__} must define config")

    @property
    def total_stride(self) -> tuple[int, int, int]:
        """Product of the strides along (z, y, x)."""
        raise NotImplementedError(f"{type(self).__name__} must define total_stride")

    def padded_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Size (z, y, x) at which a tile is computed: by default a multiple of the stride."""
        z, y, x = (-(-int(n) // s) * s for n, s in zip(size, self.total_stride, strict=True))
        return z, y, x

    @property
    def tile_multiple(self) -> tuple[int, int, int]:
        """What tiles must start at multiples of, for their voxels to fall together."""
        return self.total_stride

    @property
    def map_specs(self) -> Mapping[str, MapSpec]:
        """The maps that ``forward(x, return_maps=True)`` returns, finest first."""
        raise NotImplementedError(f"{type(self).__name__} must define map_specs")

    def forward(self, x: Tensor, return_maps: bool = False) -> NetworkOutput:
        """Segment a batch; see `NetworkOutput`."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device
