from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_attention3d.errors import InputError, ModelMismatchError, OutOfMemory
from napari_attention3d.geometry import Geometry
from napari_attention3d.inference.runner import Runner
from napari_attention3d.models import Model, ModelCard
from napari_attention3d.networks import AttentionUNet, read_calibration
from napari_attention3d.networks.base import MapSpec, NetworkOutput, SegmentationNetwork
from napari_attention3d.progress import finish
from napari_attention3d.session import (
    SegmentOptions,
    make_options,
    preflight,
    segment,
    segment_job,
)
from napari_attention3d.volumes.volume import Volume


class Threshold(SegmentationNetwork):
    """Class 1 above one half; its map is the mean over blocks of 2 x 4 x 4 voxels."""

    name = "test-threshold"

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.num_classes = 1, 2
        self.level = nn.Parameter(torch.tensor(0.5))

    @property
    def config(self) -> dict[str, Any]:
        return {}

    @property
    def total_stride(self) -> tuple[int, int, int]:
        return (2, 4, 4)

    @property
    def map_specs(self) -> Mapping[str, MapSpec]:
        return {"bright": MapSpec("bright", "brightness", (2, 4, 4), (0.5, 1.5, 1.5))}

    def forward(self, x: Tensor, return_maps: bool = False) -> NetworkOutput:
        logit = (x - self.level) * 20
        extra = [-n % s for n, s in zip(x.shape[2:], self.total_stride, strict=True)]
        padded = nn.functional.pad(x, (0, extra[2], 0, extra[1], 0, extra[0]), mode="replicate")
        maps = {"bright": nn.functional.avg_pool3d(padded, self.total_stride)}
        return NetworkOutput(torch.cat((-logit, logit), 1), maps if return_maps else {}, ())


def card(**changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "name": "blob",
        "title": "Blob",
        "network": {"name": "test"},
        "classes": [
            {"name": "background", "colour": "#000000"},
            {"name": "blob", "colour": "#00ff00"},
        ],
        "channels": [{"name": "any"}],
        "normalisation": {"kind": "none"},
        "sha256": "ab" * 32,
    }
    return ModelCard.model_validate({**fields, **changes})


def threshold_model(**changes: Any) -> Model:
    return Model(card(**changes), Threshold().eval())


@pytest.fixture
def unet_model() -> Model:
    torch.manual_seed(0)
    network = AttentionUNet(channels=(4, 8, 8), num_classes=2).eval()
    changes = {"spacing": (2, 2, 2), "orientation": "SAR", "normalisation": {}}
    return Model(card(**changes), network)


CENTRE = np.array([14.0, -9.0, 21.0])
RADIUS = 9.0


def blob(geometry: Geometry) -> Volume:
    """Return a ball of brightness 1, soft at the edge, at CENTRE in the world."""
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1)
    distance = np.linalg.norm(geometry.to_world(index) - CENTRE, axis=-1)
    array = 1 / (1 + np.exp((distance - RADIUS) / 1.5))
    return Volume(array.astype(np.float32), geometry, "ball")


def oblique(order: tuple[int, int, int], signs: tuple[int, int, int]) -> Geometry:
    """Make a tilted, permuted, flipped, anisotropic grid around CENTRE."""
    a, b = 0.2, -0.15
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = turn @ np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    spacing, shape = np.array([1.5, 1.0, 1.25]), np.array([30, 48, 41])
    affine = np.eye(4)
    affine[:3, :3] = (turn * spacing)[:, order] * signs
    size = shape[list(order)]
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((size - 1) / 2 + (1.3, -2.1, 0.4))
    return Geometry((int(size[0]), int(size[1]), int(size[2])), affine, "mm", True)


GRIDS = [
    ((0, 1, 2), (1, 1, 1)),
    ((2, 0, 1), (1, -1, 1)),
    ((1, 0, 2), (-1, -1, 1)),
    ((2, 1, 0), (-1, 1, -1)),
]


