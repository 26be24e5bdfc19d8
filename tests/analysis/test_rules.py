from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy import ndimage
from skimage.measure import label

from napari_attention3d.analysis.rules import (
    FillHoles,
    KeepLargest,
    MinimumSize,
    RemoveOutside,
    Smooth,
)
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry

SPACING = (2.0, 1.0, 0.5)
masks = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16, np.uint32]),
    st.tuples(*[st.integers(1, 7)] * 3),
    elements=st.integers(0, 3),
)
some_classes = st.sampled_from([None, (1,), (2, 3)])
RULES = (
    KeepLargest(),
    KeepLargest(count=2, connectivity=6),
    MinimumSize(size=4.0),
    FillHoles(),
    FillHoles(plane="z"),
    FillHoles(plane="x"),
    Smooth(width=0.7),
    Smooth(width=1.1, method="median"),
    RemoveOutside(inside=(3,), classes=(1,)),
    RemoveOutside(inside=(3,), classes=(1, 2), margin=1.0),
)
IDEMPOTENT = [rule for rule in RULES if not isinstance(rule, Smooth)]
SHRINKING = [r for r in RULES if isinstance(r, (KeepLargest, MinimumSize, RemoveOutside))]


def grid(array, spacing=SPACING, unit="mm") -> Geometry:
    return Geometry.from_spacing(array.shape, spacing, unit=unit)


def aimed(rule, classes):
    return rule if isinstance(rule, RemoveOutside) else rule.model_copy(update={"classes": classes})


@settings(max_examples=60, deadline=None)
@given(masks, st.sampled_from(RULES), some_classes)
def test_no_label_is_invented_and_other_classes_stay(array, rule, classes):
    rule = aimed(rule, classes)
    before = array.copy()
    after = rule.apply(array, grid(array))
    assert np.array_equal(array, before)
    assert after is not array
    assert (after.dtype, after.shape) == (array.dtype, array.shape)
    assert set(np.unique(after)) <= set(np.unique(array)) | {0}
    if rule.classes is not None:
        others = (array > 0) & ~np.isin(array, rule.classes)
        assert np.array_equal(after[others], array[others])
        assert np.isin(after[array == 0], (0, *rule.classes)).all()


@settings(max_examples=60, deadline=None)
@given(masks, st.sampled_from(IDEMPOTENT), some_classes)
def test_a_second_time_changes_nothing(array, rule, classes):
    rule = aimed(rule, classes)
    once = rule.apply(array, grid(array))
    assert np.array_equal(rule.apply(once, grid(array)), once)


@settings(max_examples=40, deadline=None)
@given(masks, st.sampled_from(SHRINKING), some_classes)
def test_what_removes_never_adds(array, rule, classes):
    after = aimed(rule, classes).apply(array, grid(array))
    assert ((after == array) | (after == 0)).all()


@settings(max_examples=40, deadline=None)
@given(masks, st.sampled_from(RULES[3:6]))
def test_filling_only_adds_and_only_within_the_box(array, rule):
    after = rule.apply(array, grid(array))
    assert np.array_equal(after[array > 0], array[array > 0])
    for value in range(1, 4):
        if not (array == value).any():
            continue
        places, new = np.argwhere(array == value), np.argwhere(after == value)
        assert (new.min(axis=0) >= places.min(axis=0)).all()
        assert (new.max(axis=0) <= places.max(axis=0)).all()


@settings(max_examples=30, deadline=None)
@given(masks, st.sampled_from(RULES[6:8]))
def test_smoothing_grows_no_farther_than_it_reaches(array, rule):
    after = rule.apply(array, grid(array))
    reach = (4 if rule.method == "gaussian" else 1) * rule.width + 1e-9
    for value in range(1, 4):
        if (array == value).any():
            away = ndimage.distance_transform_edt(array != value, sampling=SPACING)
            # the Gaussian is cut off in a box
            assert (away[after == value] <= reach * np.sqrt(3) + max(SPACING)).all()
        else:
            assert not (after == value).any()


