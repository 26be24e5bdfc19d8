"""How much memory there is, how much a tile takes, and what to do when it runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from ..networks.base import SegmentationNetwork
from .allocator import give_back
from .device import Precision
from .estimate import estimate_forward

__all__ = [
    "available_bytes",
    "bytes_per_voxel",
    "choose_tile",
    "fits_whole",
    "halve_tile",
    "is_out_of_memory",
    "release",
]

SHARE = 0.6
"""Share of the free memory that a run plans to use."""
WIDE_VALUES = 8.0
"""Guess of the values alive at the peak, per voxel and channel of the finest level."""
PLAIN_CHANNELS = 64
"""Taken for networks that do not say how wide they are."""
WHOLE_GRID_VOXELS = 6_000_000
"""Up to this many voxels a grid is one tile, and the statistics are measured over all of it."""
SMALLEST_TILE = 32

# What torch's allocators for the CPU and Apple's GPU say; they raise a plain RuntimeError.
_ALLOCATOR_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(t in str(error) for t in _ALLOCATOR_TEXTS)


def available_bytes(device: torch.device) -> int:
    """Memory that a run can still take on the device, within the container's limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    free = int(psutil.virtual_memory().available)
    limit = cgroup_headroom()
    return free if limit is None else min(free, limit)


def cgroup_headroom(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes left below the container's memory limit; None if there is none (cgroup v2, v1)."""
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = (root / limit_file).read_text().strip()
            used = int((root / used_file).read_text())
        except (OSError, ValueError):
            continue
        if limit.isdigit() and int(limit) < 2**60:
            return max(0, int(limit) - used)
    return None


def bytes_per_voxel(network: SegmentationNetwork, precision: str = "float32") -> float:
    """Memory of a forward pass per voxel of a large tile.

    Found by a run without data (`estimate_forward`); for a network that looks at its
    values, guessed from its finest level's width.
    """
    edge = 128
    try:
        cost = estimate_forward(network, (edge,) * 3, precision=Precision(precision, ""))
    except (RuntimeError, NotImplementedError):
        widths = getattr(network, "channels", None)
        width = int(widths[0]) if widths else PLAIN_CHANNELS
        size = 4 if precision == "float32" else 2
        return size * WIDE_VALUES * width + 4.0 * (network.in_channels + 2 * network.num_classes)
    return cost.bytes / edge**3


def fits_whole(
    voxels: int, network: SegmentationNetwork, device: torch.device, precision: str = "float32"
) -> bool:
    """Whether so many voxels may go through the network at once: neither too many nor too much."""
    need = voxels * bytes_per_voxel(network, precision)
    return voxels <= WHOLE_GRID_VOXELS and need <= SHARE * available_bytes(device)


def choose_tile(
    shape: Sequence[int],
    fallback: Sequence[int],
    network: SegmentationNetwork,
    device: torch.device,
    precision: str = "float32",
) -> tuple[int, int, int]:
    """Whole grid if it is small enough and fits the memory, else the model's patch size.

    A network with global attention always gets its patch size: what it sees at once must
    be as in training, and the result must not depend on the memory at hand.

    Parameters
    ----------
    shape
        Voxels of the grid (z, y, x).
    fallback
        The card's patch size.
    """
    z, y, x = (int(n) for n in shape)
    if network.locality == "local" and fits_whole(z * y * x, network, device, precision):
        return z, y, x
    z, y, x = (min(int(f), int(n)) for f, n in zip(fallback, shape, strict=True))
    return z, y, x


def halve_tile(tile: Sequence[int], multiple: Sequence[int]) -> tuple[int, int, int] | None:
    """Half the tile along its longest axis; None if it is as small as it can be."""
    sizes = [int(t) for t in tile]
    for axis in sorted(range(3), key=lambda a: -sizes[a]):
        least = max(SMALLEST_TILE, 2 * int(multiple[axis]))
        half = max(least, -(-sizes[axis] // (2 * multiple[axis])) * multiple[axis])
        if half < sizes[axis]:
            sizes[axis] = half
            return sizes[0], sizes[1], sizes[2]
    return None


_collect: Callable[[], object] = gc.collect


def collect_garbage_with(function: Callable[[], object]) -> None:
    """Let `function` look for reference cycles instead of `gc.collect` (thread of a window)."""
    global _collect
    _collect = function


def release(device: torch.device, *, collect: bool = False) -> None:
    """Give memory that is no longer used back to the device.

    Parameters
    ----------
    device
        Whose cached blocks to return.
    collect
        Look for reference cycles too, as after running out of memory (a traceback may
        hold tensors). It stops every thread of Python for as long as it takes, the
        window's included, so a run that went well does without.
    """
    if collect:
        _collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    give_back()
