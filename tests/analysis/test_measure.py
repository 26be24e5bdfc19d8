from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import pdist
from skimage.measure import marching_cubes, mesh_surface_area, regionprops

from napari_attention3d.analysis import masks
from napari_attention3d.analysis.measure import measure
from napari_attention3d.errors import InputError
from napari_attention3d.progress import finish
from napari_attention3d.volumes.volume import Volume

from .shapes import fill, mask, middle, oblique, rotation

AFFINES = {
    "isotropic": np.eye(4),
    "anisotropic": np.diag([2.0, 1.0, 0.5, 1.0]),
    "oblique": oblique(),
    "flipped": oblique() @ np.diag([1.0, -1.0, 1.0, 1.0]),
}


def rows(labels: Volume, **options) -> list[dict]:
    return finish(measure(labels, **options)).to_dict()["rows"]


def blobs(seed=0, shape=(24, 30, 28), values=3) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return np.digitize(noise, np.quantile(noise, [0.6, 0.8, 0.92])[:values]).astype(np.uint8)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_ball_has_the_volume_diameter_and_place_of_a_ball(affine):
    shape = (24, 44, 84) if affine[0, 0] != 1 else (44, 44, 44)
    radius, centre = 18.0, middle(affine, shape) + 0.2
    ball = fill(affine, shape, lambda p: np.linalg.norm(p - centre, axis=-1) <= radius)
    (row,) = rows(mask(ball, affine))
    voxel = max(np.linalg.norm(affine[:3, :3], axis=0))
    assert row["volume (mm3)"] == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
    assert row["volume (mL)"] == pytest.approx(row["volume (mm3)"] / 1000)
    assert row["equivalent diameter (mm)"] == pytest.approx(2 * radius, rel=0.005)
    assert row["maximal diameter (mm)"] == pytest.approx(2 * radius, abs=voxel)
    for axis, where in zip("zyx", centre, strict=True):
        assert row[f"centroid {axis} (mm)"] == pytest.approx(where, abs=0.03)
        assert row[f"low {axis} (mm)"] == pytest.approx(where - radius, abs=1.5 * voxel)
        assert row[f"high {axis} (mm)"] == pytest.approx(where + radius, abs=1.5 * voxel)
    # the steps of a mask without grey values: see Shape
    assert 1.0 < row["surface area (mm2)"] / (4 * np.pi * radius**2) < 1.2
    assert 0.83 < row["sphericity"] < 1


def test_an_ellipsoid_lies_along_its_longest_axis():
    affine, shape = oblique((1.5, 1.0, 0.75)), (40, 44, 58)
    centre, half, turn = middle(affine, shape), np.array([20.0, 9.0, 6.0]), rotation(40)
    ellipsoid = fill(
        affine, shape, lambda p: np.linalg.norm((p - centre) @ turn / half, axis=-1) <= 1
    )
    (row,) = rows(mask(ellipsoid, affine))
    assert row["volume (mm3)"] == pytest.approx(4 / 3 * np.pi * half.prod(), rel=0.01)
    assert row["maximal diameter (mm)"] == pytest.approx(40, abs=1)
    reach = np.linalg.norm(turn * half, axis=1)  # of an ellipsoid along the world's axes
    for i, axis in enumerate("zyx"):
        assert row[f"high {axis} (mm)"] - row[f"low {axis} (mm)"] == pytest.approx(
            2 * reach[i], abs=2.5
        )


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_box_is_exact(affine):
    array = np.zeros((9, 16, 20), dtype=np.uint16)
    array[2:7, 3:13, 4:18] = 300
    (row,) = rows(mask(array, affine))
    a, b, c = np.array([5, 10, 14]) * np.linalg.norm(affine[:3, :3], axis=0)
    assert row["label"] == 300
    assert row["voxels"] == 700
    assert row["volume (mm3)"] == pytest.approx(a * b * c)
    # its edges are bevelled by half a voxel
    assert row["surface area (mm2)"] == pytest.approx(2 * (a * b + b * c + a * c), rel=0.08)
    assert [row[f"start {axis} (voxel)"] for axis in "zyx"] == [2, 3, 4]
    assert [row[f"stop {axis} (voxel)"] for axis in "zyx"] == [7, 13, 18]
    corners = np.array(np.meshgrid([1.5, 6.5], [2.5, 12.5], [3.5, 17.5])).reshape(3, -1).T
    world = corners @ affine[:3, :3].T + affine[:3, 3]
    for i, axis in enumerate("zyx"):
        assert row[f"centroid {axis} (mm)"] == pytest.approx(world[:, i].mean())
        assert row[f"low {axis} (mm)"] == pytest.approx(world[:, i].min())
        assert row[f"high {axis} (mm)"] == pytest.approx(world[:, i].max())


