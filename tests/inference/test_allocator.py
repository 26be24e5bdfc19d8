"""Each in a process of its own: the settings last as long as it does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from napari_attention3d.inference import allocator

CODE = """
import ctypes, resource, sys
import numpy as np, psutil
from napari_attention3d.inference.allocator import give_back, keep_large_buffers
kept = keep_large_buffers() if sys.argv[1] == "keep" else False
for _ in range(3):
    np.ones(2**26, np.uint8).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**26, np.uint8).sum()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = psutil.Process().memory_info().rss
give_back()
print(kept, faults, held - psutil.Process().memory_info().rss)
"""


def run(how: str, **environment: str) -> tuple[bool, int, int]:
    found = subprocess.run(
        [sys.executable, "-c", CODE, how],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
        env={k: v for k, v in os.environ.items() if "MALLOC" not in k} | environment,
    ).stdout.split()
    return found[0] == "True", int(found[1]), int(found[2])


@pytest.mark.skipif(allocator._libc() is None, reason="not glibc")
def test_large_buffers_are_reused_and_given_back() -> None:
    kept, faults, freed = run("keep")
    plain, plain_faults, _ = run("plain")
    assert kept
    assert not plain
    assert faults < plain_faults / 20
    assert freed > 2**25


@pytest.mark.skipif(allocator._libc() is None, reason="not glibc")
def test_one_can_opt_out() -> None:
    assert not run("keep", **{allocator.OPT_OUT: "1"})[0]


HOLES = """
import sys
import numpy as np
from contextlib import nullcontext
from pathlib import Path
from napari_attention3d.inference.allocator import packed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

np.ones(2**25 - 8192, np.uint8)  # from now on glibc takes buffers below 32 MB from the heap
before = resident()
with packed() if sys.argv[1] == "packed" else nullcontext():
    pairs = [(np.ones(2**21, np.uint8), np.ones(2**12, np.uint8)) for _ in range(40)]
    small = [pair[1] for pair in pairs]  # lie between the large ones
    del pairs
    print(resident() - before)
"""


@pytest.mark.skipif(allocator._libc() is None, reason="not glibc")
def test_packed_buffers_leave_no_holes() -> None:
    held = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", HOLES, how],
                capture_output=True,
                encoding="utf-8",
                check=True,
                timeout=60,
                env={k: v for k, v in os.environ.items() if "MALLOC" not in k},
            ).stdout
        )
        for how in ("packed", "plain")
    }
    assert held["packed"] < 2**22
    assert held["plain"] > 2**25


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_libc", lambda: None)
    assert not allocator.keep_large_buffers()
    assert not allocator.give_back()
    with allocator.packed():
        pass