@pytest.mark.parametrize(("order", "signs"), GRIDS)
@pytest.mark.parametrize("spacing", [None, (2, 2, 2), (0.8, 1.5, 1.1)])
def test_labels_and_maps_lie_where_the_ball_is(order: Any, signs: Any, spacing: Any) -> None:
    geometry = oblique(order, signs)
    model = threshold_model(orientation="SAR", spacing=spacing)
    result = segment(blob(geometry), model, attention=True, tile=(16, 16, 16))
    assert result.labels.geometry is not None
    assert result.labels.geometry.is_close(geometry)
    assert result.labels.array.shape == geometry.shape
    assert result.labels.dtype == np.uint8
    where = geometry.to_world(np.argwhere(result.labels.array == 1))
    np.testing.assert_allclose(where.mean(0), CENTRE, atol=0.15)
    volume = len(where) * geometry.voxel_volume
    assert volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.06)

    bright = result.attention["bright"]
    positions = bright.geometry.to_world(np.argwhere(np.ones(bright.array.shape)))
    weights = bright.array.ravel().astype(float)
    centroid = (positions * weights[:, None]).sum(0) / weights.sum()
    np.testing.assert_allclose(centroid, CENTRE, atol=0.5)
    assert bright.metadata["map"]["title"] == "brightness"


@pytest.mark.parametrize("spacing", [None, (2, 2, 2)])
def test_own_grid_is_exact(spacing: Any) -> None:
    """Where nothing is resampled each voxel has the class its own value gives."""
    scan = Volume.from_array(
        np.random.default_rng(1).random((20, 22, 17)).astype(np.float32), spacing=(2, 2, 2)
    )
    result = segment(scan, threshold_model(spacing=spacing), tile=(8, 8, 8), overlap=0.5)
    np.testing.assert_array_equal(result.labels.array, (scan.array > 0.5).astype(np.uint8))


def test_region_gives_what_the_whole_scan_gives(unet_model: Model) -> None:
    scan = blob(oblique((2, 0, 1), (1, -1, 1)))
    region = ((2, 9), (9, 25), (30, 44))
    every = {"attention": True, "probabilities": True, "uncertainty": True}
    for tile in (None, (16, 16, 16)):
        whole = segment(scan, unet_model, tile=tile, **every)
        part = segment(scan, unet_model, tile=tile, region=region, **every)
        cut = tuple(slice(a, b) for a, b in region)
        np.testing.assert_array_equal(part.labels.array, whole.labels.array[cut])
        assert part.probabilities is not None
        assert whole.probabilities is not None
        np.testing.assert_allclose(
            part.probabilities.array, whole.probabilities.array[(slice(None), *cut)], atol=1e-5
        )
        starts = [a for a, _ in region]
        expected = scan.geometry.cropped(starts, part.labels.array.shape)
        assert part.labels.geometry.is_close(expected)
        for name, volume in part.attention.items():
            other = whole.attention[name]
            index = other.geometry.to_index(volume.geometry.to_world((0, 0, 0)))
            at = np.round(index).astype(int)
            np.testing.assert_allclose(index, at, atol=1e-6)
            cut_map = tuple(slice(i, i + n) for i, n in zip(at, volume.array.shape, strict=True))
            np.testing.assert_array_equal(volume.array, other.array[cut_map])
    assert part.provenance["plan"]["tiles"] < part.provenance["plan"]["of_tiles"]


def test_everything_asked_for_comes_on_the_scans_grid(unet_model: Model) -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    result = segment(scan, unet_model, attention=True, probabilities=True, uncertainty=True)
    assert result.probabilities is not None
    assert result.uncertainty is not None
    assert result.probabilities.array.shape == (2, *scan.array.shape)
    assert result.probabilities.channel_names == ("background", "blob")
    for volume in (result.probabilities, result.uncertainty, result.labels):
        assert volume.geometry.is_close(scan.geometry)
    assert set(result.attention) == set(unet_model.network.map_specs)
    for volume in result.attention.values():
        assert volume.geometry.orientation == "SAR"
        assert 0 <= volume.array.min() <= volume.array.max() <= 1


def test_nothing_more_than_asked_for(unet_model: Model) -> None:
    result = segment(blob(oblique((0, 1, 2), (1, 1, 1))), unet_model)
    assert result.probabilities is None
    assert result.uncertainty is None
    assert result.attention == {}
    chosen = segment(blob(oblique((0, 1, 2), (1, 1, 1))), unet_model, attention=("gate-level-2",))
    assert list(chosen.attention) == ["gate-level-2"]


