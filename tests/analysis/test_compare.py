from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from napari_attention3d.analysis.compare import compare_labels, dice_and_hd95
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry, Reorientation
from napari_attention3d.volumes.volume import Volume

SPACING = (2.5, 1.0, 0.7)


def volume(array: np.ndarray, spacing=SPACING, unit="mm", **kwargs) -> Volume:
    return Volume.from_array(array, spacing=spacing, unit=unit, **kwargs)


def hd95_by_distance_transform(a: np.ndarray, b: np.ndarray, spacing) -> float:
    """Independent: surface voxels have a face neighbour outside; exact Euclidean transform."""
    a, b = np.pad(a, 1), np.pad(b, 1)

    def surface(region):
        inner = region.copy()
        for axis in range(3):
            for step in (-1, 1):
                inner &= np.roll(region, step, axis)
        return region & ~inner

    def directed(from_, to):
        distance = ndimage.distance_transform_edt(~surface(to), sampling=spacing)
        return np.percentile(distance[surface(from_)], 95)

    return float(max(directed(a, b), directed(b, a)))


def blob(seed: int, shape=(18, 22, 20)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return noise > np.percentile(noise, 75)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_an_independent_implementation(seed):
    a, b = blob(seed), blob(seed + 100)
    dice, hd95 = dice_and_hd95(a, b, SPACING)
    assert dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-6)
    assert hd95 == pytest.approx(hd95_by_distance_transform(a, b, SPACING), rel=1e-5)
    assert (a & (np.indices(a.shape)[0] == 0)).any()  # a surface on the border is included


@pytest.mark.parametrize("axis", range(3))
def test_distance_of_parallel_plates_is_their_gap_in_the_unit(axis):
    a, b = np.zeros((2, 12, 12, 12), dtype=np.uint8)
    index = [slice(None)] * 3
    index[axis] = 2
    a[tuple(index)] = 1
    index[axis] = 7
    b[tuple(index)] = 1
    result = compare_labels(volume(a), volume(b))
    assert result["classes"]["1"]["hd95"] == pytest.approx(5 * SPACING[axis], rel=1e-6)
    assert result["classes"]["1"]["dice"] == 0


def test_concentric_balls_are_apart_by_the_difference_of_their_radii():
    z, y, x = np.indices((33, 65, 65))
    radius = np.sqrt(((z - 16) * 2) ** 2 + (y - 32) ** 2 + (x - 32) ** 2)
    small, large = (radius <= 20), (radius <= 26)
    dice, hd95 = dice_and_hd95(small, large, (2, 1, 1))
    assert hd95 == pytest.approx(6, abs=1.0)
    exact = 2 * 20**3 / (20**3 + 26**3)
    assert dice == pytest.approx(exact, abs=0.01)


def test_absent_classes_and_the_mean():
    a, b = np.zeros((2, 6, 6, 6), dtype=np.uint8)
    a[1:3, 1:3, 1:3] = 1
    b[1:3, 1:3, 1:3] = 1
    a[4, 4, 4] = 3  # only in the mask
    b[5, 5, 5] = 4  # only in the truth
    result = compare_labels(volume(a), volume(b))
    assert json.loads(json.dumps(result, allow_nan=False)) == {
        "unit": "mm",
        "classes": {
            "1": {"dice": 1.0, "hd95": 0.0},
            "2": {"dice": None, "hd95": None},
            "3": {"dice": 0.0, "hd95": None},
            "4": {"dice": 0.0, "hd95": None},
        },
        "mean_dice": pytest.approx(1 / 3),
    }


def test_two_empty_masks_have_no_mean():
    empty = volume(np.zeros((3, 3, 3), dtype=np.uint8))
    assert compare_labels(empty, empty) == {"unit": "mm", "classes": {}, "mean_dice": None}
    assert compare_labels(empty, empty, [2])["classes"] == {"2": {"dice": None, "hd95": None}}


def test_many_valued_labels_list_only_those_that_are_there():
    a = np.zeros((4, 4, 4), dtype=np.uint16)
    a[0], a[1] = 17, 2035
    result = compare_labels(volume(a), volume(a))
    assert list(result["classes"]) == ["17", "2035"]


def test_masks_stored_in_other_axis_orders_compare_on_the_same_grid():
    rng = np.random.default_rng(0)
    a = volume(rng.integers(0, 3, (7, 8, 9)).astype(np.uint8))
    turn = Reorientation((2, 0, 1), (True, False, True))
    b = Volume(turn.apply(a.array), a.geometry.reorient(turn))
    result = compare_labels(b, a)
    assert [row["dice"] for row in result["classes"].values()] == [1.0, 1.0]
    assert [row["hd95"] for row in result["classes"].values()] == [0.0, 0.0]


def test_units_of_length_are_converted():
    a = np.zeros((8, 8, 8), dtype=np.uint8)
    a[2] = 1
    b = np.roll(a, 3, axis=0)
    micro = volume(b, spacing=tuple(1000 * s for s in SPACING), unit="um")
    result = compare_labels(volume(a), micro)
    assert result["unit"] == "mm"
    assert result["classes"]["1"]["hd95"] == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (Geometry.from_spacing((5, 5, 6), SPACING, unit="mm"), "shapes"),
        (Geometry.from_spacing((5, 5, 5), (2.5, 1, 0.8), unit="mm"), "spacings"),
        (Geometry.from_spacing((5, 5, 5), SPACING, (0, 0, 3), unit="mm"), "origins"),
        (Geometry.from_spacing((5, 5, 5), SPACING), "units"),
    ],
)
def test_other_grids_are_refused_with_the_difference(changed, says):
    a = volume(np.ones((5, 5, 5), dtype=np.uint8), name="mask")
    b = Volume(np.ones(changed.shape, dtype=np.uint8), changed, "truth")
    with pytest.raises(InputError, match=rf"mask and truth .*{says}"):
        compare_labels(a, b)


def test_a_tilted_grid_is_refused_with_its_angle():
    a = volume(np.ones((5, 5, 5), dtype=np.uint8), spacing=(1, 1, 1))
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    affine = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    b = Volume.from_array(np.ones((5, 5, 5), dtype=np.uint8), affine=affine)
    with pytest.raises(InputError, match="10 degrees"):
        compare_labels(a, b)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((3, 3, 3), 0.5, dtype=np.float32), "not whole numbers"),
        (np.full((3, 3, 3), np.nan, dtype=np.float32), "not whole numbers"),
        (np.full((3, 3, 3), -1, dtype=np.int16), "negative"),
        (np.ones((2, 3, 3, 3), dtype=np.uint8), "2 channels"),
        (np.ones((3, 3, 3), dtype=np.complex64), "complex64"),
    ],
)
def test_what_is_no_mask_is_refused(array, says):
    with pytest.raises(InputError, match=says):
        compare_labels(volume(array), volume(array))


def test_whole_numbers_stored_as_floats_are_a_mask():
    a = np.zeros((4, 4, 4), dtype=np.float32)
    a[1:3] = 2
    result = compare_labels(volume(a), volume(a.astype(np.uint8)), [2])
    assert result["mean_dice"] == 1
