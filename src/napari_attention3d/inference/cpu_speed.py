"""Whether half precision pays on this CPU: measured, for instructions alone don't tell.

Chips with matrix units (AMX) multiply bfloat16 several times as fast as float32, others
with AVX512-BF16 anything from twice as fast (Zen 4) to half as fast (Intel without AMX).
"""

from __future__ import annotations

import time
from functools import cache

import torch

__all__ = ["bfloat16_gain", "has_bfloat16"]


def has_bfloat16() -> bool:
    """Whether the CPU has instructions that multiply bfloat16 (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = [getattr(torch.cpu, name, None) for name in checks]
    return any(bool(check()) for check in found if check is not None)


@cache
def bfloat16_gain() -> float:
    """How many times as fast as in float32 a 3D convolution is in bfloat16 here.

    Measured once per process in about a tenth of a second: the best of several turns,
    one after the other, so that what else the machine does hardly matters.
    """
    best: dict[torch.dtype, float] = {}
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16) * 4:
            x = _ones((1, 32, 10, 48, 48), dtype)
            weight, bias = _ones((32, 32, 3, 3, 3), dtype), torch.ones(32, dtype=dtype)
            sizes = [0, 1, 1], [1, 1, 1], [1, 1, 1], 1
            begin = time.perf_counter()
            # oneDNN's own call: torch computes small volumes otherwise in float32
            torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *sizes, "none", [], "")
            seconds = time.perf_counter() - begin
            best[dtype] = min(seconds, best.get(dtype, seconds))
    return best[torch.float32] / best[torch.bfloat16]


def _ones(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
