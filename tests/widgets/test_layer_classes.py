"""Names and colours go to a layer and come back; whatever kind of colormap it has."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_attention3d.widgets.layer_classes import (
    class_keywords,
    layer_class_names,
    layer_classes,
)
from napari_attention3d.widgets.results import prepare_label_colours

CLASSES = [
    {"name": "background", "colour": "#000000"},
    {"name": "a", "colour": "#e69f00"},
    {"name": "b", "colour": "#56b4e9"},
]


def attributes(layer):
    return {"features": layer.features, "colormap": layer.colormap}


def test_what_was_given_comes_back():
    layer = Labels(np.zeros((2, 2, 2), np.uint8), **class_keywords(CLASSES))
    found = layer_classes(attributes(layer))
    assert [one["name"] for one in found] == ["background", "a", "b"]
    assert [one["colour"] for one in found[1:]] == ["#e69f00", "#56b4e9"]


@pytest.mark.parametrize("direct", [True, False])
def test_colours_are_those_that_napari_shows(direct):
    keywords = class_keywords(CLASSES)
    if not direct:
        keywords.pop("colormap")
    layer = Labels(np.zeros((2, 2, 2), np.uint8), **keywords)
    shown = np.asarray(layer.colormap.map(np.arange(3, dtype=np.uint8)))[:, :3]
    hexes = ["#" + bytes(np.rint(255 * c).astype(np.uint8)).hex() for c in shown]
    assert [one["colour"] for one in layer_classes(attributes(layer))] == hexes


def test_a_class_without_a_colour_has_that_of_the_rest():
    table = {0: "transparent", 1: "#e69f00", None: "#ffffff"}
    meta = {
        "features": {"index": [0, 1, 2], "name": ["background", "a", "b"]},
        "colormap": DirectLabelColormap(color_dict=table),
    }
    assert [one["colour"] for one in layer_classes(meta)][1:] == ["#e69f00", "#ffffff"]


@pytest.mark.parametrize(
    "features", [None, {}, {"index": [1, 2], "name": ["a", "b"]}, {"name": ["a"]}]
)
def test_names_that_are_not_of_all_labels_are_none(features):
    assert layer_class_names({"features": features}) == []


def test_colours_are_prepared_without_a_layer():
    prepare_label_colours.cache_clear()
    prepare_label_colours()
    assert prepare_label_colours.cache_info().currsize == 1
