from __future__ import annotations

import math

import pytest
import torch

from napari_attention3d.inference.cpu_speed import bfloat16_gain, has_bfloat16


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 instructions")
def test_the_gain_is_a_ratio_measured_once() -> None:
    gain = bfloat16_gain()
    assert math.isfinite(gain)
    assert gain > 0
    assert bfloat16_gain() == gain


def test_no_instructions_where_torch_finds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not has_bfloat16()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert has_bfloat16()
