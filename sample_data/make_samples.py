"""Make the sample volumes in this folder: two phantoms, each with its labels.

Run ``python sample_data/make_samples.py`` from a checkout; the seed is fixed, so that the
voxels are the same each time.

* ``phantom_mri``: a head drawn with ellipsoids, T1-like, in an oblique and anisotropic
  grid, with a bias field and noise.
* ``phantom_nuclei``: nuclei in a confocal stack, slices farther apart than pixels, blurred
  along z, with photon noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes import Volume, write_volume

SEED = 20
FloatArray = npt.NDArray[np.float64]

HEAD_CLASSES = ("background", "CSF", "grey matter", "white matter", "deep grey matter")
HEAD_INTENSITY = (0.0, 55.0, 150.0, 215.0, 165.0)
SCALP_INTENSITY = 120.0


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description="Make the sample volumes.")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).resolve().parent)
    folder = parser.parse_args().out
    scan, labels = head()
    write_volume(folder / "phantom_mri.nii.gz", scan)
    write_volume(folder / "phantom_mri_labels.nii.gz", labels)
    scan, labels = nuclei()
    write_volume(folder / "phantom_nuclei.tif", scan)
    write_volume(folder / "phantom_nuclei_labels.tif", labels)


# ---- a head


def head_geometry() -> Geometry:
    """64 x 80 x 72 voxels (z, y, x) of 3 x 2.5 x 2.5 mm, tilted, centred on the world's origin."""
    shape, spacing = (64, 80, 72), (3.0, 2.5, 2.5)
    nod, turn = np.radians(9.0), np.radians(-6.0)
    about_x = np.array(
        [[np.cos(nod), np.sin(nod), 0], [-np.sin(nod), np.cos(nod), 0], [0, 0, 1]]
    )  # tilts z towards y
    about_z = np.array(
        [[1, 0, 0], [0, np.cos(turn), np.sin(turn)], [0, -np.sin(turn), np.cos(turn)]]
    )  # tilts y towards x
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine, "mm", anatomical=True)


def head() -> tuple[Volume, Volume]:
    """T1-like scan (uint8) and its labels (uint8), 0 to 4 as `HEAD_CLASSES`."""
    rng = np.random.default_rng(SEED)
    grid = head_geometry()
    index = np.stack(np.meshgrid(*[np.arange(s) for s in grid.shape], indexing="ij"), -1)
    world = grid.to_world(index)  # (Z, Y, X, 3) in mm, the head upright in it
    labels = draw_brain(world)
    scalp = inside(world, (0, -2, 0), (88, 97, 79)) & ~inside(world, (0, -2, 0), (82, 91, 73))
    image = np.asarray(HEAD_INTENSITY)[labels]
    image[scalp] = SCALP_INTENSITY
    image = ndimage.gaussian_filter(image, 0.55)
    middle = world / np.array((90.0, 100.0, 80.0))
    bias = (
        1 + 0.16 * middle[..., 0] - 0.10 * middle[..., 1] * middle[..., 2] + 0.08 * middle[..., 2]
    )
    tissue = 1 + 0.03 * smooth_noise(rng, grid.shape, 2.5)
    real = image * bias * tissue + rng.normal(0, 4.0, grid.shape)
    image = np.hypot(real, rng.normal(0, 4.0, grid.shape))  # Rician, as magnitude images are
    scan = Volume(as_bytes(image), grid, "phantom_mri", metadata={"kind": "image"})
    return scan, Volume(labels, grid, "phantom_mri_labels", metadata={"kind": "labels"})


