"""Training data in folders: pairs by name, or nnU-Net's layout."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..volumes import Volume, read_volume

__all__ = [
    "NnunetFolder",
    "PairFiles",
    "TrainingFolder",
    "match_pairs",
    "open_training_folder",
    "read_nnunet",
]

_CHANNEL = re.compile(r"^(.+)_(\d{4})$")


@dataclass(frozen=True)
class PairFiles:
    """A scan and its label map.

    Parameters
    ----------
    name
        Of the label map, without suffixes.
    images
        One file, or one for each channel.
    label
        The label map's file.
    """

    name: str
    images: tuple[Path, ...]
    label: Path

    def read(self) -> tuple[Volume, Volume]:
        """Read image, (Z, Y, X) or (C, Z, Y, X), and labels.

        Raises
        ------
        InputError
            If a file can't be read, or the channels' grids differ.
        """
        volumes = [read_volume(path) for path in self.images]
        labels = read_volume(self.label)
        if len(volumes) == 1:
            return volumes[0], labels
        first = volumes[0]
        for path, other in zip(self.images, volumes, strict=True):
            if other.array.ndim != 3 or not other.geometry.is_close(first.geometry):
                raise InputError(
                    f"{path.name} does not lie on the grid of {self.images[0].name}; "
                    "the channels of a case must have one grid"
                )
        array = np.stack([np.asarray(v.array) for v in volumes])
        return first.replace(array=array, name=self.name), labels


@dataclass(frozen=True)
class NnunetFolder:
    """What a folder in nnU-Net's layout holds.

    Parameters
    ----------
    images, labels
        Its folders imagesTr and labelsTr.
    classes
        Names, background first.
    channels
        Names.
    ignore
        Label that is not scored, or None.
    name, licence
        From dataset.json, perhaps empty.
    """

    images: Path
    labels: Path
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    ignore: int | None
    name: str = ""
    licence: str = ""


@dataclass(frozen=True)
class TrainingFolder:
    """Cases found in folders, and what is known of them.

    Parameters
    ----------
    cases
        By name.
    images, labels
        The two folders.
    layout
        How they were found, for a person.
    class_names
        By label value.
    channel_names
        Perhaps empty.
    ignore
        Label that is not scored, or None.
    """

    cases: tuple[PairFiles, ...]
    images: Path
    labels: Path
    layout: str
    class_names: dict[int, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    ignore: int | None = None


_LAYOUTS = (("imagesTr", "labelsTr"), ("images", "labels"))


def open_training_folder(folder: Path, labels: Path | None = None) -> TrainingFolder:
    """Find the cases of a training folder.

    Parameters
    ----------
    folder
        In nnU-Net's layout (imagesTr, labelsTr, dataset.json), or with the folders images
        and labels in it; the folder of the images if `labels` is given.
    labels
        Folder of the label maps.

    Raises
    ------
    InputError
        If it is of another layout, or images and labels don't belong together.
    """
    if labels is not None:
        cases = match_pairs(folder, labels)
        return TrainingFolder(tuple(cases), folder, labels, "pairs by name")
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is not a folder; give the folder of the training files")
    if (folder / "dataset.json").exists():
        found = read_nnunet(folder)
        return TrainingFolder(
            tuple(match_pairs(found.images, found.labels)),
            found.images,
            found.labels,
            "nnU-Net's layout",
            dict(enumerate(found.classes)),
            found.channels,
            found.ignore,
        )
    for images, maps in _LAYOUTS:
        if (folder / images).is_dir() and (folder / maps).is_dir():
            one, other = folder / images, folder / maps
            return TrainingFolder(
                tuple(match_pairs(one, other)), one, other, f"{images} and {maps}, pairs by name"
            )
    raise InputError(
        f"{folder} has no folders images and labels (or imagesTr, labelsTr) in it; make them, "
        "with files of the same names, or give the folder of the labels as well"
    )


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    stem = name.rsplit(".", 1)[0]
    return stem.removesuffix(".ome")


def _volumes_in(folder: Path) -> list[Path]:
    """Files, and the folders that are OME-Zarr images; hidden ones and papers left out."""
    return sorted(
        p
        for p in folder.iterdir()
        if not p.name.startswith(".")
        and (p.suffix == ".zarr" if p.is_dir() else p.suffix not in (".json", ".csv", ".txt"))
    )


def match_pairs(images: Path, labels: Path) -> list[PairFiles]:
    """Pair images with the label maps of the same name (suffixes apart).

    ``case_0000``, ``case_0001``, ... are the channels of ``case``.

    Raises
    ------
    InputError
        If a folder is missing or empty, an image has no label map, or the number of
        channels differs.
    """
    for folder in (images, labels):
        if not os.path.isdir(folder):
            raise InputError(f"{folder} is not a folder; give the folder of the training files")
    by_name: dict[str, Path] = {}
    for path in _volumes_in(labels):
        if _stem(path) in by_name:
            raise InputError(
                f"{path.name} and {by_name[_stem(path)].name} have the same name; keep one of them"
            )
        by_name[_stem(path)] = path
    groups: dict[str, list[Path]] = {}
    for path in _volumes_in(images):
        stem = _stem(path)
        found = _CHANNEL.match(stem)
        if stem not in by_name and found is not None and found[1] in by_name:
            stem = found[1]
        if stem not in by_name:
            raise InputError(
                f"{path.name} has no label map of the same name in {labels}; add it, or take "
                "the image out"
            )
        groups.setdefault(stem, []).append(path)
    if not groups:
        raise InputError(f"{images} holds no images; give the folder of the training images")
    counts = {name: len(files) for name, files in groups.items()}
    usual = max(counts.values())
    for name, count in counts.items():
        if count != usual:
            raise InputError(
                f"{name} has {count} channel{'s' * (count > 1)}, other cases have {usual}; "
                "all cases need the same channels"
            )
    return [PairFiles(name, tuple(files), by_name[name]) for name, files in sorted(groups.items())]


def read_nnunet(folder: Path) -> NnunetFolder:
    """Read dataset.json of a folder in nnU-Net's layout (version 1 or 2).

    Raises
    ------
    InputError
        If imagesTr, labelsTr or dataset.json is missing or not understood.
    """
    path = folder / "dataset.json"
    images, labels = folder / "imagesTr", folder / "labelsTr"
    for part in (path, images, labels):
        if not part.exists():
            raise InputError(
                f"{folder} has no {part.name}; nnU-Net's layout is imagesTr, labelsTr and "
                "dataset.json (or give --images and --labels)"
            )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        values = _label_values(raw["labels"], path)
        channels = raw.get("channel_names", raw.get("modality")) or {"0": "intensity"}
        names = tuple(str(channels[key]) for key in sorted(channels, key=int))
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is not understood ({type(error).__name__}: {error}); it needs 'labels' and "
            "'channel_names' as nnU-Net writes them"
        ) from error
    ignore = values.pop("ignore", None)
    by_value = {value: name for name, value in values.items()}
    if sorted(by_value) != list(range(len(values))) or len(by_value) < 2:
        raise InputError(
            f"{path}: labels are {sorted(values.values())}; they must count from 0 (background) "
            "without gaps"
        )
    classes = tuple(by_value[value] for value in range(len(by_value)))
    about = str(raw.get("name", "")), str(raw.get("licence", raw.get("license", "")))
    return NnunetFolder(images, labels, classes, names, ignore, *about)


def _label_values(raw: dict[str, Any], path: Path) -> dict[str, int]:
    """Value by name; version 1 has them the other way round."""
    if any(isinstance(value, list | tuple) for value in raw.values()):
        raise InputError(
            f"{path}: regions (several labels under one name) are not supported; give each "
            "label a name of its own"
        )
    if all(str(key).isdigit() for key in raw):
        return {str(name): int(value) for value, name in raw.items()}
    return {str(name): int(value) for name, value in raw.items()}
