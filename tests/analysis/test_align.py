from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from napari_attention3d.analysis import masks
from napari_attention3d.analysis.align import align, resample_labels
from napari_attention3d.analysis.compare import compare, compare_labels
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry, Reorientation
from napari_attention3d.progress import finish
from napari_attention3d.volumes.volume import Volume

from .shapes import fill, mask, oblique


def scattered(shape=(9, 10, 11), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint16)


@pytest.mark.parametrize(
    "target",
    [
        oblique((1.1, 0.9, 0.6), 40, (9, -19, 31)),
        np.diag([1.3, 0.7, 2.0, 1.0]),
        np.eye(4),
    ],
)
def test_each_voxel_gets_the_label_nearest_to_it_in_the_world(target, monkeypatch):
    source = Geometry((9, 10, 11), oblique((1.0, 1.0, 1.0), 15, (8, -20, 29)), "mm")
    grid = Geometry((12, 13, 14), target, "mm")
    if target[0, 1] == 0:
        source = Geometry((9, 10, 11), np.eye(4), "mm")
    array = scattered()
    moved = resample_labels(array, source, grid)
    monkeypatch.setattr(masks, "SLAB_VOXELS", 300)
    assert np.array_equal(moved, resample_labels(array, source, grid))
    centres = source.to_world(np.argwhere(np.ones(array.shape)))
    places = np.argwhere(np.ones(grid.shape))
    world = grid.to_world(places)
    # isotropic source: the nearest in the index is the nearest in the world
    _, nearest = KDTree(centres).query(world)
    index = source.to_index(world)
    inside = ((index >= -0.5 + 1e-9) & (index <= np.array(array.shape) - 0.5 - 1e-9)).all(axis=1)
    clear = np.abs(index - np.floor(index) - 0.5).min(axis=1) > 1e-6
    expected = np.where(inside, array.ravel()[nearest], 0)
    assert (moved.ravel() == expected)[clear].all()
    assert inside.mean() > 0.05


def test_a_region_that_is_resampled_agrees_with_itself():
    centre = np.array([20.0, 10.0, 5.0])

    def ball(p):
        return np.linalg.norm(p - centre, axis=-1) <= 9

    fine, coarse = oblique((1, 0.8, 0.8), 10, (8, -2, -8)), oblique((1.5, 1.2, 1), -20, (5, 2, -3))
    a = mask(fill(fine, (26, 34, 34), ball), fine, name="a")
    b = mask(fill(coarse, (24, 24, 24), ball), coarse, name="b")
    with pytest.raises(InputError, match="different grids"):
        compare_labels(a, b)
    found = finish(compare(a, b, resample=True))
    row = found.figures["classes"]["1"]
    assert row["dice"] > 0.95
    assert row["hd95"] <= 1.5
    assert row["volume_truth"] == pytest.approx(b.array.sum() * 1.5 * 1.2)
    assert found.disagreement.geometry.is_close(b.geometry)
    assert "a was resampled onto the grid of b (shapes" in found.figures["notes"][0]


def test_what_lies_outside_is_counted():
    a = mask(np.ones((10, 4, 4), dtype=np.uint8), name="a")
    b = mask(np.ones((6, 4, 4), dtype=np.uint8), name="b")
    pair = align(a, b, resample=True)
    assert np.array_equal(pair.a, b.array)
    assert "64 of the 160 labelled voxels of a (40.0%)" in pair.notes[1]


def test_turned_axes_are_turned_back_exactly_without_resampling():
    array = scattered()
    b = mask(array, oblique())
    turn = Reorientation((2, 0, 1), (True, False, True))
    a = Volume(turn.apply(array), b.geometry.reorient(turn))
    pair = align(a, b)
    assert np.array_equal(pair.a, array)
    assert pair.notes == ()


def test_grids_that_can_not_be_laid_on_each_other_are_refused():
    ones = np.ones((4, 4, 4), dtype=np.uint8)
    a = mask(ones, name="a")
    with pytest.raises(InputError, match=r"a and b .*units mm and pixel.*voxel size"):
        align(a, Volume.from_array(ones, name="b"), resample=True)
    far = np.eye(4)
    far[:3, 3] = 100
    with pytest.raises(InputError, match="do not overlap"):
        align(a, mask(ones, far, name="b"), resample=True)


def test_sheared_grids_are_told():
    affine = np.eye(4)
    affine[1, 0] = 0.5
    a = mask(np.ones((4, 4, 4), dtype=np.uint8), affine)
    (note,) = compare_labels(a, a)["notes"]
    assert "63.4 degrees" in note
