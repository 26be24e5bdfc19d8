"""The loss that draws attention to strokes: value, gradient, and what it does to a network."""

from __future__ import annotations

import math

import pytest
import torch

from napari_attention3d.attention.guide import LOOK, NOT, guide_loss, strokes_on_map
from napari_attention3d.networks import MapSpec

GATE = MapSpec("gate", "gate", (2, 2, 2), (0.5, 0.5, 0.5))
STRENGTH = MapSpec("strength", "strength", (2, 2, 2), (0.5, 0.5, 0.5), (0.0, None))


def painted(value, at=(slice(0, 2),) * 3):
    strokes = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    strokes[(0, *at)] = value
    return strokes


def test_strokes_fall_into_the_cells_whose_centres_are_nearest():
    cells = strokes_on_map(painted(LOOK), GATE, torch.Size((4, 4, 4)))
    assert float(cells[0, 0, 0, 0, 0]) == 1
    assert float(cells.sum()) == 1
    half = strokes_on_map(painted(NOT, (slice(1, 2), slice(0, 2), slice(0, 2))), GATE, (4, 4, 4))
    assert float(half[0, 1, 0, 0, 0]) == pytest.approx(0.5)
    # A map whose voxels lie on every other voxel of the input, without an offset.
    even = MapSpec("even", "even", (2, 2, 2), (0.0, 0.0, 0.0))
    cells = strokes_on_map(painted(LOOK, (2, 2, 2)), even, torch.Size((4, 4, 4)))
    assert torch.nonzero(cells[0, 0]).tolist() == [[1, 1, 1]]


def test_the_loss_is_the_cross_entropy_under_strokes_and_nothing_elsewhere():
    gate = torch.full((1, 1, 4, 4, 4), 0.25)
    gate[0, 0, 3] = 0.9  # not painted: counts nothing
    assert float(guide_loss({"gate": gate}, painted(0), {"gate": GATE})) == 0
    look = guide_loss({"gate": gate}, painted(LOOK), {"gate": GATE})
    assert float(look) == pytest.approx(-math.log(0.25), abs=1e-3)
    away = guide_loss({"gate": gate}, painted(NOT), {"gate": GATE})
    assert float(away) == pytest.approx(-math.log(0.75), abs=1e-3)
    two = {"gate": gate, "again": gate}
    specs = {"gate": GATE, "again": GATE}
    assert float(guide_loss(two, painted(LOOK), specs)) == pytest.approx(float(look), abs=1e-6)
    with pytest.raises(ValueError, match="no map to guide"):
        guide_loss({}, painted(LOOK), {})


def test_an_unbounded_map_is_compared_with_its_own_mean():
    strength = torch.full((1, 1, 4, 4, 4), 3.0)
    loss = guide_loss({"strength": strength}, painted(LOOK), {"strength": STRENGTH})
    assert float(loss) == pytest.approx(math.log(2), abs=1e-3)  # exactly at the mean: 1/2
    scaled = guide_loss({"strength": 100 * strength}, painted(LOOK), {"strength": STRENGTH})
    assert float(scaled) == pytest.approx(float(loss), abs=1e-3)


def test_look_and_not_count_alike_however_much_is_painted():
    gate = torch.full((1, 1, 4, 4, 4), 0.25)
    strokes = painted(LOOK)
    strokes[0, 4:] = NOT
    loss = guide_loss({"gate": gate}, strokes, {"gate": GATE})
    assert float(loss) == pytest.approx(-math.log(0.25) - math.log(0.75), abs=1e-3)


@pytest.mark.parametrize("kind", ["gates", "guided"])
def test_training_on_it_moves_attention_to_where_it_was_asked_for(build, kind):
    network = build.gate_network() if kind == "gates" else build.guided_network(steps=1)
    network.requires_grad_(True).train()
    # A norm over a single voxel, deep in the autoencoder, would leave nothing to guide.
    size = (16, 16, 16) if kind == "gates" else (32, 32, 32)
    x = torch.randn(1, 1, *size)
    strokes = torch.zeros(1, *size, dtype=torch.int64)
    strokes[0, : size[0] // 3], strokes[0, -size[0] // 3 :] = NOT, LOOK

    def loss():
        maps = network(x, return_maps=True).maps
        return guide_loss(maps, strokes, network.map_specs)

    before = float(loss().detach())
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(12):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
    assert float(loss().detach()) < 0.9 * before