def test_two_runs_are_equal_to_the_bit(unet_model: Model) -> None:
    scan = blob(oblique((1, 0, 2), (-1, -1, 1)))
    one, two = (segment(scan, unet_model, probabilities=True, tile=(16, 16, 16)) for _ in range(2))
    assert one.probabilities is not None
    assert two.probabilities is not None
    assert np.array_equal(one.probabilities.array, two.probabilities.array)
    assert np.array_equal(one.labels.array, two.labels.array)


def test_provenance_is_json_and_replays(unet_model: Model) -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    first = segment(scan, unet_model, tile=(16, 16, 16))
    told = json.loads(json.dumps(first.provenance))
    assert told["model"]["name"] == "blob"
    assert told["model"]["sha256"] == unet_model.card.sha256
    assert told["options"]["tile"] == [16, 16, 16]
    assert told["source"]["shape"] == list(scan.array.shape)
    assert told["device"] == first.device
    assert first.labels.metadata["provenance"] is first.provenance
    options = SegmentOptions(**told["options"])
    job = segment_job(scan, unet_model, options, calibration=told["calibration"])
    again = finish(job)
    assert np.array_equal(again.labels.array, first.labels.array)
    assert json.loads(json.dumps(again.provenance["calibration"])) == told["calibration"]


def test_progress_is_told_and_ends_complete(unet_model: Model) -> None:
    steps: list[Any] = []
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    segment(scan, unet_model, tile=(16, 16, 16), progress=steps.append)
    tiles = preflight(scan, unet_model, SegmentOptions(tile=(16, 16, 16))).tiles
    assert steps[0].message == "Preparing the scan"
    assert steps[-1].done == steps[-1].total == tiles
    assert [s.done for s in steps if "tile" in s.message] == list(range(1, tiles + 1))


@pytest.mark.parametrize("after", [1, 2, 3, 6])
def test_cancel_leaves_the_model_as_it_was(unet_model: Model, after: int) -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    expected = segment(scan, unet_model).labels.array
    job = segment_job(scan, unet_model, SegmentOptions(tile=(16, 16, 16)))
    for _ in range(after):
        next(job)
    job.close()
    assert read_calibration(unet_model.network) == {}
    assert np.array_equal(segment(scan, unet_model).labels.array, expected)


def test_scan_is_not_changed(unet_model: Model) -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    before = scan.array.copy()
    segment(scan, unet_model)
    assert np.array_equal(scan.array, before)


def test_empty_result_says_what_to_check() -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    dark = scan.replace(array=scan.array * 0.4)
    model = threshold_model(orientation="SAR", spacing=(2, 2, 2), intensity="0 to 1")
    warnings = segment(dark, model).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith("no voxel was given a class")
    for word in ("0 to 1", "1.5 x 1 x 1.25 mm", "orientation"):
        assert word in warnings[0]
    assert segment(scan, model).warnings == []


def test_lack_of_memory_is_survived_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    expected = segment(scan, threshold_model()).labels.array
    compute = Runner.compute

    def limited(self: Any, device: Any, batch: torch.Tensor) -> Any:
        if batch.numel() > 30 * 48 * 33:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        return compute(self, device, batch)

    monkeypatch.setattr(Runner, "compute", limited)
    result = segment(scan, threshold_model())
    assert np.array_equal(result.labels.array, expected)
    assert "ran out" in result.warnings[0]
    assert result.provenance["plan"]["tiles"] > 1
    monkeypatch.setattr(Runner, "compute", lambda self, device, batch: torch.empty(2**60))
    with pytest.raises(OutOfMemory, match="close other programs"):
        segment(scan, threshold_model())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devise": "cpu"}, r"'devise' is not known; there are: device, overlap"),
        ({"overlap": 1.5}, "'overlap'"),
        ({"tile": (0, 4, 4)}, "'tile'.*positive"),
        ({"precision": "sloppy"}, "'precision'"),
        ({"device": "abacus"}, "device 'abacus' is not known"),
        ({"attention": ("dark",)}, "no attention map 'dark'; it has: bright"),
        ({"region": ((0, 99), (0, 5), (0, 5))}, r"z range 0:99 is not inside 0:30"),
        ({"channel": 4}, "no channel 4"),
    ],
)
def test_wrong_options_are_told_before_anything_is_read(
    options: dict[str, Any], message: str
) -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    with pytest.raises(InputError, match=message) as caught:
        preflight(scan, threshold_model(), make_options(**options))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        segment(scan, threshold_model(), **options)


