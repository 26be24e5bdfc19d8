"""Time and memory of a piece of work: interleaved medians, fresh processes."""

from __future__ import annotations

import json
import multiprocessing
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import napari_attention3d

LIMIT_S = 280


def interleaved(
    jobs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Median seconds of each job over rounds A, B, C, A, B, C ..., after a first one uncounted.

    Both by the clock and, on the CPU, of processor time, which other programs on the
    machine disturb less.
    """
    wall: dict[str, list[float]] = {name: [] for name in jobs}
    cpu: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            began, used = time.perf_counter(), time.process_time()
            job()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - used)
    return {
        name: {
            "seconds": statistics.median(wall[name]),
            "cpu_seconds": statistics.median(cpu[name]),
        }
        for name in jobs
    }


def process_bytes(key: str) -> int:
    """What the system says of this process: VmRSS its memory, VmHWM the most of it so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def peak_mib(job: Callable[[], object], device: torch.device) -> float:
    """Most memory that a job took above what was there before, MiB; in a fresh process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    before = process_bytes("VmRSS")
    if before < process_bytes("VmHWM"):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    job()
    return (process_bytes("VmHWM") - before) / 2**20


def in_fresh_process(script: str | Path, arguments: Sequence[str]) -> Any:
    """What a script prints as JSON on its last line."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_forked_process(job: Callable[[], Any]) -> Any:
    """What a job returns in a process of its own, which has imported all that this one has.

    Quicker than `in_fresh_process`; only for a process that has computed nothing yet.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=lambda: theirs.send(job()))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError as error:
        raise RuntimeError("the process ended without a result") from error
    finally:
        process.join()


def machine(device: torch.device) -> dict[str, Any]:
    """Where and with what something was measured."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "package": napari_attention3d.__version__,
    }
