"""Which scans there are, and where the result of each goes."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, OutputError
from ..volumes.formats import can_read, writable_suffixes
from ..volumes.formats.ome_zarr_group import enclosing_zarr, is_label_place, version_at

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
    """

    image: Path
    labels: Path

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
    and so on). Patterns may hold ``*``, ``?``, ``[...]`` and ``**``.

    Raises
    ------
    InputError
        If a folder or a pattern holds no scan. A file that does not exist is only told when
        it is read.
    """
    found: dict[Path, None] = {}
    for one in paths:
        path = Path(one)
        if path.is_dir() and not can_read(path):
            inside = _scans_among(path.iterdir())
            what = f"folder {path}"
        elif not path.exists() and glob.has_magic(str(one)):
            inside = _scans_among(Path(hit) for hit in glob.glob(str(one), recursive=True))
            what = f"pattern {one}"
        else:
            inside, what = [path], ""
        if not inside:
            raise InputError(f"the {what} holds no scan that can be read; check the name")
        found |= dict.fromkeys(inside)
    return list(found)


def _scans_among(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if not path.name.startswith(".")
        and not _OURS.search(split_suffix(path)[0])
        and can_read(path)
    )


def plan_outputs(
    images: Sequence[Path], out: Path | None, *, suffix: str | None = None
) -> list[Plan]:
    """Decide where each mask goes, and refuse what can't work before anything runs.

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
        If a scan is missing, two scans would write the same mask, several scans would
        go into one file, or a mask would replace a scan.
    OutputError
        If a folder can't be written.
    """
    for image in images:
        if not image.exists():
            raise InputError(f"{image} does not exist; check the name and the folder")
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
    plans = [Plan(one, out if named and out else _target(one, out, suffix)) for one in images]
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
    for folder in {enclosing_zarr(plan.labels) or plan.labels.parent for plan in plans}:
        check_folder(folder, make=out is not None and not named)
    return plans


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
