"""Sound files of every kind that the program reads, small, made here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tifffile
import yaml

SHAPE = (7, 10, 11)
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3] = np.c_[TURN * (2.0, 1.0, 3.0), (-5.0, 3.0, 1.0)]


@dataclass(frozen=True)
class Seed:
    """What reads the file, or the one of that name in the folder."""

    kind: str
    inner: str = ""


SEEDS = {
    name: Seed("volume")
    for name in (
        "one.nii", "one.nii.gz", "two.nii", "float.nii", "labels.nii.gz", "free.mgh", "free.mgz",
        "ours.tif", "ours.ome.tif", "imagej.tif", "packed.tif", "plain.tif", "one.nrrd",
        "packed.nrrd", "one.mha", "packed.mha", "slice.dcm", "series", "new.zarr",
        "old.zarr",
    )
} | {
    "tiny.safetensors": Seed("model"),
    "beside": Seed("model", "tiny.safetensors"),
    "bare.pt": Seed("weights"),
    "wrapped.pth": Seed("weights"),
    "monai.pt": Seed("import"),
    "rules.yaml": Seed("rules"),
    "recipe.yaml": Seed("recipe"),
    "training.yaml": Seed("training"),
    "nnunet": Seed("dataset"),
    "checkpoint.pt": Seed("checkpoint"),
}  # fmt: skip


def make_seeds(folder: Path) -> None:
    """Write one file of each kind; what is there stays."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True)
    _nibabel(folder)
    _ours(folder)
    _others(folder)
    _no_scans(folder)
    missing = set(SEEDS) - {p.name for p in folder.iterdir()}
    assert not missing, missing


def _voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3000, SHAPE).astype(np.int16)


def _nibabel(folder: Path) -> None:
    voxels = _voxels().T
    nib.save(nib.Nifti1Image(voxels, AFFINE), folder / "one.nii")
    nib.save(nib.Nifti1Image(voxels, AFFINE), folder / "one.nii.gz")
    nib.save(nib.Nifti2Image(voxels, AFFINE), folder / "two.nii")
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), AFFINE), folder / "float.nii")
    for name in ("free.mgh", "free.mgz"):
        nib.save(nib.MGHImage(voxels.astype(np.float32), AFFINE), folder / name)


def _ours(folder: Path) -> None:
    from napari_attention3d.volumes import Volume, write_volume

    scan = Volume.from_array(_voxels(), affine=AFFINE, anatomical=True)
    for name in ("one.nrrd", "packed.nrrd", "one.mha", "packed.mha", "new.zarr"):
        write_volume(folder / name, scan)
    flat = Volume.from_array(_voxels().astype(np.uint16), spacing=(3, 2, 1), unit="um")
    for name in ("ours.tif", "ours.ome.tif"):
        write_volume(folder / name, flat)
    names = {"0": "background", "1": "nucleus", "2": "wall"}
    labels = scan.replace(
        array=(_voxels() % 3).astype(np.uint8),
        metadata={"kind": "labels", "classes": [{"name": n} for n in names.values()]},
    )
    write_volume(folder / "labels.nii.gz", labels)


def _others(folder: Path) -> None:
    voxels = _voxels().astype(np.uint16)
    settings = {"axes": "ZYX", "unit": "um", "spacing": 2.0}
    tifffile.imwrite(folder / "imagej.tif", voxels, imagej=True, metadata=settings)
    tifffile.imwrite(folder / "packed.tif", voxels, photometric="minisblack", compression="zlib")
    tifffile.imwrite(folder / "plain.tif", voxels, photometric="minisblack")
    _dicom(folder / "slice.dcm")
    (folder / "series").mkdir()
    for number in range(4):
        _dicom(folder / "series" / f"{number}.dcm", number)
    _old_zarr(folder / "old.zarr")


