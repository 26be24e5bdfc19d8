"""The predicted cost of a pass against a real one in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from napari_attention3d.inference.device import Precision
from napari_attention3d.inference.estimate import Rates, estimate_forward
from napari_attention3d.networks import build_network, calibrating

MEASURE = """
import json, re, sys
import torch
from napari_attention3d.inference.estimate import estimate_forward
from napari_attention3d.networks import build_network, calibrating

torch.set_num_threads(1)
name, config, tile = json.loads(sys.argv[1])
network = build_network(name, num_classes=4, **config).eval()
with torch.inference_mode(), calibrating(network):
    # Threads, kernels, the heap's first pages: by another network, whose pages are few.
    build_network("attention-unet", channels=(4, 8))(torch.zeros(1, 1, 16, 16, 16))
    x = torch.zeros(1, 1, *tile)
    def status(key):
        text = open("/proc/self/status").read()
        return 1024 * int(re.search(key + r":\\s+(\\d+)", text).group(1))
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
    before = status("VmRSS")
    network(x)
    taken = status("VmHWM") - before
print(json.dumps([taken, estimate_forward(network, tile).bytes]))
"""
CASES = [
    ("attention-unet", {"preset": "small"}, (96, 80, 96)),
    ("attention-unet", {"preset": "base"}, (64, 64, 64)),
    ("guided-attention", {"preset": "small"}, (96, 112, 98)),
    (
        "guided-attention",
        {"widths": [32, 64, 128, 256], "features": 16, "kv_pool": 2},
        (80, 96, 80),
    ),
    ("additive-attention-unet", {"preset": "base"}, (64, 96, 64)),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "config", "tile"),
    [
        case if n in (1, 2) else pytest.param(*case, marks=pytest.mark.long)
        for n, case in enumerate(CASES)
    ],
)
def test_memory_within_a_quarter(name, config, tile):
    job = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps([name, config, tile])],
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=True,
    )
    taken, predicted = json.loads(job.stdout)
    assert predicted == pytest.approx(taken, rel=0.25)


def test_operations_are_those_of_the_formula():
    """A 3x3x3 convolution: 2 * 27 * C_in * C_out for each voxel."""
    a, b = 32, 64  # wide enough for no sample to go through a convolution twice
    network = build_network("attention-unet", in_channels=8, channels=(a, b)).eval()
    voxels = 64**3
    fine = 27 * (8 * a + a * a) + 27 * (2 * a * a + a * a) + 2 * a
    coarse = 27 * (a * b + b * b) + a * b
    expected = 2 * voxels * (fine + coarse / 8)
    assert estimate_forward(network, (64, 64, 64)).flops == pytest.approx(expected, rel=0.01)


def test_position_attention_grows_with_the_square():
    config = {"widths": (4, 4, 8, 8), "features": 8, "head_width": 0}
    exact = build_network("guided-attention", **config).eval()
    pooled = build_network("guided-attention", kv_pool=2, **config).eval()

    def attention(edge):
        size = (edge, edge, edge)
        return estimate_forward(exact, size).flops - estimate_forward(pooled, size).flops

    n = (64 // 4) ** 3
    # 8 attentions of width 8: q k^T and P v, over N keys against N / 8.
    assert attention(64) == pytest.approx(8 * 4 * n * (n - n // 8) * 8, rel=0.02)
    assert attention(128) / attention(64) == pytest.approx(64, rel=0.02)


def test_half_precision_takes_less():
    network = build_network("attention-unet", preset="base").eval()
    full = estimate_forward(network, (96, 96, 96)).bytes
    half = estimate_forward(network, (96, 96, 96), precision=Precision("bfloat16", "")).bytes
    assert half < 0.8 * full


def test_nothing_is_left_behind():
    """Weights, statistics and mode of the network stay; no fake tensor gets in."""
    network = build_network("attention-unet", channels=(4, 8)).eval()
    x = torch.randn(1, 1, 12, 12, 12)
    with torch.inference_mode():
        before = network(x).logits
    estimate_forward(network, (32, 32, 32))
    with torch.inference_mode():
        assert torch.equal(network(x).logits, before)
        with calibrating(network):
            network(x)


def test_speed_is_learned_and_probed():
    network = build_network("attention-unet", channels=(4, 8)).eval()
    rates, cpu, exact = Rates(), torch.device("cpu"), Precision("float32", "")
    assert rates.known(network, cpu, exact) is None
    rates.probe(network, cpu, exact)
    probed = rates.known(network, cpu, exact)
    measuring = rates.known(network, cpu, exact, measuring=True)
    assert probed > 0
    assert measuring > 0
    assert measuring != probed
    rates.probe(network, cpu, exact)  # nothing to do
    assert rates.known(network, cpu, exact) == probed
    rates.learn(network, cpu, exact, (64, 64, 64), 2.0)
    flops = estimate_forward(network, (64, 64, 64)).flops
    assert rates.known(network, cpu, exact) == pytest.approx(flops / 2)
    assert rates.known(network, cpu, exact, measuring=True) == measuring
    assert rates.known(network, cpu, Precision("bfloat16", "")) is None
