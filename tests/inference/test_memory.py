from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from napari_attention3d.inference import memory
from napari_attention3d.inference.memory import (
    available_bytes,
    bytes_per_voxel,
    cgroup_headroom,
    choose_tile,
    halve_tile,
    is_out_of_memory,
)
from napari_attention3d.networks import AttentionUNet, GuidedAttentionNet

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_out_of_memory_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_torchs_own_words_on_the_cpu_are_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("text", ["could not create a primitive", "could not execute a primitive"])
def test_onednns_vague_words_mean_memory_where_little_is_left(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**8)
    assert is_out_of_memory(RuntimeError(text))
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**11)
    assert not is_out_of_memory(RuntimeError(text))


LIMITED = """
import resource
import psutil, torch
from napari_attention3d.inference.memory import LITTLE, available_bytes, is_out_of_memory
torch.set_num_threads(1)
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
before = available_bytes(torch.device("cpu"))
for kernel in (1, 3):
    for kind in (torch.float32, torch.bfloat16):
        layer = torch.nn.Conv3d(16, 24, kernel).to(kind)
        x = torch.ones(1, 16, 16, 64, 64, dtype=kind)
        for room in range(0, 18_000_000, 900_000):
            limit = psutil.Process().memory_info().vms + room
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
            try:
                free = available_bytes(torch.device("cpu"))
                assert free <= min(before, room), (free, before, room)
                with torch.inference_mode():
                    layer(x)
                print("went well")
            except (RuntimeError, MemoryError) as error:
                print(is_out_of_memory(error), type(error).__name__, str(error).splitlines()[0])
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space")
def test_what_torch_really_says_is_recognised_whatever_fails() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        capture_output=True,
        encoding="utf-8",
        timeout=400,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    failed = [line for line in done.stdout.splitlines() if line != "went well"]
    assert len(failed) > 10
    assert all(line.startswith("True") for line in failed), failed


@pytest.mark.parametrize(
    "error",
    [RuntimeError("size mismatch"), ValueError("can't allocate memory"), RuntimeError("memory")],
)
def test_other_errors_are_not_mistaken(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("layout", ["v2", "v1"])
def test_container_limit_is_read(tmp_path: Path, layout: str) -> None:
    none = tmp_path / "none"
    assert cgroup_headroom(tmp_path, none) is None
    folder = tmp_path if layout == "v2" else tmp_path / "memory"
    folder.mkdir(exist_ok=True)
    limit, used = (
        ("memory.max", "memory.current")
        if layout == "v2"
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    (folder / limit).write_text("5000\n")
    (folder / used).write_text("1200\n")
    assert cgroup_headroom(tmp_path, none) == 3800
    (folder / limit).write_text("max\n" if layout == "v2" else str(2**63 - 4096))
    assert cgroup_headroom(tmp_path, none) is None


@pytest.mark.parametrize("layout", ["v2", "v1"])
def test_the_narrowest_of_nested_groups_counts_and_cached_files_do_not(
    tmp_path: Path, layout: str
) -> None:
    v2 = layout == "v2"
    limit, used, cached = (
        ("memory.max", "memory.current", "inactive_file")
        if v2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    base = tmp_path if v2 else tmp_path / "memory"
    groups = tmp_path / "cgroup"
    rest = "0::/slice/job\n" if v2 else "0::/\n"
    groups.write_text("11:cpu,cpuacct:/other\n9:memory:/slice/job\n" if not v2 else rest)

    def fill(folder: Path, most: str, now: int, files: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{most}\n")
        (folder / used).write_text(f"{now}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{cached} {files}\nactive_file 7\n")

    unlimited = "max" if v2 else str(2**63 - 4096)
    fill(base / "slice" / "job", unlimited, 900, 100)
    fill(base / "slice", "5000", 2000, 600)
    assert cgroup_headroom(tmp_path, groups) == 5000 - (2000 - 600)
    fill(base / "slice" / "job", "1500", 900, 100)
    assert cgroup_headroom(tmp_path, groups) == 1500 - 800
    fill(base / "slice", "2000", 1900, 0)
    assert cgroup_headroom(tmp_path, groups) == 100


def test_container_limit_bounds_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cgroup_headroom", lambda: 12345)
    assert available_bytes(CPU) == 12345
    monkeypatch.setattr(memory, "cgroup_headroom", lambda: None)
    assert available_bytes(CPU) > 12345


def test_whole_grid_if_it_fits_else_the_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = AttentionUNet(channels=(8, 16))
    shape, patch = (100, 110, 90), (96, 96, 96)
    need = 100 * 110 * 90 * bytes_per_voxel(network) / memory.SHARE
    monkeypatch.setattr(memory, "available_bytes", lambda device: int(need * 1.01))
    assert choose_tile(shape, patch, network, CPU) == shape
    monkeypatch.setattr(memory, "available_bytes", lambda device: int(need * 0.99))
    assert choose_tile(shape, patch, network, CPU) == (96, 96, 90)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**60)
    assert choose_tile((500, 500, 500), patch, network, CPU) == patch


def test_estimate_grows_with_width_and_shrinks_with_half_precision() -> None:
    narrow, wide = AttentionUNet(channels=(16, 32)), AttentionUNet(channels=(64, 128))
    assert bytes_per_voxel(wide) > 3 * bytes_per_voxel(narrow)
    assert bytes_per_voxel(wide, "bfloat16") < 0.8 * bytes_per_voxel(wide)


def test_halving_reaches_the_floor_and_stops() -> None:
    tile: tuple[int, int, int] | None = (100, 70, 40)
    seen = []
    while tile is not None:
        seen.append(tile)
        tile = halve_tile(tile, (16, 16, 16))
    assert seen[1] == (64, 70, 40)
    assert seen[-1] == (32, 32, 32)
    assert all(a != b for a, b in pairwise(seen))


def test_halving_respects_strides_and_thin_axes() -> None:
    assert halve_tile((200, 20, 20), (1, 1, 1)) == (100, 20, 20)
    assert halve_tile((64, 64, 64), (32, 32, 32)) is None


def test_global_attention_sees_what_it_saw_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tile is the card's, however much memory there is."""
    network = GuidedAttentionNet(widths=(4, 4, 8, 8), features=8, head_width=4)
    for free in (2**60, 2**20):
        monkeypatch.setattr(memory, "available_bytes", lambda device, free=free: free)
        assert choose_tile((100, 110, 70), (80, 96, 80), network, CPU) == (80, 96, 70)
