"""Figures of real label maps, against scikit-image and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import marching_cubes, mesh_surface_area, regionprops

from napari_attention3d.analysis.compare import compare
from napari_attention3d.analysis.measure import measure
from napari_attention3d.progress import finish
from napari_attention3d.volumes import read_volume


@pytest.fixture(scope="module")
def abdomen(shared_data):
    folder = shared_data / "d01_ct_abdomen"
    return read_volume(folder / "label.nii.gz"), read_volume(folder / "image.nii.gz")


@pytest.fixture(scope="module")
def table(abdomen):
    labels, image = abdomen
    table = finish(measure(labels, images={"ct": image}))
    headings = [c.heading for c in table.columns]
    return [dict(zip(headings, row, strict=True)) for row in table.rows]


def itk_image(sitk, volume):
    image = sitk.GetImageFromArray(np.asarray(volume.array))
    image.SetSpacing(volume.geometry.spacing[::-1])
    image.SetOrigin(volume.geometry.origin[::-1])
    image.SetDirection(volume.geometry.direction[::-1, ::-1].ravel())
    return image


def test_organs_measure_as_in_simpleitk(abdomen, table):
    sitk = pytest.importorskip("SimpleITK")
    labels, image = abdomen
    shape, inside = sitk.LabelShapeStatisticsImageFilter(), sitk.LabelStatisticsImageFilter()
    mask = itk_image(sitk, labels)
    shape.Execute(mask)
    inside.Execute(itk_image(sitk, image), mask)
    assert [row["label"] for row in table] == sorted(shape.GetLabels())
    for row in table:
        label = row["label"]
        assert row["voxels"] == shape.GetNumberOfPixels(label)
        assert row["volume (mm3)"] == pytest.approx(shape.GetPhysicalSize(label))
        centroid = [row[f"centroid {axis} (mm)"] for axis in "xyz"]
        assert centroid == pytest.approx(shape.GetCentroid(label), abs=1e-6)
        assert row["equivalent diameter (mm)"] == pytest.approx(
            2 * shape.GetEquivalentSphericalRadius(label)
        )
        assert row["ct mean"] == pytest.approx(inside.GetMean(label))
        assert row["ct min"] == inside.GetMinimum(label)


def test_organs_measure_as_in_scikit_image(abdomen, table):
    labels, image = abdomen
    array = np.asarray(labels.array)
    found = regionprops(array, np.asarray(image.array), spacing=labels.geometry.spacing)
    for row, region in zip(table, found, strict=True):
        assert row["volume (mm3)"] == pytest.approx(region.area)
        assert row["ct std"] == pytest.approx(region.image_intensity[region.image].std())
        start = tuple(row[f"start {axis} (voxel)"] for axis in "zyx")
        assert start == region.bbox[:3]
        solid = np.pad(region.image, 1).astype(float)
        points, faces, _, _ = marching_cubes(solid, 0.5, spacing=labels.geometry.spacing)
        surface = mesh_surface_area(points, faces)
        assert row["surface area (mm2)"] == pytest.approx(surface, rel=1e-4)


def test_a_shifted_real_mask_compares_as_in_simpleitk(abdomen):
    sitk = pytest.importorskip("SimpleITK")
    labels, _ = abdomen
    array = np.asarray(labels.array)
    moved = labels.replace(array=np.roll(array, (0, 1, 2), axis=(0, 1, 2)))
    figures = finish(compare(moved, labels, [1, 2, 3], distances=False)).figures["classes"]
    one, other = itk_image(sitk, moved), itk_image(sitk, labels)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(one, other)
    for label in (1, 2, 3):
        assert figures[str(label)]["dice"] == pytest.approx(overlap.GetDiceCoefficient(label))
        assert figures[str(label)]["iou"] == pytest.approx(overlap.GetJaccardCoefficient(label))
