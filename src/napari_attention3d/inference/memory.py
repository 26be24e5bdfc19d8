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

# What allocators say that raise a plain RuntimeError.
_ALLOCATOR_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
# What oneDNN says when its own buffers can't be had, but also when something else is wrong.
_LIBRARY_TEXTS = ("could not create a primitive", "could not execute a primitive")
LITTLE = 2**31
"""Free memory below which a library's failure is taken for a lack of it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whatever device.

    To be asked while the error is handled: what it left allocated still counts as taken.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    if any(t in text for t in _ALLOCATOR_TEXTS):
        return True
    vague = any(t in text for t in _LIBRARY_TEXTS)
    return vague and available_bytes(torch.device("cpu")) < LITTLE


def available_bytes(device: torch.device) -> int:
    """Memory that a run can still take on the device, within the limits set to the process."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    free = int(psutil.virtual_memory().available)
    return min(n for n in (free, cgroup_headroom(), process_headroom()) if n is not None)


def process_headroom() -> int | None:
    """Bytes of address space left below the process's limit (ulimit -v); None without one."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - int(psutil.Process().memory_info().vms))


def cgroup_headroom(
    root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Bytes left below the container's memory limit; None if there is none (cgroup v2, v1).

    Groups lie within each other and each may have a limit: the least room counts. Files that
    the kernel keeps in memory and would give up for a program do not count as taken.

    Parameters
    ----------
    root
        Where the groups are shown as folders.
    groups
        Says which group this process is in.
    """
    rooms = []
    for folder, names in _own_groups(root, groups):
        try:
            limit = (folder / names[0]).read_text().strip()
            used = int((folder / names[1]).read_text())
        except (OSError, ValueError):
            continue
        if limit.isdigit() and int(limit) < 2**60:
            used -= _given_up(folder / "memory.stat", names[2])
            rooms.append(max(0, int(limit) - used))
    return min(rooms, default=None)


_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _own_groups(root: Path, groups: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """Folders of the process's group and all around it, and what their files are called."""
    found = [(root, _V2), (root / "memory", _V1)]
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number != "0" and "memory" not in kinds.split(","):
            continue
        base, names = (root, _V2) if number == "0" else (root / "memory", _V1)
        for part in path.strip("/").split("/"):
            base = base / part
            if part not in ("", ".."):
                found.append((base, names))
    return found


def _given_up(stat: Path, name: str) -> int:
    """Bytes of cached files that the kernel would give up."""
    try:
        for line in stat.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


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
