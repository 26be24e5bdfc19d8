"""Strokes on the attention beside those on the mask: followed, and without them nothing changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attention3d.attention.guide import LOOK, NOT, guide_loss
from napari_attention3d.correction.guided import GuideStrokes
from napari_attention3d.correction.refine import RefineOptions, refine_job
from napari_attention3d.errors import InputError
from napari_attention3d.inference.preprocess import Preprocessor
from napari_attention3d.models.store import Model
from napari_attention3d.networks import build_network

FEW = RefineOptions(steps=16, patch=(12, 16, 16), device="cpu", learning_rate=0.01)


@pytest.fixture
def gated(model):
    """The tiny model with a level more, so that it has a gate whose map can be drawn."""
    torch.manual_seed(0)
    network = build_network(
        "attention-unet", in_channels=1, num_classes=3, channels=(4, 8, 8), deep_supervision="none"
    )
    card = model.card.model_copy(update={"network": {"name": network.name, **network.config}})
    return Model(card, network.eval().requires_grad_(False))


@pytest.fixture
def attention(scan):
    strokes = np.zeros(scan.geometry.shape, np.uint8)
    strokes[2:10, 2:8, 2:20] = LOOK
    strokes[2:10, 12:18, 2:20] = NOT
    return strokes


def contradiction(network, scan, strokes):
    image = np.asarray(scan.array, np.float32)
    x = torch.from_numpy((image - image.mean()) / image.std())[None, None]
    with torch.inference_mode():
        maps = network.eval()(x, return_maps=True).maps
    here = torch.from_numpy(strokes.astype(np.int64))[None]
    return float(guide_loss(maps, here, network.map_specs))


def test_both_kinds_of_strokes_are_learned_together(gated, scan, session, attention, finish):
    plain = finish(refine_job(gated, scan, session.corrections, FEW))
    guided = finish(refine_job(gated, scan, session.corrections, FEW, attention=attention))
    before, after = (
        contradiction(found.model.network, scan, attention) for found in (plain, guided)
    )
    assert after < 0.8 * before
    assert len(guided.losses) == FEW.steps


def test_without_attention_strokes_nothing_changes(gated, scan, session, finish):
    empty = np.zeros(scan.geometry.shape, np.uint8)
    plain = finish(refine_job(gated, scan, session.corrections, FEW))
    same = finish(refine_job(gated, scan, session.corrections, FEW, attention=empty))
    assert same.losses == plain.losses
    for a, b in zip(plain.model.network.parameters(), same.model.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_session_hands_them_on(session, scan, attention, finish):
    learned = finish(session.refine_job(FEW, attention=attention))
    assert learned.network is not None
    assert len(learned.losses) == FEW.steps


def test_what_can_not_be_followed_says_why(model, gated, scan, attention):
    placement = Preprocessor(gated.card).prepare(scan).placement
    kept = GuideStrokes(attention, scan, placement, gated)
    assert (kept.array == attention).all()
    assert attention[tuple(kept.centre(0, 0))] == LOOK
    assert attention[tuple(kept.centre(1, 0))] == NOT
    with pytest.raises(InputError, match="no attention to paint"):
        GuideStrokes(attention, scan, placement, model)
    with pytest.raises(InputError, match="made for this scan"):
        GuideStrokes(attention[1:], scan, placement, gated)
    with pytest.raises(InputError, match="no attention is painted"):
        GuideStrokes(attention * 7, scan, placement, gated)
