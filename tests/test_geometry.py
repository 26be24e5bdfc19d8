from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry, Reorientation

SHAPE = (3, 4, 5)
SPACING = (0.5, 1.25, 3.0)


def rotation(rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q if np.linalg.det(q) > 0 else -q


def sheared(rng):
    return rotation(rng) @ (np.eye(3) + np.triu(rng.uniform(-0.2, 0.2, (3, 3)), 1))


def oblique(seed, shape=SHAPE, spacing=SPACING, rotate=rotation):
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = rotate(rng) @ np.diag(spacing)
    affine[:3, 3] = rng.normal(size=3) * 50
    return Geometry(shape, affine, "mm", anatomical=True)


ALL_48 = [
    Reorientation(p, f)
    for p in itertools.permutations(range(3))
    for f in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize("turn", ALL_48, ids=lambda t: f"{t.permutation}{t.flips}")
def test_reorientation_moves_array_and_world_together(turn):
    array = np.arange(60).reshape(SHAPE)
    grid = Geometry.from_spacing(SHAPE, SPACING, (7, -3, 2), "mm")
    turned, moved = grid.reorient(turn), turn.apply(array)
    assert moved.shape == turned.shape
    for index in np.ndindex(*moved.shape):
        source = grid.to_index(turned.to_world(index))
        assert array[tuple(np.rint(source).astype(int))] == moved[index]
        assert np.allclose(source, np.rint(source))
    assert np.array_equal(turn.inverse().apply(moved), array)
    assert turned.reorient(turn.inverse()).is_close(grid)
    assert np.allclose(np.sort(turned.spacing), np.sort(SPACING))


@pytest.mark.parametrize("turn", ALL_48, ids=lambda t: f"{t.permutation}{t.flips}")
def test_canonical_undoes_any_turn(turn):
    grid = Geometry.from_spacing(SHAPE, SPACING, (7, -3, 2), "mm", anatomical=True)
    turned = grid.reorient(turn)
    assert turned.canonical().is_close(grid)
    assert turned.canonical().is_axis_aligned
    assert turned.canonical_reorientation().inverse() == turn


@pytest.mark.parametrize("rotate", [rotation, sheared])
@pytest.mark.parametrize("seed", range(48))
def test_canonical_agrees_with_nibabel_at_any_tilt(seed, rotate):
    grid = oblique(seed, rotate=rotate).reorient(ALL_48[seed])
    array = np.arange(60).reshape(grid.shape)
    image = nib.as_closest_canonical(nib.Nifti1Image(array.T.astype(np.int32), grid.affine_xyz))
    turn = grid.canonical_reorientation()
    assert np.array_equal(turn.apply(array).T, np.asarray(image.dataobj))
    assert np.allclose(grid.reorient(turn).affine_xyz, image.affine)


@pytest.mark.parametrize("seed", range(5))
def test_affine_is_nibabels_reversed(seed):
    grid = oblique(seed)
    again = Geometry.from_xyz(grid.shape, grid.affine_xyz)
    assert np.allclose(again.affine, grid.affine)
    k, j, i = 1, 2, 3
    x, y, z = nib.affines.apply_affine(grid.affine_xyz, (i, j, k))
    assert np.allclose(grid.to_world((k, j, i)), (z, y, x))
    assert np.allclose(grid.spacing, nib.affines.voxel_sizes(grid.affine_xyz)[::-1])


def test_orientation_letters():
    codes = nib.orientations.axcodes2ornt(("P", "S", "R"))
    affine = nib.orientations.inv_ornt_aff(codes, (5, 4, 3))
    grid = Geometry.from_xyz((3, 4, 5), np.linalg.inv(affine))
    assert grid.orientation == "".join(reversed(nib.aff2axcodes(grid.affine_xyz)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.floats(-50, 50), min_size=3, max_size=3))
def test_index_and_world_are_inverse(seed, point):
    grid = oblique(seed)
    assert np.allclose(grid.to_index(grid.to_world(point)), point, atol=1e-6)


def test_cropping_keeps_voxels_where_they_are():
    grid = oblique(1, (9, 8, 7))
    crop = grid.cropped((2, 1, 3), (4, 4, 4))
    assert np.allclose(crop.to_world((1, 1, 1)), grid.to_world((3, 2, 4)))
    assert crop.shape == (4, 4, 4)


def test_strided_grid_is_centred_as_declared():
    grid = oblique(2, (8, 8, 8))
    coarse = grid.strided((2, 2, 2), (4, 4, 4), (1.5, 1.5, 1.5))
    assert np.allclose(coarse.to_world((1, 0, 1)), grid.to_world((5.5, 1.5, 5.5)))
    assert np.allclose(coarse.spacing, np.array(grid.spacing) * 4)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.3, 2.0, 0.7), (9.0, 9.0, 9.0)])
def test_resampling_keeps_the_box(spacing):
    grid = oblique(3, (12, 20, 9))
    new = grid.resampled(spacing)
    for corner in itertools.product((0, 1), repeat=3):
        edge = np.array(corner)
        old_edge = grid.to_world(edge * grid.shape - 0.5)
        new_edge = new.to_world(edge * new.shape - 0.5)
        assert np.allclose(old_edge, new_edge)
    assert np.abs(np.log(np.array(new.spacing) / spacing)).max() < np.log(2)


def test_deobliqued_is_straight_and_of_the_same_size():
    grid = oblique(4)
    straight = grid.deobliqued()
    assert straight.is_axis_aligned
    assert straight.shape == grid.canonical().shape
    assert np.allclose(straight.spacing, grid.canonical().spacing)
    assert straight.origin == pytest.approx(grid.canonical().origin)


