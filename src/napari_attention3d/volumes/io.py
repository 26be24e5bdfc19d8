"""Read and write volumes; the file name's suffix chooses the format."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .formats import format_for
from .formats.ome_zarr import OmeZarrFormat
from .volume import Volume

__all__ = ["read_volume", "write_volume"]


def read_volume(
    path: str | Path,
    *,
    channel: int | None = None,
    time: int | None = None,
    lazy: bool = True,
) -> Volume:
    """Read a scan or a label map.

    Parameters
    ----------
    path
        NIfTI (.nii, .nii.gz), FreeSurfer (.mgz, .mgh), TIFF (.tif, .tiff; ImageJ, OME),
        NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd), a folder of DICOM slices (or one of its
        files), or an OME-Zarr folder (.zarr; 0.4, 0.5; or a group inside:
        scan.zarr/labels/cells).
    channel
        Keep only this channel, counted from 0. None keeps all.
    time
        Keep only this point in time, counted from 0; needed for a time series.
    lazy
        Map the file's voxels instead of reading them, where the file allows (OME-Zarr:
        a dask array of the finest level).

    Returns
    -------
    Volume
        Array (Z, Y, X), or (C, Z, Y, X) if there are several channels, in the file's own
        order of voxels; nothing is flipped. ``metadata["notes"]`` says what was assumed.

    Raises
    ------
    VolumeFormatError
        If the file is missing, damaged, empty or of another format.
    InputError
        If its voxels are not real numbers, if it is a 2D or a colour picture, or if a
        channel or a point in time has to be chosen or does not exist.
    """
    path = Path(path)
    return format_for(path).read(path, channel=channel, time=time, lazy=lazy)


def write_volume(
    path: str | Path,
    volume: Volume,
    *,
    like: Volume | None = None,
    zarr_version: str | None = None,
) -> Path:
    """Write a volume on its own grid; atomically: the file is complete or not there.

    To write a volume larger than memory piece by piece: `formats.ome_zarr_write.streamed`.

    Parameters
    ----------
    path
        Its suffix chooses the format: .nii, .nii.gz, .tif, .tiff, .ome.tif, .ome.tiff,
        .nrrd, .mha, .zarr, .ome.zarr. ``scan.zarr/labels/NAME`` adds a label map to an
        OME-Zarr image. OME-Zarr knows no rotations and flips: other tools show such a
        scan with its true voxel sizes and first voxel only; we restore all of it.
    volume
        (Z, Y, X) or (C, Z, Y, X). Labels (``metadata["kind"] == "labels"``) and wide or
        boolean integers are stored in the smallest unsigned integer that holds them.
    like
        The scan that the volume was made from. If both lie on the same grid, the file
        says where it lies in exactly the scan's way (NIfTI's form codes and matrices).
        Not needed if ``volume.metadata["nifti"]`` was kept.
    zarr_version
        Of OME-Zarr, "0.4" or "0.5"; None: that of the image which a label map is added
        to, else 0.5. Other formats take None alone.

    Returns
    -------
    Path
        The file (OME-Zarr: the folder; an older zarr of that name is replaced).

    Raises
    ------
    InputError
        If the suffix is not of a format that can be written, or the voxels are not real
        numbers.
    OutputError
        If the file can't be written; nothing half-written stays behind.
    """
    path = Path(path)
    form = format_for(path, writing=True)
    if isinstance(form, OmeZarrFormat):
        form.write(path, volume, like=like, version=zarr_version)
    elif zarr_version is not None:
        raise InputError(f"{path.name} is no OME-Zarr; it can't be one of version {zarr_version}")
    else:
        form.write(path, volume, like=like)
    return path
