"""Several owners change the same layers; whoever lets go first, all comes back."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from napari.layers import Image

from napari_attention3d.widgets.inspect_dress import Dress


@pytest.fixture
def layer():
    return Image(np.zeros((2, 2, 2)), opacity=0.8)


@pytest.mark.parametrize("claims", list(permutations("abc")))
@pytest.mark.parametrize("releases", list(permutations("abc")))
def test_whatever_the_order_the_own_look_comes_back(layer, claims, releases):
    dress = Dress()
    wishes = {
        "a": {"opacity": lambda own: 0.5 * own},
        "b": {"opacity": 0.3, "visible": False},
        "c": {"opacity": lambda own: min(0.4, own)},
    }
    values = {"a": 0.4, "b": 0.3, "c": 0.4}
    for owner in claims:
        dress.claim(owner, {layer: wishes[owner]})
        assert layer.opacity == pytest.approx(values[owner])  # the newest counts
    assert not layer.visible
    assert dress.own(layer, "opacity") == 0.8
    held = list(claims)
    for owner in releases:
        dress.release(owner)
        held.remove(owner)
        expected = values[held[-1]] if held else 0.8
        assert layer.opacity == pytest.approx(expected)
    assert layer.visible


def test_what_the_person_sets_meanwhile_stays(layer):
    dress = Dress()
    dress.claim("a", {layer: {"opacity": 0.3}})
    layer.opacity = 0.6
    dress.claim("a", {layer: {"opacity": 0.2}})  # the view changed: the person's choice stays
    assert layer.opacity == 0.6
    dress.claim("b", {layer: {"opacity": lambda own: 0.5 * own}})  # switched on after it
    assert layer.opacity == pytest.approx(0.3)
    dress.release("a")
    assert layer.opacity == pytest.approx(0.3)
    dress.release("b")
    assert layer.opacity == 0.6
    dress.release("b")
    assert layer.opacity == 0.6


def test_an_owner_that_wants_other_layers_lets_the_first_ones_go(layer):
    dress, other = Dress(), Image(np.zeros((2, 2, 2)))
    dress.claim("a", {layer: {"opacity": 0.3, "visible": False}})
    dress.claim("a", {layer: {"opacity": 0.2}, other: {"opacity": 0.1}})
    assert (layer.opacity, layer.visible, other.opacity) == (0.2, True, 0.1)
    dress.release("a")
    assert (layer.opacity, other.opacity) == (0.8, 1)
