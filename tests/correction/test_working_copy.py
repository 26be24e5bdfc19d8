from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.correction.working_copy import (
    model_for_scan,
    renamed,
    with_classes,
    working_copy,
)
from napari_attention3d.errors import InputError
from napari_attention3d.volumes.volume import Volume


def test_a_copy_learns_and_the_model_does_not(model):
    copy = working_copy(model)
    assert all(p.requires_grad for p in copy.network.parameters())
    with torch.no_grad():
        for p in copy.network.parameters():
            p.add_(1)
    for name, tensor in model.network.named_parameters():
        assert not torch.equal(tensor, copy.network.get_parameter(name))


def test_other_classes_get_a_new_head_and_keep_the_rest(model):
    made = with_classes(model, ("background", "bar", "new", "box"))
    assert made.card.class_names == ["background", "bar", "new", "box"]
    assert made.network.num_classes == 4
    old, new = model.network.state_dict(), made.network.state_dict()
    heads = [name for name in new if new[name].shape != old[name].shape]
    assert heads
    for name, tensor in new.items():
        if name not in heads:
            assert torch.equal(tensor, old[name]), name
            continue
        # rows of classes that have the same name are kept; bar was 2, box was 1
        for row, before in ((0, 0), (1, 2), (3, 1)):
            assert torch.equal(tensor[row], old[name][before])


def test_same_classes_same_network(model):
    made = with_classes(model, model.card.class_names)
    for name, tensor in made.network.state_dict().items():
        assert torch.equal(tensor, model.network.state_dict()[name])


@pytest.mark.parametrize(
    ("shape", "spacing", "channels"),
    [((12, 20, 22), (1, 1, 1), 1), ((4, 40, 40), (8, 1, 1), 1), ((16, 16, 16), (1, 1, 1), 2)],
)
def test_from_nothing_a_network_takes_the_scan(shape, spacing, channels):
    array = np.zeros((channels, *shape) if channels > 1 else shape, np.float32)
    scan = Volume.from_array(array, spacing=spacing)
    made = model_for_scan(scan, ("background", "a", "b"))
    assert len(made.card.channels) == channels
    padded = [-(-n // 8) * 8 for n in shape]
    out = made.network(torch.zeros(1, channels, *padded)).logits
    assert out.shape == (1, 3, *padded)
    again = model_for_scan(scan, ("background", "a", "b")).network.state_dict()
    assert all(torch.equal(v, again[k]) for k, v in made.network.state_dict().items())


def test_thick_slices_are_halved_later():
    scan = Volume.from_array(np.zeros((8, 64, 64), np.float32), spacing=(4, 1, 1))
    strides = model_for_scan(scan, ("background", "a")).card.network["strides"]
    assert list(strides[0]) == [1, 2, 2]


def test_too_few_classes(model, scan):
    for make in (lambda: with_classes(model, ["only"]), lambda: model_for_scan(scan, ["only"])):
        with pytest.raises(InputError, match="at least one class"):
            make()


def test_a_saved_name_is_one_that_the_list_takes(model, scan, tmp_path):
    card = renamed(model.card, tmp_path / "My Scan (2).safetensors", "", scan)
    assert card.name == "my-scan-2"
    assert "phantom" in card.description
    twice = renamed(card, tmp_path / "b.safetensors", "B", scan)
    assert twice.description == card.description
    assert twice.title == "B"