def test_sheared_voxels_keep_their_volume():
    affine = np.eye(4)
    affine[1, 0] = 0.5  # a tilted gantry
    array = np.zeros((8, 8, 8), dtype=np.uint8)
    array[2:6, 2:6, 2:6] = 1
    (row,) = rows(mask(array, affine))
    assert row["volume (mm3)"] == pytest.approx(64)
    assert row["maximal diameter (mm)"] > rows(mask(array))[0]["maximal diameter (mm)"]
    assert row["high y (mm)"] - row["low y (mm)"] == pytest.approx(4 + 2)


def test_one_voxel_is_an_octahedron_of_the_mesh():
    array = np.zeros((3, 3, 3), dtype=np.uint8)
    array[1, 1, 1] = 1
    (row,) = rows(mask(array))
    assert row["surface area (mm2)"] == pytest.approx(np.sqrt(3))
    assert row["maximal diameter (mm)"] == pytest.approx(1)
    assert row["sphericity"] == pytest.approx(np.pi ** (1 / 3) / np.sqrt(3))
    assert row["equivalent diameter (mm)"] == pytest.approx((6 / np.pi) ** (1 / 3))


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.0, 1.0, 0.5)])
def test_agrees_with_scikit_image(spacing):
    array, image = blobs(), np.random.default_rng(1).normal(size=(24, 30, 28)).astype(np.float32)
    found = rows(
        mask(array, np.diag([*spacing, 1.0])),
        images={"scan": Volume.from_array(image, spacing=spacing)},
    )
    expected = regionprops(array, intensity_image=image, spacing=spacing)
    assert [row["label"] for row in found] == [one.label for one in expected]
    for row, one in zip(found, expected, strict=True):
        assert row["voxels"] == one.num_pixels
        assert row["volume (mm3)"] == pytest.approx(one.area)
        box = one.bbox
        assert tuple(row[f"start {axis} (voxel)"] for axis in "zyx") == box[:3]
        assert tuple(row[f"stop {axis} (voxel)"] for axis in "zyx") == box[3:]
        assert [row[f"centroid {axis} (mm)"] for axis in "zyx"] == pytest.approx(one.centroid)
        assert row["equivalent diameter (mm)"] == pytest.approx(one.equivalent_diameter_area)
        assert row["scan mean"] == pytest.approx(one.intensity_mean, rel=1e-5)
        assert row["scan std"] == pytest.approx(one.intensity_std, rel=1e-5)
        assert row["scan min"] == pytest.approx(one.intensity_min)
        assert row["scan max"] == pytest.approx(one.intensity_max)
        inside = image[array == one.label]
        for p in (5, 50, 95):
            assert row[f"scan p{p}"] == pytest.approx(np.percentile(inside, p))


@pytest.mark.parametrize("seed", range(3))
def test_maximal_diameter_is_that_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    array = (rng.random((6, 7, 8)) < 0.2).astype(np.uint8)
    affine = oblique((3.0, 1.0, 0.7))
    tips = np.argwhere(array)[:, None] + 0.5 * np.concatenate([np.eye(3), -np.eye(3)])
    (row,) = rows(mask(array, affine))
    longest = pdist(tips.reshape(-1, 3) @ affine[:3, :3].T).max()
    assert row["maximal diameter (mm)"] == pytest.approx(longest)


