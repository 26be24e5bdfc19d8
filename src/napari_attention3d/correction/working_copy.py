"""The network that learns: a copy of a model, with a new head, or a new small one."""

from __future__ import annotations

import colorsys
import copy
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..models.card import Channel, ModelCard, Normalisation, SegmentationClass
from ..models.store import Model
from ..networks import build_network
from ..volumes.volume import Volume

__all__ = ["model_for_scan", "renamed", "with_classes", "working_copy"]


def working_copy(model: Model) -> Model:
    """A model of its own weights, trainable; the given one stays as it is."""
    network = copy.deepcopy(model.network).requires_grad_(True)
    return Model(model.card.model_copy(update={"sha256": ""}), network)


def with_classes(model: Model, classes: Sequence[str]) -> Model:
    """Copy of a model with other classes: a new head, all else kept.

    The head's rows of classes that have the same name (the background always) are kept.

    Parameters
    ----------
    model
        Not changed.
    classes
        Names, background first.

    Raises
    ------
    InputError
        If fewer than two classes are named.
    """
    if len(classes) < 2:
        raise InputError("name at least one class besides the background")
    if list(classes) == model.card.class_names:
        return working_copy(model)
    old = model.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(old.name, **{**old.config, "num_classes": len(classes)})
    state, source = network.state_dict(), old.state_dict()
    before = model.card.class_names
    for name, tensor in state.items():
        other = source.get(name)
        if other is None:
            continue
        if other.shape == tensor.shape:
            tensor.copy_(other)
        elif tensor.shape[1:] == other.shape[1:] and len(other) == len(before):
            for row, wanted in enumerate(classes):
                if row == 0 or wanted in before:
                    tensor[row] = other[0 if row == 0 else before.index(wanted)]
    network.load_state_dict(state)
    card = model.card.model_copy(
        update={
            "classes": _classes(classes),
            "network": {"name": network.name, **network.config},
            "sha256": "",
            "metrics": {},
        }
    )
    return Model(card, network.to(old.device).train())


def model_for_scan(scan: Volume, classes: Sequence[str], name: str = "from-strokes") -> Model:
    """A new small attention U-Net for scans like this one, untrained.

    It takes scans at the spacing of this one; axes of coarse voxels are halved later, so
    that at its deepest level voxels are about as long as they are wide.

    Raises
    ------
    InputError
        If fewer than two classes are named.
    """
    if len(classes) < 2:
        raise InputError("name at least one class besides the background")
    spacing = np.array(scan.geometry.spacing)
    sizes, shape = spacing.copy(), np.array(scan.geometry.shape)
    strides = []
    for _ in range(3):
        halve = (sizes < 2 * sizes.min()) & (shape >= 8)
        strides.append([2 if h else 1 for h in halve])
        sizes = np.where(halve, 2 * sizes, sizes)
        shape = np.where(halve, shape // 2, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(
            "attention-unet",
            in_channels=scan.n_channels,
            num_classes=len(classes),
            channels=(8, 16, 32, 64),
            strides=strides,
        )
    names = scan.channel_names or tuple(f"channel {i + 1}" for i in range(scan.n_channels))
    z, y, x = (int(min(64, -(-n // 8) * 8)) for n in scan.geometry.shape)
    card = ModelCard(
        name=_as_name(name),
        title=name,
        description=f"Trained from strokes on {scan.name}.",
        network={"name": network.name, **network.config},
        classes=_classes(classes),
        channels=tuple(Channel(name=n or f"channel {i + 1}") for i, n in enumerate(names)),
        spacing=None,
        patch_size=(z, y, x),
        normalisation=Normalisation(kind="zscore"),
        training_data=f"strokes painted on {scan.name}",
    )
    return Model(card, network)


def renamed(card: ModelCard, path: Path, title: str, scan: Volume) -> ModelCard:
    """Card of a model that was refined on a scan and is saved as `path`."""
    name = _as_name(path.stem)
    story = f"Refined with strokes painted on {scan.name}."
    about = card.description if story in card.description else f"{card.description} {story}"
    return card.model_copy(
        update={
            "name": name,
            "title": title or name,
            "description": about.strip(),
            "metrics": {},
            "sha256": "",
        }
    )


def _as_name(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:80] or "from-strokes"


def _classes(names: Sequence[str]) -> tuple[SegmentationClass, ...]:
    found = [SegmentationClass(name=names[0], colour="#000000")]
    for i, name in enumerate(names[1:]):
        # the golden ratio spreads hues for any number of classes
        red, green, blue = colorsys.hsv_to_rgb((0.05 + i * 0.618034) % 1.0, 0.75, 0.9)
        colour = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
        found.append(SegmentationClass(name=name, colour=colour))
    return tuple(found)
