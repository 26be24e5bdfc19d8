"""Models as files: save, load strictly, list.

A model is one safetensors file: weights, and the card as JSON in its metadata. Listing
reads headers only and does not load torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_data_path

from ..errors import InputError, ModelFileError, OutputError, first_line
from .card import ModelCard
from .header import CARD_KEY, read_card, read_header

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..networks.base import SegmentationNetwork

__all__ = [
    "Model",
    "ModelInfo",
    "list_models",
    "load_model",
    "save_model",
    "update_card",
    "user_models_folder",
    "weights_sha256",
]

BUILT_IN = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"


@dataclass
class Model:
    """A network that is ready to use.

    Attributes
    ----------
    card
        What it is for.
    network
        In evaluation mode; on the CPU until it is first used elsewhere.
    path
        The file it came from; None if it was never saved.
    built_in
        Whether it came with the package.
    """

    card: ModelCard
    network: SegmentationNetwork
    path: Path | None = None
    built_in: bool = False

    @property
    def origin(self) -> dict[str, Any]:
        """What results say of the model that made them; JSON-compatible."""
        return {
            "name": self.card.name,
            "version": self.card.version,
            "sha256": self.card.sha256,
            "path": str(self.path) if self.path else None,
        }


@dataclass(frozen=True)
class ModelInfo:
    """A model file in a list.

    Attributes
    ----------
    name, title
        From the card, else from the file's name.
    path, built_in
        Where it is.
    card
        None if the file can't be used.
    problem
        Why it can't be used; empty if it can.
    """

    name: str
    title: str
    path: Path
    built_in: bool
    card: ModelCard | None
    problem: str = ""


def user_models_folder() -> Path:
    """Folder of the user's own models; NAPARI_ATTENTION3D_MODELS overrides it. May not exist."""
    override = os.environ.get("NAPARI_ATTENTION3D_MODELS")
    if override:
        return Path(override).expanduser()
    return user_data_path("napari-attention3d", appauthor=False) / "models"


def list_models(*, user_folder: Path | None = None) -> list[ModelInfo]:
    """Models that came with the package, then those in the user's folder, by name.

    A file that can't be used is listed with its problem.
    """
    found = []
    for folder, built_in in ((BUILT_IN, True), (user_folder or user_models_folder(), False)):
        # A hidden file is one that was being written when its writer was killed.
        paths = [p for p in sorted(folder.glob(f"*{SUFFIX}")) if not p.name.startswith(".")]
        infos = [_info(path, built_in) for path in paths]
        found += sorted(infos, key=lambda info: info.name)
    return found


