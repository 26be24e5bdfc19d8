"""``napari-attention3d export``: a mask as a DICOM Segmentation object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .common import check_new_file, say
from .masks import read_mask

__all__ = ["export"]


def export(
    labels: Annotated[Path, typer.Argument(help="Mask of a scan that was read from DICOM.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="DICOM file to write (.dcm).")],
    series: Annotated[
        Path | None,
        typer.Option(help="The scan's DICOM folder (default: where the mask says it was)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
) -> None:
    """Write a mask as DICOM-SEG, for viewers and archives: a segment per class."""
    from ..volumes.dicom_seg import series_path, write_dicom_seg

    if out.suffix.lower() != ".dcm":
        raise InputError(f"{out.name} must end in .dcm; other formats are written by `segment`")
    mask = read_mask(labels)
    found = series or series_path(mask)
    check_new_file(out, [labels], overwrite=overwrite)
    if found.is_dir() and out.resolve().parent == found.resolve():
        raise InputError(f"{out} would become a part of the series; choose another folder")
    say(str(write_dicom_seg(out, mask, found)))
