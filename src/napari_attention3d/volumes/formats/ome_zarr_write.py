"""OME-Zarr, written piece by piece and shown to the world only when complete.

0.5 (zarr v3), or 0.4 (zarr v2) where it is asked for or the image around it is of that version.

with streamed("mask.ome.zarr", grid.shape, "uint8", grid, name="mask", kind="labels") as out:
    for z in range(0, grid.shape[0], out.chunks[0]):
        out.array[z : z + out.chunks[0]] = compute(z)
    out.metadata["provenance"] = {...}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError, OutputError
from ...geometry import Geometry
from ..atomic import atomic_folder
from .base import check_voxel_type
from .ome_zarr_describe import image_attributes
from .ome_zarr_group import chosen_version, listed, write_group, zarr_format
from .ome_zarr_pyramid import fill_level, level_factors, pieces

__all__ = ["StreamedZarr", "default_chunks", "streamed"]

_CHUNK = (64, 128, 128)
_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray", ".zmetadata")
_KEPT = ("provenance", "classes", "nifti")


def default_chunks(shape: Sequence[int]) -> tuple[int, int, int]:
    """Chunk (z, y, x) that a volume of this shape is stored in: 64 x 128 x 128 at most."""
    z, y, x = (min(int(n), c) for n, c in zip(shape[-3:], _CHUNK, strict=True))
    return z, y, x


class StreamedZarr:
    """An OME-Zarr that is being written; made by `streamed`.

    Attributes
    ----------
    array
        The finest level, a zarr.Array (Z, Y, X) or (C, Z, Y, X) that nothing is in yet:
        ``array[z0:z1, y0:y1, x0:x1] = block``. It can be pickled, and opened by another
        process as ``zarr.open_array(path)``. What is never written is 0.
    path
        Its folder, within the temporary one.
    chunks
        (z, y, x). A write that covers whole chunks is fastest, and only writes to
        different chunks may go on at the same time.
    metadata
        Of the volume (see `streamed`); may be changed until the block ends.
    """

    def __init__(
        self,
        folder: Path,
        array: Any,
        geometry: Geometry,
        *,
        name: str,
        kind: str,
        channel_names: Sequence[str],
        metadata: Mapping[str, Any] | None,
        version: str,
    ) -> None:
        self.array = array
        self.path = folder / "0"
        self.chunks: tuple[int, int, int] = tuple(array.chunks[-3:])
        self.metadata: dict[str, Any] = dict(metadata or {})
        self._folder = folder
        self._geometry = geometry
        self._name = name
        self._kind = kind
        self._channel_names = tuple(channel_names)
        self._version = version
        self._coarsest: Any = None

    def coarser(self) -> Iterator[tuple[int, int]]:
        """Make the coarser levels, a chunk per step, for callers that show progress.

        All voxels must be written by then. The block's end does it otherwise; it can be
        left after any step, and is begun anew then.

        Yields
        ------
        tuple of int
            Steps done, and their number.
        """
        factors = level_factors(self._geometry.shape)
        lead = self.array.ndim - 3
        levels = [self.array]
        for level, factor in enumerate(factors[1:], start=1):
            shape = [-(-n // f) for n, f in zip(self._geometry.shape, factor, strict=True)]
            shape = [*self.array.shape[:lead], *shape]
            folder = self._folder / str(level)
            levels.append(_create(folder, shape, self.array.dtype, self.chunks, self._version))
        total = sum(_count(level) for level in levels[1:])
        done = 0
        for fine, coarse, before, after in zip(
            levels, levels[1:], factors, factors[1:], strict=False
        ):
            halved = [False] * lead + [a > b for a, b in zip(after, before, strict=True)]
            for _ in fill_level(coarse, fine, halved, labels=self._kind == "labels"):
                done += 1
                yield done, total
        self._coarsest = levels[-1]

    def finish(self) -> None:
        """Make what is missing of the coarser levels and write the metadata."""
        if self._coarsest is None:
            for _ in self.coarser():
                pass
        attributes = image_attributes(
            self._geometry,
            level_factors(self._geometry.shape),
            self._about(),
            name=self._name,
            channels=self.array.shape[0] if self.array.ndim == 4 else None,
            windows=[] if self._kind == "labels" else _windows(self._coarsest),
            version=self._version,
        )
        write_group(self._folder, attributes, self._version)

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = {"kind": self._kind}
        if self._channel_names:
            about["channel_names"] = list(self._channel_names)
        about |= {key: self.metadata[key] for key in _KEPT if self.metadata.get(key)}
        try:
            json.dumps(about)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self._name}: its provenance can't be stored as JSON ({error}); keep plain "
                "values there"
            ) from error
        return about


@contextmanager
def streamed(
    path: str | Path,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    geometry: Geometry,
    *,
    name: str,
    kind: str,
    channel_names: Sequence[str] = (),
    chunks: Sequence[int] | None = None,
    metadata: Mapping[str, Any] | None = None,
    version: str | None = None,
) -> Iterator[StreamedZarr]:
    """Write an OME-Zarr piece by piece; complete at the end of the block, or not there.

    At the block's end the coarser levels are made, a chunk at a time, and the folder takes
    its name. If the block raises, nothing is left, and an older folder stays as it was.

    Parameters
    ----------
    path
        The folder, ``*.zarr``; an older one is replaced if it is a zarr. A label map can
        go into an image's folder: ``scan.zarr/labels/NAME``.
    shape
        (Z, Y, X) or (C, Z, Y, X).
    dtype
        Integers or floats.
    geometry
        The grid of (Z, Y, X).
    name
        Of the volume.
    kind
        "labels" or "image": coarser levels hold the most frequent label or the mean.
    channel_names
        One per channel, or none.
    chunks
        (z, y, x); default: `default_chunks`. A channel is always in chunks of its own.
    metadata
        Of a `Volume`; "provenance", "classes" (their names and colours) and "nifti" are
        kept in the file.
    version
        Of OME-Zarr, "0.4" or "0.5"; None: that of the image which a label map is added
        to, else 0.5.

    Yields
    ------
    StreamedZarr
        Its ``array`` takes the voxels.

    Raises
    ------
    InputError
        If shape, type, geometry, chunks and names do not fit together.
    OutputError
        If the folder can't be written, or what is there is no zarr.
    """
    path = Path(path)
    version = chosen_version(path, version)
    _check(shape, np.dtype(dtype), geometry, kind, channel_names, chunks, name)
    _check_target(path)
    with listed(path, kind), atomic_folder(path) as folder:
        chunks = chunks or default_chunks(shape)
        array = _create(folder / "0", shape, np.dtype(dtype), chunks, version)
        writer = StreamedZarr(
            folder,
            array,
            geometry,
            name=name,
            kind=kind,
            channel_names=channel_names,
            metadata=metadata,
            version=version,
        )
        yield writer
        writer.finish()


def _check(
    shape: Sequence[int],
    dtype: np.dtype[Any],
    geometry: Geometry,
    kind: str,
    channel_names: Sequence[str],
    chunks: Sequence[int] | None,
    name: str,
) -> None:
    check_voxel_type(dtype, name)
    if len(shape) not in (3, 4) or min(shape) < 1 or tuple(shape[-3:]) != geometry.shape:
        raise InputError(
            f"{name}: shape {tuple(shape)} is not that of its grid {geometry.shape}, with or "
            "without a channel axis before it"
        )
    if kind not in ("image", "labels"):
        raise InputError(f'{name}: kind {kind!r} is neither "image" nor "labels"')
    if kind == "labels" and (dtype.kind == "f" or len(shape) == 4):
        raise InputError(f"{name}: labels are whole numbers on (Z, Y, X), not {dtype} {shape}")
    channels = shape[0] if len(shape) == 4 else 1
    if channel_names and len(channel_names) != channels:
        raise InputError(f"{name}: {len(channel_names)} channel names for {channels} channels")
    if chunks is not None and (len(chunks) != 3 or min(chunks) < 1):
        raise InputError(f"{name}: chunks {tuple(chunks)} are not three sizes (z, y, x)")


def _check_target(path: Path) -> None:
    """Raise OutputError before the work if the result could not take its place."""
    real = Path(os.path.realpath(path))
    if os.path.isdir(real) and any(real.iterdir()) and not any((real / m).exists() for m in _MARKS):
        raise OutputError(
            f"{path} is a folder with other things in it; choose another name, or empty it"
        )


def _create(
    folder: Path,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    chunks: Sequence[int],
    version: str,
) -> Any:
    import zarr

    lead = len(shape) - 3
    spatial = [min(c, n) for c, n in zip(chunks, shape[lead:], strict=True)]
    v2 = zarr_format(version) == 2
    return zarr.create_array(
        store=str(folder),
        shape=tuple(shape),
        dtype=dtype.newbyteorder("<") if v2 else dtype.newbyteorder("="),
        chunks=(1,) * lead + tuple(spatial),
        fill_value=0,
        # 0.4 has its chunks in folders, and names of axes in the group alone
        chunk_key_encoding={"name": "v2", "separator": "/"} if v2 else None,
        dimension_names=None if v2 else "czyx"[1 - lead :],
        zarr_format=zarr_format(version),
        overwrite=True,
    )


def _count(array: Any) -> int:
    return int(np.prod([-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)]))


def _windows(coarsest: Any) -> list[tuple[float, float]]:
    """Smallest and largest value of each channel at the coarsest level."""
    channels = coarsest.shape[0] if coarsest.ndim == 4 else 1
    found = [(np.inf, -np.inf)] * channels
    for box in pieces(coarsest.shape, coarsest.chunks):
        block = np.asarray(coarsest[box], dtype=np.float64)
        block = block[np.isfinite(block)]
        if block.size:
            at = box[0].start if coarsest.ndim == 4 else 0
            low, high = found[at]
            found[at] = min(low, float(block.min())), max(high, float(block.max()))
    return found
