from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from napari_attention3d.analysis.compare import (
    agreement,
    compare,
    compare_labels,
    dice_and_hd95,
)
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry, Reorientation
from napari_attention3d.progress import finish
from napari_attention3d.volumes.volume import Volume

SPACING = (2.5, 1.0, 0.7)


def volume(array: np.ndarray, spacing=SPACING, unit="mm", **kwargs) -> Volume:
    return Volume.from_array(array, spacing=spacing, unit=unit, **kwargs)


def surface_distances(a: np.ndarray, b: np.ndarray, spacing) -> tuple[np.ndarray, np.ndarray]:
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
        return distance[surface(from_)]

    return directed(a, b), directed(b, a)


def blob(seed: int, shape=(18, 22, 20)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return noise > np.percentile(noise, 75)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_an_independent_implementation(seed):
    a, b = blob(seed), blob(seed + 100)
    found = agreement(a, b, SPACING, tolerance=2.5)
    there, back = surface_distances(a, b, SPACING)
    both = np.concatenate([there, back])
    assert found.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-6)
    assert found.iou == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-6)
    worst = max(np.percentile(there, 95), np.percentile(back, 95))
    assert found.hd95 == pytest.approx(worst, rel=1e-5)
    assert found.average_surface_distance == pytest.approx(both.mean(), rel=1e-5)
    assert found.surface_dice == pytest.approx((both <= 2.5).mean())
    assert dice_and_hd95(a, b, SPACING) == (found.dice, found.hd95)
    assert (a & (np.indices(a.shape)[0] == 0)).any()  # a surface on the border is included


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_all_pairs_of_surface_voxels(seed):
    a, b = (blob(seed + k, (8, 9, 10)) for k in (0, 50))
    cross = ndimage.generate_binary_structure(3, 1)
    one, other = (np.argwhere(m & ~ndimage.binary_erosion(m, cross)) * SPACING for m in (a, b))
    apart = cdist(one, other)
    both = np.concatenate([apart.min(axis=1), apart.min(axis=0)])
    found = agreement(a, b, SPACING, tolerance=1.0)
    assert found.average_surface_distance == pytest.approx(both.mean(), rel=1e-5)
    assert found.surface_dice == pytest.approx((both <= 1).mean())


def test_agrees_with_monais_own_summaries():
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    a, b = blob(7), blob(8)
    found = agreement(a, b, SPACING, tolerance=1.4)
    one, other = (torch.from_numpy(m)[None, None].float() for m in (a, b))
    options = {"include_background": True, "spacing": list(SPACING)}
    hd95 = metrics.compute_hausdorff_distance(one, other, percentile=95, **options)
    mean = metrics.compute_average_surface_distance(one, other, symmetric=True, **options)
    share = metrics.compute_surface_dice(one, other, class_thresholds=[1.4 * 1.00001], **options)
    assert found.hd95 == pytest.approx(float(hd95), rel=1e-6)
    assert found.average_surface_distance == pytest.approx(float(mean), rel=1e-5)
    assert found.surface_dice == pytest.approx(float(share), rel=1e-6)


@pytest.mark.parametrize("gap", [1, 3])
def test_surface_dice_counts_what_is_as_far_as_the_tolerance(gap):
    a, b = np.zeros((2, 12, 6, 6), dtype=bool)
    a[2], b[2 + gap] = True, True
    spacing = (0.3, 1, 1)
    assert agreement(a, b, spacing, tolerance=0.3 * gap).surface_dice == 1
    assert agreement(a, b, spacing, tolerance=0.29 * gap).surface_dice == 0
    assert agreement(a, b, spacing).average_surface_distance == pytest.approx(0.3 * gap)


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
    result = json.loads(json.dumps(result, allow_nan=False))
    assert result["mean_dice"] == pytest.approx(1 / 3)
    same, neither, only_mask, only_truth = (result["classes"][str(v)] for v in (1, 2, 3, 4))
    assert (same["dice"], same["iou"], same["surface_dice"], same["hd95"]) == (1, 1, 1, 0)
    assert neither["volume"] == neither["volume_truth"] == 0
    assert {neither[k] for k in ("dice", "iou", "hd95", "surface_dice")} == {None}
    for row in (only_mask, only_truth):
        assert (row["dice"], row["iou"], row["surface_dice"]) == (0, 0, 0)
        assert row["hd95"] is row["average_surface_distance"] is None
    voxel = 2.5 * 0.7
    assert only_mask["volume_difference"] == pytest.approx(voxel)
    assert only_mask["relative_volume_difference"] is None
    assert only_truth["volume_difference"] == pytest.approx(-voxel)
    assert only_truth["relative_volume_difference"] == -1


def test_two_empty_masks_have_no_mean():
    empty = volume(np.zeros((3, 3, 3), dtype=np.uint8))
    result = compare_labels(empty, empty)
    assert (result["classes"], result["mean_dice"]) == ({}, None)
    assert compare_labels(empty, empty, [2])["classes"]["2"]["dice"] is None


def test_the_tolerance_is_the_longest_side_of_a_voxel_unless_given():
    a = volume(np.ones((3, 3, 3), dtype=np.uint8))
    assert compare_labels(a, a)["tolerance"] == 2.5
    assert compare_labels(a, a, tolerance=0)["tolerance"] == 0
    for wrong in (-1, np.nan, np.inf):
        with pytest.raises(InputError, match="tolerance"):
            compare_labels(a, a, tolerance=wrong)


def test_disagreement_says_who_marked_what_on_the_truths_own_grid():
    a, b = np.zeros((2, 5, 6, 7), dtype=np.uint8)
    a[0], b[0] = 1, 1
    a[1], b[2] = 1, 1
    a[3], b[3] = 1, 2
    turn = Reorientation((1, 0, 2), (False, True, False))
    mask, truth = volume(a), volume(b)
    stored = Volume(turn.apply(a), mask.geometry.reorient(turn))
    for first in (mask, stored):
        found = finish(compare(first, truth))
        assert found.disagreement.geometry.is_close(truth.geometry)
        assert found.disagreement.dtype == np.uint8
        planes = np.asarray(found.disagreement.array).reshape(5, -1)
        assert (planes == np.array([0, 1, 2, 3, 0])[:, None]).all()
    swapped = finish(compare(truth, stored)).disagreement
    assert swapped.geometry.is_close(stored.geometry)
    counts = np.bincount(swapped.array.ravel()).tolist()
    assert counts == [2 * 42, 42, 42, 42]


def test_a_table_holds_names_and_units():
    a = np.zeros((4, 4, 4), dtype=np.uint8)
    a[1:3] = 1
    named = volume(a, metadata={"classes": [{"name": "background"}, {"name": "liver"}]})
    table = finish(compare(named, volume(a), tolerance=1)).table()
    assert table.column("name") == ["liver"]
    assert table.column("surface dice (at 1 mm)") == [1.0]
    assert table.column("volume truth (mm3)") == [pytest.approx(32 * 2.5 * 0.7)]


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
