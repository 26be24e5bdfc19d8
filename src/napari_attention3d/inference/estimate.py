"""What a forward pass will cost, found by running the network without data.

The network runs once on fake tensors: every operation is dispatched with real shapes, none
is computed. A mode around it follows which storages are alive, and adds what the
convolution library takes for itself. Each size of tile is followed once (around a second,
off the window's thread): what it costs is not in proportion to its voxels.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..networks.base import SegmentationNetwork
from ..networks.norm import calibrating
from ..networks.self_attention import attending_within
from .device import Precision

__all__ = ["ForwardCost", "Rates", "estimate_forward", "field_of", "rates"]

LIBRARY_BYTES = 8_000_000
"""What the libraries take whatever the tile (threads, kernels made at first use; measured)."""
BLOCK = 16
"""Channels that oneDNN lays side by side; it copies input and output into such blocks."""
TINY_BYTES = 4096
"""Storages below it are not followed: hundreds of weights' views, a few kilobytes in all."""
KEPT = 256
PROBE_FLOPS = 4e10
PROBE_EDGES = (64, 48, 32, 16)

aten = torch.ops.aten
_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
}


@dataclass(frozen=True)
class ForwardCost:
    """Cost of one forward pass.

    Attributes
    ----------
    bytes
        Memory at the peak above the network's own weights.
    flops
        Floating point operations of convolutions and matrix products (an addition and a
        multiplication are two).
    """

    bytes: int
    flops: float


Size = tuple[int, int, int]
_KNOWN: OrderedDict[str, ForwardCost] = OrderedDict()


def estimate_forward(
    network: SegmentationNetwork,
    tile: Sequence[int],
    *,
    batch: int = 1,
    precision: Precision | None = None,
    seen: Sequence[int] | None = None,
) -> ForwardCost:
    """Return what a forward pass in evaluation mode costs; computes nothing.

    The pass is one that measures the scan's statistics, if the network has norms that do:
    it takes the most.

    Parameters
    ----------
    network
        Left as it is.
    tile
        Voxels (z, y, x).
    batch
        Tiles at once.
    precision
        See `choose_precision`; None is float32.
    seen
        Voxels (z, y, x) that position attention sees at once; None: the whole tile.

    Raises
    ------
    RuntimeError
        If the network can't run without data (it looks at values).
    """
    precision = precision or Precision("float32", "")
    about = [type(network).__qualname__, network.config, str(network.device), precision.name]
    field = None if seen is None else field_of(network, seen)
    key = json.dumps([*about, batch, network.padded_size(tile), field])
    if key not in _KNOWN:
        _KNOWN[key] = _follow(network, (batch, network.in_channels, *tile), precision, field)
        while len(_KNOWN) > KEPT:
            _KNOWN.popitem(last=False)
    return _KNOWN[key]


