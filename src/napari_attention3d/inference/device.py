"""Which device runs the network, at which precision, and why."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from ..errors import InputError
from .cpu_speed import bfloat16_gain, has_bfloat16
from .openvino_tiles import is_installed

__all__ = ["DeviceChoice", "Precision", "choose_device", "choose_precision"]

WORTH_IT = 1.3
"""Gain in speed below which half precision is not taken."""


@dataclass(frozen=True)
class DeviceChoice:
    """A device and, in words for the person, why it was chosen.

    Attributes
    ----------
    others
        Further devices that share the work.
    """

    device: torch.device
    reason: str
    others: tuple[torch.device, ...] = ()


@dataclass(frozen=True)
class Precision:
    """How the network computes.

    Parameters
    ----------
    name
        "float32", "bfloat16" or "float16". Tiles run in half precision by autocast: norms and
        position attention's sums stay in float32. The exact pass holds weights and planes of
        all layers in half precision, and gives its logits out as float32. What either
        changes is measured by a trial.
    reason
        Why, in words.
    on_trial
        Whether a test tile has to show first that labels stay as in float32.
    openvino
        Whether OpenVINO computes the tiles of networks with global attention, on the CPU.
    """

    name: str
    reason: str
    on_trial: bool = False
    openvino: bool = False

    @contextmanager
    def context(self, device: torch.device) -> Iterator[None]:
        """Within this block convolutions on `device` compute at this precision."""
        with ExitStack() as stack:
            if device.type == "cuda" and self.name == "float32":
                stack.enter_context(_no_tf32())
            if self.name != "float32":
                dtype = torch.bfloat16 if self.name == "bfloat16" else torch.float16
                stack.enter_context(torch.autocast(device.type, dtype=dtype))
            yield


_tf32_lock = threading.Lock()
_tf32_kept: list[tuple[bool, bool]] = []
_tf32_users = 0


@contextmanager
def _no_tf32() -> Iterator[None]:
    """Float32 is float32 within this block, in whichever thread; blocks may overlap.

    The settings are the process's: the first one who wants it sets them, and the last one
    who is done puts them back.
    """
    global _tf32_users
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    with _tf32_lock:
        if _tf32_users == 0:
            _tf32_kept.append((convolutions.allow_tf32, products.allow_tf32))
            convolutions.allow_tf32 = products.allow_tf32 = False
        _tf32_users += 1
    try:
        yield
    finally:
        with _tf32_lock:
            _tf32_users -= 1
            if _tf32_users == 0:
                convolutions.allow_tf32, products.allow_tf32 = _tf32_kept.pop()


def choose_device(request: str = "auto") -> DeviceChoice:
    """Choose where to compute.

    Parameters
    ----------
    request
        "auto" (all CUDA GPUs, else Apple's MPS, else the CPU), "cpu", "mps", "cuda" (all
        of them), "cuda:N", or several of these, separated by commas.

    Raises
    ------
    InputError
        If the device is unknown or not there.
    """
    if "," in request:
        several = [choose_device(part.strip()).device for part in request.split(",")]
        return DeviceChoice(several[0], "as asked", tuple(several[1:]))
    if request in ("auto", "cuda") and torch.cuda.is_available():
        first, *others = (torch.device("cuda", i) for i in range(max(1, torch.cuda.device_count())))
        more = f" and {len(others)} more" if others else ""
        reason = f"first CUDA GPU ({torch.cuda.get_device_name(0)}){more}"
        return DeviceChoice(first, reason, tuple(others))
    if request == "auto":
        if torch.backends.mps.is_available():
            return DeviceChoice(torch.device("mps"), "Apple GPU; no CUDA GPU found")
        return DeviceChoice(torch.device("cpu"), "no GPU found")
    try:
        device = torch.device(request)
    except RuntimeError as error:
        raise InputError(
            f"device {request!r} is not known; use auto, cpu, mps, cuda or cuda:N"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(
                f"device {request!r} is not there ({count} CUDA GPUs found); use auto or cpu"
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("device 'mps' is not there; use auto or cpu")
    elif device.type != "cpu":
        raise InputError(f"device {request!r} is not supported; use auto, cpu, mps or cuda:N")
    return DeviceChoice(device, "as asked")


def choose_precision(request: str, device: torch.device) -> Precision:
    """Choose the number format.

    Parameters
    ----------
    request
        "exact": float32. "fast": half precision wherever the hardware computes it faster; on
        a CPU that does not, tiles by OpenVINO if that is installed. "auto": half precision on
        trial: float32 if a test tile's labels change.
    device
        Where the network runs.

    Raises
    ------
    InputError
        If `request` is none of the three.
    """
    if request not in ("auto", "exact", "fast"):
        raise InputError(f"precision {request!r} is not known; use auto, exact or fast")
    if request == "exact":
        return Precision("float32", "as asked")
    trial = request == "auto"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bfloat16", "the GPU computes it faster", trial)
        return Precision("float16", "the GPU computes it faster", trial)
    if device.type == "cpu":
        gain = bfloat16_gain() if has_bfloat16() else 0.0
        if gain >= WORTH_IT:
            return Precision("bfloat16", f"{gain:.1f} times as fast on this CPU", trial)
        why = "bfloat16 is not faster on this CPU"
        if not gain:
            why = "the CPU has no bfloat16 instructions"
        if not trial and is_installed():
            return Precision("float32", f"{why}; OpenVINO computes tiles", openvino=True)
        return Precision("float32", why)
    return Precision("float32", f"the default on {device.type}")
