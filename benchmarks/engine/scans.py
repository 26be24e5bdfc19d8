"""Scans and networks of the engine's benchmark: made once, kept in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zarr
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as nnf

from napari_attention3d.models.card import ModelCard
from napari_attention3d.models.store import Model
from napari_attention3d.networks import build_network
from napari_attention3d.networks.base import MapSpec, NetworkOutput, SegmentationNetwork
from napari_attention3d.training.losses import SegmentationLoss
from napari_attention3d.volumes import read_volume

__all__ = ["blobs", "model", "scan_path", "trained"]

Array = npt.NDArray[Any]
Draw = Callable[[int], tuple[Array, Array]]
CHUNKS = (32, 128, 128)
STEPS = 100
"""Of training: enough that few voxels are near ties."""
PATCH = (48, 48, 48)


def blobs(shape: tuple[int, int, int], classes: int, seed: int) -> tuple[Array, Array]:
    """Soft blobs of several brightnesses in noise: image float32, labels uint8."""
    rng = np.random.default_rng(seed)
    coarse = tuple(-(-n // 4) + 2 for n in shape)
    field = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 2.0)
    kind = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 4.0)
    field, kind = (_enlarged(f / f.std(), shape) for f in (field, kind))
    inside = field > 0.6
    levels = np.clip(((kind + 1.6) / 3.2 * (classes - 1)).astype(int), 0, classes - 2) + 1
    labels = np.where(inside, levels, 0).astype(np.uint8)
    image = rng.standard_normal(shape, dtype=np.float32) * 0.35 + 0.3 * kind
    image += np.where(inside, 0.8 + 1.5 * labels / classes, 0).astype(np.float32)
    return image.astype(np.float32), labels


def _enlarged(coarse: Array, shape: tuple[int, int, int]) -> Array:
    full = nnf.interpolate(torch.from_numpy(coarse)[None, None], scale_factor=4, mode="trilinear")
    return full[0, 0, : shape[0], : shape[1], : shape[2]].numpy()


def real_scan(folder: Path) -> tuple[Path, Path]:
    """Zarr arrays of the MNI152 T1, zero mean and unit variance, and its brain."""
    home = Path(__file__).resolve().parents[3]
    shared = Path(os.environ.get("NA3D_SHARED_DATA", home / "shared" / "data"))
    case = shared / "d02_mr_brain_mni152"
    image, truth = folder / "d02.zarr", folder / "d02-truth.zarr"
    if not (truth / "done").exists():
        scan = np.asarray(read_volume(case / "image.nii.gz").array, dtype=np.float32)
        brain = np.asarray(read_volume(case / "label.nii.gz").array) > 0
        arrays = (scan - scan.mean()) / scan.std(), brain.astype(np.uint8)
        for path, array in zip((image, truth), arrays, strict=True):
            made = zarr.create_array(
                path, shape=array.shape, chunks=CHUNKS, dtype=array.dtype, compressors=None
            )
            made[:] = array
        (truth / "done").touch()
    return image, truth


def scan_path(folder: Path, shape: Any, classes: int) -> tuple[Path, Path]:
    """Zarr arrays of a scan and its labels: "d02", or blobs (a large scan repeats them)."""
    if shape == "d02":
        return real_scan(folder)
    shape = tuple(shape)
    name = "x".join(map(str, shape)) + f"-{classes}"
    image, truth = folder / f"{name}.zarr", folder / f"{name}-truth.zarr"
    if not (truth / "done").exists():
        block = tuple(min(n, 256) for n in shape)
        arrays = blobs(block, classes, seed=1)
        for path, array in zip((image, truth), arrays, strict=True):
            made = zarr.create_array(
                path, shape=shape, chunks=CHUNKS, dtype=array.dtype, compressors=None
            )
            for z in range(0, shape[0], CHUNKS[0]):
                planes = array.take(np.arange(z, min(z + CHUNKS[0], shape[0])), 0, mode="wrap")
                more = [(0, n - b) for n, b in zip(shape, planes.shape, strict=True)][1:]
                made[z : z + len(planes)] = np.pad(planes, [(0, 0), *more], "wrap")
        (truth / "done").touch()
    return image, truth


class Cheap(SegmentationNetwork):
    """One 1 x 1 x 1 convolution: what is left is the engine."""

    name = "cheap"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.in_channels, self.num_classes = 1, num_classes
        self.conv = nn.Conv3d(1, num_classes, 1)
        with torch.no_grad():
            steps = torch.arange(num_classes, dtype=torch.float32)
            self.conv.weight[:, 0, 0, 0, 0] = steps
            self.conv.bias.copy_(-0.5 * steps * (steps / num_classes))

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"num_classes": self.num_classes}

    @property
    def total_stride(self) -> tuple[int, int, int]:
        """None."""
        return (1, 1, 1)

    @property
    def map_specs(self) -> Mapping[str, MapSpec]:
        """None."""
        return {}

    def forward(self, x: Tensor, return_maps: bool = False) -> NetworkOutput:
        """Logits."""
        return NetworkOutput(self.conv(x), {}, ())


def _network(name: str) -> SegmentationNetwork:
    classes = 14 if name.endswith("-14") else 2
    if name.startswith("cheap"):
        return Cheap(classes)
    if name.startswith("guided"):
        return build_network("guided-attention", num_classes=classes)
    norm = "instance" if name.endswith("instance") else "batch"
    return build_network("attention-unet", num_classes=classes, norm=norm)


def _drawn(classes: int) -> Draw:
    return lambda step: blobs(PATCH, classes, 1000 + step)


def _patches(folder: Path) -> Draw:
    """Patches of the lower half of the real scan."""
    image, truth = (zarr.open_array(path, mode="r")[:] for path in real_scan(folder))
    rng = np.random.default_rng(0)

    def draw(step: int) -> tuple[Array, Array]:
        low = [rng.integers(0, n - p) for n, p in zip((100, *image.shape[1:]), PATCH, strict=True)]
        where = tuple(slice(a, a + p) for a, p in zip(low, PATCH, strict=True))
        return image[where], truth[where]

    return draw


def _train(network: SegmentationNetwork, draw: Draw) -> None:
    """Fit quickly: Dice and cross-entropy, AdamW with a cosine."""
    loss_of = SegmentationLoss()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    network.train()
    for step in range(STEPS):
        image, labels = draw(step)
        x, y = torch.from_numpy(image)[None, None], torch.from_numpy(labels.astype(np.int64))[None]
        loss = loss_of(network(x).logits, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()


def trained(name: str, folder: Path) -> SegmentationNetwork:
    """A network of the benchmark, trained if it has weights to train; kept in `folder`."""
    torch.manual_seed(0)
    network = _network(name)
    if name.startswith("cheap"):
        return network.eval()
    path = folder / f"{name}.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval()
    classes = network.num_classes
    _train(network, _patches(folder) if name == "real" else _drawn(classes))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return network


def model(network: SegmentationNetwork, patch: int) -> Model:
    """The network as a model that takes scans as they are."""
    colours = [{"name": f"class {i}", "colour": "#808080"} for i in range(network.num_classes)]
    card = ModelCard.model_validate(
        {
            "name": "benchmark",
            "title": "Benchmark",
            "network": {"name": network.name, **network.config},
            "classes": colours,
            "channels": [{"name": "image"}],
            "patch_size": [patch] * 3,
            "normalisation": {"kind": "none"},
        }
    )
    return Model(card, network)
