"""What the networks are trained on, and what they are scored on: never near each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_attention3d.inference.preprocess import normalise
from napari_attention3d.models import ModelCard
from napari_attention3d.training import TrainConfig
from napari_attention3d.training.data import (
    Batch,
    PairsSampler,
    Sampler,
    SynthesisSampler,
    make_sampler,
)
from napari_attention3d.volumes import Volume, read_volume, write_volume

IGNORE = 255
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "brain-attention-unet.yaml"
CPU = torch.device("cpu")
Patch = tuple[int, int, int]


@dataclass
class Evaluation:
    """A scan to segment.

    Parameters
    ----------
    name
        Of the group of scans whose scores are averaged.
    image
        (C, Z, Y, X), normalised.
    labels
        (Z, Y, X); IGNORE where nothing is scored.
    spacing
        (z, y, x) in mm.
    planar
        Measure distances slice by slice: where only some slices are scored, the cut
        faces would count as surface.
    """

    name: str
    image: Tensor
    labels: Tensor
    spacing: tuple[float, float, float]
    planar: bool


class Remembered:
    """A sampler that keeps its batches for the next network: drawing costs more than a step."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.ignore = sampler, sampler.ignore
        self.validation, self.shares = sampler.validation, sampler.shares
        self.batches: dict[tuple[int, Patch, int], Batch] = {}

    def batch(self, step: int, patch: Patch, size: int) -> Batch:
        key = (step, patch, size)
        if key not in self.batches:
            self.batches[key] = self.sampler.batch(step, patch, size)
        return self.batches[key]


@dataclass
class Case:
    """A sampler of training patches and the scans to score."""

    name: str
    classes: list[str]
    patch: Patch
    sampler: Sampler
    evaluations: list[Evaluation]


# ---- splits


