"""Both ways of the benchmark compute the same; what is measured is their difference."""

from __future__ import annotations

import position_attention as benchmark
import pytest
import torch

CPU = torch.device("cpu")


def test_both_ways_agree():
    naive, fused = (benchmark.make_job(way, "forward", 5, CPU)() for way in ("naive", "fused"))
    torch.testing.assert_close(naive, fused, rtol=1e-5, atol=1e-6)
    gradients = [
        benchmark.make_job(way, "forward and backward", 5, CPU)() for way in ("naive", "fused")
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_errors_are_shares_of_the_largest_value():
    found = benchmark.error(4, CPU)
    assert set(found) == {"naive", "fused"}
    assert all(0 < value < 1e-5 for value in found.values())


def test_logits_have_a_standard_deviation_of_one():
    q, k, _ = benchmark.tensors(8, CPU)
    assert float((q @ k.transpose(1, 2)).std().detach()) == pytest.approx(1, abs=0.05)
