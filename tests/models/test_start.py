"""What a training begins with: a whole model, or an imported encoder alone."""

from __future__ import annotations

import pytest
import torch

from napari_attention3d.errors import InputError
from napari_attention3d.models.card import Channel, ModelCard, SegmentationClass
from napari_attention3d.models.start import start_weights
from napari_attention3d.models.store import Model
from napari_attention3d.networks import build_network

SMALL = {
    "widths": (4, 4, 8, 8),
    "features": 8,
    "head_width": 4,
    "norm": "batch",
    "stem_kernel": 7,
    "dilated": True,
}


def model(name="guided-attention", encoder_only=True, seed=0, **config):
    torch.manual_seed(seed)
    network = build_network(name, **{**SMALL, **config} if name == "guided-attention" else config)
    names = [f"class {i}" for i in range(network.num_classes)]
    card = ModelCard(
        name="start",
        title="Start",
        network={"name": name, **network.config},
        classes=tuple(SegmentationClass(name=n, colour="#000000") for n in names),
        channels=(Channel(name="intensity"),),
        metrics={"import": {"encoder_only": True}} if encoder_only else {},
    )
    return Model(card, network)


def test_of_an_imported_encoder_the_encoder_alone_is_taken():
    start = model()
    torch.manual_seed(1)
    network = build_network("guided-attention", **{**SMALL, "features": 16, "num_classes": 4})
    chosen = start_weights(network, start)
    assert set(chosen) == {k for k in network.state_dict() if k.startswith("encoder.")}
    for name, tensor in start.network.encoder.state_dict().items():
        assert torch.equal(chosen[f"encoder.{name}"], tensor)
    network.load_state_dict({**network.state_dict(), **chosen})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("dilated", False),
        ("stem_pool", 1),
        ("stem_stride", (1, 2, 2)),
        ("norm", "instance"),
        ("depth", 18),
        ("shortcut", "A"),
        ("stem_kernel", 5),
    ],
)
def test_an_encoder_with_other_settings_is_refused(setting, value):
    network = build_network("guided-attention", **{**SMALL, setting: value})
    with pytest.raises(InputError, match=f"has {setting} .* write {setting}:"):
        start_weights(network, model())


def test_a_whole_model_must_fit_as_a_whole():
    start = model(encoder_only=False)
    twin = build_network("guided-attention", **SMALL)
    assert set(start_weights(twin, start)) == set(twin.state_dict())
    with pytest.raises(InputError, match="does not fit"):
        start_weights(build_network("guided-attention", **{**SMALL, "num_classes": 3}), start)
    with pytest.raises(InputError, match="dilated"):
        start_weights(build_network("guided-attention", **{**SMALL, "dilated": False}), start)
    with pytest.raises(InputError, match="network 'guided-attention'"):
        start_weights(build_network("attention-unet"), start)
