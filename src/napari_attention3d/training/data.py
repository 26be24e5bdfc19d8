"""Where training patches come from: label maps alone, or images with labels.

Step ``n`` of a run draws from a generator seeded with (seed, n) alone, so that a resumed
run sees exactly what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry import Geometry
from ..inference.preprocess import Preprocessor, normalise
from ..models.card import ModelCard
from ..volumes import Volume, read_volume
from .augment import Augmenter
from .config import PairsData, SynthesisData, TrainConfig
from .synthesis import LabelMap, Synthesiser

__all__ = ["Batch", "Sampler", "labels_on_grid", "make_sampler", "match_pairs"]

Batch = tuple[Tensor, Tensor]
"""Images (B, C, Z, Y, X) float32 and labels (B, Z, Y, X) uint8."""


class Sampler(Protocol):
    """Source of training and validation patches."""

    ignore: int | None

    def batch(self, step: int, patch: tuple[int, int, int], size: int) -> Batch:
        """Training patches of one step."""

    def validation(self) -> Sequence[tuple[str, Tensor, Tensor]]:
        """(name, image (C, Z, Y, X), labels (Z, Y, X)), the same at every call."""

    def shares(self) -> Tensor:
        """Share of each class among all voxels (K,)."""


def make_sampler(config: TrainConfig, card: ModelCard, device: torch.device) -> Sampler:
    """Return the sampler of a configuration.

    Raises
    ------
    InputError
        If a folder is missing or empty, or files do not fit together.
    """
    if isinstance(config.data, SynthesisData):
        return SynthesisSampler(config, config.data, device)
    return PairsSampler(config, config.data, card, device)


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

    def batch(self, step: int, patch: tuple[int, int, int], size: int) -> Batch:
        """Draw `size` scans."""
        images, labels = [], []
        for number in range(size):
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


def match_pairs(images: Path, labels: Path) -> list[tuple[str, Path, Path]]:
    """Images and label maps of the same name (suffixes apart).

    Raises
    ------
    InputError
        If a folder is missing, empty, or an image has no label map.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; give the folder of the training files")
    by_name = {_stem(p): p for p in sorted(labels.iterdir()) if p.is_file()}
    pairs = []
    for path in sorted(p for p in images.iterdir() if p.is_file() and not p.name.startswith(".")):
        if _stem(path) not in by_name:
            raise InputError(f"{path.name} has no label map of the same name in {labels}")
        pairs.append((_stem(path), path, by_name[_stem(path)]))
    if not pairs:
        raise InputError(f"{images} holds no images")
    return pairs


def labels_on_grid(labels: Volume, grid: Geometry) -> np.ndarray[Any, np.dtype[Any]]:
    """Nearest labels at the voxel centres of `grid`, (Z, Y, X); 0 outside.

    Raises
    ------
    InputError
        If the volume has several channels.
    """
    if labels.array.ndim == 4:
        raise InputError(f"{labels.name} has {labels.n_channels} channels; labels have one")
    source = np.asarray(labels.array)
    matrix = np.linalg.solve(labels.geometry.affine, grid.affine)
    result = np.zeros(grid.shape, dtype=source.dtype)
    y, x = np.meshgrid(*[np.arange(n) for n in grid.shape[1:]], indexing="ij")
    limits = np.array(source.shape)
    for z in range(grid.shape[0]):
        points = np.stack([np.full(y.shape, z), y, x], axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
        index = np.rint(points).astype(np.int64)
        inside = ((index >= 0) & (index < limits)).all(-1)
        index = index.clip(0, limits - 1)
        result[z] = source[index[..., 0], index[..., 1], index[..., 2]] * inside
    return result


class PairsSampler:
    """Patches from scans with labels."""

    def __init__(
        self, config: TrainConfig, data: PairsData, card: ModelCard, device: torch.device
    ) -> None:
        self.config, self.data, self.device, self.ignore = config, data, device, data.ignore
        cases = []
        for name, image, label in match_pairs(Path(data.images), Path(data.labels)):
            prepared = Preprocessor(card).prepare(read_volume(image))
            values = labels_on_grid(read_volume(label), prepared.grid)
            allowed = {*range(len(config.classes))} | ({data.ignore} - {None})
            odd = sorted(set(np.unique(values).tolist()) - allowed)
            if odd:
                raise InputError(
                    f"{label.name} holds the label {odd[0]}, but there are "
                    f"{len(config.classes)} classes (0 to {len(config.classes) - 1})"
                )
            tensor = torch.as_tensor(prepared.tensor, dtype=torch.float32)
            cases.append((name, tensor, torch.from_numpy(values.astype(np.uint8))))
        held = set(data.validation)
        if not held and len(cases) >= 3 and data.validation_share > 0:
            order = np.random.default_rng(config.seed).permutation(len(cases))
            count = max(1, round(data.validation_share * len(cases)))
            held = {cases[i][0] for i in order[:count]}
        self.train = [c for c in cases if c[0] not in held]
        self.held = [c for c in cases if c[0] in held]
        if not self.train:
            raise InputError("all cases are kept for validation; none is left for training")
        self.augmenter = Augmenter() if data.augment else None

    def batch(self, step: int, patch: tuple[int, int, int], size: int) -> Batch:
        """Cut `size` patches, most of them around labelled structures."""
        images, labels = [], []
        for number in range(size):
            rng = np.random.default_rng([self.config.seed, step, number])
            _, image, label = self.train[int(rng.integers(len(self.train)))]
            image, label = _cut(image, label, patch, rng, self.data.foreground, self.ignore)
            if self.augmenter is not None:
                image, label = self.augmenter(image, label, int(rng.integers(2**31)))
            images.append(image)
            labels.append(label)
        return torch.stack(images).to(self.device), torch.stack(labels).to(self.device)

    def validation(self) -> Sequence[tuple[str, Tensor, Tensor]]:
        """Whole held-back scans."""
        return [(name, x.to(self.device), y.to(self.device)) for name, x, y in self.held]

    def shares(self) -> Tensor:
        """Class shares over the training scans."""
        counts = torch.zeros(256)
        for _, _, label in self.train:
            counts += torch.bincount(label.flatten().long(), minlength=256).float()
        if self.ignore is not None and self.ignore < 256:
            counts[self.ignore] = 0
        counts = counts[: len(self.config.classes)]
        return counts / counts.sum().clamp_min(1)


def _cut(
    image: Tensor,
    label: Tensor,
    patch: tuple[int, int, int],
    rng: np.random.Generator,
    foreground: float,
    ignore: int | None,
) -> tuple[Tensor, Tensor]:
    """Patch around a labelled voxel of a random class, or anywhere; zero-padded at the edges."""
    shape = np.array(label.shape)
    centre = rng.integers(shape)
    present = [v for v in torch.unique(label).tolist() if v > 0 and v != ignore]
    if present and rng.random() < foreground:
        where = torch.nonzero(label == present[int(rng.integers(len(present)))])
        centre = where[int(rng.integers(len(where)))].numpy()
    size = np.array(patch)
    # Stay inside where the scan is large enough.
    start = np.where(
        shape > size, np.clip(centre - size // 2, 0, shape - size), (shape - size) // 2
    )
    low, high = np.maximum(start, 0), np.minimum(start + size, shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    pad = []
    for axis in (2, 1, 0):
        pad += [int(low[axis] - start[axis]), int(start[axis] + size[axis] - high[axis])]
    fill = ignore if ignore is not None else 0
    cut_image = torch.nn.functional.pad(image[(slice(None), *box)], pad)
    cut_label = torch.nn.functional.pad(label[box], pad, value=fill)
    return cut_image, cut_label
