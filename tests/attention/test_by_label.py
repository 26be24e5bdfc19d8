"""A map's figures within each label, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.attention.by_label import attention_by_label
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes.volume import Volume

NAMES = {1: "nucleus"}


def volume(array, spacing=(1, 1, 1), origin=(0, 0, 0), unit="mm"):
    affine = np.diag((*spacing, 1.0))
    affine[:3, 3] = origin
    return Volume(array, Geometry(array.shape, affine, unit, False), "one")


def test_on_the_same_grid_it_is_plain_counting():
    rng = np.random.default_rng(0)
    values = rng.random((5, 6, 7)).astype(np.float32)
    labels = rng.integers(0, 3, (5, 6, 7)).astype(np.uint8)
    table = attention_by_label(volume(values, (2, 1, 1)), volume(labels, (2, 1, 1)), NAMES)
    assert table.column("name") == ["background", "nucleus", None]
    assert table.column("volume (mm3)") == [float((labels == k).sum() * 2) for k in range(3)]
    shares = [100 * values[labels == k].sum() / values.sum() for k in range(3)]
    assert table.column("share of map") == pytest.approx(shares, rel=1e-5)
    means = [values[labels == k].mean() for k in range(3)]
    assert table.column("mean") == pytest.approx(means, rel=1e-5)
    assert table.column("max") == pytest.approx([values[labels == k].max() for k in range(3)])
    even = [s / 100 / (labels == k).mean() for k, s in enumerate(shares)]
    assert table.column("times even") == pytest.approx(even, rel=1e-5)


def test_a_coarse_flipped_and_turned_map_is_read_where_it_lies():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (8, 12, 10)).astype(np.uint8)
    coarse = rng.random((4, 6, 5)).astype(np.float32)
    centred = volume(coarse, (2, 2, 2), (0.5, 0.5, 0.5))
    fine = np.repeat(np.repeat(np.repeat(coarse, 2, 0), 2, 1), 2, 2)
    plain = attention_by_label(volume(fine), volume(labels), NAMES)
    assert attention_by_label(centred, volume(labels), NAMES).rows == plain.rows
    # The same map, stored with its axes permuted and one of them running backwards.
    turned = np.ascontiguousarray(coarse.transpose(2, 0, 1)[:, ::-1])
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 2, -2, 2, 1
    affine[:3, 3] = (0.5 + 2 * 3, 0.5, 0.5)
    other = Volume(turned, Geometry(turned.shape, affine, "mm", False), "turned")
    found = attention_by_label(other, volume(labels), NAMES)
    np.testing.assert_allclose(
        np.array(found.column("mean"), float), np.array(plain.column("mean"), float), rtol=1e-6
    )


def test_only_what_the_map_reaches_counts_and_no_value_is_no_value():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[2:] = 2
    part = np.ones((2, 4, 4), np.float32)
    part[0, 0, 0] = np.nan
    table = attention_by_label(volume(part), volume(labels), NAMES)
    assert table.column("label") == [0]
    assert table.column("volume") == [31.0]
    with pytest.raises(InputError, match="does not reach"):
        attention_by_label(volume(part, origin=(99, 0, 0)), volume(labels), NAMES)


def test_an_empty_map_has_no_shares_and_no_division_by_zero():
    table = attention_by_label(
        volume(np.zeros((2, 2, 2), np.float32)), volume(np.ones((2, 2, 2), np.uint8)), NAMES
    )
    assert table.rows == ((1, "nucleus", 8.0, 0.0, 0.0, 0.0, 0.0),)


def test_bad_masks_are_refused():
    values = volume(np.ones((2, 2, 2), np.float32))
    with pytest.raises(InputError, match="whole numbers"):
        attention_by_label(values, volume(np.ones((2, 2, 2), np.float32)), NAMES)
    with pytest.raises(InputError, match="negative"):
        attention_by_label(values, volume(np.full((2, 2, 2), -1, np.int8)), NAMES)
    with pytest.raises(InputError, match="can't be laid"):
        attention_by_label(values, volume(np.ones((2, 2, 2), np.uint8), unit="pixel"), NAMES)
