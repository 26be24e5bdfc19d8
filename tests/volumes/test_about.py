"""What headers have no field for travels through every format that is written."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.volumes import Volume, read_volume, write_volume
from napari_attention3d.volumes.formats import writable_suffixes
from napari_attention3d.volumes.formats.about import described

CLASSES = [
    {"name": "background", "colour": "#000000"},
    {"name": "gray µ", "colour": "#e69f00"},
]


@pytest.mark.parametrize("suffix", writable_suffixes())
def test_classes_and_provenance_come_back_from_every_format(tmp_path, suffix):
    if suffix in (".nrrd", ".mha"):
        pytest.importorskip("SimpleITK")
    array = np.zeros((3, 4, 5), np.uint8)
    array[1] = 1
    about = {"kind": "labels", "provenance": {"model": {"name": "m"}}, "classes": CLASSES}
    volume = Volume.from_array(array, spacing=(2.0, 1.0, 1.0), anatomical=True, name="mask")
    path = write_volume(tmp_path / f"mask{suffix}", volume.replace(metadata=about))
    found = read_volume(path).metadata
    assert {key: found[key] for key in about} == about


@pytest.mark.parametrize(
    "classes",
    [
        None,
        "gray",
        [],
        [{"name": "x"}],
        [{"name": 3, "colour": "#000000"}],
        [{"name": "x", "colour": "red; evil"}],
    ],
)
def test_strange_classes_are_left(classes):
    assert described({"classes": classes, "kind": "labels"}) == {"kind": "labels"}
