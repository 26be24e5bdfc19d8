"""What is scored keeps its distance from what is trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comparison.cases import IGNORE, SHAPES, Remembered, abdomen, cord, sparse_slices, split_ends
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(8, 60), st.integers(2, 9), st.integers(1, 4))
def test_scored_slices_keep_their_distance_from_training_slices(size, every, distance):
    labels = np.arange(size, dtype=np.uint8)[:, None, None] % 5 * np.ones((1, 2, 3), np.uint8)
    training, scored = sparse_slices(labels, every, distance)
    taught = np.flatnonzero((training != IGNORE).any((1, 2)))
    held = np.flatnonzero((scored != IGNORE).any((1, 2)))
    assert len(taught) == len(range(every // 2 - 1, size, every))
    assert set(np.diff(taught)) <= {every}
    if len(held):
        assert np.abs(held[:, None] - taught).min() >= distance
    # all that is far enough away is scored, and nothing is changed
    away = np.abs(np.arange(size)[:, None] - taught).min(1)
    assert (held == np.flatnonzero(away >= distance)).all()
    assert (training[taught] == labels[taught]).all()
    assert (scored[held] == labels[held]).all()


@given(st.integers(0, 5), st.integers(9, 30), st.integers(0, 5))
def test_no_training_voxel_within_the_gap_of_a_scored_one(before, length, gap):
    labels = np.zeros((before + length + 4, 4, 4), np.uint8)
    labels[before : before + length, 1, 1] = 1
    stop, scored = split_ends(labels, 2 / 3, gap)
    held = np.flatnonzero((scored != IGNORE).any((1, 2)))
    assert held.min() - (stop - 1) == gap + 1
    assert stop == before + round(2 / 3 * length)
    assert (scored[held] == labels[held]).all()
    assert (scored[: stop + gap] == IGNORE).all()


def test_the_source_of_a_split_is_not_changed():
    labels = np.ones((12, 2, 2), np.uint8)
    sparse_slices(labels)
    split_ends(labels)
    assert (labels == 1).all()


@pytest.fixture(scope="module")
def cord_case(shared_data):
    return cord(shared_data, seed=0)


def test_the_cord_is_trained_on_one_end_alone(cord_case):
    taught, *others = cord_case.sampler.train
    assert SHAPES["d04"] == (cord_case.patch, len(cord_case.classes))
    assert not others
    rest = cord_case.evaluations[0]
    first = int(torch.nonzero((rest.labels != IGNORE).flatten(1).any(1))[0])
    # the sampler holds no voxel of the gap or beyond, neither image nor label
    assert taught.image.shape[1] == first - 4
    assert taught.image.shape[2:] == rest.image.shape[2:]
    assert rest.labels[first:].max() == 1
    assert cord_case.evaluations[1].labels.shape != rest.labels.shape


def test_the_abdomen_is_trained_on_every_sixth_slice(shared_data):
    case = abdomen(shared_data, seed=0)
    assert SHAPES["d01"] == (case.patch, len(case.classes))
    only, *others = case.sampler.train
    assert not others
    held = case.evaluations[0]
    torch.testing.assert_close(only.image, held.image)  # same grid, same normalisation
    taught = torch.nonzero((only.label != IGNORE).flatten(1).any(1)).flatten()
    scored = torch.nonzero((held.labels != IGNORE).flatten(1).any(1)).flatten()
    assert taught.tolist() == [2, 8, 14, 20, 26]
    assert int((scored[:, None] - taught).abs().min()) == 2
    assert sorted(held.labels[scored].unique().tolist()) == list(range(9))


def test_every_network_gets_the_same_patches(cord_case, shared_data):
    again = cord(shared_data, seed=0)
    other = cord(shared_data, seed=1)
    first = cord_case.sampler.batch(5, (16, 16, 16), 1)
    for a, b in zip(first, again.sampler.batch(5, (16, 16, 16), 1), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], other.sampler.batch(5, (16, 16, 16), 1)[0])


def test_remembered_patches_are_those_of_the_sampler(cord_case):
    remembered = Remembered(cord_case.sampler)
    patch = (16, 16, 16)
    first = [remembered.batch(step, patch, 1)[0] for step in (0, 1)]
    assert remembered.batch(0, patch, 1)[0] is first[0]
    for step, image in enumerate(first):
        assert torch.equal(image, cord_case.sampler.batch(step, patch, 1)[0])
    assert remembered.ignore == IGNORE
