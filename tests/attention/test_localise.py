from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.attention.localise import attention_shares
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes.volume import Volume

GRID = Geometry.from_spacing((8, 10, 12), (2, 1, 1), unit="mm")


def mask():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[2:4, 2:5, 2:6] = 1
    labels[6:8, 6:9, 8:12] = 3
    return Volume(labels, GRID, "mask")


def test_shares_inside_near_and_outside_add_up_and_are_in_mm3():
    values = np.zeros(GRID.shape, np.float32)
    values[2, 2, 2] = 6  # inside the first label: the largest
    values[2, 2, 7] = 3  # 2 mm beside it
    values[0, 9, 11] = 1
    table = attention_shares(Volume(values, GRID, "map"), mask(), {1: "cell"}, near=2.0)
    first, second, every = table.rows
    assert first[:2] == (1, "cell")
    assert second[:2] == (3, None)
    assert every[:2] == (None, "all labels")
    inside, near, outside = first[4:7]
    assert (inside, near, outside) == pytest.approx((60, 30, 10))
    assert first[2] == pytest.approx(24 * 2)
    assert first[7] == pytest.approx(0.6 / (24 / 960))
    assert [row[8] for row in table.rows] == ["inside", "outside", "inside"]
    # Near is counted in mm: one plane along z (2 mm), two voxels along y and x.
    labels = mask().array == 1
    centres = np.argwhere(labels) * np.array(GRID.spacing)
    every_voxel = np.indices(GRID.shape).reshape(3, -1).T * np.array(GRID.spacing)
    distance = np.sqrt(((every_voxel[:, None] - centres[None]) ** 2).sum(-1)).min(1)
    assert first[3] == pytest.approx(((distance > 0) & (distance <= 2)).sum() * 2)
    assert table.columns[2].heading == "inside (mm3)"


def test_a_largest_value_beside_a_label_is_near():
    values = np.zeros(GRID.shape, np.float32)
    values[2, 2, 6] = 1
    table = attention_shares(Volume(values, GRID, "map"), mask(), {}, near=1.0)
    assert table.column("largest value") == ["near", "outside", "near"]


def test_a_coarse_map_counts_in_the_voxels_it_covers():
    coarse = GRID.strided((4, 5, 6), (2, 2, 2), (0.5, 0.5, 0.5))
    values = np.zeros((4, 5, 6), np.float32)
    values[1, 1, 1] = 1  # voxels 2-3 along each axis: 8 of them, all within the label
    table = attention_shares(Volume(values, coarse, "map"), mask(), {})
    assert table.column("share inside")[0] == pytest.approx(100)
    assert "up to 8 mm" in table.notes[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v, m: (v.replace(array=np.zeros(GRID.shape, np.float32)), m), "is 0 wherever"),
        (lambda v, m: (v.replace(array=v.array - 5), m), "negative values"),
        (lambda v, m: (v, m.replace(array=np.zeros_like(m.array))), "only background"),
        (lambda v, m: (v, m.replace(array=m.array.astype(np.float32))), "no whole numbers"),
        (
            lambda v, m: (v.replace(geometry=GRID.strided(GRID.shape, (1, 1, 1), (90, 0, 0))), m),
            "does not reach",
        ),
        (
            lambda v, m: (v.replace(geometry=Geometry.from_spacing(GRID.shape, (1, 1, 1))), m),
            "can't be laid",
        ),
    ],
)
def test_what_can_not_be_counted_says_why(change, words):
    values = Volume(np.ones(GRID.shape, np.float32), GRID, "map")
    with pytest.raises(InputError, match=words):
        attention_shares(*change(values, mask()), {})
