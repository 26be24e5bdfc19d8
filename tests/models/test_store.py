from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from napari_attention3d.errors import InputError, ModelFileError, OutputError
from napari_attention3d.inference.preprocess import normalise
from napari_attention3d.models import ModelCard, list_models, load_model, save_model, store
from napari_attention3d.models.header import CARD_KEY, LARGEST_HEADER, read_header
from napari_attention3d.networks import AttentionUNet


def card(**changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "name": "two-spheres",
        "title": "Two spheres",
        "network": {"name": "attention-unet"},
        "classes": [
            {"name": "background", "colour": "#000000"},
            {"name": "sphere", "colour": "#ff8800"},
        ],
        "channels": [{"name": "density"}],
    }
    return ModelCard.model_validate({**fields, **changes})


@pytest.fixture
def network() -> AttentionUNet:
    torch.manual_seed(1)
    return AttentionUNet(channels=(4, 8), num_classes=2).eval()


@pytest.fixture
def path(tmp_path: Path, network: AttentionUNet) -> Path:
    return save_model(tmp_path / "two-spheres.safetensors", network, card())


def rewrite(path: Path, change: Any) -> Path:
    """Write the file again after ``change(tensors, metadata)``."""
    with safe_open(path, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path


def edit_card(path: Path, **changes: Any) -> Path:
    def change(tensors: Any, metadata: Any) -> None:
        metadata[CARD_KEY] = json.dumps({**json.loads(metadata[CARD_KEY]), **changes})

    return rewrite(path, change)


def test_round_trip_keeps_weights_and_output(path: Path, network: AttentionUNet) -> None:
    model = load_model(path)
    assert model.path == path
    assert not model.built_in
    assert not model.network.training
    assert model.card.network == {"name": "attention-unet", **network.config}
    assert len(model.card.sha256) == 64
    for key, tensor in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[key], tensor)
    x = torch.randn(1, 1, 9, 10, 11)
    assert torch.equal(model.network(x).logits, network(x).logits)


def test_float16_file_is_half_as_large_and_loads_as_float32(
    tmp_path: Path, path: Path, network: AttentionUNet
) -> None:
    half = save_model(tmp_path / "half.safetensors", network, card(), dtype=torch.float16)
    assert half.stat().st_size < 0.75 * path.stat().st_size
    model = load_model(half)
    for key, tensor in network.state_dict().items():
        loaded = model.network.state_dict()[key]
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, tensor.half().float())
    assert model.card.sha256 != load_model(path).card.sha256


def test_loading_leaves_the_random_state_alone(path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_model(path)
    assert torch.equal(torch.rand(1), expected)


def test_sha256_covers_names_shapes_dtypes_and_bytes() -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    others = [
        {"a": torch.arange(6.0), "c": torch.ones(2)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(6.0).view(torch.int32), "b": torch.ones(2)},
        {"a": torch.arange(6.0), "b": torch.tensor([1.0, 1.0000001])},
    ]
    digests = {store.weights_sha256(t) for t in [base, *others]}
    assert len(digests) == 5
    again = {"b": torch.ones(2), "a": torch.arange(12.0)[::2] / 2}
    assert store.weights_sha256(again) == store.weights_sha256(base)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no model file .*nothing\.safetensors"):
        load_model(tmp_path / "nothing.safetensors")


def test_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a folder"):
        load_model(tmp_path)


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pkl", ".zip", ".safetensors"])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickles_are_refused_without_being_opened(tmp_path: Path, suffix: str, writer: str) -> None:
    path, target = tmp_path / f"weights{suffix}", tmp_path / "exploded"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save(Bomb(target), path)
    with pytest.raises(ModelFileError, match=r"can run programs|could run programs"):
        load_model(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", b"x" * 400, (2**40).to_bytes(8, "little") + b"{}", b"\x05" + b"\0" * 7],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a safetensors file"):
        load_model(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[1, 2]",
        b'{"a": 3}',
        b'{"__metadata__": {"x": 1}}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b"[" * 100000,
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(ModelFileError, match="header is damaged"):
        load_model(path)


def test_huge_header_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write((LARGEST_HEADER + 1).to_bytes(8, "little"))
        file.truncate(LARGEST_HEADER + 100)
    with pytest.raises(ModelFileError, match="header of 16777217 bytes"):
        load_model(path)


def test_cut_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="reaches beyond the file"):
        load_model(path)


def test_missing_tensors_are_named(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.pop("reduce.0.weight"))
    with pytest.raises(ModelFileError, match=r"lacks 1 of .* \(reduce\.0\.weight\)"):
        load_model(path)


def test_unexpected_tensors_are_named(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update(extra=torch.zeros(3)))
    with pytest.raises(ModelFileError, match=r"holds 1 tensors .* \(extra\)"):
        load_model(path)


def test_wrong_shapes_are_named(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"reduce.0.weight": torch.zeros(4, 9, 1, 1)}))
    with pytest.raises(ModelFileError, match=r"'reduce\.0\.weight' has shape \(4, 9, 1, 1\)"):
        load_model(path)


