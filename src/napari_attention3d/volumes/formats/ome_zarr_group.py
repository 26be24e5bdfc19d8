"""Groups of an OME-Zarr on disk: what lies inside which zarr, and their files (0.4 and 0.5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

from ...errors import InputError, OutputError
from ..atomic import atomic_path
from .base import matched_suffix
from .ome_zarr_parse import read_attributes

__all__ = [
    "ZARR_VERSIONS",
    "ZarrVersion",
    "chosen_version",
    "enclosing_zarr",
    "is_label_place",
    "listed",
    "version_at",
    "write_group",
    "zarr_format",
]

ZarrVersion = Literal["0.4", "0.5"]
"""Versions of OME-Zarr that are written."""

ZARR_VERSIONS: tuple[str, ...] = get_args(ZarrVersion)
_NEWEST = ZARR_VERSIONS[-1]
_V2_GROUP: dict[str, Any] = {"zarr_format": 2}


def zarr_format(version: str) -> Literal[2, 3]:
    """The format of zarr itself that a version of OME-Zarr is made of."""
    return 2 if version == "0.4" else 3


def enclosing_zarr(path: Path) -> Path | None:
    """The ``*.zarr`` folder that a path lies in (the outermost one), by names alone."""
    inside = [one for one in path.parents if matched_suffix(one, (".zarr",))]
    return inside[-1] if inside else None


def is_label_place(path: Path) -> bool:
    """Whether it is a place for a label map within a zarr, ``scan.zarr/labels/NAME``."""
    return path.parent.name == "labels" and enclosing_zarr(path) is not None


def write_group(folder: Path, attributes: Mapping[str, Any], version: str) -> None:
    """Write the files that make a folder a zarr group; each is complete or not there."""
    if zarr_format(version) == 3:
        node = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
        files = {"zarr.json": node}
    else:
        files = {".zgroup": _V2_GROUP, ".zattrs": dict(attributes)}
    for name, content in files.items():
        with atomic_path(folder / name) as mark:
            mark.write_text(json.dumps(content, indent=2), encoding="utf-8")


def version_at(folder: Path) -> str | None:
    """The version of OME-Zarr that a group is of, by zarr's own format; None if it is no group."""
    found = None if (folder / ".zarray").exists() else read_attributes(folder)
    return None if found is None else {2: "0.4", 3: "0.5"}[found[1]]


def chosen_version(path: Path, wanted: str | None) -> str:
    """The version to write at a place: of the zarr that it lies in, else the wanted or newest.

    Raises
    ------
    InputError
        If there is no such version, or the zarr around it is of another one.
    """
    if wanted is not None and wanted not in ZARR_VERSIONS:
        raise InputError(f"OME-Zarr {wanted} can't be written; {' and '.join(ZARR_VERSIONS)} can")
    if enclosing_zarr(path) is None:
        return wanted or _NEWEST
    there = version_at(path.parent.parent)
    if there is not None and wanted not in (None, there):
        raise InputError(f"{path.parent.parent} is OME-Zarr {there}; {wanted} can't go into it")
    return there or wanted or _NEWEST


@contextmanager
def listed(path: Path, kind: str) -> Iterator[None]:
    """Name a label map in the ``labels`` group of the image that it is added to, if any.

    Raises
    ------
    OutputError
        If the path lies in a zarr, but not where it keeps label maps.
    """
    if enclosing_zarr(path) is None:
        yield
        return
    home = path.parent
    version = version_at(home.parent) if is_label_place(path) and kind == "labels" else None
    if version is None:
        raise OutputError(
            f"{path} lies inside a zarr; only label maps can be added there, to an image, as "
            "SCAN.zarr/labels/NAME: choose a name outside"
        )
    new = not home.exists()
    try:
        home.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"can't write {home}: {error.strerror or error}") from error
    try:
        yield
        attributes = (read_attributes(home) or ({}, 0))[0]
        write_group(home, _with_name(attributes, path.name, version), version)
    except BaseException:
        if new:
            with suppress(OSError):
                home.rmdir()
        raise


def _with_name(attributes: Mapping[str, Any], name: str, version: str) -> dict[str, Any]:
    def add(there: Any) -> list[Any]:
        return [*(one for one in there or () if one != name), name]

    if zarr_format(version) == 2:
        return {**attributes, "labels": add(attributes.get("labels"))}
    ome = {"version": version, **attributes.get("ome", {})}
    return {**attributes, "ome": {**ome, "labels": add(ome.get("labels"))}}
