from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from napari_attention3d.training import TrainConfig

CLASSES = [
    {"name": "background", "colour": "#000000"},
    {"name": "shell", "colour": "#ff0000"},
    {"name": "core", "colour": "#00ff00"},
]


def ball(shape, centre, radius):
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < radius**2


@pytest.fixture
def label_maps(tmp_path):
    """Three small label maps, ids as in a colour table: 500 skin, 3 shell, 2 core."""
    folder = tmp_path / "maps"
    folder.mkdir()
    for n in range(3):
        shape, centre = (30, 32, 28), (15, 15 + n, 14)
        ids = np.zeros(shape, np.float32)
        ids[ball(shape, centre, 13)] = 500
        ids[ball(shape, centre, 10)] = 3
        ids[ball(shape, centre, 6)] = 2
        nib.save(nib.Nifti1Image(ids, np.diag([1.0, 1, 1, 1])), folder / f"map_{n}.nii.gz")
    return folder


def _settings(folder, **schedule):
    return {
        "name": "toy",
        "title": "Toy",
        "classes": CLASSES,
        "spacing": [1.0, 1.0, 1.0],
        "orientation": "SAR",
        "network": {"name": "attention-unet", "channels": [4, 8]},
        "data": {
            "kind": "synthesis",
            "folder": str(folder),
            "validation": ["map_2"],
            "labels": [
                {"name": "skin", "ids": [500], "label": 0, "extra": True},
                {"name": "shell", "ids": [3], "label": 1, "tissue": {"grey": 1}},
                {"name": "core", "ids": [2], "label": 2, "tissue": {"white": 1}},
            ],
        },
        "schedule": {
            "steps": 4,
            "patch_sizes": [[16, 16, 16]],
            "validate_every": 2,
            "validation_scans": 1,
            "checkpoint_every": 2,
            "warm_up": 1,
            "precision": "fp32",
            "device": "cpu",
            **schedule,
        },
    }


@pytest.fixture
def synthesis_settings():
    """Function of (folder, **schedule) that returns raw settings of a toy run."""
    return _settings


@pytest.fixture
def synthesis_config(label_maps):
    return TrainConfig.checked(_settings(label_maps))


@pytest.fixture
def pairs(tmp_path):
    """Folder with images/ and labels/ of three noisy balls."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for n in range(3):
        shape = (20, 18, 22)
        truth = ball(shape, (10, 9, 11), 6).astype(np.uint8)
        scan = truth * 5 + rng.normal(size=shape)
        affine = np.diag([1.0, 1, 1, 1])
        nib.save(nib.Nifti1Image(scan.astype(np.float32), affine), tmp_path / f"images/c{n}.nii.gz")
        nib.save(nib.Nifti1Image(truth, affine), tmp_path / f"labels/c{n}.nii.gz")
    return tmp_path


@pytest.fixture
def pairs_config():
    """Function of (folder, steps, **data) that returns the configuration of a toy run."""

    def make(folder, steps=25, **data):
        raw = _settings(folder)
        raw |= {"classes": CLASSES[:2], "spacing": None}
        raw["data"] = {
            "kind": "pairs",
            "images": str(folder / "images"),
            "labels": str(folder / "labels"),
            **data,
        }
        raw["schedule"] |= {
            "steps": steps,
            "batch_size": 2,
            "learning_rate": 1e-2,
            "validate_every": steps,
            "ema": 0.5,
        }
        return TrainConfig.checked(raw)

    return make
