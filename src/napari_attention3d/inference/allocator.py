"""glibc's allocator, told to keep large buffers instead of mapping them anew each time.

Buffers above 32 MB are mapped and unmapped for each use, and every page of them costs a
fault: up to 40 % of a network's time on a CPU. Two settings change that, with identical
arithmetic. They cost memory that stays with the process until `give_back`, and turn off
glibc's own adaption for good, so only programs whose one job is computing set them.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["OPT_OUT", "give_back", "keep_large_buffers", "packed"]

OPT_OUT = "NAPARI_ATTENTION3D_PLAIN_MALLOC"
"""Environment variable: set to 1, the allocator stays as it is."""
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # malloc.h
_NEVER = 2**31 - 1
_PAD = 2**26
_SMALL = 2**20
_LARGEST = 2**25
"""What glibc's own adaption of the threshold ends at."""
_MAPPINGS = 65536
_lock = threading.Lock()
_packing = 0
_keeping = False


@cache
def _libc() -> Any:
    """The C library, if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
        _ = libc.mallopt, libc.malloc_trim, libc.gnu_get_libc_version
    except (OSError, AttributeError):
        return None
    return libc


def keep_large_buffers() -> bool:
    """Let the process keep large buffers for reuse; returns whether it does."""
    libc = _libc()
    if libc is None or os.environ.get(OPT_OUT) == "1":
        return False
    global _keeping
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PAD))
    done = [bool(libc.mallopt(key, value)) for key, value in settings]
    _keeping = all(done)
    return _keeping


@contextmanager
def packed() -> Iterator[None]:
    """Map buffers from 1 MB on for themselves: slower, but free memory has no holes.

    Buffers of many sizes that come and go leave holes in the heap, up to as much again as
    is in use. For runs that were made smaller because memory is short.
    """
    global _packing
    libc = _libc()
    if libc is None or os.environ.get(OPT_OUT) == "1":
        yield
        return
    with _lock:
        _packing += 1
        libc.mallopt(_MMAP_MAX, _MAPPINGS)
        libc.mallopt(_MMAP_THRESHOLD, _SMALL)
    try:
        yield
    finally:
        with _lock:
            _packing -= 1
            if not _packing:
                libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
                libc.mallopt(_MMAP_MAX, 0 if _keeping else _MAPPINGS)


def give_back() -> bool:
    """Return what is free to the system; returns whether anything was."""
    libc = _libc()
    return libc is not None and bool(libc.malloc_trim(0))
