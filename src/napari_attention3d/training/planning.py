"""Plans: patch, spacing, strides and batch from the data and the memory at hand.

The rules are nnU-Net's in spirit (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z):
the median spacing, a patch of about equal sides in the world that fills the budget, an
axis halved as long as it is long enough and not much coarser than the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, OutOfMemory
from ..networks import build_network, network_names
from .cases import CaseFacts, DataFacts, Size
from .memory import training_bytes

__all__ = ["PRESETS", "Plan", "Preset", "plan_training"]

ANISOTROPIC = 3.0
"""A spacing this many times that of another axis means thick slices."""
SHARE_OF_MEMORY = 0.6
SHARE_OF_SCAN = 0.25
"""A patch that shows less of a patient's scan sees too little around it."""
FEWEST_VOXELS = 500
"""Of the smallest structure, below which no scan is made coarser."""
COARSEST = 3.0
"""How much coarser at most."""
SHORTEST = 4
"""Voxels of the deepest level along an axis."""
MOST_CHANNELS = 320
MOST_PATCHES = 4
"""In a batch."""
STANDARD_NETWORK = "attention-unet"


@dataclass(frozen=True)
class Preset:
    """How much a training may cost.

    Parameters
    ----------
    title, explanation
        For a person.
    width
        Channels of the U-Net's finest level.
    levels
        Most levels.
    patch_voxels
        Most voxels of a patch.
    step_voxels
        Most voxels of a batch of more than one patch.
    steps
        Length of the training.
    size
        Named size of the other networks.
    learning_rate
        Highest; a short training needs larger steps.
    """

    title: str
    explanation: str
    width: int
    levels: int
    patch_voxels: int
    step_voxels: int
    steps: int
    size: str
    learning_rate: float = 1e-3


PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "Quick", "A small network; minutes on a CPU", 8, 5, 48**3, 2 * 48**3, 500, "small", 4e-3
    ),
    "standard": Preset(
        "Standard",
        "A good network: an hour or two on a CPU, minutes on a GPU",
        16,
        5,
        96**3,
        2 * 96**3,
        2000,
        "base",
    ),
    "thorough": Preset(
        "Thorough",
        "A large network; needs a GPU, hours",
        32,
        6,
        128**3,
        2 * 128**3,
        10_000,
        "large",
    ),
}


@dataclass(frozen=True)
class Plan:
    """What a training will be like.

    Parameters
    ----------
    preset, network
        Name of the preset; name and arguments of the network, without channels and classes.
    spacing
        Of the model's grid (z, y, x); None: each scan's own.
    patch_size, batch_size, steps
        Of the training.
    in_plane
        Slices are thick: no turning out of their plane.
    bytes
        Memory that a step will take.
    notes
        What was decided and why, for a person.
    """

    preset: str
    network: dict[str, Any]
    spacing: tuple[float, float, float] | None
    patch_size: Size
    batch_size: int
    steps: int
    in_plane: bool
    bytes: int
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """Say all of it, for a person, a line for each point."""
        strides = [self.network[key] for key in ("stem_stride", "stem_pool") if key in self.network]
        strides += self.network.get("strides", [])
        halved = [int(n) for n in np.prod(strides, axis=0)] if strides else []
        deepest = f", {_times(halved)} times smaller at the deepest level" if halved else ""
        patches = "1 patch" if self.batch_size == 1 else f"{self.batch_size} patches"
        return [
            *self.notes,
            f"{self.steps} steps of {patches}, {self.bytes / 1e9:.1f} GB of memory",
            f"Network {self.network['name']}{deepest}",
        ]