def _info(path: Path, built_in: bool) -> ModelInfo:
    try:
        card = read_card(path, read_header(path))
    except ModelFileError as error:
        return ModelInfo(path.stem, path.stem, path, built_in, None, str(error))
    return ModelInfo(card.name, card.title, path, built_in, card)


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors' names (sorted), dtypes, shapes and bytes."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name}\0{dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_model(
    path: str | Path,
    network: SegmentationNetwork,
    card: ModelCard,
    *,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write weights and card into one file, which is complete or not there at all.

    Parameters
    ----------
    path
        Ends in .safetensors.
    network
        Its name and configuration go into the card.
    card
        `network` and `sha256` are filled in.
    dtype
        torch.float32 (default), torch.float16 or torch.bfloat16, for floating weights.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModelFileError
        If card and network contradict each other, or weights don't fit the type.
    OutputError
        If the file can't be written.
    """
    import torch
    from safetensors.torch import save

    from ..volumes.atomic import atomic_path

    path = Path(path)
    if path.suffix != SUFFIX:
        raise OutputError(f"{path.name}: models are saved as {SUFFIX}; change the file's name")
    _check_card(card, network, path.name)
    tensors = {}
    for name, tensor in network.state_dict().items():
        kept = tensor.detach().cpu()
        if kept.is_floating_point():
            kept = kept.to(dtype or torch.float32)
            if not bool(torch.isfinite(kept).all()):
                raise ModelFileError(
                    f"weights {name!r} hold NaN or values too large for {dtype or torch.float32}; "
                    "the network was not saved"
                )
        tensors[name] = kept.contiguous().clone()
    card = card.model_copy(
        update={
            "network": {"name": network.name, **network.config},
            "sha256": weights_sha256(tensors),
        }
    )
    payload = save(tensors, {CARD_KEY: card.model_dump_json()})
    with atomic_path(path) as temporary:
        temporary.write_bytes(payload)
    return path


def update_card(model: Model, card: ModelCard) -> Model:
    """Replace the card in a model's file; the weights stay as they are, byte for byte.

    Raises
    ------
    InputError
        If the model came with the package, or was never saved.
    ModelFileError
        If the card contradicts the network.
    OutputError
        If the file can't be written.
    """
    from safetensors.torch import load, save

    from ..volumes.atomic import atomic_path

    if model.path is None or model.built_in:
        raise InputError(
            f"{model.card.name} came with the package and stays as it is; copy its file into "
            f"{user_models_folder()} under another name and change the copy"
        )
    _check_card(card, model.network, model.path.name)
    card = card.model_copy(update={"network": model.card.network, "sha256": model.card.sha256})
    payload = save(load(model.path.read_bytes()), {CARD_KEY: card.model_dump_json()})
    with atomic_path(model.path) as temporary:
        temporary.write_bytes(payload)
    return Model(card, model.network, model.path)


def load_model(name_or_path: str | Path) -> Model:
    """Load a model, strictly.

    Parameters
    ----------
    name_or_path
        Name of a built-in model or one in the user's folder, or a .safetensors file.

    Raises
    ------
    ModelFileError
        If there is no such model, or the file is unsafe, damaged, or contradicts its card.
    """
    path, built_in = find_model(name_or_path)
    header = read_header(path)
    card = read_card(path, header)
    network = _build(card, header.shapes, path)
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        stored = load(path.read_bytes())  # of a path, safetensors 0.8 keeps something each time
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path.name} is damaged ({error}); download it again") from error
    if not card.sha256:
        raise ModelFileError(f"the card of {path.name} has no sha256; save the model again")
    if weights_sha256(stored) != card.sha256:
        raise ModelFileError(
            f"the weights in {path.name} are not those its card was written for (sha256 differs); "
            "download it again or save the model again"
        )
    weights = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
    if not all(bool(torch.isfinite(v).all()) for v in weights.values()):
        raise ModelFileError(f"the weights in {path.name} hold NaN or infinity; train it again")
    network.load_state_dict(weights, strict=True)
    return Model(card, network.eval().requires_grad_(False), path, built_in)


def find_model(name_or_path: str | Path) -> tuple[Path, bool]:
    """Return the file of a model, and whether it came with the package."""
    path = Path(name_or_path).expanduser()
    built_in = BUILT_IN.resolve()
    looks_like_path = isinstance(name_or_path, Path) or path.suffix == SUFFIX or len(path.parts) > 1
    if looks_like_path or path.is_file():
        return path, path.resolve().parent == built_in
    infos = list_models()
    for info in infos:
        if name_or_path in (info.name, info.path.stem):
            return info.path, info.built_in
    known = ", ".join(info.name for info in infos if info.card is not None)
    if path.suffix.lower() and not known:
        known = "none"
    raise ModelFileError(
        f"there is no model {str(name_or_path)!r}; known are: {known or 'none'} "
        f"(or give the path of a {SUFFIX} file)"
    )


def _build(
    card: ModelCard, shapes: Mapping[str, tuple[int, ...]], path: Path
) -> SegmentationNetwork:
    """Build the card's network, after comparing it with the file's tensors."""
    import torch

    from ..networks import build_network

    config = {key: value for key, value in card.network.items() if key != "name"}
    try:
        # Without memory first: a wrong card must not allocate a huge network.
        with torch.device("meta"):
            plan = build_network(card.network["name"], **config)
    except InputError as error:
        raise ModelFileError(f"{path.name}: {error}") from error
    except (RuntimeError, OverflowError) as error:  # sizes beyond what torch can count
        raise ModelFileError(
            f"{path.name}: its card describes a network that can't be built "
            f"({first_line(error)}); download it again"
        ) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in plan.state_dict().items()}
    _compare(wanted, shapes, path)
    _check_card(card, plan, path.name)
    with torch.random.fork_rng(devices=[]):
        return build_network(card.network["name"], **config)


def _compare(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    if missing:
        raise ModelFileError(
            f"{path.name} lacks {len(missing)} of the network's {len(wanted)} tensors "
            f"({_some(missing)}); the card and the weights do not belong together"
        )
    if extra:
        raise ModelFileError(
            f"{path.name} holds {len(extra)} tensors that the network does not have "
            f"({_some(extra)}); the card and the weights do not belong together"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ModelFileError(
                f"{path.name}: tensor {name!r} has shape {found[name]}, the card's network "
                f"needs {shape}; the card and the weights do not belong together"
            )


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")


def _check_card(card: ModelCard, network: SegmentationNetwork, file: str) -> None:
    if len(card.classes) != network.num_classes:
        raise ModelFileError(
            f"{file}: the card names {len(card.classes)} classes, the network has "
            f"{network.num_classes}; correct the card"
        )
    if len(card.channels) != network.in_channels:
        raise ModelFileError(
            f"{file}: the card names {len(card.channels)} channels, the network reads "
            f"{network.in_channels}; correct the card"
        )