def test_changed_weights_are_noticed(path: Path) -> None:
    def change(tensors: Any, _: Any) -> None:
        tensors["reduce.0.weight"][0, 0] += 1e-6

    with pytest.raises(ModelFileError, match="sha256 differs"):
        load_model(rewrite(path, change))


def test_missing_sha_is_noticed(path: Path) -> None:
    with pytest.raises(ModelFileError, match="no sha256"):
        load_model(edit_card(path, sha256=""))


def test_missing_card_is_noticed(path: Path) -> None:
    rewrite(path, lambda _, metadata: metadata.pop(CARD_KEY))
    with pytest.raises(ModelFileError, match=r"no model card .* two-spheres\.json beside it"):
        load_model(path)


def test_card_beside_the_file_is_read(path: Path) -> None:
    expected = load_model(path).card
    rewrite(path, lambda _, metadata: metadata.pop(CARD_KEY))
    path.with_suffix(".json").write_text(expected.model_dump_json())
    assert load_model(path).card == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing": [1, -1, 1]}, "spacing: .*must be positive"),
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"network": {"channels": [4, 8]}}, "network: .*needs a 'name'"),
        ({"network": {"name": "u-net-9000"}}, "'u-net-9000' is not known"),
        ({"network": {"name": "attention-unet", "channels": [4]}}, "at least two levels"),
        ({"network": {"name": "attention-unet", "knobs": 3}}, "can't be built"),
        ({"channels": [{"name": "a"}, {"name": "b"}]}, "2 channels, the network reads 1"),
        ({"classes": [{"name": n, "colour": "#000000"} for n in "abc"]}, "3 classes, .* has 2"),
    ],
)
def test_bad_cards_are_summarised_in_one_line(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(edit_card(path, **changes))
    assert "\n" not in str(caught.value)


def test_card_for_a_huge_network_allocates_nothing(path: Path, network: AttentionUNet) -> None:
    huge = {"name": "attention-unet", **network.config, "channels": [10**6, 10**6]}
    with pytest.raises(ModelFileError, match="needs"):
        load_model(edit_card(path, network=huge))


def test_card_that_contradicts_the_network_is_not_saved(
    tmp_path: Path, network: AttentionUNet
) -> None:
    target = tmp_path / "m.safetensors"
    with pytest.raises(ModelFileError, match="2 channels"):
        save_model(target, network, card(channels=[{"name": "a"}, {"name": "b"}]))
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_for_float16_are_not_saved(
    tmp_path: Path, network: AttentionUNet
) -> None:
    with torch.no_grad():
        network.reduce[0].weight[0, 0] = 1e6
    with pytest.raises(ModelFileError, match="too large"):
        save_model(tmp_path / "m.safetensors", network, card(), dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_refused(path: Path) -> None:
    def change(tensors: Any, metadata: Any) -> None:
        tensors["reduce.0.weight"][0, 0] = float("nan")
        fields = json.loads(metadata[CARD_KEY])
        metadata[CARD_KEY] = json.dumps({**fields, "sha256": store.weights_sha256(tensors)})

    with pytest.raises(ModelFileError, match="NaN or infinity"):
        load_model(rewrite(path, change))


def test_saving_needs_the_right_suffix_and_a_folder(tmp_path: Path, network: AttentionUNet) -> None:
    with pytest.raises(OutputError, match=r"saved as \.safetensors"):
        save_model(tmp_path / "m.pt", network, card())
    with pytest.raises(OutputError):
        save_model(tmp_path / "nowhere" / "m.safetensors", network, card())


def test_models_of_the_user_are_listed_and_loaded_by_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(path.parent))
    (path.parent / "broken.safetensors").write_bytes(b"nothing")
    own = [info for info in list_models() if not info.built_in]
    assert [(i.name, i.title, bool(i.problem)) for i in own] == [
        ("broken", "broken", True),
        ("two-spheres", "Two spheres", False),
    ]
    assert own[0].card is None
    assert load_model("two-spheres").path == path
    assert list_models(user_folder=path.parent / "empty") == [
        i for i in list_models() if i.built_in
    ]


def test_unknown_name_lists_the_known_ones(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(path.parent))
    with pytest.raises(InputError, match=r"no model 'three-cubes'; known are: .*two-spheres"):
        load_model("three-cubes")


SHIPPED = {"brain-attention-unet": "attention-unet", "brain-guided-attention": "guided-attention"}
LARGEST = 15e6
"""Bytes of a shipped model."""


def test_built_in_models_load_and_say_what_they_are() -> None:
    built_in = {info.name: info for info in list_models() if info.built_in}
    assert set(SHIPPED) <= set(built_in)
    for name, info in built_in.items():
        assert info.problem == ""
        assert info.path.stat().st_size <= LARGEST
        model = load_model(name)
        assert model.built_in
        assert model.card.licence
        assert model.card.limitations
        assert model.network.name == SHIPPED.get(name, model.network.name)


def test_the_guided_card_has_the_unets_figures_beside_its_own() -> None:
    unet, guided = (load_model(name).card for name in SHIPPED)
    own, beside = guided.metrics, guided.metrics["beside_brain_attention_unet"]
    assert beside["validation_mean_dice"] == unet.metrics["validation_mean_dice"]
    assert beside["mni152_t1_dice"] == unet.metrics["mni152_t1"]["dice"]
    assert set(own["mni152_t1"]["dice"]) == set(beside["mni152_t1_dice"])
    assert 0 < own["validation_mean_dice"] < 1
    # The same data and classes, or the figures could not stand side by side.
    assert guided.training_data == unet.training_data
    assert guided.class_names == unet.class_names


@pytest.mark.parametrize("name", SHIPPED)
def test_half_precision_keeps_the_labels_of_a_shipped_model(name: str) -> None:
    """On nested shells, as bright as tissues are in T1: 99 of 100 voxels keep their label."""
    model = load_model(name)
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij"))
    radius = (grid / torch.tensor([0.8, 0.95, 0.75]).view(3, 1, 1, 1)).square().sum(0).sqrt()
    scan = torch.zeros_like(radius)
    for outside, value in ((1.0, 0.25), (0.9, 0.6), (0.75, 0.95), (0.25, 0.2)):
        scan[radius < outside] = value
    scan += 0.03 * torch.randn(scan.shape, generator=torch.Generator().manual_seed(0))
    scan = normalise(scan[None], model.card.normalisation)[None]
    with torch.inference_mode():
        exact = model.network(scan).logits
        with torch.autocast("cpu", torch.bfloat16):
            half = model.network(scan).logits
    labels = exact.argmax(1)
    assert len(labels.unique()) >= 4
    assert (half.argmax(1) == labels).float().mean() >= 0.99
    assert not torch.equal(half.float(), exact)


def test_listing_does_not_load_torch(path: Path) -> None:
    code = (
        "import sys, pathlib; from napari_attention3d.models import list_models; "
        f"found = list_models(user_folder=pathlib.Path({str(path.parent)!r})); "
        "assert any(i.name == 'two-spheres' for i in found); "
        "assert 'torch' not in sys.modules, 'torch was loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_header_lists_the_tensors(path: Path, network: AttentionUNet) -> None:
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    assert read_header(path).shapes == shapes
