"""What is asked of a run goes the way that its mask went: exactly, or in the run's tiles."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from napari_attention3d.attention.entropy import Entropy
from napari_attention3d.attention.flips import FlipSpread
from napari_attention3d.attention.passes import goes_exactly, run_again
from napari_attention3d.attention.replay import Replay
from napari_attention3d.attention.request import request_map
from napari_attention3d.attention.switches import (
    Change,
    LabelResults,
    changed_network,
    effect_of,
)
from napari_attention3d.inference import plans, runner
from napari_attention3d.inference.tiling import Box
from napari_attention3d.session import segment


@pytest.fixture(scope="module")
def exact(build):
    """A run of an attention U-Net that is too large to go through at once."""
    model, volume = build.tiny_model(build.gate_network()), build.scan()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "fits_whole", lambda *_: False)
        patch.setattr(runner, "fits_whole", lambda *_: True)  # the statistics: of all at once
        result = segment(
            volume, model, device="cpu", precision="exact", uncertainty=True, attention=True
        )
    assert result.provenance["plan"]["engine"] == "exact"
    replay = build.finish(Replay.open(volume, model, result.provenance))
    return SimpleNamespace(result=result, replay=replay, volume=volume, model=model)


def test_entropy_is_that_of_the_masks_own_probabilities(exact, build):
    assert goes_exactly(exact.replay, exact.replay.network)
    volume = build.finish(request_map(exact.replay, Entropy()))
    np.testing.assert_allclose(volume.array, exact.result.uncertainty.array, atol=1e-5)
    assert volume.geometry.is_close(exact.result.labels.geometry)


def test_nothing_forced_is_the_masks_own_and_gates_are_forced_in_the_exact_pass(exact, build):
    replay = exact.replay
    effect = build.finish(effect_of(replay, ()))
    assert (effect.before.array != exact.result.labels.array).mean() < 1e-3  # ties alone
    assert effect.changed_voxels == 0
    box = Box((0, 0, 0), (24, 28, 36))
    for change in (
        Change("gate-level-2", "one"),
        Change("gate-level-2", "zero"),
        Change("gate-level-2", "scaled", 0.4),
        Change("gate-level-2", "scaled", 3.0),
    ):
        with changed_network(replay.network, [change]):
            assert goes_exactly(replay, replay.network), change
            x = replay.read(box)
            expected = replay.forward(x).logits[0].argmax(0).numpy()
        effect = build.finish(effect_of(replay, [change], before=effect.before))
        assert (effect.after.array != expected).mean() < 1e-3, change  # ties alone


def test_a_part_is_what_the_whole_gives_there(exact, build):
    box = Box((4, 8, 0), (16, 24, 20))
    result = LabelResults(3, box)
    found = build.finish(
        run_again(
            exact.replay,
            exact.replay.network,
            box,
            results=result,
            calibration=exact.replay.calibration,
            maps=("gate-level-2",),
        )
    )
    assert (result.labels != exact.result.labels.array[box.slices]).mean() < 1e-3  # ties alone
    whole = exact.result.attention["gate-level-2"].array
    stride = exact.model.network.map_specs["gate-level-2"].stride
    expected = whole[box.on_stride(stride).slices]
    np.testing.assert_allclose(found.maps["gate-level-2"], expected, atol=1e-4)


def test_what_the_exact_pass_can_not_do_goes_in_tiles(exact, guided, build):
    assert not goes_exactly(guided.replay, guided.replay.network)  # its run went in tiles
    volume = build.finish(request_map(exact.replay, FlipSpread()))
    assert volume.array.shape == exact.volume.geometry.shape
    assert 0 < float(volume.array.max()) <= 1