def _dicom(path: Path, number: int = 0) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[f"a{number}"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID = data.SeriesInstanceUID = generate_uid(entropy_srcs=["b"])
    data.Modality, data.InstanceNumber = "CT", number + 1
    data.Rows, data.Columns = SHAPE[1:]
    data.PixelSpacing, data.SliceThickness = [1.0, 1.0], 2.0
    data.ImagePositionPatient = [0, 0, 2 * number]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PixelData = _voxels()[number].tobytes()
    data.save_as(path, enforce_file_format=True)


def _old_zarr(path: Path) -> None:
    """Write OME-Zarr 0.4 (zarr 2) by hand: its metadata is easily read and changed."""
    (path / "0").mkdir(parents=True)
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    scale = [{"type": "scale", "scale": [3.0, 2.0, 1.0]}]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    scales = [{"version": "0.4", "axes": axes, "datasets": levels}]
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text(json.dumps({"multiscales": scales}))
    described = {
        "zarr_format": 2, "shape": list(SHAPE), "chunks": list(SHAPE), "dtype": "<i2",
        "compressor": None, "fill_value": 0, "order": "C", "filters": None,
        "dimension_separator": "/",
    }  # fmt: skip
    (path / "0" / ".zarray").write_text(json.dumps(described))
    chunk = path / "0" / "0" / "0" / "0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(_voxels().tobytes())


def _no_scans(folder: Path) -> None:
    import torch

    from napari_attention3d.models import Channel, ModelCard, SegmentationClass, save_model
    from napari_attention3d.networks import build_network
    from napari_attention3d.training.checkpoint import Checkpoint, save_checkpoint

    torch.manual_seed(0)
    network = build_network("attention-unet", preset="tiny", in_channels=1, num_classes=3).eval()
    card = ModelCard(
        name="tiny",
        title="A tiny model",
        network={"name": "attention-unet", **network.config},
        classes=tuple(
            SegmentationClass(name=n, colour="#e69f00") for n in ("background", "a", "b")
        ),
        channels=(Channel(name="any"),),
        spacing=None,
        unit="pixel",
        patch_size=(16, 16, 16),
    )
    save_model(folder / "tiny.safetensors", network, card)
    _bare(folder, network)
    rule = {"rule": "minimum_size", "size": 50}
    (folder / "rules.yaml").write_text(yaml.safe_dump([rule, {"rule": "fill_holes"}]))
    recipe = {"model": {"name": "tiny"}, "clean_up": [rule], "measure": {}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "training.yaml").write_text(_training())
    _nnunet(folder / "nnunet")
    state = Checkpoint(3, {"w": torch.ones(2)}, {"w": torch.ones(2)}, 1, {"a": 1}, 0.5, "same")
    save_checkpoint(folder / "checkpoint.pt", state)


def _bare(folder: Path, network: Any) -> None:
    """Weights without a card, with one beside, and of other programs."""
    import torch
    from monai.networks.nets import AttentionUnet
    from safetensors.torch import save_file

    from napari_attention3d.models import load_model

    card = load_model(folder / "tiny.safetensors").card  # with the weights' sum
    (folder / "beside").mkdir()
    state = network.state_dict()
    save_file(state, folder / "beside" / "tiny.safetensors")
    (folder / "beside" / "tiny.json").write_text(card.model_dump_json())
    torch.save(state, folder / "bare.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "wrapped.pth")
    other = AttentionUnet(3, 1, 2, channels=(2, 4), strides=(2,))
    torch.save(other.state_dict(), folder / "monai.pt")


def _training() -> str:
    recipes = Path(__file__).resolve().parents[1] / "recipes"
    return min(recipes.glob("*.yaml"), key=lambda p: p.stat().st_size).read_text()


def _nnunet(folder: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    voxels = _voxels().T
    for case in ("a", "b"):
        scan = nib.Nifti1Image(voxels, AFFINE)
        nib.save(scan, folder / "imagesTr" / f"{case}_0000.nii.gz")
        mask = nib.Nifti1Image((voxels % 2).astype(np.uint8), AFFINE)
        nib.save(mask, folder / "labelsTr" / f"{case}.nii.gz")
    described = {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1},
        "numTraining": 2, "file_ending": ".nii.gz",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(described))
