"""Which scans there are, and where the result of each goes."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, OutputError, VolumeFormatError
from ..volumes.formats import can_read, writable_suffixes
from ..volumes.formats.base import matched_suffix
from ..volumes.formats.dicom import series_of
from ..volumes.formats.ome_zarr_group import enclosing_zarr, is_label_place, version_at
from ..volumes.formats.ome_zarr_parse import read_attributes

__all__ = ["Plan", "find_scans", "is_zarr", "plan_outputs", "split_suffix"]

_TIFF = (".tif", ".tiff")
_ZARR = ".zarr"
_OURS = re.compile(r"_(labels|probabilities|uncertainty|attention_.+)$")
"""Names of what we write beside scans."""


@dataclass(frozen=True)
class Plan:
    """One scan and where its results go.

    Parameters
    ----------
    image
        The scan.
    labels
        The mask's file; the other results are named after it.
    problem
        Why it can't be done, known beforehand; "" if nothing is.
    """

    image: Path
    labels: Path
    problem: str = ""

    def beside(self, what: str, suffix: str | None = None) -> Path:
        """Name of another result, e.g. ``scan_uncertainty.nii.gz`` for "uncertainty"."""
        root = enclosing_zarr(self.labels)
        if root is None:
            stem, own = split_suffix(self.labels)
            place = self.labels
        else:  # only label maps go into the zarr of an image
            stem, own = split_suffix(root)
            stem, place = f"{stem}_{self.labels.name}", root
        return place.with_name(f"{stem.removesuffix('_labels')}_{what}{suffix or own}")

    @property
    def is_zarr(self) -> bool:
        """Whether the mask is an OME-Zarr, or goes into one."""
        return is_zarr(self.labels)


def split_suffix(path: Path) -> tuple[str, str]:
    """Split a file name into stem and suffix, ``.nii.gz`` and ``.ome.*`` taken whole."""
    name = path.name
    for suffix in (".nii.gz", ".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    return path.stem, path.suffix


def is_zarr(path: Path) -> bool:
    """Whether a result of this name is an OME-Zarr, or goes into one."""
    return path.name.lower().endswith(_ZARR) or enclosing_zarr(path) is not None


def find_scans(paths: Iterable[str | Path]) -> list[Path]:
    """Scans that files, folders and patterns stand for, each once.

    A folder that is a scan itself (OME-Zarr, a DICOM series) is one; of any other all scans
    right inside are taken, in order of their names, but not what we wrote there (``_labels``
    and so on). Patterns may hold ``*``, ``?``, ``[...]`` and ``**``; what lies inside a scan that
    they find, an OME-Zarr or a DICOM series, is no scan of its own, and of a series' files the
    first one stands for all.

    Raises
    ------
    InputError
        If there is a single folder or pattern, and it holds no scan. One of several stays in
        the list as it is, like a file that does not exist: see `plan_outputs`.
    """
    found: dict[Path, None] = {}
    paths = list(paths)
    for one in paths:
        path = Path(one)
        if path.is_dir() and not can_read(path):
            inside = _scans_among(_listed(path))
            what = f"folder {path}"
        elif not path.exists() and glob.has_magic(str(one)):
            inside = _scans_among(Path(hit) for hit in glob.glob(str(one), recursive=True))
            what = f"pattern {one}"
        else:
            inside, what = [path], ""
        if not inside and len(paths) == 1:
            raise InputError(f"the {what} holds no scan that can be read; check the name")
        found |= dict.fromkeys(inside or [path])
    return list(found)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []  # told as a folder without scans


def _scans_among(paths: Iterable[Path]) -> list[Path]:
    named = sorted(
        path
        for path in paths
        if not path.name.startswith(".")
        and not _OURS.search(split_suffix(path)[0])
        and can_read(path)
    )
    scans: list[Path] = []
    series: set[tuple[Path, str]] = set()
    whole: set[Path] = set()
    for path in named:  # sorted: what holds others comes before them
        if any(parent in whole for parent in path.parents):
            continue
        if enclosing_zarr(path) is not None and not _is_image(path):
            continue
        if matched_suffix(path, (_ZARR,)):
            whole.add(path)
        elif path.suffix.lower() == ".dcm" and path.is_file():
            key = path.parent, _series(path)
            if key in series:
                continue
            series.add(key)
        elif path.is_dir() and enclosing_zarr(path) is None:
            if _count_series(path) > 1:
                continue  # its files come one by one
            whole.add(path)
        scans.append(path)
    return scans


def _is_image(group: Path) -> bool:
    """Whether a path within a zarr is an image there, and not an array, a table or a file."""
    try:
        attributes = (read_attributes(group) or ({}, 0))[0]
    except (VolumeFormatError, OSError):
        return False
    return "multiscales" in attributes or "multiscales" in (attributes.get("ome") or {})


def _series(file: Path) -> str:
    """Which series a DICOM file belongs to; its own name if it can't be told."""
    try:
        return series_of(file)
    except Exception:  # damaged, or pydicom is missing: told when it is read
        return file.name


