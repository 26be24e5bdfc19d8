"""The attention benchmark on a tiny scan: windows, classes, Grad-CAM, its table."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import attention as benchmark
from napari_attention3d.models import Channel, ModelCard, SegmentationClass, save_model
from napari_attention3d.networks import build_network
from napari_attention3d.volumes import write_volume
from napari_attention3d.volumes.volume import Volume


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A scan with two boxes, its truth, and an untrained model."""
    folder = tmp_path_factory.mktemp("case")
    labels = np.zeros((16, 16, 48), np.uint8)
    labels[4:12, 4:12, 4:14] = 1
    labels[4:12, 4:12, 34:44] = 1
    rng = np.random.default_rng(0)
    image = (labels * 3 + rng.normal(0, 1, labels.shape)).astype(np.float32)
    for name, array in (("image", image), ("label", labels)):
        volume = Volume.from_array(array, spacing=(1, 1, 1), unit="mm", name=name)
        write_volume(folder / f"{name}.nii.gz", volume)
    torch.manual_seed(0)
    network = build_network(
        "attention-unet", in_channels=1, num_classes=2, channels=(4, 8, 8), deep_supervision="none"
    )
    card = ModelCard(
        name="tiny",
        title="Tiny",
        network={"name": network.name, **network.config},
        classes=(
            SegmentationClass(name="background", colour="#000000"),
            SegmentationClass(name="box", colour="#ff0000"),
        ),
        channels=(Channel(name="any"),),
        spacing=None,
        unit="mm",
        patch_size=(16, 16, 16),
    )
    return folder, save_model(folder / "tiny.safetensors", network.eval(), card)


@pytest.fixture(scope="module")
def book(files):
    folder, model = files
    threads = torch.get_num_threads()
    given = ["--image", f"{folder / 'image.nii.gz'}", "--label", f"{folder / 'label.nii.gz'}"]
    given += ["--model", f"{model}", "--window", "16", "--block", "8", "--repeats", "0"]
    given += ["--fill", "blur", "--class", "box", "--json", f"{folder / 'book.json'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "FRACTIONS", (0.0, 0.5, 1.0))
        try:
            return benchmark.main(given)
        finally:
            torch.set_num_threads(threads)


def test_every_map_is_tested_in_each_window_and_for_each_class(book, files):
    (case,) = book["cases"]
    found = case["models"]["tiny"]
    lows = [start[2] for start, _ in found["windows"]]
    assert lows[0] < 16 <= lows[1]  # one around each box
    kinds = {(row["window"], row["class"]) for row in found["rows"]}
    assert kinds == {(w, c) for w in (1, 2) for c in ("all", "box")}
    maps = {row["map"] for row in found["rows"]}
    assert {"gate-level-2", "Grad-CAM, encoder.2", "reference: the mask itself"} <= maps
    for row in found["rows"]:
        areas = row["areas"]
        deletion = areas["deletion, random"] - areas["deletion, most attended first"]
        insertion = areas["insertion, most attended first"] - areas["insertion, random"]
        assert row["gain"] == pytest.approx((deletion + insertion) / 2)
    assert json.loads((files[0] / "book.json").read_text()) == json.loads(json.dumps(book))


def test_the_table_has_a_column_per_window_and_their_mean(book):
    text = benchmark.report(book)
    assert "| all, blur | window 1 | window 2 | mean | inside the mask | times even |" in text
    rows = book["cases"][0]["models"]["tiny"]["rows"]
    gains = [r["gain"] for r in rows if r["map"] == "gate-level-2" and r["class"] == "all"]
    line = next(line for line in text.splitlines() if line.startswith("| gate-level-2"))
    cells = [cell.strip() for cell in line.split("|")[2:5]]
    assert cells == [f"{v:+.3f}" for v in (*gains, sum(gains) / 2)]


def test_pairs_must_be_pairs():
    with pytest.raises(SystemExit, match="give pairs"):
        benchmark.main(["--image", "a", "--image", "b", "--label", "c"])
