"""Patches: where they are cut, what is not labelled, what is kept for validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.errors import InputError
from napari_attention3d.networks import build_network
from napari_attention3d.training import TrainConfig
from napari_attention3d.training.cases import TrainingCase
from napari_attention3d.training.pairs import IGNORED, PairsSampler, validation_split
from napari_attention3d.training.trainer import card_of
from napari_attention3d.volumes import Volume

PATCH = (8, 8, 8)


def case(name="a", labels=None, image=None, **keys):
    keys = {"spacing": (1, 1, 1), "unit": "mm", **keys}
    if labels is None:
        labels = np.zeros((20, 22, 24), np.uint8)
        labels[10:13, 10:13, 10:13] = 1
    if image is None:
        image = labels * 10.0
    return TrainingCase(name, Volume.from_array(image, **keys), Volume.from_array(labels, **keys))


def sampler(*cases, classes=2, spacing=None, seed=0, **data):
    names = [{"name": f"c{i}", "colour": "#112233"} for i in range(classes)]
    config = TrainConfig.checked(
        {
            "name": "toy",
            "title": "Toy",
            "classes": names,
            "spacing": spacing,
            "seed": seed,
            "network": {"name": "attention-unet", "channels": [4, 8]},
            "normalisation": {"kind": "none"},
            "data": {"kind": "pairs", "augment": False, **data},
        }
    )
    network = build_network("attention-unet", channels=[4, 8], in_channels=1, num_classes=classes)
    return PairsSampler(
        config, config.data, card_of(config, network), torch.device("cpu"), cases or [case()]
    )


def test_patches_are_cut_around_structures_and_image_and_label_agree():
    made = sampler(foreground=1.0)
    images, labels = made.batch(0, PATCH, 12)
    assert images.shape == (12, 1, *PATCH)
    assert labels.shape == (12, *PATCH)
    assert (labels == 1).flatten(1).any(1).all()
    assert torch.equal(images[:, 0], labels * 10.0)
    anywhere = sampler(foreground=0.0).batch(0, PATCH, 40)[1]
    assert not (anywhere == 1).flatten(1).any(1).all()


def test_rare_classes_are_seen_as_often_as_common_ones():
    labels = np.ones((20, 20, 20), np.uint8)
    labels[0, 0, 0] = 2
    labels[10:, :, :] = 0
    found = sampler(case(labels=labels), classes=3, foreground=1.0).batch(0, PATCH, 60)[1]
    share = (found == 2).flatten(1).any(1).float().mean()
    assert 0.3 < share < 0.7


def test_a_step_draws_the_same_whoever_asks():
    one, other = sampler(case("a"), case("b")), sampler(case("a"), case("b"))
    for _ in range(3):
        other.batch(5, PATCH, 2)
    first, again = one.batch(7, PATCH, 4), other.batch(7, PATCH, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    # a share of the batch is that part of it
    part = other.batch(7, PATCH, 2, first=2)
    assert torch.equal(part[0], first[0][2:])
    assert not torch.equal(one.batch(8, PATCH, 4)[0], first[0])


def test_patches_larger_than_the_scan_are_padded():
    labels = np.zeros((4, 20, 20), np.uint8)
    labels[1, 5:9, 5:9] = 1
    _, found = sampler(case(labels=labels), foreground=1.0).batch(0, PATCH, 2)
    assert found.shape == (2, *PATCH)
    assert (found[:, :2] == 0).all()
    assert (found[:, 6:] == 0).all()
    sparse = labels.copy()
    sparse[0] = 9
    found = sampler(case(labels=sparse), foreground=1.0, ignore=9).batch(0, PATCH, 2)[1]
    assert (found[:, :3] == IGNORED).all()  # nobody knows what is outside


def test_unlabelled_voxels_are_marked_and_never_the_centre():
    labels = np.full((30, 30, 30), 9, np.uint8)
    labels[4:6, 4:6, 4:6] = 1
    labels[20, 20:24, 20:24] = 0
    made = sampler(case(labels=labels), ignore=9)
    found = made.batch(0, PATCH, 30)[1]
    assert set(found.unique().tolist()) == {0, 1, IGNORED}
    assert (found != IGNORED).flatten(1).any(1).all()
    assert made.ignore == IGNORED
    assert made.shares().tolist() == pytest.approx([16 / 24, 8 / 24])


def test_strokes_of_a_painted_background():
    labels = np.zeros((12, 12, 12), np.uint16)
    labels[3, 3:6, 3:6], labels[9, 3:6, 3:6] = 1, 65535
    made = sampler(case(labels=labels), ignore=0, values=[65535, 1])
    assert made.shares().tolist() == pytest.approx([0.5, 0.5])


def test_labels_of_another_grid_of_the_same_world():
    image = np.zeros((20, 20, 20))
    image[8:12, 8:12, 8:12] = 10
    small = np.zeros((10, 10, 10), np.uint8)
    small[4:6, 4:6, 4:6] = 1
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = 0.5
    both = TrainingCase(
        "a",
        Volume.from_array(image, spacing=(1, 1, 1), anatomical=True),
        Volume.from_array(small, affine=affine, anatomical=True),
    )
    images, labels = sampler(both, foreground=1.0).batch(0, PATCH, 4)
    assert torch.equal(images[:, 0], labels * 10.0)


def test_the_models_spacing_is_that_of_the_patches():
    labels = np.zeros((10, 20, 20), np.uint8)
    labels[4:6, 8:12, 8:12] = 1
    made = sampler(case(labels=labels, spacing=(2, 1, 1)), spacing=(1, 1, 1))
    assert tuple(made.train[0].label.shape) == (20, 20, 20)
    assert int((made.train[0].label == 1).sum()) == 64


def test_one_in_five_validates_from_three_on():
    names = [f"c{i}" for i in range(10)]
    parts = [validation_split(names, fold) for fold in range(5)]
    assert sorted(n for part in parts for n in part) == names
    assert all(len(part) == 2 for part in parts)
    assert validation_split(list(reversed(names))) == parts[0]
    assert validation_split(names[:2]) == set()
    made = sampler(*[case(n) for n in names])
    assert len(made.held) == 2
    assert not {c.name for c in made.held} & {c.name for c in made.train}
    assert [n for n, _, _ in made.validation()] == [c.name for c in made.held]
    assert sampler(case("a"), case("b")).held == []
    chosen = sampler(*[case(n) for n in names], validation=["c3"])
    assert [c.name for c in chosen.held] == ["c3"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"validation": ["nobody"]}, "'nobody' is not among"),
        ({"validation": ["a"]}, "none is left for training"),
        ({"ignore": 0, "values": [1, 5]}, "label 3"),
    ],
)
def test_settings_that_do_not_fit(data, says):
    labels = np.full((9, 9, 9), 3, np.uint8)
    with pytest.raises(InputError, match=says):
        sampler(case(labels=labels if "ignore" in data else None), **data)


def test_nothing_labelled_is_told():
    labels = np.full((9, 9, 9), 9, np.uint8)
    with pytest.raises(InputError, match="no voxel of the training cases is labelled"):
        sampler(case(labels=labels, image=np.random.default_rng(0).random((9, 9, 9))), ignore=9)
