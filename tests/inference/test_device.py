from __future__ import annotations

import pytest
import torch

from napari_attention3d.errors import InputError
from napari_attention3d.inference import device as module
from napari_attention3d.inference.device import choose_device, choose_precision

CPU = torch.device("cpu")


def test_auto_prefers_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device().device == CPU
    assert choose_device().reason == "no GPU found"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().device.type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Card")
    assert choose_device().device == torch.device("cuda", 0)
    assert "Card" in choose_device().reason


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("gpu", "not known"),
        ("cuda:7", "is not there"),
        ("mps", "is not there"),
        ("meta", "not supported"),
    ],
)
def test_devices_that_are_not_there(
    request_: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        choose_device(request_)


def test_precision_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", torch.device("mps")).name == "float32"
    assert choose_precision("exact", torch.device("cuda")).name == "float32"
    monkeypatch.setattr(module, "has_bfloat16", lambda: True)
    monkeypatch.setattr(module, "bfloat16_gain", lambda: 0.6)
    assert choose_precision("fast", CPU).name == "float32"
    assert "not faster" in choose_precision("auto", CPU).reason
    monkeypatch.setattr(module, "bfloat16_gain", lambda: 1.9)
    assert choose_precision("fast", CPU).name == "bfloat16"
    assert not choose_precision("fast", CPU).on_trial
    assert choose_precision("auto", CPU).on_trial
    monkeypatch.setattr(module, "has_bfloat16", lambda: False)
    slow = choose_precision("fast", CPU)
    assert slow.name == "float32"
    assert "no bfloat16" in slow.reason
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert choose_precision("auto", torch.device("cuda")).name == "float16"
    with pytest.raises(InputError, match="auto, exact or fast"):
        choose_precision("sloppy", CPU)


def test_context_computes_at_the_precision() -> None:
    layer, x = torch.nn.Conv3d(1, 2, 1), torch.ones(1, 1, 2, 2, 2)
    with module.Precision("bfloat16", "").context(CPU):
        assert layer(x).dtype == torch.bfloat16
    with module.Precision("float32", "").context(CPU):
        assert layer(x).dtype == torch.float32


def test_float32_is_float32_in_all_threads_however_their_blocks_overlap() -> None:
    """The settings are the process's: one thread's end must not switch another's."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, products.allow_tf32
    exact, cuda = module.Precision("float32", ""), torch.device("cuda")
    try:
        cudnn.allow_tf32, products.allow_tf32 = True, True
        first, second = exact.context(cuda), exact.context(cuda)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not cudnn.allow_tf32
        assert not products.allow_tf32
        second.__exit__(None, None, None)
        assert cudnn.allow_tf32
        assert products.allow_tf32
    finally:
        cudnn.allow_tf32, products.allow_tf32 = before
