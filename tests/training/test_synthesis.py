from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.training.config import ContrastSettings, LabelRow, SpatialSettings
from napari_attention3d.training.synthesis import LabelMap, Synthesiser

ROWS = [
    LabelRow(name="skin", ids=(500,), label=0, extra=True),
    LabelRow(name="csf", ids=(24,), label=1, tissue={"csf": 1}),
    LabelRow(name="grey", ids=(3,), label=2, tissue={"grey": 1}),
    LabelRow(name="white", ids=(2,), label=3, tissue={"white": 1}),
]
STILL = SpatialSettings(rotation=0, scaling=0, shear=0, shift=0, elastic=0, flip=False)
CLEAN = ContrastSettings(
    stripped=0,
    noise=(0, 0),
    texture=(0, 0),
    bias=0,
    blur=(0, 0),
    thick_slices=0,
    gamma=0,
)


def source(shape=(24, 26, 28)):
    rows = torch.zeros(shape, dtype=torch.uint8)
    rows[3:21, 3:23, 3:25] = 1
    rows[5:19, 5:21, 5:23] = 2
    rows[7:17, 7:19, 7:21] = 3
    rows[9:15, 9:17, 9:19] = 4
    return LabelMap(rows, (1.0, 1.0, 1.0), "box", (11.5, 12.5, 13.5))


def draw(synthesiser, seed, patch=(24, 26, 28), **kwargs):
    return synthesiser.draw(source(**kwargs), patch, torch.Generator().manual_seed(seed))


def test_without_deformation_labels_are_the_map():
    _, labels = draw(Synthesiser(ROWS, (1, 1, 1), CLEAN, STILL), 0)
    expected = torch.tensor([0, 0, 1, 2, 3], dtype=torch.uint8)[source().rows.int()]
    assert torch.equal(labels, expected)


def test_patch_is_centred_whatever_its_size():
    _, labels = draw(Synthesiser(ROWS, (2, 2, 2), CLEAN, STILL), 0, (12, 13, 14))
    found = torch.nonzero(labels == 3).float()
    assert torch.allclose(found.mean(0), torch.tensor([5.5, 6.0, 6.5]), atol=0.51)


@pytest.mark.parametrize(("kind", "order"), [("t1", "csf grey white"), ("t2", "white grey csf")])
def test_contrasts_order_the_tissues(kind, order):
    contrast = CLEAN.model_copy(update={"weights": {kind: 1.0}})
    synthesiser = Synthesiser(ROWS, (1, 1, 1), contrast, STILL)
    value = {"csf": 1, "grey": 2, "white": 3}
    for seed in range(5):
        image, labels = draw(synthesiser, seed)
        means = [image[0][labels == value[name]].mean() for name in order.split()]
        assert means[0] < means[1] < means[2]


def test_stripping_leaves_exactly_nothing_outside():
    contrast = ContrastSettings(stripped=1.0)
    synthesiser = Synthesiser(ROWS, (1, 1, 1), contrast, SpatialSettings())
    for seed in range(4):
        image, labels = draw(synthesiser, seed)
        assert labels.max() > 0
        # Skin is gone: what is neither labelled nor blurred into is 0.
        assert (image[0] == 0).float().mean() > 0.3
        inside = image[0][labels > 0]
        assert inside.max() > 0


def test_same_seed_same_scan_other_seed_other_scan():
    synthesiser = Synthesiser(ROWS, (1, 1, 1), ContrastSettings(), SpatialSettings())
    first, second, third = (draw(synthesiser, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], third[0])


def test_values_are_finite_for_many_seeds():
    synthesiser = Synthesiser(ROWS, (1.5, 1, 2), ContrastSettings(), SpatialSettings())
    for seed in range(20):
        image, labels = draw(synthesiser, seed, (16, 20, 12))
        assert image.shape == (1, 16, 20, 12)
        assert labels.shape == (16, 20, 12)
        assert torch.isfinite(image).all()
        assert image.min() >= 0
        assert set(np.unique(labels)) <= {0, 1, 2, 3}


def test_flip_mirrors_left_and_right_only():
    flipping = STILL.model_copy(update={"flip": True})
    synthesiser = Synthesiser(ROWS, (1, 1, 1), CLEAN, flipping)
    rows = source().rows.clone()
    rows[:, :, :14][rows[:, :, :14] == 4] = 0  # only one side has a core
    lopsided = LabelMap(rows, (1.0, 1.0, 1.0), "box", (11.5, 12.5, 13.5))
    sides = set()
    for seed in range(12):
        _, labels = synthesiser.draw(lopsided, (24, 26, 28), torch.Generator().manual_seed(seed))
        where = torch.nonzero(labels == 3).float().mean(0)
        assert torch.allclose(where[:2], torch.tensor([11.5, 12.5]), atol=0.01)
        sides.add(bool(where[2] > 13.5))
    assert sides == {True, False}
