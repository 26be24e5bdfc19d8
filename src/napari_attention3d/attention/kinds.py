"""Maps made on request: what each shows, what it needs of a network, what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..networks.base import MapSpec, NetworkOutput, SegmentationNetwork
from ..networks.norm import Calibration

__all__ = ["MapKind", "WithMap", "available_kinds"]


class MapKind(Protocol):
    """One kind of map; one file each.

    Attributes
    ----------
    name
        File-name-like.
    passes
        Forward passes of the network per tile: what it costs, against the mask's one.
    colormap
        That suits the quantity.
    """

    name: str
    passes: int
    colormap: str

    def missing(self, network: SegmentationNetwork) -> str:
        """Say why a network can't show it; empty if it can."""

    def spec(self, network: SegmentationNetwork) -> MapSpec:
        """Grid, range and meaning of the map."""

    def compute(self, network: SegmentationNetwork, x: Tensor) -> tuple[NetworkOutput, Tensor]:
        """Run a network over (B, C, Z, Y, X): its output, and the map (B, 1, z, y, x)."""


class WithMap(SegmentationNetwork):
    """A network with one more map, to be run by the engine like any other.

    Parameters
    ----------
    inner
        The network; its norms are found under ``inner.`` (see `calibration_of`).
    kind
        The map.
    """

    name = "with-map"

    def __init__(self, inner: SegmentationNetwork, kind: MapKind) -> None:
        super().__init__()
        reason = kind.missing(inner)
        if reason:
            raise InputError(f"this model can't show {kind.name}: {reason}")
        self.inner, self.kind = inner, kind
        self.in_channels, self.num_classes = inner.in_channels, inner.num_classes
        self.locality = inner.locality

    @property
    def config(self) -> dict[str, object]:
        """Of the network inside, with the map's name."""
        return {**self.inner.config, "with_map": self.kind.name}

    @property
    def total_stride(self) -> tuple[int, int, int]:
        """Of the network inside."""
        return self.inner.total_stride

    @property
    def tile_multiple(self) -> tuple[int, int, int]:
        """Of the network inside, and of the maps that it could show: the same tiles."""
        return self.inner.tile_multiple

    @property
    def map_specs(self) -> Mapping[str, MapSpec]:
        """Those of the network inside, and the map."""
        return {**self.inner.map_specs, self.kind.name: self.kind.spec(self.inner)}

    def forward(self, x: Tensor, return_maps: bool = False) -> NetworkOutput:
        """Segment a batch; the only map returned is the added one."""
        output, added = self.kind.compute(self.inner, x)
        maps = {self.kind.name: added} if return_maps else {}
        return NetworkOutput(output.logits, maps, ())

    @staticmethod
    def calibration_of(
        calibration: Calibration,
    ) -> dict[str, tuple[list[float], list[float]]]:
        """Statistics of the network inside, under the names that they have here."""
        return {f"inner.{name}": pair for name, pair in calibration.items()}


def available_kinds() -> tuple[MapKind, ...]:
    """All kinds of maps."""
    from .agreement import ScaleAgreement
    from .entropy import Entropy
    from .flips import FlipSpread
    from .reconstruction import ReconstructionError

    return ScaleAgreement(), ReconstructionError(), Entropy(), FlipSpread()


def disagreement(shares: Iterable[Tensor], count: int) -> Tensor:
    """Jensen-Shannon divergence of several predictions, over its largest possible value.

    Parameters
    ----------
    shares
        Predictions (B, K, z, y, x), each summing to 1 over K; taken one at a time.
    count
        How many there are.

    Returns
    -------
    Tensor
        (B, 1, z, y, x): 0 where all say the same, 1 where each is sure of another class.
    """
    mean: Tensor | None = None
    entropy: Tensor | None = None
    classes = 0
    for one in shares:
        own = -torch.xlogy(one, one).sum(1, keepdim=True) / count
        entropy = own if entropy is None else entropy + own
        mean = one / count if mean is None else mean.add_(one, alpha=1 / count)
        classes = one.shape[1]
    if mean is None or entropy is None:
        raise ValueError("there is no prediction to compare")
    of_mean = -torch.xlogy(mean, mean).sum(1, keepdim=True)
    most = math.log(min(count, classes))
    return ((of_mean - entropy) / most).clamp(0, 1)
