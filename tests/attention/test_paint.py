"""Strokes on attention train a copy: attention moves, the mask stays, the model is untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.attention.guide import LOOK, NOT
from napari_attention3d.attention.paint import PaintOptions, paint_job
from napari_attention3d.errors import InputError

OPTIONS = PaintOptions(steps=15, seconds=600, learning_rate=5e-3, patch=(16, 16, 16))


def strokes(scan):
    array = np.zeros(scan.geometry.shape, np.uint8)
    array[4:8, 4:20, 4:20] = LOOK
    array[14:18, 4:20, 4:20] = NOT
    return scan.replace(array=array)


def test_attention_follows_the_strokes_and_the_given_model_stays(gated, build):
    before = [p.clone() for p in gated.model.network.parameters()]
    found = build.finish(paint_job(gated.replay, strokes(gated.volume), OPTIONS))
    assert np.mean(found.guide[-3:]) < 0.9 * np.mean(found.guide[:3])
    assert len(found.keep) == OPTIONS.steps
    for old, now in zip(before, gated.model.network.parameters(), strict=True):
        assert torch.equal(old, now)
    assert any(
        not torch.equal(old, new)
        for old, new in zip(before, found.model.network.parameters(), strict=True)
    )
    assert not any(p.requires_grad for p in found.model.network.parameters())
    assert found.model.card.name == gated.model.card.name


def test_what_can_not_be_painted_says_why(gated, build):
    nothing = gated.volume.replace(array=np.zeros(gated.volume.geometry.shape, np.uint8))
    with pytest.raises(InputError, match="nothing is painted"):
        next(paint_job(gated.replay, nothing, OPTIONS))
    other = build.scan((8, 8, 8))
    with pytest.raises(InputError, match="do not lie on the scan's grid"):
        next(paint_job(gated.replay, other, OPTIONS))
