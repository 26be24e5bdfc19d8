"""Whether a device computes what the CPU does: one small tile, before its first real one.

GPUs of kinds that the developers could not try have returned wrong numbers in silence
(attention on strided inputs, most of all). A device that fails is not used, and the
person is told.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..errors import first_line
from ..networks.base import SegmentationNetwork
from ..networks.norm import calibrating
from .device import Precision
from .memory import is_out_of_memory, release

__all__ = ["EDGE", "known_problem", "self_test", "trusted"]

EDGE = 40
"""Voxels along each axis of the tile: more than one window of any kernel, quick anywhere."""
TOLERANCE = {"float32": 0.01, "bfloat16": 0.25, "float16": 0.1}
"""Difference of the logits allowed, in standard deviations of the logits: the largest in
float32, root mean square in half precision. A trained network on a CPU: 0.005 in bfloat16."""
LABELS = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}
"""Largest share of voxels that may get another label."""

_RESULTS: dict[tuple[str, str, str], str] = {}


def self_test(
    network: SegmentationNetwork, device: torch.device, precision: Precision, key: str
) -> str:
    """Compare a device with the CPU in float32.

    Parameters
    ----------
    network
        Left where it is.
    device
        The CPU passes without a run.
    precision
        That of the runs to come.
    key
        Of the weights: a device is tested once for each in a process.

    Returns
    -------
    str
        What is wrong, in words; empty if nothing is.
    """
    if device.type == "cpu":
        return ""
    name = (key, str(device), precision.name)
    if name not in _RESULTS:
        problem, lasts = _compare(network, device, precision)
        if not lasts:
            return problem
        _RESULTS[name] = problem
    return _RESULTS[name]


def trusted(
    network: SegmentationNetwork, device: torch.device, precision: Precision, key: str
) -> tuple[torch.device, str]:
    """Return the device if it passes its self-test, else the CPU.

    Parameters
    ----------
    network, device, precision, key
        Of `self_test`.

    Returns
    -------
    tuple
        Where to compute, and what to tell the person (empty: the device is taken).
    """
    problem = self_test(network, device, precision, key)
    if not problem:
        return device, ""
    return torch.device("cpu"), f"the self-test found that {problem}; the CPU is used instead"


def known_problem(
    network: SegmentationNetwork, device: torch.device, precision: Precision, key: str
) -> str:
    """Return what an earlier `self_test` found; computes nothing."""
    return _RESULTS.get((key, str(device), precision.name), "")


def _compare(
    network: SegmentationNetwork, device: torch.device, precision: Precision
) -> tuple[str, bool]:
    """Return what is wrong, and whether it would be found again (memory may come free)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, network.in_channels, EDGE, EDGE, EDGE), generator=generator)
    cpu = torch.device("cpu")
    expected = run_on(network, x, cpu, Precision("float32", ""))
    try:
        actual = run_on(network, x, device, precision)
    except Exception as error:  # whatever a driver raises: Apple's raises TypeError for float64
        if is_out_of_memory(error):
            return f"{device} has no memory left even for a tile of {EDGE} voxels", False
        return f"{device} can't run this network ({first_line(error, 200)})", True
    finally:
        release(device)
    return _difference(expected, actual, device, precision), True


def _difference(
    expected: Tensor, actual: Tensor, device: torch.device, precision: Precision
) -> str:
    if not bool(torch.isfinite(actual).all()):
        return f"{device} returned values that are not finite"
    spread = float(expected.std().clamp_min(1e-6))
    gap = (actual - expected).abs()
    exact = precision.name == "float32"
    worst = float(gap.max() if exact else gap.square().mean().sqrt()) / spread
    moved = float((actual.argmax(1) != expected.argmax(1)).float().mean())
    if worst > TOLERANCE[precision.name] or moved > LABELS[precision.name]:
        return (
            f"{device} does not compute what the CPU does: logits differ by "
            f"{worst:.2g} standard deviations, {moved:.1%} of the labels"
        )
    return ""


def run_on(
    network: SegmentationNetwork, x: Tensor, device: torch.device, precision: Precision
) -> Tensor:
    """Logits (1, K, Z, Y, X) float32 on the CPU, computed by a copy on a device.

    The pass measures the scan's statistics, as the first one of a run does.
    """
    twin = copy.deepcopy(network).to(device).eval()
    with torch.inference_mode(), calibrating(twin), precision.context(device):
        logits: Tensor = twin(x.to(device)).logits
    return logits.float().cpu()
