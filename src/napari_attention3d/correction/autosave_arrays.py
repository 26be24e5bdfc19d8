"""Arrays and JSON of a session folder; whatever a file holds, reading ends or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from safetensors import SafetensorError, safe_open

from ..errors import DAMAGED, InputError

__all__ = [
    "load",
    "load_shares",
    "numbered",
    "read_json",
    "read_tensors",
    "save",
    "save_shares",
    "sweep",
]


def numbered(folder: Path) -> list[Path]:
    """Finished files or folders, in order; what was just being written begins with a dot."""
    return sorted(p for p in folder.glob("[0-9]*") if p.name.split(".")[0].isdigit())


def sweep(folder: Path) -> None:
    """Delete what was moved aside."""
    for path in folder.glob(".gone-*"):
        shutil.rmtree(path, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises
    ------
    InputError
        If it holds none.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except DAMAGED as error:
        raise InputError(f"{path} can't be read; it is damaged") from error
    if not isinstance(stored, dict):
        raise InputError(f"{path} is damaged")
    return stored


def read_tensors(path: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, npt.NDArray[Any]]:
    """Tensors of a safetensors file, if their names and shapes are as expected.

    Parameters
    ----------
    path
        The file.
    shapes
        By name; -1 fits any length.

    Raises
    ------
    InputError
        If the file is damaged or holds something else.
    """
    try:
        with safe_open(path, "np") as file:
            names = set(file.keys())
            if names != set(shapes):
                raise InputError(f"{path} holds other arrays than expected")
            for name, wanted in shapes.items():
                found = file.get_slice(name).get_shape()
                fits = len(found) == len(wanted) and all(
                    b in (-1, a) for a, b in zip(found, wanted, strict=True)
                )
                if not fits:
                    raise InputError(f"{path}: {name!r} has the shape {found}, not {wanted}")
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, *DAMAGED) as error:
        raise InputError(f"{path} is damaged") from error


def save(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a zarr array."""
    store = zarr.create_array(
        path, shape=array.shape, dtype=array.dtype, chunks=_chunks(array.shape)
    )
    store[...] = array


def load(path: Path, shape: Sequence[int], dtypes: Sequence[npt.DTypeLike]) -> npt.NDArray[Any]:
    """Read a zarr array, if it has that shape and one of the types.

    Raises
    ------
    InputError
        If it is missing, damaged or of another shape or type; nothing large is read then.
    """
    try:
        stored = zarr.open_array(path, mode="r")
        about = tuple(stored.shape), tuple(stored.chunks), np.dtype(stored.dtype)
    except Exception as error:  # zarr raises anything for a broken description
        raise InputError(f"{path} is damaged or missing") from error
    wanted = tuple(int(n) for n in shape)
    if about[0] != wanted or about[1] != _chunks(wanted):
        raise InputError(f"{path} has the shape {about[0]}, expected {wanted}")
    if about[2] not in [np.dtype(d) for d in dtypes]:
        raise InputError(f"{path} holds {about[2]}")
    try:
        return np.asarray(stored[...])
    except MemoryError:
        raise
    except Exception as error:  # a codec of any kind, on bytes of any kind
        raise InputError(f"{path} is damaged") from error


def save_shares(path: Path, probabilities: npt.NDArray[Any]) -> None:
    """Write probabilities as uint8; class by class, so that no float copy of all is made."""
    out = np.empty(probabilities.shape, np.uint8)
    for k in range(len(out)):
        share = np.asarray(probabilities[k], dtype=np.float32)
        out[k] = np.rint(np.clip(share, 0, 1) * 255)
    save(path, out)


def load_shares(path: Path, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Read what `save_shares` wrote; raises as `load`."""
    stored = load(path, shape, [np.uint8])
    out = np.empty(stored.shape, dtype)
    for k in range(len(out)):
        out[k] = stored[k].astype(np.float32) / 255
    return out


def _chunks(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(1, min(n, 64 if i >= len(shape) - 3 else 1)) for i, n in enumerate(shape))
