"""Which statistics should the norms use at inference? Same weights, same scan, three ways.

    python benchmarks/norm_statistics.py [--data LABEL_MAPS] [--scans 20] [--json FILE]

1. scan: measured once over the whole scan, then frozen (what this package does);
2. population: mean over scans synthesised as in training (what running statistics are);
3. tile: each tile by itself (plain instance norm in a sliding window).

Dice on the real MNI152 T1 against the template's own maps, and mean and worst over scans
synthesised from the held-back label maps, where contrast varies; decides docs/adr/0001.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch

from napari_attention3d.analysis.brain_report import brain_report
from napari_attention3d.inference.device import Precision
from napari_attention3d.inference.predict import plan_multiple, predict_grid, private_copy
from napari_attention3d.inference.preprocess import Preprocessor
from napari_attention3d.inference.sink import to_scan_grid
from napari_attention3d.inference.tiling import plan_tiles
from napari_attention3d.models import load_model
from napari_attention3d.networks import calibrating, load_calibration, read_calibration
from napari_attention3d.progress import finish
from napari_attention3d.training import TrainConfig
from napari_attention3d.training.data import make_sampler
from napari_attention3d.training.losses import class_dice
from napari_attention3d.volumes import Volume, read_volume
from napari_attention3d.volumes.samples import mni152_t1_path, mni152_tissue_paths

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "brain-attention-unet.yaml"
CPU = torch.device("cpu")


def population(network, sampler, config, scans: int):
    """Mean of the statistics of synthesised scans; variances with that of the means."""
    network = private_copy(network)
    found = []
    for step in range(scans):
        image, _ = sampler.batch(10**6 + step, config.schedule.patch_sizes[0], 1)
        with torch.inference_mode(), calibrating(network):
            network(image)
        found.append(read_calibration(network))
    result = {}
    for name in found[0]:
        means = np.array([f[name][0] for f in found])
        variances = np.array([f[name][1] for f in found])
        result[name] = (means.mean(0).tolist(), (variances.mean(0) + means.var(0)).tolist())
    return result


def on_held_back(network, sampler, statistics):
    """Mean foreground Dice of each held-back scan, with given statistics or its own."""
    network = private_copy(network)
    if statistics is not None:
        load_calibration(network, statistics)
    scores = []
    for _, image, labels in sampler.validation():
        with torch.inference_mode():
            prediction = network(image[None]).logits[0].argmax(0)
        scores.append(float(class_dice(prediction, labels, 8, None)[1:].nanmean()))
    return scores


class PerTile(torch.nn.Module):
    """Hides the norms' calibration, so that each tile is normalised by itself."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def __call__(self, x):
        return self.network(x).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("NA3D_SHARED_DATA", RECIPE.parents[2] / "shared" / "data"))
    parser.add_argument(
        "--data", type=Path, default=shared / "brain_label_maps", help="folder of the label maps"
    )
    parser.add_argument("--model", default="brain-attention-unet")
    parser.add_argument("--scans", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="4 scans")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.scans = min(arguments.scans, 4) if arguments.quick else arguments.scans
    if not arguments.data.is_dir():
        print(f"skipped: no label maps in {arguments.data}; give their folder with --data")
        return

    from monai.inferers import sliding_window_inference

    model = load_model(arguments.model)
    scan = read_volume(mni152_t1_path())
    tissues = {name: read_volume(path) for name, path in mni152_tissue_paths().items()}
    prepared = Preprocessor(model.card).prepare(scan)
    shape = tuple(prepared.tensor.shape[1:])
    whole = plan_tiles(shape, shape, 0.0, plan_multiple(model.network))
    exact = Precision("float32", "benchmark")

    def predict(calibration):
        job = predict_grid(
            model.network,
            prepared.tensor,
            whole,
            device=CPU,
            precision=exact,
            calibration=calibration,
        )
        return finish(job).logits

    config = TrainConfig.from_yaml(
        RECIPE, data={"folder": str(arguments.data)}, schedule={"validation_scans": 6}
    )
    sampler = make_sampler(config, model.card, CPU)
    usual = population(model.network, sampler, config, arguments.scans)
    logits = {"scan": predict(None), "population": predict(usual)}
    held = {
        "scan": on_held_back(model.network, sampler, None),
        "population": on_held_back(model.network, sampler, usual),
    }
    with torch.inference_mode():
        logits["tile 48"] = sliding_window_inference(
            prepared.tensor[None], (48, 48, 48), 1, PerTile(model.network.eval()), 0.5, "gaussian"
        )[0]
    rows = {}
    for name, value in logits.items():
        labels = to_scan_grid(
            value, prepared.grid, prepared.placement.turned, prepared.reorientation
        ).labels
        report = brain_report(
            Volume(labels, scan.geometry, name),
            model.card.class_names,
            scan=scan,
            grey=tissues["grey_matter"],
            white=tissues["white_matter"],
        )
        rows[name] = {k: report["dice"][k] for k in ("grey_matter", "white_matter")}
        if name in held:
            rows[name] |= {"held_back_mean": np.mean(held[name]), "worst": min(held[name])}
    print("| statistics | MNI152 grey | MNI152 white | held-back, mean | held-back, worst |")
    print("|---|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