@settings(max_examples=30, deadline=None)
@given(masks, st.integers(1, 20), st.sampled_from([6, 18, 26]))
def test_minimum_size_is_that_of_scikit_image(array, voxels, connectivity):
    rule = MinimumSize(size=voxels * 1.0, connectivity=connectivity, classes=(1,))
    parts = label(array == 1, connectivity=(6, 18, 26).index(connectivity) + 1)
    kept = (parts > 0) & (np.bincount(parts.ravel())[parts] >= voxels)
    assert np.array_equal(rule.apply(array, grid(array)) == 1, kept)


@settings(max_examples=30, deadline=None)
@given(masks)
def test_the_largest_is_that_of_scikit_image(array):
    parts = label(array == 2, connectivity=3)
    after = KeepLargest().apply(array, grid(array)) == 2
    sizes = np.bincount(parts.ravel())[1:]
    assert after.sum() == sizes.max(initial=0)
    assert len(np.unique(parts[after])) <= 1


def test_sizes_are_in_the_rules_unit():
    array = np.zeros((4, 8, 8), dtype=np.uint8)
    array[0, :2, :2] = 1  # 4 voxels of 1 mm3
    array[3, 5, 5] = 1
    for size, kept in ((1.0, 5), (1.01, 4), (4.0, 4), (4.01, 0)):
        assert MinimumSize(size=size).apply(array, grid(array)).sum() == kept
        micro = MinimumSize(size=size * 1e9, unit="um")
        assert micro.apply(array, grid(array)).sum() == kept
    with pytest.raises(InputError, match="'pixel' can't be expressed in 'mm'"):
        MinimumSize(size=1, unit="mm").apply(array, grid(array, unit="pixel"))


def test_holes_in_3d_in_planes_and_nested():
    array = np.zeros((7, 9, 9), dtype=np.uint16)
    array[1:6, 1:8, 1:8] = 1
    array[2:5, 2:7, 2:7] = 0
    array[3, 3:6, 3:6] = 500
    array[3, 4, 4] = 0
    filled = FillHoles().apply(array, grid(array))
    assert filled[3, 4, 4] == 0 + 1  # 500 is a ring: open in 3D, so its middle is of class 1
    assert (filled[2, 2:7, 2:7] == 1).all()
    flat = FillHoles(plane="z").apply(array, grid(array))
    assert flat[3, 4, 4] == 500  # within its plane the ring is the inner one
    assert (flat == 500).sum() == 9
    array[1, 4, 4] = 0  # a chimney
    assert (FillHoles().apply(array, grid(array)) == array).all()
    assert FillHoles(plane="z").apply(array, grid(array))[2, 4, 4] == 1


def test_smoothing_removes_specks_and_keeps_large_blocks():
    array = np.zeros((20, 30, 40), dtype=np.uint8)
    array[4:16, 5:25, 8:32] = 1
    array[10, 15, 20] = 0
    array[1, 1, 1] = 1
    for method in ("gaussian", "median"):
        after = Smooth(width=1.5, method=method).apply(array, grid(array))
        assert after[10, 15, 20] == 1
        assert after[1, 1, 1] == 0
        assert (after[6:14, 8:22, 12:28] == 1).all()
        assert after.sum() == pytest.approx(array.sum(), rel=0.08)  # corners


def test_smoothing_opens_no_crack_between_classes():
    array = np.zeros((12, 16, 16), dtype=np.uint8)
    rough = 8 + np.random.default_rng(0).integers(-1, 2, (12, 16))
    array[:] = np.where(np.arange(16) < rough[..., None], 1, 2)
    for rule in (Smooth(width=1), Smooth(width=1, classes=(1,)), Smooth(width=2, method="median")):
        assert (rule.apply(array, grid(array)) > 0).all()
    both = Smooth(width=2).apply(array, grid(array))
    assert (both[:, :, 1:] != both[:, :, :-1]).sum() == 12 * 16
    assert (both == 1).sum(axis=2).std() < 0.5 * rough.std()