def test_scans_that_do_not_fit_are_refused() -> None:
    model = threshold_model(spacing=(2, 2, 2))
    with pytest.raises(ModelMismatchError, match="set its spacing"):
        segment(Volume.from_array(np.random.rand(20, 20, 20)), model)
    with pytest.raises(ModelMismatchError, match="1 channel"):
        segment(Volume.from_array(np.random.rand(2, 20, 20, 20)), threshold_model())
    with pytest.raises(InputError, match="NaN"):
        segment(Volume.from_array(np.full((20, 20, 20), np.nan)), threshold_model())
    with pytest.raises(InputError, match="nothing to segment"):
        segment(Volume.from_array(np.ones((20, 20, 20))), threshold_model())


def test_preflight_says_where_and_how_much() -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    model = threshold_model(spacing=(2, 2, 2), orientation="SAR")
    told = preflight(scan, model)
    assert told.grid_shape == (22, 24, 26)
    assert told.tiles == 1
    assert told.text.startswith("22 x 24 x 26 voxels of ")
    assert told.bytes > 0
    assert " MB, on cpu" in preflight(scan, model, SegmentOptions(device="cpu")).text
    tiled = SegmentOptions(tile=(16, 16, 16), region=((0, 5), (0, 5), (0, 5)))
    assert preflight(scan, model, tiled).tiles == 1


def test_channel_of_several_can_be_chosen() -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    both = scan.replace(array=np.stack((np.random.rand(*scan.array.shape), scan.array)))
    result = segment(both, threshold_model(), channel=1)
    np.testing.assert_array_equal(
        result.labels.array, segment(scan, threshold_model()).labels.array
    )


def test_saved_model_segments_alike(unet_model: Model, tmp_path: Any) -> None:
    from napari_attention3d.models import save_model

    path = save_model(tmp_path / "m.safetensors", unet_model.network, unet_model.card)
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    result = segment(scan, str(path))
    assert np.array_equal(result.labels.array, segment(scan, unet_model).labels.array)
    assert result.provenance["model"]["path"] == str(path)


def test_a_device_that_fails_its_self_test_is_not_used(
    unet_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_attention3d.inference import setup as setup_module
    from napari_attention3d.inference.device import DeviceChoice, choose_device

    def choose(request: str) -> DeviceChoice:
        if request == "auto":
            return DeviceChoice(torch.device("meta"), "a GPU nobody tried")
        return choose_device(request)

    monkeypatch.setattr(setup_module, "choose_device", choose)
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    # The meta device computes nothing at all: the real self-test finds that.
    result = segment(scan, unet_model)
    assert result.device == "cpu"
    assert result.device_reason.startswith("the self-test found that meta")
    assert "self-test" in result.provenance["device_reason"]
    assert any(w.startswith("computed on the CPU: meta") for w in result.warnings)
    assert "on cpu (the self-test found that meta" in preflight(scan, unet_model).text
    monkeypatch.undo()
    assert np.array_equal(result.labels.array, segment(scan, unet_model).labels.array)


def test_an_imported_encoder_alone_is_told(unet_model: Model) -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    metrics = {"import": {"encoder_only": True}}
    raw = replace(unet_model, card=unet_model.card.model_copy(update={"metrics": metrics}))
    assert any("only the encoder" in w for w in segment(scan, raw).warnings)
    assert not any("only the encoder" in w for w in segment(scan, unet_model).warnings)


def test_preflight_knows_the_time_after_a_run_or_a_probe(unet_model: Model) -> None:
    scan = blob(oblique((0, 1, 2), (1, 1, 1)))
    probed = preflight(scan, unet_model, probe=True)
    assert probed.seconds is not None
    assert probed.seconds > 0
    assert " in the network, on cpu" in probed.text
    segment(scan, unet_model)
    assert preflight(scan, unet_model).seconds is not None
