"""Which device trains, and how precisely: one that computes what the CPU does."""

from __future__ import annotations

import torch

from ..errors import InputError
from ..inference.device import Precision, choose_device
from ..inference.selftest import self_test, trusted
from ..networks import SegmentationNetwork, build_network, network_presets
from .processes import Processes

__all__ = ["device_to_plan_for", "training_device"]

EXACT = Precision("float32", "")
HALF = Precision("bfloat16", "")


def training_device(
    network: SegmentationNetwork, request: str, precision: str, key: str, processes: Processes
) -> tuple[torch.device, bool, str]:
    """Choose where to train.

    Parameters
    ----------
    network
        As training begins; left where it is.
    request
        See `choose_device`.
    precision
        Of the schedule: "auto", "fp32" or "bf16".
    key
        Tells these weights from others, see `self_test`.
    processes
        Those that train together.

    Returns
    -------
    tuple
        The device, whether bfloat16 autocast is used, and what to tell the person where it is
        not what was asked for.

    Raises
    ------
    InputError
        If the device is not there, or one of several processes' computes wrongly.
    """
    device = choose_device(processes.device(request)).device
    half = _half_precision(precision, device)
    doubt = ""
    if half:
        problem = self_test(network, device, HALF, key)
        if problem and not self_test(network, device, EXACT, key):
            return device, False, f"the self-test found that {problem}; float32 is used instead"
    chosen, doubt = trusted(network, device, HALF if half else EXACT, key)
    if doubt and processes.count > 1:
        # The others wait for this one at every step, over connections between GPUs.
        problem = doubt.partition(";")[0]
        raise InputError(f"{problem}; train without this device, or on the CPU (--device cpu)")
    return chosen, _half_precision(precision, chosen), doubt


def device_to_plan_for(request: str, network: str) -> tuple[torch.device, str]:
    """Return the device whose memory a training will have, and what is wrong with another.

    Parameters
    ----------
    request
        See `choose_device`.
    network
        Name of the network to be trained; its smallest size is what is tried.
    """
    device = choose_device(request).device
    if device.type == "cpu":
        return device, ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe = build_network(network, preset=next(iter(network_presets(network))))
    return trusted(probe, device, EXACT, f"untrained {network}")


def _half_precision(precision: str, device: torch.device) -> bool:
    """Whether bfloat16 autocast is used; on the CPU only where the processor has it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