def test_surface_and_maximal_diameter_are_those_of_scikit_images_mesh():
    array, spacing = blobs(2, (12, 14, 13), 1), (2.0, 1.0, 0.5)
    (row,) = rows(mask(array, np.diag([*spacing, 1.0])))
    points, faces, _, _ = marching_cubes(np.pad(array, 1).astype(float), 0.5, spacing=spacing)
    assert row["surface area (mm2)"] == pytest.approx(mesh_surface_area(points, faces), rel=1e-6)
    assert row["maximal diameter (mm)"] == pytest.approx(pdist(points).max(), rel=1e-6)


def test_agrees_with_simpleitk_on_an_oblique_grid():
    sitk = pytest.importorskip("SimpleITK")
    array, affine = blobs(3), oblique((2.0, 1.0, 0.5), 35)
    labels = mask(array, affine)
    scan = np.random.default_rng(0).normal(size=array.shape)
    image, values = (sitk.GetImageFromArray(a) for a in (array, scan))
    for one in (image, values):
        one.SetSpacing(labels.geometry.spacing[::-1])
        one.SetOrigin(labels.geometry.origin[::-1])
        one.SetDirection(labels.geometry.direction[::-1, ::-1].ravel())
    shapes, inside = (
        sitk.LabelShapeStatisticsImageFilter(),
        sitk.LabelIntensityStatisticsImageFilter(),
    )
    shapes.Execute(image)
    inside.Execute(image, values)
    found = rows(labels, images={"scan": mask(scan, affine)})
    assert len(found) == 3
    for row in found:
        label = row["label"]
        assert row["voxels"] == shapes.GetNumberOfPixels(label)
        assert row["volume (mm3)"] == pytest.approx(shapes.GetPhysicalSize(label))
        centroid = [row[f"centroid {axis} (mm)"] for axis in "xyz"]
        assert centroid == pytest.approx(shapes.GetCentroid(label))
        start = [row[f"start {axis} (voxel)"] for axis in "xyz"]
        assert tuple(start) == shapes.GetBoundingBox(label)[:3]
        assert row["equivalent diameter (mm)"] == pytest.approx(
            2 * shapes.GetEquivalentSphericalRadius(label)
        )
        assert row["scan mean"] == pytest.approx(inside.GetMean(label))
        assert row["scan max"] == pytest.approx(inside.GetMaximum(label))


def test_a_few_planes_at_a_time_give_the_same(monkeypatch):
    labels = mask(blobs(), oblique())
    scan = np.random.default_rng(0).normal(size=labels.geometry.shape)
    options = {
        "images": {"scan": mask(scan, oblique())},
        "attention": {"gate": mask(np.abs(scan[::2]), oblique() @ np.diag([2.0, 1, 1, 1]))},
    }
    whole = rows(labels, **options)
    monkeypatch.setattr(masks, "SLAB_VOXELS", 3 * 30 * 28)
    for row, again in zip(whole, rows(labels, **options), strict=True):
        assert again == pytest.approx(row, rel=1e-9)


def test_large_label_values_and_lazy_arrays():
    import dask.array as da

    array = np.zeros((6, 8, 8), dtype=np.uint32)
    array[:2], array[4:, 2:5] = 4_000_000_000, 70_000
    found = rows(mask(da.from_array(array, chunks=(1, 8, 8))))
    assert [(row["label"], row["voxels"]) for row in found] == [
        (70_000, 48),
        (4_000_000_000, 128),
    ]


@pytest.mark.parametrize("big", [False, True])
def test_a_mask_larger_than_memory_is_read_in_boxes(monkeypatch, big):
    class Disk:
        """An array that counts what is read of it at once."""

        def __init__(self, array):
            self.array, self.most = array, 0
            self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

        def __getitem__(self, key):
            part = self.array[key]
            self.most = max(self.most, part.size)
            return part

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self[...], dtype=dtype)

    disk = Disk(blobs())
    if big:
        monkeypatch.setattr(masks, "_SHARE_OF_MEMORY", 0.0)
        monkeypatch.setattr(masks, "SLAB_VOXELS", 4 * 30 * 28)
    for row, again in zip(rows(mask(blobs())), rows(mask(disk)), strict=True):
        assert again == pytest.approx(row)
    assert disk.most == (4 * 30 * 28 if big else disk.array.size)


