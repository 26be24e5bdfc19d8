"""Attention U-Nets of others: MONAI's ``AttentionUnet``, the authors' CT networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelFileError
from ..networks import build_network
from ..networks.additive_attention_unet import monai_keys
from ..networks.oktay_attention_unet import oktay_keys
from .convert_match import Converted, WeightsMismatchError, fill, under

__all__ = ["convert_monai", "convert_oktay"]

MONAI_HEAD = ("model.2.conv.weight", "model.2.conv.bias")
LEVELS = 5


def need(
    tensors: Mapping[str, Tensor], names: Sequence[str], file: str, what: str
) -> list[tuple[int, ...]]:
    """Shapes of 5-D weights that the network's plan is read from."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise WeightsMismatchError(file, what, missing=missing)
    shapes = [tuple(tensors[name].shape) for name in names]
    for name, shape in zip(names, shapes, strict=True):
        if len(shape) != 5:
            raise ModelFileError(
                f"{file}: {name!r} has {len(shape)} axes, not 5: this is not a 3D network; "
                "only 2D ResNets can be made 3D"
            )
    return shapes


def _monai_levels(tensors: Mapping[str, Tensor]) -> list[str]:
    """First weights of each level, finest first; levels are nested in one another."""
    names, layer = ["model.0.conv.0.conv.weight"], "model.1"
    while (name := f"{layer}.submodule.0.conv.0.conv.weight") in tensors:
        names.append(name)
        layer += ".submodule.1"
    return [*names, f"{layer}.submodule.conv.0.conv.weight"]


def convert_monai(
    tensors: Mapping[str, Tensor],
    file: str,
    *,
    strides: Sequence[int | Sequence[int]] | None = None,
) -> Converted:
    """Convert a state dict of ``monai.networks.nets.AttentionUnet`` (spatial_dims 3).

    Parameters
    ----------
    tensors
        By name.
    file
        For messages.
    strides
        From each level to the next, which the weights do not tell; default 2.

    Raises
    ------
    ModelFileError
        If the tensors are not one to one with the network's.
    """
    what = "MONAI's AttentionUnet"
    firsts = _monai_levels(tensors)
    levels = len(firsts)
    shapes = need(tensors, [*firsts, "model.1.upconv.up.conv.weight", MONAI_HEAD[0]], file, what)
    source = dict(tensors)
    classes = shapes[-1][0]
    inferred: dict[str, Any] = {
        "in_channels": shapes[0][1],
        "num_classes": max(classes, 2),
        "channels": [shape[0] for shape in shapes[:levels]],
        "kernel": list(shapes[0][2:]),
        "up_kernel": list(shapes[-2][2:]),
    }
    assumed = []
    if strides is None:
        assumed.append("strides 2 between all levels (weights do not tell; --strides)")
    elif len(strides) != levels - 1:
        raise ModelFileError(
            f"{file} has {levels} levels, so it needs {levels - 1} strides, not {len(strides)}"
        )
    if classes == 1:
        # softmax([0, l]) is (1 - sigmoid(l), sigmoid(l)).
        for name in MONAI_HEAD:
            if name in source:
                source[name] = torch.cat((torch.zeros_like(source[name]), source[name]))
        assumed.append("the single output is a sigmoid of foreground; background was added as 0")
    else:
        assumed.append("one class per voxel (softmax), the first one background")
    network = build_network("additive-attention-unet", strides=strides, norm="batch", **inferred)
    keys = under(monai_keys(levels), list(network.state_dict()))
    dropped = fill(network, source, keys, file=file, what=what)
    return Converted(network, dropped, inferred, assumed)


def convert_oktay(
    tensors: Mapping[str, Tensor], file: str, *, align_corners: bool | None = None
) -> Converted:
    """Convert a state dict of ``unet_CT_single_att_dsv`` or ``unet_CT_multi_att_dsv``.

    Parameters
    ----------
    tensors, file
        As in `convert_monai`.
    align_corners
        How the training environment resized; default True (torch <= 0.3, in which the
        authors worked).

    Raises
    ------
    ModelFileError
        If the tensors are not one to one with the network's.
    """
    what = "the attention U-Net for CT of Oktay et al."
    stacks = [f"conv{i}" for i in range(1, LEVELS)] + ["center"]
    firsts = [f"{stack}.conv1.0.weight" for stack in stacks]
    shapes = need(tensors, [*firsts, "final.weight"], file, what)
    gates = 2 if any(".gate_block_2." in name for name in tensors) else 1
    inferred: dict[str, Any] = {
        "in_channels": shapes[0][1],
        "num_classes": shapes[-1][0],
        "channels": [shape[0] for shape in shapes[:-1]],
        "gates_per_level": gates,
    }
    assumed = ["one class per voxel (softmax), the first one background"]
    if align_corners is None:
        align_corners = True
        assumed.append(
            "trained with torch 0.3 or older, so resized with aligned corners "
            "(weights do not tell; --no-align-corners for newer ones)"
        )
    network = build_network("oktay-attention-unet", align_corners=align_corners, **inferred)
    keys = under(oktay_keys(gates), list(network.state_dict()))
    dropped = fill(network, tensors, keys, file=file, what=what)
    return Converted(network, dropped, inferred, assumed)
