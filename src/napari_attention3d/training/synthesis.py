"""Scans drawn from label maps: every step another contrast, pose and resolution.

Domain randomisation after Billot et al. 2023 (SynthSeg, doi:10.1016/j.media.2023.102789),
with contrasts drawn around those of MRI: a network that has seen T1-, T2-, PD- and
FLAIR-like scans learns several times faster than from fully random brightness.
All tensors live on one device; randomness comes from one seeded generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as nnf

from .config import ContrastSettings, LabelRow, SpatialSettings

__all__ = ["TISSUES", "LabelMap", "Synthesiser"]

TISSUES = ("csf", "grey", "white")

# Mean brightness ranges of (csf, grey, white); bright is 1.
_CONTRASTS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "t1": ((0.08, 0.30), (0.42, 0.62), (0.72, 0.95)),
    "t2": ((0.85, 1.00), (0.50, 0.68), (0.30, 0.48)),
    "pd": ((0.70, 1.00), (0.62, 0.80), (0.40, 0.58)),
    "flair": ((0.02, 0.20), (0.55, 0.75), (0.38, 0.56)),
}


@dataclass(frozen=True)
class LabelMap:
    """A label map, ready to be sampled.

    Parameters
    ----------
    rows
        (Z, Y, X) uint8: number of the row in the label table; 0 is "nothing" (air).
    spacing
        Voxel size (z, y, x).
    name
        Name of the file without suffixes.
    centre
        Index (z, y, x) around which patches lie (middle of the labelled brain).
    """

    rows: Tensor
    spacing: tuple[float, float, float]
    name: str
    centre: tuple[float, float, float]


class Synthesiser:
    """Draws (image, labels) patches from label maps.

    Parameters
    ----------
    labels
        The label table.
    spacing
        Voxel size of the patches (z, y, x).
    contrast, spatial
        Ranges.
    """

    def __init__(
        self,
        labels: Sequence[LabelRow],
        spacing: tuple[float, float, float],
        contrast: ContrastSettings,
        spatial: SpatialSettings,
    ) -> None:
        self.labels, self.spacing = tuple(labels), spacing
        self.contrast, self.spatial = contrast, spatial
        targets = [0] + [row.label for row in self.labels]
        self.targets = torch.tensor(targets, dtype=torch.uint8)
        self.extra = torch.tensor([True] + [row.extra for row in self.labels])
        self.inner = torch.tensor(
            [False] + [not row.extra and set(row.tissue) != {"csf"} for row in self.labels]
        )

    def draw(
        self, source: LabelMap, patch: tuple[int, int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw one scan.

        Parameters
        ----------
        source
            The map.
        patch
            Size (z, y, x).
        generator
            Seeded; on the device of the map.

        Returns
        -------
        image
            (1, Z, Y, X) float32, brightness not yet normalised.
        labels
            (Z, Y, X) uint8 classes.
        """
        device = source.rows.device
        coordinates = self._coordinates(source, patch, generator)
        kind = self._choose(generator, device)
        means = self._means(kind, generator, device)
        sharp = means[source.rows.int()]
        image = _sample(_smooth(sharp, source.spacing, self.spacing), coordinates)
        rows = _nearest(source.rows, coordinates)
        image, rows, stripped = self._strip(image, rows, generator)
        image = self._degrade(image, rows, stripped, generator)
        return image[None], self.targets.to(device)[rows.int()]

    # ---- where

    def _coordinates(
        self, source: LabelMap, patch: tuple[int, int, int], generator: torch.Generator
    ) -> Tensor:
        """Index in the map, (Z, Y, X, 3), of each voxel of the patch."""
        device, s = source.rows.device, self.spatial
        axes = [
            (torch.arange(n, device=device) - (n - 1) / 2) * step
            for n, step in zip(patch, self.spacing, strict=True)
        ]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        matrix = _affine(s, generator, device)
        shift = (_uniform(3, generator, device) * 2 - 1) * s.shift
        grid = grid @ matrix.T + shift
        if s.elastic > 0:
            amount = float(_uniform(1, generator, device)) * s.elastic
            cells = [
                max(2, round(n * step / 32)) for n, step in zip(patch, self.spacing, strict=True)
            ]
            field = torch.randn((1, 3, *cells), generator=generator, device=device) * amount
            field = nnf.interpolate(field, size=patch, mode="trilinear", align_corners=True)
            grid = grid + field[0].permute(1, 2, 3, 0)
        spacing = torch.tensor(source.spacing, device=device)
        return grid / spacing + torch.tensor(source.centre, device=device)

    # ---- how bright

    def _choose(self, generator: torch.Generator, device: torch.device) -> str:
        names = sorted(self.contrast.weights)
        weights = torch.tensor([self.contrast.weights[n] for n in names], device=device)
        return names[int(torch.multinomial(weights, 1, generator=generator))]

    def _means(self, kind: str, generator: torch.Generator, device: torch.device) -> Tensor:
        count = len(self.labels) + 1
        free = _uniform(count, generator, device)
        if kind == "random":
            tissue = _uniform(3, generator, device)
        else:
            low, high = torch.tensor(_CONTRASTS[kind], device=device).T
            tissue = low + (high - low) * _uniform(3, generator, device)
        means = free.clone()
        jitter = torch.randn(count, generator=generator, device=device) * 0.03
        for number, row in enumerate(self.labels, start=1):
            if row.tissue and (kind != "random" or float(_uniform(1, generator, device)) < 0.5):
                mix = torch.tensor([row.tissue.get(t, 0.0) for t in TISSUES], device=device)
                means[number] = (mix * tissue).sum() / mix.sum() + jitter[number]
        means[0] = free[0] * 0.15 if float(_uniform(1, generator, device)) < 0.3 else 0.0
        return means.clamp(0, 1.2)

    def _strip(
        self, image: Tensor, rows: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, bool]:
        """Remove what is not brain, as skull-stripping does, from a share of the scans."""
        device = image.device
        stripped, kind, margin, depth = _uniform(4, generator, device).tolist()
        if stripped >= self.contrast.stripped:
            return image, rows, False
        keep = ~self.extra.to(device)[rows.int()]
        # Tools cut close to the brain (most do), at some distance, or keep all liquor.
        if kind > 0.15:
            reach = 0 if kind < 0.6 else round(margin * 5 / min(self.spacing))
            fill = 1 + round(2 * depth)
            brain = self.inner.to(device)[rows.int()].float()[None, None]
            # Closing: deep liquor (ventricles, sulci up to some width) stays.
            wide = _dilate(brain, reach + fill)
            keep &= (1 - _dilate(1 - wide, fill))[0, 0] > 0
        return image * keep, rows * keep, True

    # ---- how well it was scanned

    def _degrade(
        self, image: Tensor, rows: Tensor, stripped: bool, generator: torch.Generator
    ) -> Tensor:
        device, c = image.device, self.contrast
        size = (1, 1, *image.shape)
        draws = _uniform(8, generator, device).tolist()
        textures = c.texture[0] + (c.texture[1] - c.texture[0]) * _uniform(
            len(self.labels) + 1, generator, device
        )
        textures[0] = 0.0
        grain = torch.randn(image.shape, generator=generator, device=device)
        image = (image + grain * textures[rows.int()])[None, None]
        sigma = c.blur[0] + (c.blur[1] - c.blur[0]) * draws[0]
        image = _gaussian(image, (sigma,) * 3)
        if draws[1] < c.thick_slices:
            factor = 1 + 3 * draws[2]
            axis = int(draws[3] * 3) % 3
            blur = [0.0, 0.0, 0.0]
            blur[axis] = 0.5 * (factor - 1)
            coarse = [*size[2:]]
            coarse[axis] = max(4, round(coarse[axis] / factor))
            image = _gaussian(image, blur)
            image = nnf.interpolate(image, size=coarse, mode="trilinear", align_corners=False)
            image = nnf.interpolate(image, size=size[2:], mode="trilinear", align_corners=False)
        field = torch.randn((1, 1, 4, 4, 4), generator=generator, device=device)
        field = nnf.interpolate(field, size=size[2:], mode="trilinear", align_corners=True)
        image = image * (field * (c.bias * draws[4])).exp()
        # Noise of the scanner lies everywhere, but stripped air is exactly 0.
        noise = torch.randn(size, generator=generator, device=device)
        level = c.noise[0] + (c.noise[1] - c.noise[0]) * draws[5] ** 2
        image = image + noise * level
        if stripped:
            image = image * (rows > 0)
        image = image.clamp_min(0)
        top = image.amax().clamp_min(1e-6)
        image = (image / top) ** math.exp(c.gamma * (2 * draws[6] - 1))
        return image[0, 0]