def test_obliquity():
    assert Geometry.from_spacing(SHAPE, SPACING).obliquity == pytest.approx(0, abs=1e-6)
    turn = np.radians(15)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    assert Geometry(SHAPE, affine).obliquity == pytest.approx(15)


def test_units_convert():
    grid = Geometry.from_spacing(SHAPE, (0.001, 0.002, 0.003), (1, 2, 3), "mm")
    small = grid.with_unit("um")
    assert small.spacing == pytest.approx((1, 2, 3))
    assert small.origin == pytest.approx((1000, 2000, 3000))
    assert small.with_unit("mm").is_close(grid)
    assert small.voxel_volume == pytest.approx(6)
    with pytest.raises(InputError, match="can't be expressed"):
        Geometry.from_spacing(SHAPE).with_unit("mm")


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.zeros((4, 4)), "last row"),
        (np.diag([1.0, 0, 1, 1]), "singular"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.eye(3), "shape"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
    ],
)
def test_useless_affines_are_refused(affine, message):
    with pytest.raises(InputError, match=message):
        Geometry(SHAPE, affine)


def test_unknown_unit_is_refused():
    with pytest.raises(InputError, match="furlong"):
        Geometry.from_spacing(SHAPE, unit="furlong")


def test_the_affine_cannot_be_changed_from_outside():
    affine = np.eye(4)
    grid = Geometry(SHAPE, affine)
    affine[0, 0] = 9
    assert grid.spacing == (1, 1, 1)
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 9


def test_what_is_assumed_of_a_grid():
    assert not Geometry.from_spacing(SHAPE).anatomical
    assert Geometry.from_spacing(SHAPE, anatomical=True).anatomical
    assert Geometry.from_spacing(SHAPE).unit == "pixel"
    made = Geometry.from_xyz(SHAPE, np.eye(4))
    assert made.anatomical
    assert made.unit == "mm"
    assert not Geometry.from_xyz(SHAPE, np.eye(4), anatomical=False).anatomical


@pytest.mark.parametrize("anatomical", [False, True])
def test_a_straightened_grid_is_as_anatomical_as_before(anatomical):
    grid = Geometry(SHAPE, oblique(4).affine, "mm", anatomical)
    assert grid.deobliqued().anatomical == anatomical


def stretched(first=0.0, last=0.0, shape=(11, 11, 11), spacing=(2.0, 3.0, 4.0)):
    """A grid whose first or last corner is moved by so many mm along z, the other held."""
    affine = np.diag([*spacing, 1.0])
    affine[0, 3] = first
    affine[0, 0] += (last - first) / (shape[0] - 1)
    return Geometry(shape, affine, "mm")


@pytest.mark.parametrize("end", ["first", "last"])
def test_grids_are_close_if_every_corner_is_within_a_share_of_the_smallest_voxel_side(end):
    grid = stretched()
    assert grid.is_close(stretched(**{end: 0.0019}))
    assert not grid.is_close(stretched(**{end: 0.0021}))
    assert grid.is_close(stretched(**{end: 0.19}), tolerance=0.1)
    assert not grid.is_close(stretched(**{end: 0.21}), tolerance=0.1)
    assert grid.is_close(grid, tolerance=0)


def test_other_shapes_and_units_are_not_close():
    grid = Geometry.from_spacing(SHAPE, SPACING, unit="mm")
    assert not grid.is_close(Geometry.from_spacing((3, 4, 6), SPACING, unit="mm"))
    assert not grid.is_close(Geometry.from_spacing(SHAPE, SPACING, unit="um"))
    assert not grid.is_close(Geometry.from_spacing((3, 4, 6), SPACING, unit="um"))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 1.0, 1.0)])
def test_a_spacing_of_other_dimensions_is_refused(spacing):
    with pytest.raises(ValueError, match="zip"):
        oblique(0).resampled(spacing)


def test_whole_numbers_make_a_grid_too():
    grid = Geometry([np.int64(3), 4, 5], np.diag([2, 1, 3, 1]))
    assert grid.affine.dtype == np.float64
    assert grid.shape == (3, 4, 5)
    assert isinstance(grid.shape, tuple)
    assert all(type(n) is int for n in grid.shape)


@pytest.mark.parametrize("seed", range(3))
def test_very_flat_voxels_are_no_singular_grid(seed):
    spacing = (1e-6, 1e-3, 1.0)
    assert oblique(seed, spacing=spacing).spacing == pytest.approx(spacing)
    straight = Geometry(SHAPE, np.diag([*spacing, 1]))
    assert straight.spacing == pytest.approx(spacing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"affine": np.full((4, 4), np.nan)},
            "affine holds NaN or infinity; set the voxel spacing by hand",
        ),
        ({"unit": "mile"}, "unit 'mile' is not known; use one of mm, um, pixel"),
        ({"shape": (3, 4)}, "shape (3, 4) is not (Z, Y, X)"),
        ({"affine": np.eye(3)}, "affine has shape (3, 3), expected (4, 4)"),
        (
            {"affine": np.zeros((4, 4))},
            "affine's last row is [0.0, 0.0, 0.0, 0.0], expected [0, 0, 0, 1]",
        ),
        (
            {"affine": np.diag([1.0, 0.0, 2.0, 1.0])},
            "affine is singular (spacing [1.0, 0.0, 2.0]); set the voxel spacing by hand",
        ),
    ],
)
def test_the_message_says_what_was_given_and_what_to_do(change, message):
    given = {"shape": SHAPE, "affine": np.eye(4), "unit": "mm"} | change
    with pytest.raises(InputError) as caught:
        Geometry(**given)
    assert str(caught.value) == message
