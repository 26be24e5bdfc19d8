"""Statistics are kept for the very voxels they were measured of."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.volumes.volume import Volume
from napari_attention3d.widgets.statistics import KnownStatistics
from napari_attention3d.widgets.tasks import threads_beside_window

FOUND = {"calibration": {"norm": ([0.0], [1.0])}}


def volume(array, **more):
    return Volume.from_array(array, **more)


def test_they_are_found_for_the_same_voxels_however_they_were_read():
    array, known = np.zeros((4, 5, 6)), KnownStatistics()
    known.keep(volume(array.transpose(2, 1, 0)), None, FOUND)
    assert known.find(volume(array.transpose(2, 1, 0)), None) == FOUND["calibration"]


def test_not_for_other_voxels_channels_or_places():
    array, known = np.zeros((4, 4, 4)), KnownStatistics()
    known.keep(volume(array), None, FOUND)
    assert known.find(volume(array.copy()), None) is None
    assert known.find(volume(array), 0) is None
    assert known.find(volume(array[::-1]), None) is None
    assert known.find(volume(array, spacing=(2, 1, 1)), None) is None
    known.keep(volume(array.copy()), None, {"calibration": {}})
    assert known.find(volume(array), None) is not None


def test_not_for_an_array_that_lies_where_a_former_one_lay():
    known = KnownStatistics()
    first = np.zeros((4, 4, 4))
    known.keep(volume(first), None, FOUND)
    second = volume(first[:])
    entry = next(iter(known._known))
    holder, found = known._known[entry]
    known._known[entry] = (lambda: None), found  # the former array is gone
    assert known.find(second, None) is None
    assert holder() is first


def test_voxels_on_the_disk_may_have_changed():
    dask = pytest.importorskip("dask.array")
    lazy, known = dask.zeros((4, 4, 4)), KnownStatistics()
    known.keep(volume(lazy), None, FOUND)
    assert known.find(volume(lazy), None) is None


def test_a_thread_is_left_to_the_window_where_two_remain():
    assert [threads_beside_window(n) for n in (1, 2, 3, 8)] == [1, 2, 2, 7]
