"""The header of a safetensors file, read without the weights and without torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ModelFileError
from .card import ModelCard

__all__ = ["CARD_KEY", "Header", "read_card", "read_header"]

CARD_KEY = "napari-attention3d"
"""Where the card lies, as JSON, in the metadata of a safetensors file."""

LARGEST_HEADER = 16 * 2**20
PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".joblib", ".tar", ".zip")
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class Header:
    """What a model file says before its weights.

    Attributes
    ----------
    shapes
        Of the tensors, by name.
    metadata
        Free texts by key; the card among them.
    """

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check a file's header.

    Raises
    ------
    ModelFileError
        If the file is missing, unreadable, of an unsafe or unknown format, or damaged.
    """
    if path.suffix.lower() in PICKLES:
        raise ModelFileError(
            f"{path.name} is a {path.suffix} file: such files can run programs when opened, so "
            "it was not; save the weights as .safetensors"
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) == 8:
                _refuse_unsafe(start, path)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length < 2 or length > size - 8:
                raise ModelFileError(
                    f"{path.name} is not a safetensors file, or it was cut short; "
                    "download or save it again"
                )
            if length > LARGEST_HEADER:
                raise ModelFileError(
                    f"{path.name} has a header of {length} bytes, more than {LARGEST_HEADER}; "
                    "it is damaged or not a model"
                )
            text = file.read(length)
    except IsADirectoryError as error:
        raise ModelFileError(f"{path} is a folder; give the .safetensors file in it") from error
    except FileNotFoundError as error:
        raise ModelFileError(f"there is no model file {path}; check the path") from error
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror}") from error
    return _parse(text, size - 8 - length, path)


def _refuse_unsafe(start: bytes, path: Path) -> None:
    suspicious = start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and 2 <= start[1] <= 5)
    # Read as the length of a safetensors header, those bytes exceed any header.
    if suspicious and int.from_bytes(start, "little") > LARGEST_HEADER:
        raise ModelFileError(
            f"{path.name} is a pickle or zip archive under another name: it could run "
            "programs when opened, so it was not; save the weights as .safetensors"
        )


def _parse(text: bytes, room: int, path: Path) -> Header:
    damaged = f"{path.name} is not a safetensors file, or its header is damaged"
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{damaged}; download or save it again") from error
    if not isinstance(entries, dict):
        raise ModelFileError(f"{damaged}; download or save it again")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelFileError(f"{damaged}: its metadata are not texts")
    shapes = {name: _shape(name, entry, room, damaged) for name, entry in entries.items()}
    return Header(shapes, metadata)


def _shape(name: str, entry: Any, room: int, damaged: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
        count = math.prod(shape) * DTYPE_BYTES[entry["dtype"]]
    except (TypeError, KeyError, ValueError) as error:
        raise ModelFileError(f"{damaged}: tensor {name!r} has an odd entry") from error
    if min(shape, default=0) < 0 or not 0 <= begin <= end <= room or end - begin != count:
        raise ModelFileError(f"{damaged}: tensor {name!r} reaches beyond the file")
    return shape


def read_card(path: Path, header: Header) -> ModelCard:
    """Return the card in the file's metadata, or in the .json file of the same name beside it.

    Raises
    ------
    ModelFileError
        If there is none, or it is not valid.
    """
    text = header.metadata.get(CARD_KEY)
    where = f"the card in {path.name}"
    if text is None:
        beside = path.with_suffix(".json")
        where = f"the card {beside.name}"
        try:
            text = beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelFileError(
                f"{path.name} has no model card (metadata {CARD_KEY!r}) and there is no readable "
                f"{beside.name} beside it; the card says which network, classes and spacing "
                "the weights are for"
            ) from error
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ModelFileError(
            f"{where} is not valid: {f'{place}: ' if place else ''}{first['msg']}{more}"
        ) from error