def test_components_come_one_by_one_the_largest_first():
    array = np.zeros((5, 12, 12), dtype=np.uint8)
    array[1:3, 1:3, 1:3] = 1  # 8 voxels
    array[3, 3, 3] = 1  # touches it by a corner
    array[1:4, 6:9, 6:9] = 1  # 27 voxels
    array[0, 11, :3] = 2
    found = rows(mask(array), components=True)
    assert [(r["label"], r["component"], r["voxels"]) for r in found] == [
        (1, 1, 27),
        (1, 2, 9),
        (2, 1, 3),
    ]
    apart = rows(mask(array), components=True, connectivity=18)
    assert [r["voxels"] for r in apart] == [27, 8, 1, 3]
    assert apart[1]["centroid y (mm)"] == pytest.approx(1.5)
    assert apart[0]["start z (voxel)"] == 1
    whole = {r["label"]: r for r in rows(mask(array))}
    assert whole[1]["voxels"] == 36


def test_an_image_on_another_grid_is_sampled_in_the_world():
    """A linear function of the world is reproduced exactly by linear interpolation."""
    slope = np.array([0.3, -1.1, 2.0])
    scan_affine = oblique((1.5, 1.5, 1.5), -20, (-10, -40, 0))
    shape = (50, 60, 60)
    scan = mask(fill(scan_affine, shape, lambda p: np.ones(p.shape[:-1])), scan_affine)
    world = scan.geometry.to_world(np.moveaxis(np.indices(shape), 0, -1))
    scan = scan.replace(array=(world @ slope).astype(np.float64))
    array = blobs(5, (10, 14, 18), 1)
    affine = oblique((2.0, 1.0, 0.5), 25, (10, 0, 30))
    labels = mask(array, affine)
    centres = labels.geometry.to_world(np.argwhere(array == 1))
    (row,) = rows(labels, images={"scan": scan})
    expected = centres @ slope
    assert row["scan mean"] == pytest.approx(expected.mean(), rel=1e-5)
    assert row["scan max"] == pytest.approx(expected.max(), rel=1e-5)
    assert row["scan p5"] == pytest.approx(np.percentile(expected, 5), rel=1e-5)


def test_attention_inside_is_a_share_of_all_attention_on_the_grid():
    labels = mask(np.zeros((8, 8, 8), dtype=np.uint8))
    labels.array[:4] = 1
    labels.array[4:, :2] = 2
    coarse = labels.geometry.strided((2, 2, 2), (4, 4, 4), (1.5, 1.5, 1.5))
    flat = Volume(np.full((2, 2, 2), 0.25, dtype=np.float32), coarse)
    one, two = rows(labels, attention={"gate": flat})
    assert one["gate mean"] == pytest.approx(0.25)
    assert one["gate share"] == pytest.approx(0.5)
    assert two["gate share"] == pytest.approx(4 * 2 * 8 / 512)
    upper = flat.replace(array=np.stack([np.ones((2, 2)), np.zeros((2, 2))]))
    one, two = rows(labels, attention={"gate": upper})
    assert one["gate mean"] > 0.5 > two["gate mean"]
    assert one["gate share"] + rows(
        labels.replace(array=1 - (labels.array == 1)), attention={"gate": upper}
    )[0]["gate share"] == pytest.approx(1)
    nothing = flat.replace(array=np.zeros((2, 2, 2)))
    assert rows(labels, attention={"gate": nothing})[0]["gate share"] is None


def test_where_an_image_does_not_reach_is_left_out_and_told():
    labels = mask(np.ones((10, 4, 4), dtype=np.uint8), name="cells")
    image = mask(np.arange(6 * 16, dtype=np.float32).reshape(6, 4, 4), name="scan")
    table = finish(measure(labels, images={"scan": image}))
    (row,) = table.to_dict()["rows"]
    assert row["scan mean"] == pytest.approx(image.array.mean())
    assert "no value at 64 of the 160 voxels of label 1" in table.notes[0]
    far = mask(np.ones((2, 2, 2)), np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 500)
    (row,) = rows(labels, images={"scan": far})
    assert row["scan mean"] is None
    holed = image.array.copy()
    holed[0, 0, 0] = np.nan
    same = mask(np.ones((6, 4, 4), dtype=np.uint8))
    assert rows(same, images={"s": mask(holed)})[0]["s min"] == 1


