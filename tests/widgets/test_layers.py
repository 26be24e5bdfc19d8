"""Layers and volumes: whatever is shown, what is saved lies on the scan."""

from __future__ import annotations

from itertools import permutations, product

import dask.array as da
import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry, Reorientation
from napari_attention3d.volumes import read_volume, write_volume
from napari_attention3d.volumes.volume import Volume
from napari_attention3d.widgets.layers import (
    KEY,
    layer_to_volume,
    source_for_array,
    volume_to_layer_data,
)

ORIENTATIONS = [
    Reorientation(p, f) for p in permutations(range(3)) for f in product((False, True), repeat=3)
]


def scan(turn=None, tilt=0.0, shape=(4, 5, 6)):
    rng = np.random.default_rng(0)
    affine = np.diag([3.0, 2.0, 1.5, 1.0])
    affine[:3, 3] = (-7.0, 11.0, 3.0)
    angle = np.radians(tilt)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    volume = Volume(
        rng.random(shape).astype(np.float32), Geometry(shape, turned @ affine, "mm", True), "scan"
    )
    if turn is None:
        return volume
    return volume.replace(array=turn.apply(volume.array), geometry=volume.geometry.reorient(turn))


def shown(volume):
    viewer = ViewerModel()
    ((data, keywords, kind),) = volume_to_layer_data(volume)
    return viewer, viewer._add_layer_from_data(data, keywords, kind)[0]


@pytest.mark.parametrize("turn", ORIENTATIONS, ids=str)
def test_every_orientation_is_shown_alike_and_comes_back(turn):
    volume = scan(turn)
    _, layer = shown(volume)
    np.testing.assert_array_equal(layer.data, scan().array)
    np.testing.assert_allclose(layer.scale, (3, 2, 1.5))
    np.testing.assert_allclose(layer.translate, (-7, 11, 3))
    back = layer_to_volume(layer).volume
    assert back.geometry.is_close(volume.geometry)
    np.testing.assert_array_equal(back.array, volume.array)


@pytest.mark.parametrize("turn", ORIENTATIONS[::5], ids=str)
def test_an_oblique_scan_is_shown_straight_and_saved_oblique(turn):
    volume = scan(turn, tilt=17.0)
    _, layer = shown(volume)
    np.testing.assert_allclose(layer.affine.affine_matrix, np.eye(4))
    np.testing.assert_allclose(layer.rotate, np.eye(3))
    np.testing.assert_allclose(layer.scale, (3, 2, 1.5))
    back = layer_to_volume(layer).volume
    assert back.geometry.is_close(volume.geometry)
    assert back.geometry.obliquity == pytest.approx(17.0)
    np.testing.assert_array_equal(back.array, volume.array)


def test_a_result_on_a_tilted_turned_scan_lands_on_the_same_voxels():
    volume = scan(ORIENTATIONS[29], tilt=12.0)
    viewer, layer = shown(volume)
    source = layer_to_volume(layer)
    mask = (source.volume.array > 0.5).astype(np.uint8)
    labels = viewer.add_labels(
        source.show(mask), metadata=source.record({"model": "m"}), **source.transform
    )
    np.testing.assert_array_equal(labels.data, (layer.data > 0.5).astype(np.uint8))
    saved = layer_to_volume(labels).volume
    np.testing.assert_array_equal(saved.array, mask)
    assert saved.geometry.is_close(volume.geometry)
    assert saved.metadata["provenance"] == {"model": "m"}


@pytest.mark.parametrize("turn", ORIENTATIONS[::7], ids=str)
@pytest.mark.parametrize("tilt", [0.0, 15.0])
def test_a_coarse_map_is_placed_exactly_on_the_scan(turn, tilt):
    volume = scan(turn, tilt, shape=(4, 8, 6))
    viewer, layer = shown(volume)
    source = layer_to_volume(layer)
    fine = volume.geometry.canonical()  # maps live on the model's grid, in its orientation
    grid = fine.strided((2, 4, 3), (2, 2, 2), (0.5, 0.5, 0.5))
    array, keywords = source.place(Volume(np.zeros(grid.shape, np.float32), grid))
    coarse = viewer.add_image(array, **keywords)
    for index in [(0, 0, 0), (1, 3, 2), (0, 2, 1)]:
        expected = layer.data_to_world(tuple(2 * i + 0.5 for i in index))
        np.testing.assert_allclose(coarse.data_to_world(index), expected, atol=1e-6)


