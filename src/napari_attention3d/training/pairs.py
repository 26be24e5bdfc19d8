"""Patches from scans with labels, completely labelled or sparsely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..inference.preprocess import Preprocessor
from ..models.card import ModelCard
from .augment import Augmenter
from .cases import (
    CaseSource,
    Size,
    aligned_labels,
    labels_on_grid,
    to_classes,
    whole_numbers,
)
from .config import PairsData, TrainConfig
from .folders import match_pairs

__all__ = ["IGNORED", "PairsSampler", "validation_split"]

IGNORED = 255
"""What unlabelled voxels become in a batch, whatever their value was."""
PLACES = 20_000
"""Voxels of a class that are remembered as centres for patches."""


@dataclass
class _Ready:
    """A case on the model's grid.

    `places` holds voxels (n, 3) by class, `anywhere` of any label.
    """

    name: str
    image: Tensor
    label: Tensor
    places: dict[int, npt.NDArray[np.int32]]
    anywhere: npt.NDArray[np.int32] | None


def validation_split(
    names: Sequence[str], fold: int = 0, folds: int = 5, seed: int = 0
) -> set[str]:
    """Choose the cases that are kept for validation; each case is in exactly one fold.

    Parameters
    ----------
    names
        All cases; their order does not matter.
    fold
        From 0 on.
    folds
        Parts; no more than there are cases.
    seed
        Of the shuffling.

    Returns
    -------
    set
        Empty for fewer than three cases: all are needed for training.
    """
    if len(names) < 3:
        return set()
    order = np.random.default_rng(seed).permutation(len(names))
    shuffled = [sorted(names)[i] for i in order]
    return set(shuffled[fold % min(folds, len(names)) :: min(folds, len(names))])


class PairsSampler:
    """Draws patches from scans with labels.

    Parameters
    ----------
    config, data
        The run and its data.
    card
        How scans are prepared.
    device
        Where batches go.
    cases
        The training set; default: the pairs in the folders of `data`.

    Raises
    ------
    InputError
        If files or shapes do not fit together, or a label is no class.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: PairsData,
        card: ModelCard,
        device: torch.device,
        cases: Sequence[CaseSource] | None = None,
    ) -> None:
        self.config, self.data, self.device = config, data, device
        self.ignore = None if data.ignore is None else IGNORED
        self.classes = len(config.classes)
        sources: Sequence[CaseSource] = cases or _in_folders(data)
        held = set(data.validation)
        missing = sorted(held - {s.name for s in sources})
        if missing:
            raise InputError(f"validation case {missing[0]!r} is not among the training files")
        if not held and len(sources) >= 3 and data.validation_share > 0:
            folds = max(2, round(1 / data.validation_share))
            held = validation_split([s.name for s in sources], 0, folds, config.seed)
        self.train: list[_Ready] = []
        self.held: list[_Ready] = []
        for number, source in enumerate(sources):
            ready = self._prepare(source, card, number)
            (self.held if ready.name in held else self.train).append(ready)
        if not self.train:
            raise InputError("all cases are kept for validation; none is left for training")
        if self.ignore is not None and not any(case.places for case in self.train):
            raise InputError("no voxel of the training cases is labelled; label a few first")
        self.augmenter = Augmenter(data.flip, data.rotate) if data.augment else None

    def _prepare(self, source: CaseSource, card: ModelCard, number: int) -> _Ready:
        image, labels = source.read()
        labels = aligned_labels(source.name, image, labels)
        order = self.data.values or tuple(range(self.classes))
        values = to_classes(whole_numbers(labels), order, self.data.ignore, IGNORED, labels.name)
        prepared = Preprocessor(card).prepare(image)
        outside = self.data.ignore is not None
        on_grid = labels_on_grid(labels.replace(array=values + np.uint8(1)), prepared.grid)
        # 0 is what lies outside the label map: unknown if there is such a thing.
        on_grid = np.where(on_grid == 0, IGNORED if outside else 0, on_grid - np.uint8(1))
        # 255 + 1 wraps to 0, so that unlabelled voxels come back as IGNORED as well.
        label = torch.from_numpy(on_grid.astype(np.uint8))
        image_tensor = torch.as_tensor(prepared.tensor, dtype=torch.float32)
        return _Ready(source.name, image_tensor, label, *self._places(on_grid, number))

    def _places(
        self, labels: npt.NDArray[Any], number: int
    ) -> tuple[dict[int, npt.NDArray[np.int32]], npt.NDArray[np.int32] | None]:
        """Centres for patches: by class, and of any class where not all is labelled."""
        rng = np.random.default_rng([self.config.seed, number])
        flat = labels.reshape(-1)

        def some(index: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
            if len(index) > PLACES:
                index = rng.choice(index, PLACES, replace=False)
            return np.stack(np.unravel_index(index, labels.shape), -1).astype(np.int32)

        found = [v for v in np.unique(flat).tolist() if v != IGNORED or self.ignore is None]
        start = 0 if self.ignore is not None else 1  # background is everywhere, else
        places = {v: some(np.flatnonzero(flat == v)) for v in found if v >= start}
        anywhere = some(np.flatnonzero(flat != IGNORED)) if self.ignore is not None else None
        return places, anywhere

    def batch(self, step: int, patch: Size, size: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """Cut patches number `first` to ``first + size`` of a step, most around structures."""
        images, labels = [], []
        for number in range(first, first + size):
            rng = np.random.default_rng([self.config.seed, step, number])
            case = self.train[int(rng.integers(len(self.train)))]
            image, label = self._cut(case, patch, rng)
            if self.augmenter is not None:
                image, label = self.augmenter(image, label, int(rng.integers(2**31)))
            images.append(image)
            labels.append(label)
        return torch.stack(images).to(self.device), torch.stack(labels).to(self.device)

    def validation(self) -> Sequence[tuple[str, Tensor, Tensor]]:
        """Whole held-back scans; on the CPU."""
        return [(case.name, case.image, case.label) for case in self.held]

    def shares(self) -> Tensor:
        """Class shares over the training scans."""
        counts = torch.zeros(256)
        for case in self.train:
            counts += torch.bincount(case.label.flatten().long(), minlength=256).float()
        counts = counts[: self.classes]
        return counts / counts.sum().clamp_min(1)

    def _cut(self, case: _Ready, patch: Size, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Patch around a voxel of a random class, or of any; padded at the edges."""
        shape, size = np.array(case.label.shape), np.array(patch)
        structures = [v for v in case.places if v > 0]
        if structures and rng.random() < self.data.foreground:
            places = case.places[structures[int(rng.integers(len(structures)))]]
            centre = places[int(rng.integers(len(places)))]
        elif case.anywhere is not None and len(case.anywhere):
            centre = case.anywhere[int(rng.integers(len(case.anywhere)))]
        else:
            centre = rng.integers(shape)
        # The place may lie anywhere within the patch, which stays inside the scan.
        start = centre - size // 2 + np.rint(rng.uniform(-0.25, 0.25, 3) * size).astype(int)
        start = np.where(
            shape > size, np.clip(start, 0, np.maximum(shape - size, 0)), (shape - size) // 2
        )
        low, high = np.maximum(start, 0), np.minimum(start + size, shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        pad = []
        for axis in (2, 1, 0):
            pad += [int(low[axis] - start[axis]), int(start[axis] + size[axis] - high[axis])]
        fill = IGNORED if self.ignore is not None else 0
        image = torch.nn.functional.pad(case.image[(slice(None), *box)], pad)
        label = torch.nn.functional.pad(case.label[box], pad, value=fill)
        return image, label


def _in_folders(data: PairsData) -> Sequence[CaseSource]:
    if data.images is None or data.labels is None:
        raise InputError(
            "this configuration names no folders of images and labels; it was made for open "
            "layers. Give data.images and data.labels"
        )
    return match_pairs(data.images, data.labels)
