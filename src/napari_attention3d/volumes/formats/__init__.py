"""File formats: one module each, found by the file name's suffix.

To add one: a module with a `Format` subclass, a line in `FORMATS`, and its pattern in
napari.yaml.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import InputError, VolumeFormatError
from .base import Format
from .dicom import DicomFormat
from .itk import MetaImageFormat, NrrdFormat
from .mgz import MgzFormat
from .nifti import NiftiFormat
from .ome_zarr import OmeZarrFormat
from .tiff import TiffFormat

__all__ = [
    "FORMATS",
    "Format",
    "can_read",
    "format_for",
    "supported_suffixes",
    "writable_suffixes",
]

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        NiftiFormat(),
        MgzFormat(),
        TiffFormat(),
        OmeZarrFormat(),
        NrrdFormat(),
        MetaImageFormat(),
        DicomFormat(),
    )
}
"""Formats by name."""


def supported_suffixes() -> tuple[str, ...]:
    """Suffixes that can be read, longest first."""
    return _suffixes(writing=False)


def writable_suffixes() -> tuple[str, ...]:
    """Suffixes that can be written, longest first."""
    return _suffixes(writing=True)


def can_read(path: str | Path) -> bool:
    """Whether the file's name is of a format of ours (the file is not opened)."""
    return any(one.matches(Path(path)) for one in FORMATS.values())


def format_for(path: str | Path, *, writing: bool = False) -> Format:
    """Return the format for a file name.

    Raises
    ------
    VolumeFormatError
        If no format reads such files.
    InputError
        If, with `writing`, no format writes them.
    """
    path = Path(path)
    for one in FORMATS.values():
        if one.can_write(path) if writing else one.matches(path):
            return one
    if writing:
        raise InputError(
            f"can't write {path.name}: give it one of the suffixes {', '.join(writable_suffixes())}"
        )
    if os.path.isdir(path):  # not its own: that raises at names that are too long
        raise VolumeFormatError(f"{path} is a folder; choose a file inside it")
    raise VolumeFormatError(
        f"{path.name} is not of a supported format ({', '.join(supported_suffixes())}); "
        "convert it to one of them first"
    )


def _suffixes(*, writing: bool) -> tuple[str, ...]:
    found = set()
    for one in FORMATS.values():
        if not writing:
            found |= set(one.suffixes)
        elif one.writable:
            found |= set(one.suffixes) - set(one.read_only)
    return tuple(sorted(found, key=lambda s: (-len(s), s)))