def test_a_coarse_map_follows_a_rotated_sheared_layer_not_made_here():
    affine = np.eye(4)
    affine[:3, :3] = [[1.1, 0, 0.2], [0, 0.9, 0], [0.1, 0, 1]]
    affine[:3, 3] = 5, 6, 7
    layer = Image(
        np.zeros((4, 6, 8)),
        scale=(3, 2, 1),
        translate=(1, 2, 3),
        rotate=(20, 0, 0),
        shear=(0.1, 0, 0.3),
        affine=affine,
        units=("um",) * 3,
        axis_labels=("depth", "row", "column"),
    )
    source = layer_to_volume(layer)
    grid = source.volume.geometry.strided((2, 3, 4), (2, 2, 2), (0.5, 0.5, 0.5))
    array, keywords = source.place(Volume(np.zeros(grid.shape), grid))
    coarse = Image(array, **keywords)
    for index in [(0, 0, 0), (1, 2, 3)]:
        expected = layer.data_to_world(tuple(2 * i + 0.5 for i in index))
        np.testing.assert_allclose(coarse.data_to_world(index), expected, atol=1e-6)
    assert coarse.units == layer.units
    assert tuple(coarse.axis_labels) == ("depth", "row", "column")
    np.testing.assert_allclose(coarse.rotate, layer.rotate)


def test_results_copy_the_whole_transform_of_a_layer_not_made_here():
    layer = Image(
        np.zeros((4, 6, 8)),
        scale=(3, 2, 1),
        translate=(1, 2, 3),
        rotate=(20, 0, 0),
        shear=(0.1, 0, 0.3),
        units=("um",) * 3,
    )
    source = layer_to_volume(layer)
    labels = Labels(source.show(np.zeros((4, 6, 8), np.uint8)), **source.transform)
    for index in [(0, 0, 0), (3, 5, 7), (1, 0, 4)]:
        np.testing.assert_allclose(labels.data_to_world(index), layer.data_to_world(index))
        np.testing.assert_allclose(
            source.volume.geometry.to_world(index), layer.data_to_world(index)
        )
    assert source.volume.geometry.unit == "um"


def test_a_spacing_set_by_hand_wins_over_the_recorded_one():
    _, layer = shown(scan(ORIENTATIONS[10]))
    layer.scale = (1, 1, 1)
    assert layer_to_volume(layer).volume.geometry.spacing == (1, 1, 1)


@pytest.mark.parametrize(
    ("units", "scale", "unit", "spacing"),
    [
        (("nm",) * 3, (500, 200, 200), "um", (0.5, 0.2, 0.2)),
        (("cm",) * 3, (0.2, 0.1, 0.1), "mm", (2, 1, 1)),
        (("mm", "um", "um"), (1, 500, 500), "mm", (1, 0.5, 0.5)),
        (("pixel",) * 3, (2, 1, 1), "pixel", (2, 1, 1)),
    ],
)
def test_units_of_a_layer_become_ours(units, scale, unit, spacing):
    geometry = layer_to_volume(Image(np.zeros((2, 3, 4)), scale=scale, units=units)).volume.geometry
    assert geometry.unit == unit
    np.testing.assert_allclose(geometry.spacing, spacing)


def test_lengths_in_other_units_keep_maps_on_the_scan():
    layer = Image(np.zeros((4, 4, 4)), scale=(500, 200, 200), units=("nm",) * 3)
    source = layer_to_volume(layer)
    grid = source.volume.geometry.strided((2, 2, 2), (2, 2, 2), (0.5, 0.5, 0.5))
    _, keywords = source.place(Volume(np.zeros((2, 2, 2)), grid))
    np.testing.assert_allclose(keywords["scale"], (1000, 400, 400))
    np.testing.assert_allclose(keywords["translate"], (250, 100, 100))


def test_channels_become_layers():
    array = np.stack([np.zeros((3, 4, 5)), np.ones((3, 4, 5))]).astype(np.float32)
    volume = Volume(array, Geometry((3, 4, 5), np.eye(4), "um"), "cells", ("nuclei", "walls"))
    data = volume_to_layer_data(volume)
    assert [k["name"] for _, k, _ in data] == ["cells · nuclei", "cells · walls"]
    assert len({k["colormap"] for _, k, _ in data}) == 2
    np.testing.assert_array_equal(data[1][0], array[1])


