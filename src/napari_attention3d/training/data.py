"""Where training patches come from: label maps alone, or images with labels.

Step ``n`` of a run draws from a generator seeded with (seed, n) alone, so that a resumed
run sees exactly what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..inference.preprocess import normalise
from ..models.card import ModelCard
from ..volumes import read_volume
from .cases import CaseSource, Size, labels_on_grid
from .config import SynthesisData, TrainConfig
from .folders import match_pairs
from .pairs import PairsSampler
from .synthesis import LabelMap, Synthesiser

__all__ = [
    "Batch",
    "PairsSampler",
    "Sampler",
    "SynthesisSampler",
    "labels_on_grid",
    "make_sampler",
    "match_pairs",
]

Batch = tuple[Tensor, Tensor]
"""Images (B, C, Z, Y, X) float32 and labels (B, Z, Y, X) uint8."""


class Sampler(Protocol):
    """Source of training and validation patches."""

    ignore: int | None

    def batch(self, step: int, patch: Size, size: int, first: int = 0) -> Batch:
        """Training patches number `first` to ``first + size`` of one step."""

    def validation(self) -> Sequence[tuple[str, Tensor, Tensor]]:
        """(name, image (C, Z, Y, X), labels (Z, Y, X)), the same at every call."""

    def shares(self) -> Tensor:
        """Share of each class among all voxels (K,)."""


def make_sampler(
    config: TrainConfig,
    card: ModelCard,
    device: torch.device,
    cases: Sequence[CaseSource] | None = None,
) -> Sampler:
    """Return the sampler of a configuration.

    Parameters
    ----------
    config, card
        The run and the model that comes out of it.
    device
        Where batches go.
    cases
        Scans with labels in memory, instead of the configuration's folders.

    Raises
    ------
    InputError
        If a folder is missing or empty, or files do not fit together.
    """
    if isinstance(config.data, SynthesisData):
        return SynthesisSampler(config, config.data, device)
    return PairsSampler(config, config.data, card, device, cases)


def _generator(device: torch.device, *seeds: int) -> torch.Generator:
    mixed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device=device).manual_seed(mixed)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


class SynthesisSampler:
    """Patches drawn from label maps."""

    ignore: int | None = None

    def __init__(self, config: TrainConfig, data: SynthesisData, device: torch.device) -> None:
        assert config.spacing is not None  # checked by TrainConfig
        self.config, self.device = config, device
        files = sorted(Path(data.folder).glob(data.pattern))
        if not files:
            raise InputError(
                f"no label maps {data.pattern} in {data.folder}; give their folder with --data"
            )
        names = [_stem(f) for f in files]
        missing = sorted(set(data.validation) - set(names))
        if missing:
            raise InputError(f"validation map {missing[0]!r} is not in {data.folder}")
        maps = [_load_map(f, data, device) for f in files]
        self.training_maps = [m for m in maps if m.name not in data.validation]
        self.validation_maps = [m for m in maps if m.name in data.validation]
        if not self.training_maps:
            raise InputError("all label maps are kept for validation; none is left for training")
        self.synthesiser = Synthesiser(data.labels, config.spacing, data.contrast, data.spatial)
        # Validation sees each held-back map as it lies, under contrasts never trained on.
        still = data.spatial.model_copy(
            update={"rotation": 5.0, "scaling": 0.03, "shear": 0.0, "shift": 4.0, "elastic": 0.0}
        )
        self.still = Synthesiser(data.labels, config.spacing, data.contrast, still)
        self._validation: list[tuple[str, Tensor, Tensor]] | None = None

    def batch(self, step: int, patch: Size, size: int, first: int = 0) -> Batch:
        """Draw scans number `first` to ``first + size`` of a step."""
        images, labels = [], []
        for number in range(first, first + size):
            generator = _generator(self.device, self.config.seed, step, number)
            chosen = torch.randint(
                len(self.training_maps), (1,), generator=generator, device=self.device
            )
            image, label = self.synthesiser.draw(self.training_maps[int(chosen)], patch, generator)
            images.append(normalise(image, self.config.normalisation))
            labels.append(label)
        return torch.stack(images), torch.stack(labels)

    def validation(self) -> Sequence[tuple[str, Tensor, Tensor]]:
        """Return held-back maps, `validation_scans` contrasts each."""
        if self._validation is None:
            patch = max(self.config.schedule.patch_sizes, key=np.prod)
            self._validation = []
            for index, source in enumerate(self.validation_maps):
                for number in range(self.config.schedule.validation_scans):
                    generator = _generator(self.device, self.config.seed, 2**40, index, number)
                    image, label = self.still.draw(source, patch, generator)
                    image = normalise(image, self.config.normalisation)
                    self._validation.append((f"{source.name}/{number}", image, label))
        return self._validation

    def shares(self) -> Tensor:
        """Class shares over four drawn scans."""
        patch = self.config.schedule.patch_sizes[0]
        _, labels = self.batch(2**41, patch, 4)
        counts = torch.bincount(labels.flatten().long(), minlength=len(self.config.classes))
        return counts.float().cpu() / counts.sum().cpu()


def _load_map(path: Path, data: SynthesisData, device: torch.device) -> LabelMap:
    volume = read_volume(path).canonical()
    ids = np.rint(np.asarray(volume.array)).astype(np.int64)
    table = np.zeros(max(1, int(ids.max()) + 1), dtype=np.uint8)
    for number, row in enumerate(data.labels, start=1):
        for value in row.ids:
            if value < len(table):
                table[value] = number
    if int(ids.min()) < 0:
        raise InputError(f"{path} holds negative values; a label map counts from 0")
    rows = table[ids]
    found = np.argwhere(rows)
    if len(found) == 0:
        raise InputError(f"{path} holds none of the ids in the label table")
    low, high = found.min(0), found.max(0) + 1
    rows = rows[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    inner = [n for n, row in enumerate(data.labels, 1) if not row.extra and row.label > 0]
    brain = np.argwhere(np.isin(rows, inner))
    middle = (brain.min(0) + brain.max(0)) / 2
    return LabelMap(
        torch.from_numpy(np.ascontiguousarray(rows)).to(device),
        volume.geometry.spacing,
        _stem(path),
        (float(middle[0]), float(middle[1]), float(middle[2])),
    )
