"""The channel bench: which channels gather from which, and what each of them shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..inference.tiling import Box
from ..networks.self_attention import channel_matrix
from ..volumes.volume import Volume
from .parts import channel_parts
from .replay import Replay

__all__ = ["ChannelBench", "channel_bench"]


@dataclass(frozen=True)
class ChannelBench:
    """Channel attention of one scale and step, in one tile.

    Attributes
    ----------
    part
        Name of scale and step.
    box
        The tile, on the model's grid.
    matrix
        (C, C) float32, rows sum to 1: row i is what channel i gathers from each channel.
    features
        (C, z, y, x) float32, what goes into channel attention.
    gamma
        What is gathered is multiplied by it before it is added to the features; near 0
        the matrix hardly matters. None: it multiplies the features.
    """

    part: str
    box: Box
    matrix: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]
    gamma: float | None

    @property
    def channels(self) -> int:
        """How many there are."""
        return len(self.matrix)

    def feature(self, replay: Replay, channel: int) -> Volume:
        """Return a channel's features as a volume in the world.

        Raises
        ------
        InputError
            If there is no such channel.
        """
        if not 0 <= channel < self.channels:
            raise InputError(f"there is no channel {channel + 1}; there are {self.channels}")
        place = replay.map_geometry(self.part, self.box)
        z, y, x = place.shape
        array = np.ascontiguousarray(self.features[channel, :z, :y, :x])
        meaning = "signed features before channel attention, in the tile that counts most here"
        about = {"channel": channel, "scale": self.part, "meaning": meaning}
        return Volume(
            array, place, f"channel {channel + 1}, {self.part}", metadata={"attention": about}
        )


def channel_bench(replay: Replay, box: Box, part: str) -> ChannelBench:
    """Run a tile and keep what goes into one channel attention, and its matrix.

    Parameters
    ----------
    replay
        The run.
    box
        A tile of it.
    part
        Scale and step ("guided-scale-1-step-1").

    Raises
    ------
    InputError
        If the network has no such channel attention.
    """
    modules = channel_parts(replay.network)
    if part not in modules:
        known = ", ".join(modules) if modules else "none; only guided-attention networks do"
        raise InputError(f"{replay.model.card.name} has no channel attention {part!r}: {known}")
    module, seen = modules[part], list[Tensor]()
    hook = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].float()))
    try:
        replay.forward(replay.read(box))
    finally:
        hook.remove()
    features = seen[0]
    tau = None if module.log_tau is None else module.log_tau.exp()
    with torch.inference_mode():
        matrix = channel_matrix(features.flatten(2), module.mode, tau)[0]
    gamma = None if module.gamma is None else float(module.gamma)
    return ChannelBench(part, box, matrix.cpu().numpy(), features[0].cpu().numpy(), gamma)
