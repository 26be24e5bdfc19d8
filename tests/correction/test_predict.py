"""What a network says: the viewed place first, and of a region alone."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.correction.predict import predict_job
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes.volume import Volume


@pytest.fixture
def turned(truth):
    """The phantom, with its first axis pointing the other way."""
    rng = np.random.default_rng(0)
    image = (truth + rng.normal(0, 0.3, truth.shape)).astype(np.float32)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    return Volume(image, Geometry(truth.shape, affine, "mm", anatomical=True), name="turned")


def test_a_region_is_what_the_whole_says_there(model, turned, finish):
    whole = finish(predict_job(model, turned, device="cpu"))
    assert whole.shape == (3, *turned.geometry.shape)
    np.testing.assert_allclose(whole.astype(np.float32).sum(0), 1, atol=0.01)
    region = ((2, 9), (3, 15), (4, 20))
    part = finish(predict_job(model, turned, region=region, device="cpu"))
    assert part.shape == (3, 7, 12, 16)
    cut = whole[:, 2:9, 3:15, 4:20].astype(np.float32)
    # statistics of the scan are the whole scan's either way
    np.testing.assert_allclose(part.astype(np.float32), cut, atol=0.02)
    with pytest.raises(InputError):
        finish(predict_job(model, turned, region=((5, 5), (0, 9), (0, 9)), device="cpu"))


@pytest.mark.parametrize("focus", [(1, 2, 3), (62, 45, 47)])
def test_tiles_near_the_viewed_place_come_first(model, focus, monkeypatch):
    from napari_attention3d.inference import memory, plans

    monkeypatch.setattr(plans, "fits_whole", lambda *_, **__: False)
    monkeypatch.setattr(memory, "fits_whole", lambda *_, **__: False)
    rng = np.random.default_rng(0)
    array = rng.normal(size=(64, 48, 48)).astype(np.float32)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    scan = Volume(array, Geometry(array.shape, affine, "mm", anatomical=True), name="long")
    first = None
    for step in predict_job(model, scan, focus=focus, device="cpu"):
        if step.partial:
            first = step.partial[0]
            break
    assert first is not None
    low = np.array(first.start)
    high = low + first.labels.shape
    assert (low <= focus).all()
    assert (np.array(focus) < high).all()
    assert (high - low < array.shape).any()
