from __future__ import annotations

import os

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.networks.nets import AttentionUnet

from napari_attention3d.cli.models_import import _normalisation, _strides, _three
from napari_attention3d.errors import InputError
from napari_attention3d.models.store import load_model
from napari_attention3d.networks import build_network
from napari_attention3d.networks.oktay_attention_unet import oktay_keys


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    monkeypatch.setenv("NAPARI_ATTENTION3D_MODELS", str(folder))
    return folder


@pytest.fixture
def monai(tmp_path):
    torch.manual_seed(0)
    network = AttentionUnet(3, 1, 3, (4, 8, 8), ((1, 2, 2), (2, 2, 2)))
    torch.save({"state_dict": network.state_dict(), "epoch": 7}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


@pytest.fixture
def oktay(tmp_path):
    torch.manual_seed(0)
    network = build_network("oktay-attention-unet", num_classes=2, channels=(4, 4, 8, 8, 8))
    state = {}
    for name, tensor in network.state_dict().items():
        prefix = max((p for p in oktay_keys(1) if name.startswith(p + ".")), key=len)
        state[oktay_keys(1)[prefix] + name.removeprefix(prefix)] = tensor
    torch.save(state, tmp_path / "120_net_S.pth")
    return tmp_path / "120_net_S.pth"


@pytest.fixture
def imagenet(tmp_path):
    """The encoder's own names, each kernel without its depth."""
    from napari_attention3d.networks.resnet import ResNetEncoder

    encoder = ResNetEncoder(3, 18, (4, 4, 8, 8), norm="batch")
    state = {k: v[:, :, 0] if v.ndim == 5 else v for k, v in encoder.state_dict().items()}
    torch.save(state, tmp_path / "resnet18-imagenet.pth")
    return tmp_path / "resnet18-imagenet.pth"


def test_an_imported_model_is_listed_and_segments_a_scan(run, folder, monai, scan, tmp_path):
    words = ("--name", "liver", "--classes", "background,liver,tumour", "--spacing", "2,1,1")
    words += ("--strides", "1x2x2,2", "--from", "monai", "--patch-size", "16")
    outcome = run("models", "import", monai, *words)
    assert outcome.code == 0, outcome.err
    for word in (
        "MONAI AttentionUnet",
        "unwrapped 'state_dict'",
        "one to one",
        "channels [4, 8, 8]",
    ):
        assert word in outcome.out
    assert "assumed   strides" not in outcome.out
    listed = {row["name"]: row for row in run("models", "list", "--json").json}
    assert listed["liver"]["problem"] is None
    card = run("models", "show", "liver", "--json").json
    assert [c["name"] for c in card["classes"]] == ["background", "liver", "tumour"]
    assert card["spacing"] == [2.0, 1.0, 1.0]
    assert len(card["metrics"]["import"]["sha256"]) == 64
    mask = tmp_path / "mask.nii.gz"
    assert run("segment", scan, "-m", "liver", "-o", mask, "--attention").code == 0
    assert nib.load(mask).shape == nib.load(scan).shape
    assert list(tmp_path.glob("*gate-level-0*"))


def test_the_mask_is_what_the_source_itself_gives(run, folder, monai, tmp_path, scan_maker):
    """On a scan of one tile, intensities as they are."""
    scan = scan_maker(tmp_path / "one.nii.gz", shape=(8, 16, 16))
    words = ("--strides", "1x2x2,2", "--normalisation", "zscore", "--patch-size", "8,16,16")
    assert run("models", "import", monai, "--name", "m", *words).code == 0
    mask = tmp_path / "one_mask.nii.gz"
    outcome = run("segment", scan, "-m", "m", "-o", mask)
    assert outcome.code == 0, outcome.err
    theirs = AttentionUnet(3, 1, 3, (4, 8, 8), ((1, 2, 2), (2, 2, 2)))
    theirs.load_state_dict(torch.load(monai, weights_only=True)["state_dict"])
    image = torch.from_numpy(nib.load(scan).get_fdata().transpose(2, 1, 0).copy()).float()
    image = (image - image.mean()) / image.std()
    with torch.no_grad():
        expected = theirs.eval()(image[None, None])[0].argmax(0)
    actual = torch.from_numpy(nib.load(mask).get_fdata().transpose(2, 1, 0).copy()).long()
    assert (actual == expected).float().mean() > 0.99
    assert len(actual.unique()) > 1


def test_oktays_weights_segment_a_scan(run, folder, oktay, scan, tmp_path):
    outcome = run("models", "import", oktay, "--name", "pancreas", "--patch-size", "32", "--json")
    assert outcome.code == 0, outcome.err
    report = outcome.json
    assert (report["from"], report["network"]) == ("oktay", "oktay-attention-unet")
    assert any("aligned corners" in text for text in report["assumed"])
    assert load_model("pancreas").network.align_corners is True
    mask = tmp_path / "mask.nii.gz"
    assert run("segment", scan, "-m", "pancreas", "-o", mask).code == 0
    assert nib.load(mask).shape == nib.load(scan).shape
    newer = ("--name", "newer", "--no-align-corners")
    assert run("models", "import", oktay, *newer).code == 0
    assert load_model("newer").network.align_corners is False


def test_an_encoder_says_that_it_must_be_trained(run, folder, imagenet):
    words = ("--name", "start", "--classes", "background,cord", "--inflate", "average")
    outcome = run("models", "import", imagenet, *words)
    assert outcome.code == 0, outcome.err
    assert "Only the encoder is trained" in outcome.out
    # Batch norms at a batch of 1 are a trap that people must be told of.
    assert "batch_size of 2 or more" in outcome.out
    assert 'schedule: {"batch_size": 2}' in outcome.out
    model = load_model("start")
    assert model.network.config["norm"] == "batch"
    assert model.network.name == "guided-attention"
    assert "Only the encoder is trained" in model.card.limitations
    assert model.card.class_names == ["background", "cord"]


def test_a_training_begins_with_an_imported_encoder(run, folder, imagenet, scan_maker, tmp_path):
    words = ("--name", "start", "--classes", "background,a,b", "--variant", "simplified", "--json")
    report = run("models", "import", imagenet, *words).json
    assert report["recipe"]["schedule"] == {"batch_size": 2}
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for n in range(2):
        scan_maker(tmp_path / "images" / f"{n}.nii.gz", seed=n, shape=(20, 20, 20))
        labels = np.random.default_rng(n).integers(0, 3, (20, 20, 20)).astype(np.uint8)
        image = nib.load(tmp_path / "images" / f"{n}.nii.gz")
        nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / "labels" / f"{n}.nii.gz")
    recipe = {
        "name": "cord",
        "title": "Cord",
        "classes": [{"name": name, "colour": "#000000"} for name in ("background", "one", "other")],
        **report["recipe"],
        "data": {
            "kind": "pairs",
            "images": str(tmp_path / "images"),
            "labels": str(tmp_path / "labels"),
        },
        "schedule": {
            **report["recipe"]["schedule"],
            "steps": 1,
            "patch_sizes": [[16, 16, 16]],
            "learning_rate": 1e-9,
            "ema": 0,
            "device": "cpu",
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "cord.safetensors"
    outcome = run("train", "-c", tmp_path / "recipe.yaml", "-o", out)
    assert outcome.code == 0, outcome.err
    start, trained = load_model("start").network, load_model(out)
    for name, tensor in start.encoder.named_parameters():
        assert torch.allclose(trained.network.encoder.get_parameter(name), tensor, atol=1e-3), name
    assert "import" not in trained.card.metrics
    # Without the settings that the encoder needs it is refused, and told which.
    recipe["network"] = {"name": "guided-attention"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    outcome = run("train", "-c", tmp_path / "recipe.yaml", "-o", tmp_path / "other.safetensors")
    assert outcome.code == 2
    assert "depth 18" in outcome.err


def test_what_does_not_fit_is_told_key_by_key_and_nothing_is_written(run, folder, monai):
    state = torch.load(monai, weights_only=True)["state_dict"]
    del state["model.2.conv.bias"]
    state["extra"] = torch.ones(1)
    torch.save(state, monai)
    outcome = run("models", "import", monai, "--name", "half")
    assert outcome.code == 2
    lines = outcome.err.splitlines()
    assert "missing      model.2.conv.bias" in lines
    assert "unexpected   extra" in lines
    assert lines[-1].startswith("error: best.ckpt does not fit MONAI's AttentionUnet")
    assert not folder.exists()


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_malicious_file_is_refused_and_runs_nothing(run, folder, tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": Bomb(tmp_path / "ran")}, tmp_path / "w.pt")
    outcome = run("models", "import", tmp_path / "w.pt", "--name", "evil")
    assert outcome.code == 2
    assert "mkdir" in outcome.err
    assert "not opened" in outcome.err
    assert not (tmp_path / "ran").exists()
    assert not folder.exists()


def test_a_file_that_is_there_is_kept_unless_told(run, folder, monai):
    assert run("models", "import", monai, "--name", "m").code == 0
    before = (folder / "m.safetensors").read_bytes()
    outcome = run("models", "import", monai, "--name", "m", "--classes", "a,b,c")
    assert outcome.code == 2
    assert "--force" in outcome.err
    assert (folder / "m.safetensors").read_bytes() == before
    assert run("models", "import", monai, "--name", "m", "--classes", "a,b,c", "--force").code == 0
    assert load_model("m").card.class_names == ["a", "b", "c"]
    assert [p.name for p in folder.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--name", "Big Name"), "--name"),
        (("--name", "brain-attention-unet"), "already"),
        (("--name", "m", "--classes", "a,b"), "3 classes"),
        (("--name", "m", "--classes", "a,,b"), "--classes"),
        (("--name", "m", "--spacing", "1,2"), "--spacing"),
        (("--name", "m", "--spacing", "0"), "--spacing"),
        (("--name", "m", "--strides", "2,two"), "--strides"),
        (("--name", "m", "--strides", "2"), "needs 2 strides"),
        (("--name", "m", "--normalisation", "window:5:1"), "--normalisation"),
        (("--name", "m", "--inflate", "average"), "inflation is for"),
        (("--name", "m", "--from", "medicalnet"), "blocks"),
        (("--name", "m", "-o", "m.pth"), ".safetensors"),
        (("--name", "m", "-o", "/nowhere/m.safetensors"), "/nowhere"),
    ],
)
def test_wrong_words_are_told(run, folder, monai, words, said):
    outcome = run("models", "import", monai, *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert not list(folder.glob("*")) if folder.exists() else True


def test_words_to_values():
    assert _three("spacing", "2", float) == (2, 2, 2)
    assert _strides("2,1x2x3") == [(2, 2, 2), (1, 2, 3)]
    window = _normalisation("window:-100:240")
    assert (window.kind, window.lower, window.upper) == ("window", -100, 240)
    assert _normalisation("none").kind == "none"
    assert (_normalisation("zscore").lower, _normalisation("zscore").upper) == (0, 100)
    with pytest.raises(InputError):
        _normalisation("zscore:1")
