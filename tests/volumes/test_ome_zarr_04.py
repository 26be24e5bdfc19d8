"""OME-Zarr 0.4 out: what an independent reader of that version finds, and label maps in it."""

from __future__ import annotations

import json

import numpy as np
import ome_zarr_models.v04
import ome_zarr_models.v04.labels
import pydantic_zarr.v2
import pytest
import zarr

from napari_attention3d.errors import InputError, OutputError
from napari_attention3d.volumes import Volume, read_volume, write_volume

# Its models for 0.4 leave a name open that newer releases of pydantic want settled.
V04 = ome_zarr_models.v04
for _model in (V04.Labels, V04.ImageLabel, V04.Image):
    _model.model_rebuild(_types_namespace={**vars(pydantic_zarr.v2), **vars(V04.labels)})

OBLIQUE = np.array(
    [
        [3.0, 0, 0, -100],
        [0, 0.7 * 0.96, -0.8 * 0.28, 20],
        [0, 0.7 * 0.28, 0.8 * 0.96, 30],
        [0, 0, 0, 1],
    ]
)
CLASSES = [{"name": "background", "colour": "#000000"}, {"name": "liver", "colour": "#ff8000"}]


def scan(shape=(70, 9, 11), **more):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Volume.from_array(array, affine=OBLIQUE, anatomical=True, name="scan", **more)


def mask():
    about = {"kind": "labels", "classes": CLASSES, "provenance": {"seed": 1}}
    return scan(metadata=about).replace(array=(scan().array > 0).astype(np.uint16))


def group(path):
    return zarr.open_group(path, mode="r", zarr_format=2)


def test_an_independent_reader_finds_size_position_and_levels(tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", scan(channel_names=("T1",)), zarr_version="0.4")
    image = V04.Image.from_zarr(group(path))
    (multiscale,) = image.attributes.multiscales
    assert multiscale.version == "0.4"
    assert [a.unit for a in multiscale.axes] == ["millimeter"] * 3
    first, second = multiscale.datasets
    scale, shift = first.coordinateTransformations
    np.testing.assert_allclose(scale.scale, (3, 0.7, 0.8))
    np.testing.assert_allclose(shift.translation, (-100, 20, 30))
    np.testing.assert_allclose(second.coordinateTransformations[0].scale, (6, 0.7, 0.8))
    assert image.attributes.omero.channels[0].label == "T1"
    np.testing.assert_array_equal(group(path)["0"][:], scan().array)
    assert json.loads((path / "0" / ".zarray").read_text())["dimension_separator"] == "/"
    assert not list(path.rglob("zarr.json"))
    again = read_volume(path)
    assert again.metadata["format"] == "OME-Zarr 0.4"
    assert again.geometry.is_close(scan().geometry)
    assert again.notes == []


def test_channels_and_wide_types(tmp_path):
    array = np.random.default_rng(1).integers(0, 60_000, (2, 5, 6, 7)).astype(">u2")
    volume = Volume.from_array(array, spacing=(2, 1, 1), channel_names=("a", "b"))
    path = write_volume(tmp_path / "a.zarr", volume, zarr_version="0.4")
    image = V04.Image.from_zarr(group(path))
    assert [a.name for a in image.attributes.multiscales[0].axes] == ["c", "z", "y", "x"]
    np.testing.assert_array_equal(group(path)["0"][:], array)
    np.testing.assert_array_equal(np.asarray(read_volume(path).array), array)


def test_labels_alone_and_in_an_image_of_the_same_version(tmp_path):
    path = write_volume(tmp_path / "a.zarr", scan(), zarr_version="0.4")
    for name in ("one", "two", "one"):
        write_volume(path / "labels" / name, mask())  # follows the image around it
    image = V04.Image.from_zarr(group(path))
    assert sorted(image.labels.attributes.labels) == ["one", "two"]
    alone = write_volume(tmp_path / "m.zarr", mask(), zarr_version="0.4")
    for place in (path / "labels" / "one", alone):
        label = V04.ImageLabel.from_zarr(group(place)).attributes.image_label
        assert label.colors[1].rgba == (255, 128, 0, 255)
        assert label.properties[1].label_value == 1
        again = read_volume(place)
        assert again.metadata["kind"] == "labels"
        assert again.metadata["classes"] == CLASSES
        assert again.metadata["provenance"] == {"seed": 1}
        np.testing.assert_array_equal(np.asarray(again.array), mask().array)


def test_versions_are_not_mixed_nor_invented(tmp_path):
    path = write_volume(tmp_path / "a.zarr", scan(), zarr_version="0.4")
    with pytest.raises(InputError, match="is OME-Zarr"):
        write_volume(path / "labels" / "x", mask(), zarr_version="0.5")
    with pytest.raises(InputError, match="can't be written"):
        write_volume(tmp_path / "b.zarr", scan(), zarr_version="0.3")
    with pytest.raises(InputError, match="no OME-Zarr"):
        write_volume(tmp_path / "b.nii.gz", scan(), zarr_version="0.4")
    for inner in ("labels/x", "x", "0/labels/x"):
        with pytest.raises(OutputError, match="only label maps"):
            write_volume(path / inner, scan() if inner != "0/labels/x" else mask())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr"]
    assert not (path / "labels").exists()