def _count_series(folder: Path) -> int:
    """How many series the .dcm files right inside a folder are of."""
    files = [one for one in _listed(folder) if one.suffix.lower() == ".dcm"]
    return len({_series(one) for one in files})


def plan_outputs(
    images: Sequence[Path], out: Path | None, *, suffix: str | None = None
) -> list[Plan]:
    """Decide where each mask goes, and refuse what can't work before anything runs.

    Scans of the same name from several folders go into folders of these names below `out`. What
    is missing or no scan gets a plan with a problem, so that it does not stop the others.

    Parameters
    ----------
    images
        The scans.
    out
        A file (for one scan), a label map in an OME-Zarr (``scan.zarr/labels/NAME``), a
        folder, or None for "beside each scan".
    suffix
        Of the masks; None: as the scan's.

    Raises
    ------
    InputError
        If there is nothing that could be read, two scans would write the same mask, several
        scans would go into one file, or a mask would replace a scan.
    OutputError
        If a folder can't be written.
    """
    problems = {image: _problem(image, alone=len(images) == 1) for image in images}
    if images and all(problems.values()):
        raise InputError(next(iter(problems.values())))
    named = out is not None and (
        is_label_place(out) or any(out.name.lower().endswith(s) for s in writable_suffixes())
    )
    inside = out is not None and enclosing_zarr(out) is not None
    if out is not None and inside and not (is_label_place(out) and version_at(out.parent.parent)):
        raise InputError(
            f"{out} lies inside a zarr; a mask goes to an image there, as SCAN.zarr/labels/NAME, "
            "or choose a place outside"
        )
    if named and len(images) > 1:
        raise InputError(f"{len(images)} scans can't go into the one file {out}; give a folder")
    if out is not None and not named and not out.is_dir() and "." in out.name.strip("."):
        raise InputError(
            f"{out} is neither a folder nor a file that can be written "
            f"({', '.join(writable_suffixes())})"
        )
    targets = [out if named and out else _target(one, out, suffix) for one in images]
    if out is not None and not named and len(set(targets)) < len(targets):
        targets = _mirrored(images, targets, out)
    plans = [Plan(*both, problems[both[0]]) for both in zip(images, targets, strict=True)]
    taken: dict[Path, Path] = {}
    scans = {image.resolve() for image in images}
    for plan in plans:
        target = plan.labels.resolve()
        if target in taken:
            raise InputError(
                f"{taken[target]} and {plan.image} would both write {plan.labels}; "
                "segment them into different folders"
            )
        if target in scans:
            raise InputError(f"{plan.labels} is a scan; a mask must not replace it")
        taken[target] = plan.image
    sound = [plan.labels for plan in plans if not plan.problem]
    for folder in {enclosing_zarr(one) or one.parent for one in sound}:
        check_folder(folder, make=out is not None and not named)
    return plans


def _problem(image: Path, *, alone: bool) -> str:
    """Why a scan can't be read, as far as its name tells; of a single one the reader says it."""
    if not image.exists():
        return f"{image} does not exist; check the name and the folder"
    if not alone and image.is_dir() and not can_read(image):
        return f"the folder {image} holds no scan that can be read; check the name"
    return ""


def _mirrored(images: Sequence[Path], targets: Sequence[Path], out: Path) -> list[Path]:
    """The same names, in folders below `out` as the scans' are below the one they share."""
    homes = [(enclosing_zarr(one) or one).resolve().parent for one in images]
    shared = Path(os.path.commonpath(homes))
    return [
        out / home.relative_to(shared) / target.name
        for home, target in zip(homes, targets, strict=True)
    ]


def _target(image: Path, folder: Path | None, wanted: str | None) -> Path:
    stem, suffix = split_suffix(image)
    root = enclosing_zarr(image)
    if root is not None:  # a group inside: its mask goes beside the folder
        image, stem, suffix = root, f"{split_suffix(root)[0]}_{image.name}", _ZARR
    if suffix.lower().endswith(_ZARR):
        suffix = ".ome.zarr"
    elif image.is_dir():  # a DICOM series: a dot in its name is no suffix
        stem, suffix = image.name, ".nii.gz"
    elif suffix.lower() in (".nrrd", ".mha"):
        suffix = suffix.lower()
    elif not suffix.lower().endswith(_TIFF):
        suffix = ".nii.gz"
    elif suffix.lower().startswith(".ome"):
        suffix = ".tif"
    name = f"{stem}_labels{wanted or suffix}"
    return (folder if folder is not None else image.parent) / name


def check_folder(folder: Path, *, make: bool) -> None:
    """Fail now, not after the long run, if nothing can be written into `folder`.

    Raises
    ------
    OutputError
        If it is missing, not a folder or not writable.
    """
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist; make it first"
            raise OutputError(f"can't write into {folder}: it {what}")
        with tempfile.TemporaryFile(dir=folder, prefix=f".attention3d-{os.getpid()}-"):
            pass
    except OSError as error:
        raise OutputError(
            f"can't write into {folder}: {error.strerror}; choose another folder"
        ) from error
