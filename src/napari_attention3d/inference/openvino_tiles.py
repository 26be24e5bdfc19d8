"""Tiles by OpenVINO on a CPU (extra ``openvino``): compiled once, for one shape."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import first_line
from ..networks.base import NetworkOutput, SegmentationNetwork

__all__ = ["OpenVinoTiles", "is_installed"]


def is_installed() -> bool:
    """Whether the extra is there; does not import it."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoTiles:
    """A network whose tiles of one shape OpenVINO computes, in float32.

    Parameters
    ----------
    network
        On the CPU, in evaluation mode, its statistics frozen.
    otherwise
        What computes tiles of other shapes, and all if OpenVINO can't.
    maps
        Names of attention maps to return when they are asked for.
    report
        Told, once, why OpenVINO does not compute.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        otherwise: SegmentationNetwork,
        maps: Sequence[str],
        report: Callable[[str], None],
    ) -> None:
        self.network, self.otherwise, self.maps = network, otherwise, tuple(maps)
        self.report = report
        self._shape: tuple[int, ...] | None = None
        self._compiled: Any = None
        self._lock = threading.Lock()

    def __call__(self, x: Tensor, return_maps: bool = False) -> NetworkOutput:
        """Compute (B, C, z, y, x) float32; the first call compiles for its shape."""
        with self._lock:
            if self._shape is None:
                self._shape = tuple(x.shape)
                try:
                    self._compiled = _compile(_Flat(self.network, self.maps), x)
                except Exception as error:  # what a converter raises is not ours to know
                    self.report(
                        f"OpenVINO can't compute this network ({first_line(error, 200)}); torch did"
                    )
            if self._compiled is None or tuple(x.shape) != self._shape:
                usual: NetworkOutput = self.otherwise(x, return_maps=return_maps)
                return usual
            found = self._compiled(x.contiguous().numpy())
            # Copied: the next call writes into the same buffers.
            logits, *maps = (torch.from_numpy(found[i].copy()) for i in range(len(found)))
        return NetworkOutput(logits, dict(zip(self.maps, maps, strict=True)), ())


class _Flat(nn.Module):
    """Logits and maps as a tuple, for the tracer."""

    def __init__(self, network: SegmentationNetwork, maps: Sequence[str]) -> None:
        super().__init__()
        self.network, self.maps = network, tuple(maps)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        output = self.network(x, return_maps=bool(self.maps))
        return output.logits, *(output.maps[name] for name in self.maps)


def _compile(network: nn.Module, x: Tensor) -> Any:
    import openvino

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, of sizes that are constants here
        model = openvino.convert_model(network, example_input=x.clone(), input=[tuple(x.shape)])
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return openvino.Core().compile_model(model, "CPU", options)
