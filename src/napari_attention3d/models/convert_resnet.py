"""Residual encoders of others: MedicalNet in 3D, ImageNet's made 3D."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ModelFileError
from ..networks import build_network
from ..networks.guided_attention import GuidedAttentionNet
from ..networks.resnet import BLOCKS, Shortcut
from .convert_match import Converted, WeightsMismatchError, fill

__all__ = ["Inflation", "convert_imagenet", "convert_medicalnet", "inflate"]

Inflation = Literal["centre", "average"]

HEADS = r"(fc|conv_seg)\..*"
"""Of networks whose encoder alone is wanted."""
MEDICALNET_SHORTCUT: dict[int, Shortcut] = {10: "B", 18: "A", 34: "A", 50: "B"}


def inflate(weight: Tensor, how: Inflation = "centre") -> Tensor:
    """Make a 2D kernel a 3D one, as deep as it is high (Carreira & Zisserman 2017).

    Parameters
    ----------
    weight
        (out, in, y, x)
    how
        "centre": the kernel in the middle plane, zeros elsewhere, so that a volume made of
        one image repeated gives the image's own features at every slice; "average": the
        kernel in each plane, divided by their number, which zero padding weakens near the
        first and last slices.

    Returns
    -------
    Tensor
        (out, in, y, y, x)
    """
    depth = weight.shape[2]
    if how == "average":
        return (weight / depth)[:, :, None].repeat(1, 1, depth, 1, 1)
    if how != "centre":
        raise ValueError(f"inflation {how!r} is not known; use centre or average")
    deep = weight.new_zeros((*weight.shape[:2], depth, *weight.shape[2:]))
    deep[:, :, depth // 2] = weight
    return deep


def _plan(tensors: Mapping[str, Tensor], file: str, what: str) -> dict[str, Any]:
    """Depth, widths, channels and stem, as the names and shapes tell them."""
    blocks = []
    for level in range(1, 5):
        found = (re.match(rf"layer{level}\.(\d+)\.", name) for name in tensors)
        blocks.append(1 + max((int(m[1]) for m in found if m), default=-1))
    deep = any(".conv3." in name for name in tensors)
    fitting = [d for d, b in BLOCKS.items() if b == tuple(blocks) and (d == 50) == deep]
    if not fitting:
        raise ModelFileError(
            f"{file} has {', '.join(map(str, blocks))} {'bottleneck' if deep else 'basic'} blocks "
            f"in its four levels; known are ResNets of depth {', '.join(map(str, BLOCKS))}"
        )
    firsts = ["conv1.weight", *(f"layer{level}.0.conv1.weight" for level in range(1, 5))]
    missing = [name for name in firsts if name not in tensors]
    if missing:
        raise WeightsMismatchError(file, what, missing=missing)
    stem = tuple(tensors["conv1.weight"].shape)
    if len(stem) != 5:
        raise ModelFileError(f"{file}: 'conv1.weight' has {len(stem)} axes, not a 3D kernel's 5")
    return {
        "in_channels": stem[1],
        "depth": fitting[0],
        "widths": [tensors[name].shape[0] for name in firsts[1:]],
        "stem_kernel": list(stem[2:]),
    }


def _encoder(
    tensors: Mapping[str, Tensor], file: str, what: str, plan: dict[str, Any], hint: str = ""
) -> tuple[GuidedAttentionNet, list[str]]:
    """Guided network with this encoder; the rest is drawn afresh, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(
            "guided-attention", norm="batch", stem_stride=2, stem_pool=2, **plan
        )
    assert isinstance(network, GuidedAttentionNet)
    names = {name: name for name in network.encoder.state_dict() if "num_batches" not in name}
    dropped = fill(network.encoder, tensors, names, file=file, what=what, drop=HEADS, hint=hint)
    return network, dropped


