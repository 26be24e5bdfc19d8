"""Weights to begin a training with: a whole model's, or an imported encoder's."""

from __future__ import annotations

from torch import Tensor

from ..errors import InputError
from ..networks import SegmentationNetwork
from .store import Model

__all__ = ["start_weights"]

ENCODER = ("depth", "widths", "strides", "stem_stride", "stem_pool", "stem_kernel")
SILENT = ("strides", "stem_stride", "stem_pool", "shortcut", "dilated", "norm", "align_corners")
"""Settings that can differ while all tensors fit, and then give other features."""


def start_weights(network: SegmentationNetwork, model: Model) -> dict[str, Tensor]:
    """Choose the weights of `model` that `network` begins with.

    Of a model of which only the encoder is trained (see `convert`), the encoder's alone:
    the rest of the two networks may differ. Of any other model, all of them.

    Parameters
    ----------
    network
        To be trained; not changed.
    model
        To begin with.

    Returns
    -------
    dict
        By the network's own names; to be loaded over its ``state_dict()``.

    Raises
    ------
    InputError
        If the two do not fit: another network, other settings (also such as dilation, which
        leave all shapes as they are and yet give other features), or other shapes.
    """
    name = model.card.name
    other = model.network
    if network.name != other.name:
        raise InputError(
            f"init_from {name!r} is a network {other.name!r}, the recipe's is {network.name!r}; "
            "choose another model, or change the recipe's network"
        )
    encoder_only = bool(model.card.metrics.get("import", {}).get("encoder_only"))
    for key in (*ENCODER, *SILENT) if encoder_only else SILENT:
        theirs, ours = other.config.get(key), network.config.get(key)
        if theirs != ours:
            raise InputError(
                f"init_from {name!r} has {key} {theirs}, the recipe's network {ours}; write "
                f"{key}: {theirs} under network in the recipe"
            )
    source, own = other.state_dict(), network.state_dict()
    if encoder_only:
        own = {k: v for k, v in own.items() if k.startswith("encoder.")}
        source = {k: v for k, v in source.items() if k.startswith("encoder.")}
    odd = [k for k in own if k not in source or source[k].shape != own[k].shape]
    odd += [k for k in source if k not in own]
    if odd:
        raise InputError(
            f"init_from {name!r} does not fit the network: {odd[0]} differs"
            + (f" (and {len(odd) - 1} more)" if len(odd) > 1 else "")
        )
    return source