def sparse_slices(labels: np.ndarray, every: int = 6, distance: int = 2) -> tuple[Any, Any]:
    """Labels to train on (every n-th slice along z) and to score, IGNORE elsewhere.

    Scored are the slices at least `distance` away from any training slice.
    """
    index = np.arange(len(labels))
    taught = np.arange(every // 2 - 1, len(labels), every)
    away = np.abs(index[:, None] - taught).min(1)
    training, scored = (np.full_like(labels, IGNORE) for _ in range(2))
    training[taught] = labels[taught]
    scored[away >= distance] = labels[away >= distance]
    return training, scored


def split_ends(labels: np.ndarray, share: float = 2 / 3, gap: int = 4) -> tuple[int, Any]:
    """Cut across z, the structure's long axis: stop of the training part, labels to score.

    The training part holds `share` of the slices that the structure spans; the scored
    part begins `gap` slices further, IGNORE before it.
    """
    spanned = np.flatnonzero((labels > 0).any((1, 2)))
    stop = int(spanned[0] + round(share * (spanned[-1] + 1 - spanned[0])))
    scored = labels.copy()
    scored[: stop + gap] = IGNORE
    return stop, scored


# ---- cases


def abdomen(data: Path, seed: int) -> Case:
    """d01: CT of the upper abdomen, 8 structures, every 6th slice labelled."""
    image, labels = _read(data / "d01_ct_abdomen")
    names = ["background", "liver", "spleen", "kidneys", "stomach and bowel", "large vessels"]
    names += ["bone", "lungs", "back and psoas muscle"]
    training, scored = sparse_slices(np.asarray(labels.array))
    patch = (32, 32, 48)
    rule = {"kind": "window", "lower": -200, "upper": 300}
    sampler = _pairs_sampler(image, labels.replace(array=training), names, rule, patch, seed)
    held = _evaluation("held slices", image, scored, sampler, planar=True)
    return Case("d01", names, patch, sampler, [held])


def cord(data: Path, seed: int) -> Case:
    """d04: one end of a spinal cord (T2w); scored on its other end and on d05 (T1w)."""
    image, labels = _read(data / "d04_mr_cord_t2")
    names = ["background", "spinal cord"]
    stop, scored = split_ends(np.asarray(labels.array))
    patch = (32, 32, 32)
    rule = {"kind": "percentile", "lower": 0.5, "upper": 99.5}
    sampler = _pairs_sampler(_start(image, stop), _start(labels, stop), names, rule, patch, seed)
    other, truth = _read(data / "d05_mr_cord_t1")
    return Case(
        "d04",
        names,
        patch,
        sampler,
        [
            _evaluation("other end", image, scored, sampler, planar=True),
            _evaluation("T1w (d05)", other, np.asarray(truth.array), sampler, planar=True),
        ],
    )


def synthetic(data: Path, seed: int) -> Case:
    """Brains drawn from 15 label maps; scored on draws from the two that were held back."""
    patch = (32, 48, 32)
    config = TrainConfig.from_yaml(
        RECIPE,
        data={"folder": str(data / "brain_label_maps")},
        spacing=(5.0, 5.0, 5.0),
        schedule={"patch_sizes": [patch], "validation_scans": 4},
        seed=seed,
    )
    sampler = make_sampler(config, None, CPU)  # type: ignore[arg-type]  # synthesis needs no card
    assert isinstance(sampler, SynthesisSampler)
    used = {m.name for m in sampler.training_maps} & {m.name for m in sampler.validation_maps}
    assert not used
    assert len(sampler.validation_maps) == 2
    held = [
        Evaluation("held-back maps", image, labels.long(), (5.0, 5.0, 5.0), planar=False)
        for _, image, labels in sampler.validation()
    ]
    names = [c.name for c in config.classes]
    return Case("synthetic", names, patch, Remembered(sampler), held)


CASES: dict[str, Callable[[Path, int], Case]] = {
    "d04": cord,
    "d01": abdomen,
    "synthetic": synthetic,
}
SHAPES: dict[str, tuple[Patch, int]] = {
    "d04": ((32, 32, 32), 2),
    "d01": ((32, 32, 48), 9),
    "synthetic": ((32, 48, 32), 8),
}
"""Patch and number of classes of each case, for timings without data."""
SEEDS = {"d04": 3, "d01": 3, "synthetic": 1}


def _read(folder: Path) -> tuple[Volume, Volume]:
    image, labels = (
        read_volume(folder / f"{n}.nii.gz").canonical().replace(metadata={})
        for n in ("image", "label")
    )
    assert image.array.shape == labels.array.shape
    return image, labels


def _start(volume: Volume, stop: int) -> Volume:
    """The slices below `stop` alone: nothing else of the scan is seen in training."""
    grid = volume.geometry.cropped((0, 0, 0), (stop, *volume.geometry.shape[1:]))
    return volume.replace(array=np.asarray(volume.array)[:stop], geometry=grid)


def _pairs_sampler(
    image: Volume,
    labels: Volume,
    names: Sequence[str],
    rule: dict[str, Any],
    patch: Patch,
    seed: int,
) -> PairsSampler:
    """The package's own sampler of scans with labels, over one scan."""
    with tempfile.TemporaryDirectory() as folder:
        for kind, volume in (("images", image), ("labels", labels)):
            target = Path(folder) / kind / "scan.nii.gz"
            target.parent.mkdir()
            write_volume(target, volume)
        config = TrainConfig.checked(
            {
                "name": "benchmark",
                "title": "benchmark",
                "classes": [{"name": n, "colour": f"#{20 * i:06x}"} for i, n in enumerate(names)],
                "normalisation": rule,
                "network": {"name": "attention-unet"},
                "data": {
                    "kind": "pairs",
                    "images": f"{folder}/images",
                    "labels": f"{folder}/labels",
                    "ignore": IGNORE,
                },
                "schedule": {"patch_sizes": [patch]},
                "seed": seed,
            }
        )
        shared = set(TrainConfig.model_fields) & set(ModelCard.model_fields)
        card = ModelCard(**{key: getattr(config, key) for key in shared})
        return PairsSampler(config, config.data, card, CPU)  # type: ignore[arg-type]


def _evaluation(
    name: str, image: Volume, labels: np.ndarray, sampler: PairsSampler, planar: bool
) -> Evaluation:
    array = torch.from_numpy(np.ascontiguousarray(image.array).astype(np.float32))[None]
    prepared = normalise(array, sampler.config.normalisation)
    truth = torch.from_numpy(np.ascontiguousarray(labels).astype(np.int64))
    return Evaluation(name, prepared, truth, image.geometry.spacing, planar)
