"""Weights from elsewhere, made a network of ours: read, recognised, converted, tried.

Nothing in a file is run (`convert_source`), and every tensor finds its one place or nothing
is loaded (`convert_match`); `convert_card` writes the model file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError, ModelFileError
from ..networks import SegmentationNetwork
from ..networks.resnet import Shortcut
from .convert_resnet import Inflation, convert_imagenet, convert_medicalnet
from .convert_source import WeightsSource, read_source
from .convert_unet import convert_monai, convert_oktay

__all__ = [
    "KINDS",
    "Conversion",
    "ConvertOptions",
    "Kind",
    "convert",
    "detect",
]

Kind = Literal["monai", "oktay", "medicalnet", "imagenet"]
KINDS: dict[Kind, str] = {
    "monai": "MONAI AttentionUnet",
    "oktay": "attention U-Net for CT of Oktay et al. (Attention-Gated-Networks)",
    "medicalnet": "MedicalNet 3D ResNet",
    "imagenet": "2D ResNet in torchvision's layout, made 3D",
}
ENCODERS: tuple[Kind, ...] = ("medicalnet", "imagenet")


@dataclass(frozen=True)
class ConvertOptions:
    """What the weights do not tell; None: the default of the source, which is reported.

    Attributes
    ----------
    strides
        MONAI: from each level to the next.
    align_corners
        Oktay: how the training environment resized.
    shortcut, dilated
        MedicalNet: see `convert_medicalnet`.
    inflation
        ImageNet: see `inflate`.
    """

    strides: Sequence[int | Sequence[int]] | None = None
    align_corners: bool | None = None
    shortcut: Shortcut | None = None
    dilated: bool | None = None
    inflation: Inflation | None = None


USED: dict[Kind, tuple[str, ...]] = {
    "monai": ("strides",),
    "oktay": ("align_corners",),
    "medicalnet": ("shortcut", "dilated"),
    "imagenet": ("inflation",),
}


@dataclass
class Conversion:
    """A converted network and the story of how it came about.

    Attributes
    ----------
    kind, source
        What was converted.
    network
        In evaluation mode.
    dropped
        Names of tensors that are not needed.
    inferred
        What the weights told about the network.
    assumed
        What they did not tell, in sentences.
    """

    kind: Kind
    source: WeightsSource
    network: SegmentationNetwork
    dropped: list[str]
    inferred: dict[str, Any]
    assumed: list[str]

    @property
    def mapped(self) -> int:
        """Number of tensors that found their place."""
        return len(self.source.tensors) - len(self.dropped)

    @property
    def encoder_only(self) -> bool:
        """Whether only the encoder is trained."""
        return self.kind in ENCODERS


def detect(tensors: Mapping[str, Tensor], file: str) -> Kind:
    """Recognise where weights come from, by names and ranks.

    Raises
    ------
    ModelFileError
        If they are of none of `KINDS`; with the reason where it is a known relative.
    """
    if "attentionblock2.gate_block_1.theta.weight" in tensors:
        return "oktay"
    if "attentionblock2.theta.weight" in tensors:
        raise ModelFileError(
            f"{file} is the older grid-attention network of Oktay et al. (one gating signal, flat "
            "kernels), which is not supported; unet_CT_single_att_dsv and _multi_att_dsv are"
        )
    if "model.1.attention.W_g.0.conv.weight" in tensors:
        return "monai"
    block = tensors.get("layer1.0.conv1.weight")
    if block is not None and block.ndim == 5:
        return "medicalnet"
    if block is not None and block.ndim == 4:
        return "imagenet"
    example = ", ".join(sorted(tensors)[:2])
    raise ModelFileError(
        f"{file} holds weights of an unknown network ({example}, ...); known are: "
        f"{'; '.join(KINDS.values())}"
    )


def convert(
    path: str | Path,
    kind: Kind | Literal["auto"] = "auto",
    options: ConvertOptions | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    network_options: Mapping[str, Any] | None = None,
) -> Conversion:
    """Read a file of weights and build the network that they fill.

    Parameters
    ----------
    path
        See `read_source`.
    kind
        Where the weights come from; "auto": by their names.
    options
        What the weights do not tell.
    num_classes, in_channels
        For encoders, of the network to be trained: default 2 and 1 (MedicalNet: as many
        channels as the file has).
    network_options
        For encoders: other arguments of `GuidedAttentionNet`.

    Raises
    ------
    WeightsMismatchError
        If the tensors are not one to one with the network's; `lines` names each one.
    ModelFileError
        If the file can't be read safely, or the network is not known.
    InputError
        If an option does not belong to the kind of weights.
    """
    source = read_source(path)
    options = options or ConvertOptions()
    file, tensors = source.path.name, source.tensors
    found: Kind = detect(tensors, file) if kind == "auto" else kind
    _check_options(options, found)
    rest: dict[str, Any] = {"num_classes": num_classes or 2, "network_options": network_options}
    if found == "monai":
        done = convert_monai(tensors, file, strides=options.strides)
    elif found == "oktay":
        done = convert_oktay(tensors, file, align_corners=options.align_corners)
    elif found == "medicalnet":
        done = convert_medicalnet(
            tensors, file, shortcut=options.shortcut, dilated=options.dilated, **rest
        )
    else:
        done = convert_imagenet(
            tensors, file, inflation=options.inflation, in_channels=in_channels or 1, **rest
        )
    _runs(done.network.eval(), file)
    return Conversion(found, source, *done)


def _check_options(options: ConvertOptions, kind: Kind) -> None:
    for entry in fields(options):
        if getattr(options, entry.name) is not None and entry.name not in USED[kind]:
            owner = next(k for k, names in USED.items() if entry.name in names)
            raise InputError(
                f"{entry.name} is for weights of {KINDS[owner]}, and these are of {KINDS[kind]}; "
                "leave it out"
            )


@torch.inference_mode()
def _runs(network: SegmentationNetwork, file: str) -> None:
    """Weights may be finite and yet useless."""
    generator = torch.Generator().manual_seed(0)
    size = [min(2 * stride, 32) for stride in network.total_stride]
    logits = network(torch.randn(1, network.in_channels, *size, generator=generator)).logits
    if not bool(torch.isfinite(logits).all()):
        raise ModelFileError(
            f"{file}: the converted network gives NaN or infinity for noise; its weights or "
            "batch statistics are damaged"
        )