def convert_medicalnet(
    tensors: Mapping[str, Tensor],
    file: str,
    *,
    num_classes: int = 2,
    shortcut: Shortcut | None = None,
    dilated: bool | None = None,
    network_options: Mapping[str, Any] | None = None,
) -> Converted:
    """Put a 3D ResNet's weights (Chen et al. 2019, arXiv:1904.00625) into our encoder.

    Of the network only the encoder is trained then.

    Parameters
    ----------
    tensors
        By name.
    file
        For messages.
    num_classes
        Of the network to be trained; the file has none.
    shortcut
        "A" has no weights, so a file without any may be one of "A" or a damaged one of
        "B". Default: what the file shows, where it agrees with MedicalNet's own files (A
        for depth 18 and 34, B for 10 and 50) or holds B's weights.
    dilated
        Whether levels 3 and 4 dilate instead of striding, which the weights do not tell;
        default True, as MedicalNet was trained. MONAI's own ``ResNet`` strides.
    network_options
        Of `GuidedAttentionNet`, for the rest of it.

    Raises
    ------
    ModelFileError
        If the tensors are not one to one with the encoder's.
    """
    plan = _plan(tensors, file, "a 3D ResNet")
    has_weights = any(".downsample." in name for name in tensors)
    chosen = shortcut or ("B" if has_weights else MEDICALNET_SHORTCUT[plan["depth"]])
    plan["shortcut"] = chosen
    assumed = ["stem of stride 2 and pooling of stride 2"]
    if dilated is None:
        assumed.append(
            "levels 3 and 4 dilated, not strided, as in MedicalNet (weights do not tell; "
            "--no-dilated for weights trained by MONAI's ResNet)"
        )
    plan["dilated"] = dilated is not False
    if chosen == "A" and shortcut is None:
        assumed.append(f"shortcuts A, as MedicalNet's depth {plan['depth']} (no weights)")
    hint = ""
    if chosen == "B" and not has_weights and shortcut is None:
        hint = "if it was trained with shortcuts A, say so (--shortcut A)"
    elif chosen == "A" and has_weights:
        hint = "it holds weights of shortcuts B; leave --shortcut out"
    what = f"a 3D ResNet-{plan['depth']} with shortcuts {chosen}"
    options = {"num_classes": num_classes, **(network_options or {})}
    network, dropped = _encoder(tensors, file, what, {**plan, **options}, hint)
    return Converted(network, dropped, plan, assumed)


def convert_imagenet(
    tensors: Mapping[str, Tensor],
    file: str,
    *,
    num_classes: int = 2,
    inflation: Inflation | None = None,
    in_channels: int = 1,
    network_options: Mapping[str, Any] | None = None,
) -> Converted:
    """Make a 2D ResNet in torchvision's layout our 3D encoder, all that is trained then.

    Parameters
    ----------
    tensors, file, num_classes, network_options
        As in `convert_medicalnet`.
    inflation
        See `inflate`; default "centre".
    in_channels
        1: the kernels of red, green and blue are added up; else as many as the file has.

    Raises
    ------
    ModelFileError
        If the tensors are not one to one with the encoder's.
    """
    how = inflation or "centre"
    assumed = [f"kernels {'in the middle plane' if how == 'centre' else 'spread evenly'} along z"]
    stem = tensors.get("conv1.weight")
    if stem is not None and stem.ndim != 4:
        raise ModelFileError(f"{file}: 'conv1.weight' has {stem.ndim} axes, not a 2D kernel's 4")
    deep = {}
    for name, tensor in tensors.items():
        kernel = tensor.ndim == 4 and not re.fullmatch(HEADS, name)
        deep[name] = inflate(tensor, how) if kernel else tensor
    plan = _plan(deep, file, "a 2D ResNet")
    found = plan["in_channels"]
    if found == 3 and in_channels == 1:
        deep["conv1.weight"] = deep["conv1.weight"].sum(1, keepdim=True)
        assumed.append("kernels of red, green and blue added up for the one channel")
    elif found != in_channels:
        raise ModelFileError(
            f"{file} reads {found} channels and the model is to read {in_channels}; name "
            f"{found} channels" + (", or one" if found == 3 else "")
        )
    plan["in_channels"] = in_channels
    plan["shortcut"] = "B"
    what = f"a 2D ResNet-{plan['depth']} as torchvision has it"
    options = {"num_classes": num_classes, **(network_options or {})}
    network, dropped = _encoder(deep, file, what, {**plan, **options})
    return Converted(network, dropped, plan, assumed)