def field_of(network: SegmentationNetwork, tile: Sequence[int]) -> Size:
    """Return a tile's size (z, y, x) on the grid that its strides fall on."""
    z, y, x = (-(-int(n) // s) for n, s in zip(tile, network.tile_multiple, strict=True))
    return z, y, x


def _follow(
    network: SegmentationNetwork,
    shape: tuple[int, ...],
    precision: Precision,
    field: Sequence[int] | None,
) -> ForwardCost:
    from .predict import private_copy

    twin = private_copy(network)
    device, meter = network.device, _Meter()
    with torch.inference_mode(False), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(shape, device=device)
        within = nullcontext() if field is None else attending_within(twin, field)
        with meter, precision.context(device), calibrating(twin), within:
            twin(x)
    return ForwardCost(int(meter.peak) + LIBRARY_BYTES, meter.flops)


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations make, and counts operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak, self.flops = 0, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, then look at what is alive."""
        out = func(*args, **(kwargs or {}))
        self._see(out)
        for key in [k for k, (ref, _) in self.live.items() if _gone(ref)]:
            del self.live[key]
        held = sum(size for _, size in self.live.values())
        packet = func._overloadpacket
        if packet is aten.convolution:
            held += _scratch(args, out)
        if packet in _ATTENTION:
            (b, h, n, d), m = args[0].shape, args[1].shape[2]
            self.flops += 4.0 * b * h * n * m * d
        elif packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        self.peak = max(self.peak, held)
        return out

    def _see(self, value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            ref = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            if storage.nbytes() >= TINY_BYTES:
                self.live.setdefault(ref.cdata, (ref, storage.nbytes()))
        elif isinstance(value, tuple | list):
            for item in value:
                self._see(item)


def _gone(ref: StorageWeakRef) -> bool:
    return bool(ref.expired())  # type: ignore[no-untyped-call]


def _scratch(args: Sequence[Any], out: Tensor) -> int:
    """Bytes that a convolution takes for blocked copies of its input, output and weights."""
    x, weight, transposed = args[0], args[1], bool(args[6])
    size = _blocked(x) + _blocked(out) * (2 if transposed else 1)
    return int(size + weight.numel() * x.element_size())


def _blocked(x: Tensor) -> int:
    channels = x.shape[1]
    if channels < 4:  # a scan's own channels are taken as they lie
        return int(x.numel() * x.element_size())
    return x.numel() // channels * (-(-channels // BLOCK) * BLOCK) * x.element_size()


class Rates:
    """How fast networks run here: measured once for each network, device and precision.

    Passes that measure the scan's statistics are slower and counted apart.

    Parameters
    ----------
    clock
        Seconds; of processor time for measurements on a machine with other work.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._taken: dict[str, tuple[Size, int, float]] = {}

    def known(
        self,
        network: SegmentationNetwork,
        device: torch.device,
        precision: Precision,
        *,
        measuring: bool = False,
    ) -> float | None:
        """Operations per second, or None if nothing was measured yet.

        Raises
        ------
        RuntimeError
            See `estimate_forward`.
        """
        taken = self._taken.get(_rate_key(network, device, precision, measuring))
        if taken is None:
            # The other kind of pass is better than nothing.
            taken = self._taken.get(_rate_key(network, device, precision, not measuring))
        if taken is None:
            return None
        tile, batch, seconds = taken
        cost = estimate_forward(network, tile, batch=batch, precision=precision)
        return cost.flops / seconds if cost.flops > 0 else None

    def learn(
        self,
        network: SegmentationNetwork,
        device: torch.device,
        precision: Precision,
        tile: Sequence[int],
        seconds: float,
        batch: int = 1,
        *,
        measuring: bool = False,
    ) -> None:
        """Remember how long a forward pass took; the last one counts. Costs no time."""
        if seconds > 0:
            z, y, x = (int(n) for n in tile)
            key = _rate_key(network, device, precision, measuring)
            self._taken[key] = (z, y, x), batch, seconds

    def probe(
        self, network: SegmentationNetwork, device: torch.device, precision: Precision
    ) -> None:
        """Measure what is not `known` yet; off the window's thread.

        Small forward passes: one that warms up, one that measures the scan's statistics,
        one that uses them.

        Raises
        ------
        RuntimeError
            If the device does not take the network, or see `estimate_forward`.
        """
        if self.known(network, device, precision) is not None:
            return
        from .predict import private_copy

        edge = first = PROBE_EDGES[0]
        work = estimate_forward(network, (first,) * 3, precision=precision).flops
        for edge in PROBE_EDGES:
            if work * (edge / first) ** 3 <= PROBE_FLOPS:
                break
        twin = private_copy(network.to(device))
        x = torch.zeros((1, network.in_channels, edge, edge, edge), device=device)
        for measuring in (True, True, False):
            mode = calibrating(twin) if measuring else nullcontext()
            with torch.inference_mode(), mode, precision.context(device):
                begin = self.clock()
                float(twin(x).logits[0, 0, 0, 0, 0])  # waits for a GPU
                seconds = self.clock() - begin
            self.learn(network, device, precision, (edge,) * 3, seconds, measuring=measuring)


def _rate_key(
    network: SegmentationNetwork, device: torch.device, precision: Precision, measuring: bool
) -> str:
    about = [type(network).__qualname__, network.config, str(device), precision.name, measuring]
    return json.dumps(about)


rates = Rates()
"""The process's own."""
