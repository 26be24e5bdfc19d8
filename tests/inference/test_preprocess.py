from __future__ import annotations

from itertools import permutations, product
from typing import Any

import dask.array
import numpy as np
import pytest
import torch

from napari_attention3d.errors import InputError, ModelMismatchError
from napari_attention3d.geometry import Geometry
from napari_attention3d.inference.preprocess import Preprocessor, crop_region, turned_region
from napari_attention3d.models.card import ModelCard
from napari_attention3d.volumes.volume import Volume

PLAIN = {"kind": "none"}


def preprocessor(**changes: Any) -> Preprocessor:
    fields: dict[str, Any] = {
        "name": "test",
        "title": "Test",
        "network": {"name": "test"},
        "classes": [{"name": n, "colour": "#000000"} for n in "ab"],
        "channels": [{"name": "any"}],
        "normalisation": PLAIN,
    }
    return Preprocessor(ModelCard.model_validate({**fields, **changes}))


def scan(shape: tuple[int, ...] = (12, 13, 14), **kwargs: Any) -> Volume:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Volume.from_array(array, name="scan", **kwargs)


ORIENTATIONS = list(product(permutations(range(3)), product([False, True], repeat=3)))


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_all_orientations_reach_the_model_upright(axes: Any, flips: Any) -> None:
    """The same scan, stored in any of 48 ways, gives the same tensor on the same grid."""
    upright = scan((5, 6, 7), spacing=(1, 2, 3), anatomical=True)
    array, affine = upright.array, np.array(upright.geometry.affine)
    stored = array.transpose(axes)
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for k, source in enumerate(axes):
        matrix[source, k] = -1 if flips[k] else 1
        if flips[k]:
            stored = np.flip(stored, k)
            matrix[source, 3] = array.shape[source] - 1
    volume = Volume.from_array(stored, affine=affine @ matrix, anatomical=True)
    prepared = preprocessor(orientation="SAR").prepare(volume)
    np.testing.assert_array_equal(prepared.tensor[0].numpy(), array)
    assert prepared.grid.is_close(upright.geometry)
    back = prepared.reorientation.inverse().apply(prepared.tensor[0].numpy())
    np.testing.assert_array_equal(back, stored)


def test_own_spacing_is_not_touched() -> None:
    volume = scan(spacing=(0.7, 1.1, 3.0))
    prepared = preprocessor().prepare(volume)
    assert torch.equal(prepared.tensor[0], torch.from_numpy(volume.array))
    assert not prepared.placement.is_resampled
    assert prepared.notes == []


def test_nearly_the_models_spacing_is_not_resampled() -> None:
    volume = scan(spacing=(2.0005, 2, 1.9995))
    prepared = preprocessor(spacing=(2, 2, 2)).prepare(volume)
    assert torch.equal(prepared.tensor[0], torch.from_numpy(volume.array))


def test_resampling_is_told() -> None:
    prepared = preprocessor(spacing=(2, 2, 2)).prepare(scan((20, 20, 20), spacing=(1, 1, 1)))
    assert prepared.tensor.shape == (1, 10, 10, 10)
    assert prepared.grid.spacing == (2, 2, 2)
    assert prepared.notes == ["resampled from 1 x 1 x 1 to 2 x 2 x 2 mm"]


@pytest.mark.parametrize(("unit", "spacing"), [("um", (1000, 2000, 1000)), ("mm", (1, 2, 1))])
def test_units_are_converted(unit: str, spacing: tuple[int, int, int]) -> None:
    volume = scan((20, 10, 20), spacing=spacing, unit=unit)
    place = preprocessor(spacing=(2, 2, 2)).place(volume.geometry)
    assert place.grid.shape == (10, 10, 10)
    assert place.grid.unit == "mm"
    assert place.scan is volume.geometry


def test_scan_without_spacing_is_refused_by_a_model_in_millimetres() -> None:
    with pytest.raises(ModelMismatchError, match=r"spacing is not known .* set its spacing in mm"):
        preprocessor(spacing=(2, 2, 2)).prepare(scan())


def test_model_in_voxels_takes_any_unit() -> None:
    volume = scan((16, 16, 16), spacing=(0.3, 0.3, 0.3), unit="um")
    place = preprocessor(spacing=(1, 2, 2), unit="pixel").place(volume.geometry)
    assert place.grid.shape == (16, 8, 8)
    assert place.grid.unit == "um"


@pytest.mark.parametrize(
    ("spacing", "message"),
    [((0.01, 0.01, 0.01), "only 1 x 1 x 1 voxels"), ((30, 30, 30), "too coarse")],
)
def test_scan_of_another_scale_is_refused(
    spacing: tuple[float, float, float], message: str
) -> None:
    with pytest.raises(ModelMismatchError, match=f"{message}.* check the scan's spacing"):
        preprocessor(spacing=(2, 2, 2)).prepare(scan(spacing=spacing))


def test_thin_stack_is_accepted() -> None:
    volume = scan((2, 40, 40), spacing=(2, 1, 1))
    assert preprocessor(spacing=(2, 2, 2)).prepare(volume).tensor.shape == (1, 2, 20, 20)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted(bad: float) -> None:
    volume = scan()
    volume.array[3, 4, :5] = bad
    with pytest.raises(InputError, match=r"scan holds 5 voxels that are NaN.*nan_to_num"):
        preprocessor().prepare(volume)