def test_many_bit_depths_have_the_same_figures():
    rng = np.random.default_rng(0)
    scan = rng.integers(-100, 100, (8, 9, 10))
    labels = mask(blobs(1, (8, 9, 10), 1))
    whole = [
        rows(labels, images={"s": mask(scan.astype(dtype))})[0]
        for dtype in (np.int8, np.int16, np.int32, np.float32, np.float64)
    ]
    for other in whole[1:]:
        assert other == pytest.approx(whole[0])
    assert whole[0]["s p5"] == pytest.approx(np.percentile(scan[labels.array == 1], 5))


def test_channels_have_columns_of_their_own():
    labels = mask(np.ones((4, 4, 4), dtype=np.uint8))
    image = np.stack([np.full((4, 4, 4), v, dtype=np.uint8) for v in (3, 7)])
    scan = Volume.from_array(image, affine=np.eye(4), channel_names=("DAPI", "actin"))
    (row,) = rows(labels, images={"scan": scan})
    assert (row["scan DAPI mean"], row["scan actin mean"]) == (3, 7)


def test_units_names_and_an_empty_mask():
    array = np.ones((2, 2, 2), dtype=np.uint8)
    classes = [{"name": "background"}, {"name": "nucleus"}]
    cells = mask(array, np.diag([2.0, 1, 1, 1]), "um", metadata={"classes": classes})
    (row,) = rows(cells)
    assert row["name"] == "nucleus"
    assert row["volume (um3)"] == 16
    assert not any("mL" in key or "mm" in key for key in row)
    assert rows(cells, names={1: "cell"})[0]["name"] == "cell"
    (row,) = rows(Volume.from_array(array))
    assert row["volume (pixel3)"] == 8
    assert "name" not in row
    empty = finish(measure(mask(np.zeros((3, 3, 3), dtype=np.uint8))))
    assert empty.rows == ()
    json.dumps(empty.to_dict())


def test_an_image_in_the_other_unit_of_length_is_laid_on_the_mask():
    labels = mask(np.ones((4, 4, 4), dtype=np.uint8))
    image = mask(np.full((4, 4, 4), 5.0), np.diag([1000.0, 1000, 1000, 1]), "um")
    assert rows(labels, images={"s": image})[0]["s mean"] == 5


@pytest.mark.parametrize(
    ("labels", "options", "says"),
    [
        (mask(np.full((3, 3, 3), 0.5)), {}, "not whole numbers"),
        (mask(np.full((3, 3, 3), -1)), {}, "negative"),
        (mask(np.ones((2, 3, 3, 3), dtype=np.uint8)), {}, "2 channels"),
        (mask(np.ones((3, 3, 3), dtype=np.uint8)), {"connectivity": 8}, "6, 18 and 26"),
        (mask(np.ones((3, 3, 3), dtype=np.uint8)), {"percentiles": (5, 101)}, "0 and 100"),
        (
            mask(np.ones((3, 3, 3), dtype=np.uint8)),
            {"images": {"s": Volume.from_array(np.ones((4, 3, 3)))}},
            "pixel",
        ),
        (
            mask(np.ones((3, 3, 3), dtype=np.uint8)),
            {"images": {"s": mask(np.ones((3, 3, 3), dtype=complex))}},
            "complex",
        ),
    ],
)
def test_what_can_not_be_measured_is_refused(labels, options, says):
    with pytest.raises(InputError, match=says):
        finish(measure(labels, **options))


def test_closing_the_job_cancels_it():
    job = measure(mask(blobs()))
    assert next(job).message == "Looking for labels"
    job.close()
    with pytest.raises(StopIteration):
        next(job)