def test_four_axes_are_channels_or_one_point_in_view():
    layer = Image(np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5), scale=(1, 2, 3, 4))
    assert layer_to_volume(layer).volume.n_channels == 2
    one = layer_to_volume(layer, leading=1)
    np.testing.assert_array_equal(one.volume.array, layer.data[1])
    assert one.volume.geometry.spacing == (2, 3, 4)
    assert len(one.transform["scale"]) == 3


def test_dask_and_multiscale_are_read_without_computing():
    lazy = da.zeros((4, 5, 6), chunks=2)
    assert layer_to_volume(Image(lazy)).volume.array is not None
    assert isinstance(layer_to_volume(Image(lazy)).volume.array, da.Array)
    pyramid = Image([np.zeros((8, 8, 8)), np.zeros((4, 4, 4))], multiscale=True)
    assert layer_to_volume(pyramid).volume.geometry.shape == (8, 8, 8)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda: Image(np.zeros((4, 5))), "2D layer"),
        (lambda: Image(np.zeros((3, 4, 5, 3), np.uint8), rgb=True), "RGB"),
        (lambda: Image(np.zeros((2, 2, 3, 4, 5))), "5 axes"),
    ],
)
def test_what_is_no_scan_is_refused_with_the_next_step(layer, words):
    with pytest.raises(InputError, match=words) as caught:
        layer_to_volume(layer())
    assert ";" in str(caught.value)  # what is wrong; what to do


def test_labels_drawn_by_hand_over_a_turned_scan_take_its_true_grid():
    volume = scan(ORIENTATIONS[13], tilt=9)
    _, layer = shown(volume)
    like = layer_to_volume(layer)
    by_hand = (layer.data > 0.7).astype(np.uint8)
    source = source_for_array(by_hand, like)
    np.testing.assert_array_equal(source.volume.array, (volume.array > 0.7).astype(np.uint8))
    assert source.volume.geometry.is_close(volume.geometry)


def test_the_record_is_small_and_json_compatible():
    import json

    _, layer = shown(scan(ORIENTATIONS[3]))
    assert len(json.dumps(layer.metadata[KEY])) < 2000


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("label", np.uint8, "labels"),
        ("case_07_seg", np.int16, "labels"),
        ("brain-mask", np.uint8, "labels"),
        ("label", np.float32, "image"),
        ("labelled_nuclei", np.uint8, "image"),
        ("segment_t1", np.int16, "image"),
        ("image", np.uint8, "image"),
    ],
)
def test_files_of_others_open_as_what_their_name_says(name, dtype, expected):
    volume = scan().replace(array=np.zeros((4, 5, 6), dtype), name=name)
    ((_, _, kind),) = volume_to_layer_data(volume)
    assert kind == expected
    ((_, _, told),) = volume_to_layer_data(volume.replace(metadata={"kind": "image"}))
    assert told == "image"


def test_a_saved_mask_repeats_the_scans_forms(tmp_path):
    """Codes and both matrices of the scan's header, also where they disagree."""
    affine = np.diag([1.0, 2, 3, 1])
    image = nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), affine)
    image.set_sform(affine, 4)
    moved = affine.copy()
    moved[0, 3] = 9
    image.set_qform(moved, 1)
    nib.save(image, tmp_path / "scan.nii.gz")
    ((data, keywords, _),) = volume_to_layer_data(read_volume(tmp_path / "scan.nii.gz"))
    source = layer_to_volume(Image(data, **keywords))
    mask = Labels(np.ones(data.shape, np.uint8), metadata=source.record(), **source.transform)
    write_volume(tmp_path / "mask.nii.gz", layer_to_volume(mask).volume)
    mine, theirs = (nib.load(tmp_path / f"{n}.nii.gz").header for n in ("mask", "scan"))
    for field in ("sform_code", "qform_code", "srow_x", "qoffset_x", "pixdim", "xyzt_units"):
        assert np.array_equal(np.atleast_1d(mine[field])[:4], np.atleast_1d(theirs[field])[:4])