def draw_brain(world: FloatArray) -> npt.NDArray[np.uint8]:
    """Classes at world positions (..., 3), z, y, x in mm."""
    z, y, x = np.moveaxis(world, -1, 0)
    # folds: the surfaces go in and out with position, grey's inner one out of step
    fold = np.sin(x / 5.5 + 1.4 * np.sin(y / 13)) * np.sin(y / 6.3 + z / 21) * np.sin(z / 5.9)
    fissure = 5.0 * np.exp(-((x / 2.6) ** 2)) * (z > -5)
    out = radius(world, (0, -2, 0), (74, 83, 65))
    labels = np.zeros(out.shape, np.uint8)
    labels[out < 1.0] = 1
    labels[out < 0.955 + 0.035 * fold - 0.06 * fissure] = 2
    labels[(out < 0.84 + 0.075 * fold - 0.06 * fissure) & (np.abs(x) > 1.5)] = 3
    corpus = inside(world, (13, 0, 0), (8, 36, 22)) & (z > 8)
    labels[corpus] = 3
    for side in (-1, 1):
        labels[inside(world, (-2, -10, side * 13.0), (10, 17, 9))] = 4  # thalamus
        labels[inside(world, (2, 16, side * 23.0), (13, 19, 7))] = 4  # putamen
        horn = np.sin((y + 40) / 26)
        labels[inside(world, (10, -4, side * 9.0), (9, 38, 6)) & (z > 2 + 4 * horn)] = 1
    labels[inside(world, (-6, -8, 0), (14, 12, 2.5))] = 1  # third ventricle
    return labels


def radius(world: FloatArray, centre: tuple[float, ...], axes: tuple[float, ...]) -> FloatArray:
    """Distance from the centre as a share of the ellipsoid's."""
    scaled = (world - np.asarray(centre, float)) / np.asarray(axes, float)
    return np.asarray(np.linalg.norm(scaled, axis=-1))


def inside(
    world: FloatArray, centre: tuple[float, ...], axes: tuple[float, ...]
) -> npt.NDArray[np.bool_]:
    """Whether positions (..., 3) lie in an ellipsoid with half axes `axes` (z, y, x)."""
    return radius(world, centre, axes) < 1


# ---- nuclei


def nuclei() -> tuple[Volume, Volume]:
    """Confocal stack (uint8) and its instances (uint8), 32 x 96 x 96 voxels in um."""
    rng = np.random.default_rng(SEED + 1)
    shape, spacing = (32, 96, 96), np.array((1.0, 0.4, 0.4))
    grid = Geometry.from_spacing(shape, spacing.tolist(), unit="um")
    index = np.stack(np.meshgrid(*[np.arange(s) for s in shape], indexing="ij"), -1)
    world = index * spacing
    labels = np.zeros(shape, np.uint8)
    image = np.full(shape, 12.0)
    chromatin = smooth_noise(rng, shape, (0.8, 2.0, 2.0))
    for number, (centre, axes) in enumerate(place_nuclei(rng, np.array(shape) * spacing), 1):
        lumpy = radius(world, tuple(centre), tuple(axes)) + 0.05 * chromatin
        own = (lumpy < 1) & (labels == 0)
        labels[own] = number
        image[own] = rng.uniform(70, 130) * (1 + 0.28 * chromatin[own])
    image = ndimage.gaussian_filter(image, (0.9, 0.8, 0.8))  # the microscope's blur
    depth = np.exp(-np.arange(shape[0]) / 55)[:, None, None]  # light is lost in the depth
    image = rng.poisson(np.clip(image, 0, None) * depth * 0.8) / 0.8 + rng.normal(0, 2, shape)
    meta = {"kind": "image"}
    scan = Volume(as_bytes(image * 1.4), grid, "phantom_nuclei", metadata=meta)
    return scan, Volume(labels, grid, "phantom_nuclei_labels", metadata={"kind": "labels"})


def place_nuclei(
    rng: np.random.Generator, size: FloatArray, wanted: int = 46
) -> list[tuple[FloatArray, FloatArray]]:
    """Centres and half axes (z, y, x) in um; neighbours may touch, hardly overlap."""
    placed: list[tuple[FloatArray, FloatArray]] = []
    for _ in range(20_000):
        axes = rng.uniform((2.8, 2.6, 2.6), (4.0, 4.2, 4.2))
        centre = rng.uniform(axes * 0.6, size - axes * 0.6)
        apart = [np.linalg.norm((centre - c) / (axes + a)) for c, a in placed]
        if min(apart, default=9.0) > 0.97:
            placed.append((centre, axes))
        if len(placed) == wanted:
            break
    return placed


# ---- both


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], sigma: float | tuple[float, ...]
) -> FloatArray:
    """Noise of standard deviation 1, smooth over `sigma` voxels."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return np.asarray(noise / noise.std())


def as_bytes(image: FloatArray) -> npt.NDArray[np.uint8]:
    """Round and clip to 0 to 255."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