def test_doubles_beyond_float32_are_refused() -> None:
    array = np.zeros((4, 4, 4))
    array[0, 0, 0] = 1e300
    with pytest.raises(InputError, match=r"1 voxels .* too large"):
        preprocessor().prepare(Volume.from_array(array))


def test_constant_scan_is_refused() -> None:
    with pytest.raises(InputError, match="all voxels of flat are 7"):
        preprocessor().prepare(Volume.from_array(np.full((4, 4, 4), 7), name="flat"))


def test_constant_channel_is_named() -> None:
    volume = scan((2, 4, 4, 4))
    volume.array[1] = 3
    with pytest.raises(InputError, match="channel 1 of scan are 3"):
        preprocessor(channels=[{"name": "a"}, {"name": "b"}]).prepare(volume)


@pytest.mark.parametrize("dtype", [np.bool_, np.complex64, object, "U1"])
def test_other_types_are_refused(dtype: Any) -> None:
    with pytest.raises(InputError, match="integers or floats are needed"):
        preprocessor().prepare(Volume.from_array(np.zeros((4, 4, 4), dtype), name="odd"))


def test_colour_pictures_are_refused() -> None:
    with pytest.raises(InputError, match=r"colour \(RGB\)"):
        preprocessor().prepare(scan(metadata={"rgb": True}))


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", ">f4", "f8", "f2", "u4"])
def test_number_types_and_byte_orders(dtype: str) -> None:
    array = np.arange(60).reshape(3, 4, 5).astype(dtype)
    prepared = preprocessor().prepare(Volume.from_array(array))
    np.testing.assert_array_equal(prepared.tensor[0].numpy(), np.arange(60).reshape(3, 4, 5))


def test_lazy_and_read_only_arrays() -> None:
    array = scan().array
    array.setflags(write=False)
    lazy = Volume.from_array(dask.array.from_array(array, chunks=5))
    for volume in (lazy, Volume.from_array(array)):
        np.testing.assert_array_equal(preprocessor().prepare(volume).tensor[0].numpy(), array)


def test_channels_must_match() -> None:
    with pytest.raises(ModelMismatchError, match=r"reads 1 channel \(any\), .*has 3; choose one"):
        preprocessor().prepare(scan((3, 4, 4, 4)))
    with pytest.raises(ModelMismatchError, match=r"reads 2 channels .*give a scan with all"):
        preprocessor(channels=[{"name": "a"}, {"name": "b"}]).prepare(scan())
    with pytest.raises(InputError, match="no channel 3"):
        preprocessor().prepare(scan((3, 4, 4, 4)), channel=3)


def test_one_channel_can_be_chosen() -> None:
    volume = scan((3, 4, 5, 6))
    prepared = preprocessor().prepare(volume, channel=2)
    np.testing.assert_array_equal(prepared.tensor[0].numpy(), volume.array[2])


def test_the_scan_is_not_changed() -> None:
    volume = scan((20, 20, 20), spacing=(1, 1, 1))
    before = volume.array.copy()
    for changes in ({}, {"spacing": (2, 2, 2)}, {"normalisation": {"kind": "percentile"}}):
        prepared = preprocessor(**changes).prepare(volume)
        assert prepared.tensor.dtype == torch.float32
        np.testing.assert_array_equal(volume.array, before)


def test_intensities_far_from_the_window_are_told() -> None:
    card = {"normalisation": {"kind": "window", "lower": 500, "upper": 900}, "intensity": "CT, HU"}
    warnings = preprocessor(**card).prepare(scan()).warnings
    assert len(warnings) == 1
    assert "500 to 900" in warnings[0]
    assert "CT, HU" in warnings[0]


def test_mask_given_as_scan_is_told() -> None:
    mask = Volume.from_array((scan().array > 0).astype(np.uint8))
    assert "only 2 different values" in preprocessor().prepare(mask).warnings[0]


def test_unknown_orientation_is_told_and_tilt_too() -> None:
    upright = preprocessor(orientation="SAR")
    assert "does not say how it is oriented" in upright.prepare(scan()).warnings[0]
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]]
    warnings = upright.prepare(scan(affine=tilt, anatomical=True)).warnings
    assert len(warnings) == 1
    assert "tilted by 40 degrees" in warnings[0]


def test_region_lies_where_it_did_in_the_world() -> None:
    volume = scan(affine=[[0, 0, -2, 9], [1, 0, 0, 3], [0, 3, 0, 1], [0, 0, 0, 1]], anatomical=True)
    region = ((2, 5), (1, 13), (0, 7))
    place = preprocessor(orientation="SAR").place(volume.geometry)
    slices, cropped = crop_region(volume.geometry, region)
    target = turned_region(place, region)
    turned = place.reorientation.apply(volume.array[slices])
    assert target.shape == turned.shape
    first = target.to_world((0, 0, 0))
    index = tuple(np.round(volume.geometry.to_index(first)).astype(int))
    assert volume.array[index] == turned[0, 0, 0]
    assert cropped.is_close(Geometry(cropped.shape, cropped.affine, "mm"))


@pytest.mark.parametrize("bad", [(3, 3), (5, 2), (-1, 4), (0, 13)])
def test_region_outside_the_scan_is_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="region's z range"):
        crop_region(scan().geometry, (bad, (0, 13), (0, 14)))
