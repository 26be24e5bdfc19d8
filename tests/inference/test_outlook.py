"""What is told before a run: each pass counted once, at its own size and speed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_attention3d.geometry import Geometry
from napari_attention3d.inference import outlook as outlook_module
from napari_attention3d.inference import plans
from napari_attention3d.inference.device import DeviceChoice, Precision
from napari_attention3d.inference.estimate import Rates, estimate_forward
from napari_attention3d.inference.outlook import in_words, outlook
from napari_attention3d.inference.setup import Setup
from napari_attention3d.inference.tiling import Box
from napari_attention3d.networks import build_network

CPU, EXACT = torch.device("cpu"), Precision("float32", "")


class _Place:
    is_resampled = False

    def __init__(self, shape):
        self.grid = Geometry(shape, np.eye(4))


@pytest.fixture
def network():
    return build_network("attention-unet", channels=(4, 8)).eval()


@pytest.fixture
def rates(monkeypatch):
    mine = Rates()
    monkeypatch.setattr(outlook_module, "rates", mine)
    return mine


def setup_of(shape, tile, as_asked=True):
    box = Box((0, 0, 0), shape)
    place = _Place(shape)
    return Setup(place, place.grid, box, tile, 0.25, DeviceChoice(CPU, ""), EXACT, as_asked)


def learn(rates, network, tile, speed, speed_measuring):
    """Let passes run at given operations per second."""
    flops = estimate_forward(network, tile).flops
    rates.learn(network, CPU, EXACT, tile, flops / speed)
    rates.learn(network, CPU, EXACT, tile, flops / speed_measuring, measuring=True)


def test_a_grid_in_one_tile_is_one_pass_that_measures(network, rates):
    learn(rates, network, (24, 24, 24), 1e9, 1e8)
    told = outlook(network, setup_of((48, 40, 32), (48, 40, 32)), 48 * 40 * 32)
    cost = estimate_forward(network, (48, 40, 32))
    assert told.tiles == 1
    assert told.seconds == pytest.approx(cost.flops / 1e8)
    assert told.bytes == pytest.approx(cost.bytes + (4 * 2 + 4 + 1) * 48 * 40 * 32)


def test_tiles_come_after_a_pass_over_the_whole_grid(network, rates):
    learn(rates, network, (24, 24, 24), 1e9, 1e8)
    told = outlook(network, setup_of((48, 32, 32), (32, 32, 32)), 0)
    whole = estimate_forward(network, (48, 32, 32))
    tile = estimate_forward(network, (32, 32, 32))
    assert told.tiles == 2
    assert told.seconds == pytest.approx(whole.flops / 1e8 + 2 * tile.flops / 1e9)
    assert told.bytes == pytest.approx(whole.bytes + 4 * 2 * 32**3 + 48 * 32 * 32)


def test_where_the_whole_grid_does_not_fit_tiles_are_measured(network, rates, monkeypatch):
    learn(rates, network, (24, 24, 24), 1e9, 1e8)
    monkeypatch.setattr(outlook_module, "fits_whole", lambda voxels, *_: voxels <= 32**3)
    told = outlook(network, setup_of((48, 32, 32), (32, 32, 32)), 0)
    tile = estimate_forward(network, (32, 32, 32))
    assert told.seconds == pytest.approx(tile.flops / 1e8 + 2 * tile.flops / 1e9)


def test_an_exact_pass_costs_a_tiles_operations_per_voxel(network, rates, monkeypatch):
    learn(rates, network, (24, 24, 24), 1e9, 1e8)
    for module in (outlook_module, plans):
        monkeypatch.setattr(module, "fits_whole", lambda voxels, *_: voxels <= 2 * 32**3)
    told = outlook(network, setup_of((96, 32, 32), (32, 32, 32), False), 0)
    tile = estimate_forward(network, (32, 32, 32))
    two = estimate_forward(network, (32, 32, 32), batch=2)
    assert told.attempt.engine == "exact"
    assert told.tiles == 0
    assert told.seconds == pytest.approx(two.flops / 1e8 + 3 * tile.flops / 1e9)
    assert told.bytes >= two.bytes


def test_no_time_without_a_measurement_and_one_with(network, rates):
    setup = setup_of((32, 32, 32), (32, 32, 32))
    assert outlook(network, setup, 0).seconds is None
    assert outlook(network, setup, 0, probe=True).seconds > 0


def test_a_network_that_looks_at_values_has_memory_but_no_time(network, rates, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("data-dependent")

    learn(rates, network, (24, 24, 24), 1e9, 1e8)
    monkeypatch.setattr(outlook_module, "estimate_forward", refuse)
    monkeypatch.setattr("napari_attention3d.inference.memory.estimate_forward", refuse)
    told = outlook(network, setup_of((32, 32, 32), (32, 32, 32)), 0)
    assert told.seconds is None
    guess = math.prod((32, 32, 32)) * 4 * 8 * 4
    assert told.bytes > guess


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.001, "0.1 s"), (4.26, "4.3 s"), (42.4, "42 s"), (150, "2 min")]
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words
