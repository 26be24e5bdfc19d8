"""The model file of imported weights: its card says what is known, and what is not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..errors import InputError, ModelFileError
from ..networks import SegmentationNetwork
from ..volumes.atomic import atomic_path
from .card import Channel, ModelCard, Normalisation, SegmentationClass
from .convert import KINDS, Conversion
from .store import load_model, save_model

__all__ = ["CardOptions", "assumptions", "card_of_import", "save_import"]

# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999")
ZSCORE = Normalisation(kind="zscore", lower=0.0, upper=100.0)


@dataclass(frozen=True)
class CardOptions:
    """What a stranger's weights can't tell about their use; the defaults assume little.

    Attributes
    ----------
    name, title
        Of the model.
    classes
        Names, background first; default "background", "class 1" and so on.
    channels
        Names; default "intensity".
    spacing, unit
        (z, y, x) that the weights were trained at; None: scans at their own spacing.
    normalisation
        Default z-scores over the whole scan.
    patch_size
        Default 96 along each axis, or the next multiple of the network's stride.
    licence
        Of the weights.
    """

    name: str
    title: str = ""
    classes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    spacing: tuple[float, float, float] | None = None
    unit: Literal["mm", "um", "pixel"] = "mm"
    normalisation: Normalisation | None = None
    patch_size: tuple[int, int, int] | None = None
    licence: str = ""


def card_of_import(found: Conversion, options: CardOptions) -> ModelCard:
    """Write the card of converted weights: what is known, and plainly what is not.

    Raises
    ------
    InputError
        If the number of names is not that of the network's classes or channels.
    """
    network = found.network
    names = options.classes or _default_classes(network.num_classes)
    channels = options.channels or _default_channels(network.in_channels)
    for what, given, needed in (
        ("classes (background first)", names, network.num_classes),
        ("channels", channels, network.in_channels),
    ):
        if len(given) != needed:
            raise InputError(
                f"{found.source.path.name} has {needed} {what}, and {len(given)} are named "
                f"({', '.join(given)}); name all {needed}"
            )
    what = KINDS[found.kind]
    start = f"Imported from {found.source.path.name}, weights of: {what}."
    steps = " ".join(f"Assumed: {text}." for text in assumptions(found, options))
    limits = (
        "Only the encoder is trained. Everything after it holds random numbers: train this "
        "model on your own data (init_from in a recipe) before its masks mean anything."
        if found.encoder_only
        else "Made by others; not evaluated here. Results are right only if spacing, intensities "
        "and classes are those the weights were trained with."
    )
    about = {
        "kind": found.kind,
        "file": found.source.path.name,
        "sha256": found.source.sha256,
        "steps": found.source.steps,
        "mapped": found.mapped,
        "dropped": len(found.dropped),
        "assumed": assumptions(found, options),
        "encoder_only": found.encoder_only,
    }
    default = "encoder to be trained on" if found.encoder_only else "imported"
    return ModelCard(
        name=options.name,
        title=options.title or f"{options.name} ({default})",
        description=f"{start} {steps}",
        network={"name": network.name, **network.config},
        classes=tuple(
            SegmentationClass(name=n, colour=COLOURS[(i - 1) % len(COLOURS)] if i else "#000000")
            for i, n in enumerate(names)
        ),
        channels=tuple(Channel(name=name) for name in channels),
        spacing=options.spacing,
        unit=options.unit,
        patch_size=options.patch_size or _patch(network),
        normalisation=options.normalisation or ZSCORE,
        licence=options.licence or "unknown; ask the authors of the weights",
        training_data="unknown" if not found.encoder_only else "encoder: see its authors",
        limitations=limits,
        metrics={"import": about},
    )


def _default_classes(count: int) -> tuple[str, ...]:
    return ("background", *(f"class {i}" for i in range(1, count)))


def _default_channels(count: int) -> tuple[str, ...]:
    return ("intensity",) if count == 1 else tuple(f"channel {i + 1}" for i in range(count))


def _patch(network: SegmentationNetwork) -> tuple[int, int, int]:
    z, y, x = (math.ceil(96 / stride) * stride for stride in network.total_stride)
    return z, y, x


def assumptions(found: Conversion, options: CardOptions) -> list[str]:
    """Everything that neither the weights nor the person said."""
    texts = list(found.assumed)
    if not options.classes:
        texts.append("classes have no names (--classes)")
    if options.spacing is None:
        texts.append("scans are taken at their own spacing (--spacing)")
    if options.normalisation is None:
        texts.append("intensities as z-scores of the whole scan (--normalisation)")
    return texts


def save_import(found: Conversion, card: ModelCard, path: Path) -> Path:
    """Write the model file, once what was written reads back bit-equal.

    Raises
    ------
    OutputError
        If the file can't be written.
    ModelFileError
        If it does not read back bit-equal.
    """
    with atomic_path(path) as temporary:
        save_model(temporary, found.network, card)
        again = load_model(temporary).network.state_dict()
        for name, tensor in found.network.state_dict().items():
            if not torch.equal(tensor, again[name]):
                raise ModelFileError(f"{path.name}: {name!r} does not read back as written")
    return path