def plan_training(
    facts: DataFacts,
    classes: int,
    memory: int,
    preset: str = "quick",
    network: str = STANDARD_NETWORK,
    processes: int = 1,
) -> Plan:
    """Plan a training.

    Parameters
    ----------
    facts
        Of the training set.
    classes
        With the background.
    memory
        Free bytes on the device (of each process).
    preset
        A key of PRESETS.
    network
        Registry name.
    processes
        That train together: the batch is at least that many patches.

    Raises
    ------
    InputError
        If preset or network is not known.
    OutOfMemory
        If even a small patch does not fit.
    """
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r} is not known; use {', '.join(PRESETS)}")
    if network not in network_names():
        raise InputError(f"network {network!r} is not known; use {', '.join(network_names())}")
    chosen = PRESETS[preset]
    spacing, coarser = _spacing(facts, chosen.patch_voxels)
    shape, steps_of = _median_shape(facts, spacing), spacing or _median_spacing(facts)
    budget, most, rate = chosen.patch_voxels, int(SHARE_OF_MEMORY * memory), 0.0
    while True:
        raw = _patch(shape, steps_of, budget)
        strides, kernels = _strides(raw, steps_of, chosen.levels)
        arguments = _arguments(network, chosen, strides, kernels)
        patch = _rounded(raw, strides)
        if not rate:
            net = build_network(**arguments, in_channels=facts.channels, num_classes=classes)
            rate = training_bytes(net, patch) / math.prod(patch)
        need = int(rate * math.prod(patch))
        if need <= most:
            break
        budget //= 2
        if budget < 16**3:
            raise OutOfMemory(
                f"a training step needs {need / 1e9:.1f} GB even for patches of "
                f"{_times(patch)} voxels, but only {most / 1e9:.1f} GB can be used; close other "
                "programs or choose a smaller preset"
            )
    batch = max(1, min(MOST_PATCHES, chosen.step_voxels // math.prod(patch), most // need))
    thick = max(steps_of) > ANISOTROPIC * min(steps_of)
    notes = _notes(facts, spacing, coarser, patch, budget < chosen.patch_voxels, thick)
    return Plan(
        preset,
        arguments,
        spacing,
        patch,
        batch * processes,
        chosen.steps,
        thick,
        batch * need,
        notes,
    )


def _median_spacing(facts: DataFacts) -> tuple[float, float, float]:
    z, y, x = np.median([case.spacing for case in facts.cases], axis=0).tolist()
    return z, y, x


def _median_shape(facts: DataFacts, spacing: Sequence[float] | None) -> npt.NDArray[np.float64]:
    """Voxels of the middle case along (z, y, x), at `spacing`."""
    shapes = [
        np.array(case.shape) * (1 if spacing is None else np.array(case.spacing) / spacing)
        for case in facts.cases
    ]
    return np.asarray(np.median(shapes, axis=0))


def _spacing(
    facts: DataFacts, patch_voxels: int
) -> tuple[tuple[float, float, float] | None, float]:
    """Spacing of the model, and how much coarser than the scans it is."""
    if facts.unit == "pixel":
        return None, 1.0
    all_of = np.array([case.spacing for case in facts.cases])
    target = np.median(all_of, axis=0)
    worst = int(target.argmax())
    if target[worst] > ANISOTROPIC * np.delete(target, worst).max():
        target[worst] = np.quantile(all_of[:, worst], 0.1)
    factor = 1.0
    if facts.anatomical:
        factor = _coarsening(facts, target, patch_voxels)
        # The finest axes first: thick slices are not made thicker before the rest reaches them.
        target = np.maximum(target, target.min() * factor)
    z, y, x = (float(f"{s:.4g}") for s in target)
    return (z, y, x), factor


def _coarsening(facts: DataFacts, target: npt.NDArray[np.float64], patch_voxels: int) -> float:
    """Factor on the finest spacing at which a patch shows enough of a scan."""
    smallest = min(_mean_size(case, target) for case in facts.cases)
    factor = 1.0
    while factor < COARSEST:
        spacing = np.maximum(target, target.min() * factor)
        left = smallest * np.prod(target) / np.prod(spacing)
        if np.prod(_median_shape(facts, spacing)) * SHARE_OF_SCAN <= patch_voxels:
            break
        bigger = np.maximum(target, target.min() * (factor + 0.1))
        if left * np.prod(spacing) / np.prod(bigger) < FEWEST_VOXELS:
            break
        factor += 0.1
    return round(factor, 1)


def _mean_size(case: CaseFacts, target: npt.NDArray[np.float64]) -> float:
    """Voxels, at the target spacing, of the case's smallest structure."""
    sizes = [count for value, count in case.voxels.items() if value > 0]
    return float(min(sizes, default=0) * np.prod(case.spacing) / np.prod(target))


def _patch(
    shape: npt.NDArray[np.float64], spacing: Sequence[float], budget: int
) -> npt.NDArray[np.float64]:
    """Equal sides in the world, none longer than the scan, as large as the budget lets it."""
    steps = np.array(spacing)
    low, high = 0.0, float((shape * steps).max())
    for _ in range(50):
        middle = (low + high) / 2
        if np.prod(np.minimum(shape, middle / steps)) <= budget:
            low = middle
        else:
            high = middle
    return np.maximum(np.minimum(shape, low / steps), 1.0)


def _strides(
    patch: npt.NDArray[np.float64], spacing: Sequence[float], levels: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Stride to each next level, and kernel of each level."""
    size, steps = patch.copy(), np.array(spacing, dtype=float)
    strides: list[list[int]] = []
    kernels = [_kernel(steps, [1, 1, 1])]
    while len(strides) < levels - 1:
        long = size / 2 >= SHORTEST
        if not long.any():
            break
        halved = long & (steps <= 2 * steps[long].min())
        stride = np.where(halved, 2, 1)
        size, steps = size / stride, steps * stride
        strides.append(stride.tolist())
        kernels.append(_kernel(steps, kernels[-1]))
    if not strides:  # a U-Net has two levels
        return [[1, 1, 1]], [kernels[0], kernels[0]]
    return strides, kernels


def _kernel(steps: npt.NDArray[np.float64], above: Sequence[int]) -> list[int]:
    """1 along an axis that is still much coarser than the finest; 3 from then on."""
    return [3 if k == 3 or s <= 2 * steps.min() else 1 for s, k in zip(steps, above, strict=True)]


def _rounded(patch: npt.NDArray[np.float64], strides: Sequence[Sequence[int]]) -> Size:
    whole = np.prod(np.array(strides), axis=0)
    z, y, x = (np.maximum(1, np.rint(patch / whole)) * whole).astype(int).tolist()
    return z, y, x


def _arguments(
    network: str, preset: Preset, strides: list[list[int]], kernels: list[list[int]]
) -> dict[str, Any]:
    """Name and arguments of the network."""
    if network == STANDARD_NETWORK:
        widths = [min(preset.width * 2**level, MOST_CHANNELS) for level in range(len(kernels))]
        return {"name": network, "channels": widths, "strides": strides, "kernels": kernels}
    if network == "guided-attention":
        five = [*strides, *[[1, 1, 1]] * 5][:5]
        return {
            "name": network,
            "preset": preset.size,
            "stem_stride": five[0],
            "stem_pool": five[1],
            "strides": five[2:],
        }
    return {"name": network}


def _times(size: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in size)


def _notes(
    facts: DataFacts,
    spacing: Sequence[float] | None,
    coarser: float,
    patch: Size,
    shrunk: bool,
    thick: bool,
) -> tuple[str, ...]:
    notes = []
    if spacing is not None:
        why = "the scans' own"
        if coarser > 1:
            why = f"{coarser:g} times coarser than the scans, so that a patch shows enough of them"
        elif len({case.spacing for case in facts.cases}) > 1:
            why = "the scans' median"
        notes.append(f"Voxels of {_times(spacing)} {facts.unit} ({why})")
    shown = math.prod(patch) / float(np.prod(_median_shape(facts, spacing)))
    covers = "the whole of a scan" if shown >= 0.95 else f"about {shown:.0%} of a scan"
    small = "; smaller than the preset's, to fit the memory" if shrunk else ""
    notes.append(f"Patches of {_times(patch)} voxels (z, y, x), {covers}{small}")
    if thick:
        notes.append("Thick slices: treated slice by slice at the finest levels")
    return tuple(notes)