def test_smoothing_is_as_wide_in_the_world_along_each_axis():
    """A plate is rubbed out by its thickness in mm, whichever axis it lies across."""
    for axis in range(3):
        for thickness, survives in ((2.0, False), (8.0, True)):
            array = np.zeros((20, 40, 80), dtype=np.uint8)
            index = [slice(None)] * 3
            index[axis] = slice(5, 5 + round(thickness / SPACING[axis]))
            array[tuple(index)] = 1
            for rule in (Smooth(width=2), Smooth(width=3, method="median")):
                assert (rule.apply(array, grid(array)) == 1).any() == survives


def test_the_median_of_one_class_is_that_of_scipy():
    array = (np.random.default_rng(1).random((9, 10, 11)) < 0.5).astype(np.uint8)
    places = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in (1, 2, 4)], indexing="ij"))
    ball = ((places * np.array(SPACING)[:, None, None, None]) ** 2).sum(axis=0) <= 4.0
    expected = ndimage.median_filter(array, footprint=ball, mode="nearest")
    after = Smooth(width=2.0, method="median").apply(array, grid(array))
    assert ball.sum() % 2 == 1
    assert np.array_equal(after, expected)


def test_large_balls_give_the_same_by_fourier_transform(monkeypatch):
    from napari_attention3d.analysis import rules

    array = (np.random.default_rng(2).random((9, 10, 11)) < 0.5).astype(np.uint8)
    rule = Smooth(width=2.0, method="median")
    direct = rule.apply(array, grid(array))
    monkeypatch.setattr(rules, "_MOST_TAPS", 1)
    assert np.array_equal(rule.apply(array, grid(array)), direct)


@pytest.mark.parametrize("method", ["gaussian", "median"])
def test_smoothing_by_more_than_the_scan_is_refused(method):
    array = np.ones((4, 4, 4), dtype=np.uint8)
    Smooth(width=8, method=method).apply(array, grid(array))
    with pytest.raises(InputError, match=r"9 mm is wider than the scan \(8 mm\)"):
        Smooth(width=9, method=method).apply(array, grid(array))
    with pytest.raises(InputError, match=r"9000 um is wider"):
        Smooth(width=9000, unit="um", method=method).apply(array, grid(array))


def test_outside_is_measured_from_the_container_with_its_holes():
    array = np.zeros((5, 12, 24), dtype=np.uint8)
    array[1:4, 2:10, 2:14] = 2
    array[2, 5, 6] = 1  # inside
    array[2, 5, 14] = 1  # next to it: 0.5 mm
    array[2, 5, 17] = 1  # 2 mm away
    array[4, 5, 6] = 3
    rule = {"inside": (2,), "classes": (1,)}
    for margin, kept in ((0, 1), (0.4, 1), (0.5, 2), (1.9, 2), (2.0, 3)):
        after = RemoveOutside(**rule, margin=margin).apply(array, grid(array))
        assert (after == 1).sum() == kept
        assert (after > 1).sum() == (array > 1).sum()
    everything = RemoveOutside(inside=(2,)).apply(array, grid(array))
    assert (everything == 3).sum() == 0
    assert (RemoveOutside(inside=(9,), classes=(1,)).apply(array, grid(array)) != 1).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: KeepLargest(count=0), "greater than or equal to 1"),
        (lambda: KeepLargest(connectivity=8), "6, 18 or 26"),
        (lambda: MinimumSize(size=-1), "greater than 0"),
        (lambda: MinimumSize(size=float("inf")), "finite"),
        (lambda: KeepLargest(classes=(0,)), "from 1 up"),
        (lambda: KeepLargest(classes=()), "from 1 up"),
        (lambda: RemoveOutside(inside=(1,), classes=(1,)), "container"),
        (lambda: Smooth(width=1, sigma=2), "not permitted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, says):
    with pytest.raises(ValidationError, match=says):
        make()
