"""Other people's weight files, read without running anything that is in them.

A ``.pt`` or ``.pth`` file is a pickle, which can run programs when opened. It is read by
torch's weights-only reader, which knows tensors and plain containers alone; a file that
needs more is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelFileError
from .header import read_header

__all__ = ["WeightsSource", "read_source"]

PICKLED = (".pt", ".pth", ".ckpt", ".tar")
WRAPPERS = ("state_dict", "model", "model_state_dict", "network_weights")
SAFE_TORCH = (2, 6)
"""The weights-only reader of older versions can be tricked (CVE-2025-32434)."""


@dataclass
class WeightsSource:
    """Tensors of a file, by name.

    Attributes
    ----------
    path
        The file.
    tensors
        On the CPU; floating ones as float32.
    sha256
        Of the file's bytes.
    steps
        What was unwrapped and stripped, in words.
    """

    path: Path
    tensors: dict[str, Tensor]
    sha256: str
    steps: list[str] = field(default_factory=list)


def read_source(path: str | Path) -> WeightsSource:
    """Read a ``.safetensors``, ``.pt``, ``.pth``, ``.ckpt`` or ``.tar`` file of weights.

    Containers (``state_dict``, ``model``, ``model_state_dict``, ``network_weights``) are
    unwrapped, and ``module.`` is taken off the names if it leads all of them.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, of another format, needs a program to be run, or
        holds something else than weights.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix != ".safetensors" and suffix not in PICKLED:
        raise ModelFileError(
            f"{path.name}: weights are imported from .safetensors, {', '.join(PICKLED)} files; "
            "save the network's state_dict as one of these"
        )
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise ModelFileError(f"there is no file {path}; check the path") from error
    except IsADirectoryError as error:
        raise ModelFileError(f"{path} is a folder; give the file of weights in it") from error
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror}") from error
    steps: list[str] = []
    content = _safetensors(path) if suffix == ".safetensors" else _pickled(path)
    state = _unwrap(content, path.name, steps)
    state = _strip(state, path.name, steps)
    return WeightsSource(path, _checked(state, path.name), digest, steps)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    read_header(path)
    try:
        return load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path.name} is damaged ({error}); download it again") from error


def _pickled(path: Path) -> Any:
    version = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_TORCH:
        raise ModelFileError(
            f"{path.name} was not opened: torch {torch.__version__} can't read such files safely; "
            "install torch 2.6 or newer, or save the weights as .safetensors"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error)
        needed = re.search(r"(?:GLOBAL|instantiate|class|type) ([\w.]+\.[\w.]+)", text)
        if "weights_only" in text.lower() or "weightsunpickler" in text.lower():
            what = f"needs {needed[1]} to be run" if needed else "holds more than weights"
            raise ModelFileError(
                f"{path.name} {what}, so it was not opened; where you trust it, load it in the "
                "program that wrote it and save its state_dict() alone, best as .safetensors"
            ) from error
        raise ModelFileError(
            f"{path.name} is not a file of torch weights, or it is damaged "
            f"({type(error).__name__}); download or save it again"
        ) from error


def _unwrap(content: Any, file: str, steps: list[str]) -> Mapping[str, Any]:
    for _ in range(4):
        if not isinstance(content, Mapping):
            raise ModelFileError(
                f"{file} holds a {type(content).__name__}, not the tensors of a network by name; "
                "save the network's state_dict()"
            )
        inner = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if len(inner) > 1:
            raise ModelFileError(
                f"{file} holds several sets of weights ({', '.join(inner)}); save one of them alone"
            )
        if not inner:
            break
        steps.append(f"unwrapped {inner[0]!r}")
        content = content[inner[0]]
    odd = [key for key, value in content.items() if not isinstance(value, Tensor)]
    odd += [key for key in content if not isinstance(key, str)]
    if odd or not content:
        what = f"beside tensors, also {odd[0]!r}" if odd else "no tensors"
        raise ModelFileError(
            f"{file} holds {what}; expected tensors by name, or these under one of: "
            f"{', '.join(WRAPPERS)}"
        )
    return dict(content)


def _strip(state: Mapping[str, Tensor], file: str, steps: list[str]) -> Mapping[str, Tensor]:
    prefix = "module."
    if not all(key.startswith(prefix) for key in state):
        return state
    steps.append(f"took {prefix!r} off the names")
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _checked(state: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in state.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_complex() or tensor.is_quantized:
            raise ModelFileError(
                f"{file}: {name!r} is not a plain tensor ({tensor.dtype}, {tensor.layout}, "
                f"{tensor.device}); save the weights as float32"
            )
        # A tensor can claim to repeat a few values over terabytes.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelFileError(f"{file}: {name!r} claims more values than the file holds")
        value = tensor.detach()
        if value.is_floating_point():
            value = value.float()
            if not bool(torch.isfinite(value).all()):
                raise ModelFileError(f"{file}: {name!r} holds NaN or infinity; train it again")
        elif tensor.ndim:
            raise ModelFileError(f"{file}: {name!r} holds {tensor.dtype}, not weights")
        tensors[name] = value
    return tensors
