"""Scans and their labels: looked at, checked, brought onto one grid."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.training.cases import (
    TrainingCase,
    aligned_labels,
    labels_on_grid,
    survey_job,
    to_classes,
    whole_numbers,
)
from napari_attention3d.volumes import Volume

TURNED = np.array([[0, -1.0, 0, 40], [2, 0, 0, 3], [0, 0, -1, 9], [0, 0, 0, 1]])


def case(name="a", shape=(6, 8, 10), labels=None, image=None, **keys):
    keys = {"spacing": (1, 1, 1), "unit": "mm", **keys}
    if labels is None:
        labels = np.zeros(shape, np.uint8)
        labels[2:4, 2:4, 2:4] = 1
    if image is None:
        image = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    return TrainingCase(name, Volume.from_array(image, **keys), Volume.from_array(labels, **keys))


def survey(*cases, ignore=None):
    job, said = survey_job(cases, ignore), []
    try:
        while True:
            said.append(next(job).message)
    except StopIteration as stop:
        assert said == [f"Looking at {one.name}" for one in cases]
        return stop.value


def test_facts_of_the_training_set():
    facts = survey(case("a"), case("b", spacing=(3, 1, 1)))
    assert [c.name for c in facts.cases] == ["a", "b"]
    assert facts.cases[1].spacing == (3, 1, 1)
    assert facts.cases[0].voxels == {0: 472, 1: 8}
    assert facts.values == (0, 1)
    assert (facts.unit, facts.anatomical, facts.channels, facts.is_ct) == ("mm", False, 1, False)


def test_axes_are_the_models_where_orientation_is_known():
    facts = survey(case(spacing=None, affine=TURNED, anatomical=True))
    assert facts.anatomical
    assert facts.cases[0].shape == (8, 6, 10)  # the file's second axis runs along z
    assert facts.cases[0].spacing == pytest.approx((1, 2, 1))
    loose = survey(case(spacing=None, affine=TURNED, anatomical=True), case("b"))
    assert not loose.anatomical
    assert loose.cases[0].shape == (6, 8, 10)


def test_ct_is_known_by_its_air_and_intensities_come_from_inside():
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[2:5, 2:6, 2:6] = 1
    labels[5, 0] = 9
    image = np.where(labels == 1, 60.0, -1000.0)
    image[2, 2, 2] = np.nan
    facts = survey(case(labels=labels, image=image), ignore=9)
    assert facts.is_ct
    assert facts.intensities == (60.0, 61.0)  # neither air nor what nobody labelled
    assert not survey(case(labels=labels, image=image, unit="um"), ignore=9).is_ct


def test_cases_that_differ_are_refused():
    with pytest.raises(InputError, match="the unit of a is mm, that of b is um"):
        survey(case("a"), case("b", unit="um"))
    two = np.zeros((2, 6, 8, 10), np.float32)
    both = TrainingCase("b", Volume.from_array(two, spacing=(1, 1, 1)), case().labels)
    with pytest.raises(InputError, match="number of channels of a is 1, that of b is 2"):
        survey(case("a"), both)


def test_shapes_must_agree_unless_both_know_where_they_lie():
    scan, small = case().image, case(shape=(5, 8, 10)).labels
    with pytest.raises(InputError, match=r"6 x 8 x 10 voxels .* its labels 5 x 8 x 10"):
        aligned_labels("a", scan, small)
    world = {"anatomical": True}
    scan, small = case(**world).image, case(shape=(5, 8, 10), **world).labels
    assert aligned_labels("a", scan, small) is small
    # without a place of their own they are taken voxel by voxel
    plain = Volume.from_array(np.zeros((6, 8, 10), np.uint8))
    assert aligned_labels("a", scan, plain).geometry == scan.geometry


def test_labels_are_whole_numbers_from_zero():
    as_float = Volume.from_array(np.array([[[0.0, 2.0]]], np.float32))
    assert whole_numbers(as_float).tolist() == [[[0, 2]]]
    for values, says in (([0.5], "value 0.5"), ([-1.0], "holds -1"), ([np.nan], "nan")):
        with pytest.raises(InputError, match=says):
            whole_numbers(Volume.from_array(np.array([[values]], np.float32)))
    with pytest.raises(InputError, match="channels; labels have one"):
        whole_numbers(Volume.from_array(np.zeros((2, 3, 3, 3), np.uint8)))


def test_labels_on_another_grid_are_the_nearest_ones():
    array = np.arange(1, 9, dtype=np.uint8).reshape(2, 2, 2)
    labels = Volume.from_array(array, spacing=(2, 2, 2))
    fine = Geometry((4, 4, 6), np.diag([1.0, 1, 1, 1]), "mm", False)
    found = labels_on_grid(labels, fine)
    assert found.shape == (4, 4, 6)
    assert found[0, 0, 0] == 1
    assert found[3, 0, 0] == 5 or found[2, 0, 0] == 5
    assert (found[:, :, 5] == 0).all()  # outside
    same = labels_on_grid(labels, labels.geometry)
    assert np.array_equal(same, array)


def test_values_become_the_numbers_of_their_classes():
    values = np.array([0, 7, 255, 3])
    found = to_classes(values, (255, 3, 7), 0, 200, "strokes")
    assert found.tolist() == [200, 2, 0, 1]
    assert found.dtype == np.uint8
    with pytest.raises(InputError, match=r"strokes holds the label 7.*ignore value"):
        to_classes(values, (255, 3), 0, 200, "strokes")