def _dilate(mask: Tensor, reach: int) -> Tensor:
    """Grow a mask (1, 1, Z, Y, X) of 0 and 1 by a cube of `reach` voxels."""
    return nnf.max_pool3d(mask, 2 * reach + 1, 1, reach) if reach > 0 else mask


def _uniform(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(count, generator=generator, device=device)


def _affine(s: SpatialSettings, generator: torch.Generator, device: torch.device) -> Tensor:
    draws = (_uniform(9, generator, device) * 2 - 1).tolist()
    matrix = torch.eye(3)
    for axis, angle in enumerate(draws[:3]):
        a = math.radians(angle * s.rotation)
        i, j = [k for k in range(3) if k != axis]
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = math.cos(a)
        turn[i, j], turn[j, i] = -math.sin(a), math.sin(a)
        matrix = matrix @ turn
    shear = torch.eye(3)
    shear[0, 1], shear[0, 2], shear[1, 2] = (d * s.shear for d in draws[3:6])
    scale = torch.diag(torch.tensor([1 + d * s.scaling for d in draws[6:9]]))
    matrix = matrix @ shear @ scale
    if s.flip and float(_uniform(1, generator, device)) < 0.5:
        matrix[:, 2] = -matrix[:, 2]
    return matrix.to(device)


def _smooth(
    image: Tensor, source: tuple[float, float, float], target: tuple[float, float, float]
) -> Tensor:
    """Mean over about a target voxel, so that sampling sees partial volumes."""
    sizes = [
        max(1, 2 * round((coarse / fine - 1) / 2 + 0.01) + 1)
        for fine, coarse in zip(source, target, strict=True)
    ]
    if max(sizes) == 1:
        return image
    padding = [k // 2 for k in sizes]
    return nnf.avg_pool3d(image[None, None], sizes, 1, padding, count_include_pad=False)[0, 0]


def _sample(image: Tensor, coordinates: Tensor) -> Tensor:
    """Trilinear values at indices (..., 3); 0 outside."""
    shape = torch.tensor(image.shape, device=image.device)
    unit = (2 * coordinates + 1) / shape - 1
    return nnf.grid_sample(
        image[None, None], unit.flip(-1)[None], mode="bilinear", align_corners=False
    )[0, 0]


def _nearest(rows: Tensor, coordinates: Tensor) -> Tensor:
    """Nearest rows at indices (..., 3); 0 outside."""
    index = coordinates.round().long()
    shape = torch.tensor(rows.shape, device=rows.device)
    inside = ((index >= 0) & (index < shape)).all(-1)
    z, y, x = index.clamp_min(0).minimum(shape - 1).unbind(-1)
    return rows[z, y, x] * inside


def _gaussian(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Separable blur of (1, 1, Z, Y, X)."""
    for axis, sigma in enumerate(sigmas):
        if sigma < 0.2:
            continue
        radius = max(1, math.ceil(3 * sigma))
        x = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
        kernel = (-0.5 * (x / sigma) ** 2).exp()
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = -1
        padding = [0, 0, 0]
        padding[axis] = radius
        image = nnf.conv3d(image, (kernel / kernel.sum()).view(shape), padding=padding)
    return image
