"""Files dropped on the real window open by our reader; File > Save writes them back."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_attention3d.volumes import Volume, read_volume, write_volume

NAME = "napari-attention3d"
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".ome.zarr")


@pytest.fixture(autouse=True)
def _our_reader_is_chosen(monkeypatch):
    """napari asks which reader where its own would try, too; the person chooses ours."""
    from napari._qt import qt_viewer

    def chosen(paths, window, stack, *args, **keywords):
        window.viewer.open(paths, stack=stack, plugin=NAME)

    monkeypatch.setattr(qt_viewer, "handle_gui_reading", chosen)


def scan() -> Volume:
    """Anatomical, anisotropic, its rows running towards Posterior."""
    array = np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16)
    affine = np.diag([3.0, -2.0, 1.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    return Volume.from_array(array, affine=affine, unit="mm", anatomical=True, name="scan")


def drop(viewer, path) -> None:
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPointF(50, 50),
        Qt.DropAction.CopyAction,
        mime,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    viewer.window._qt_viewer.dropEvent(event)


def test_what_is_dropped_opens_in_its_place_and_is_saved_again(make_napari_viewer, tmp_path):
    pytest.importorskip("SimpleITK")
    viewer = make_napari_viewer()
    volume = scan()
    for suffix in SUFFIXES:
        drop(viewer, write_volume(tmp_path / f"scan{suffix}", volume))
        (layer,) = viewer.layers
        assert layer.name == "scan", suffix
        np.testing.assert_allclose(layer.scale, (3.0, 2.0, 1.0))
        np.testing.assert_array_equal(np.asarray(layer.data)[:, ::-1], volume.array)
        for target in SUFFIXES:
            out = tmp_path / f"saved{suffix}_as{target}"
            viewer.layers.save(str(out), selected=False, plugin=NAME)
            back = read_volume(out)
            np.testing.assert_array_equal(np.asarray(back.array), volume.array)
            assert back.geometry.is_close(volume.geometry), f"{suffix} saved as {target}"
        viewer.layers.clear()


def write_elsewhere(folder, kind):
    """The scan in a form that we only read, written by others' programs."""
    import nibabel as nib
    import SimpleITK as sitk

    volume = scan()
    x, y, z = np.abs(np.diag(volume.geometry.affine_xyz)[:3])
    if kind == ".mgz":
        image = nib.MGHImage(np.asarray(volume.array).T, volume.geometry.affine_xyz)
        nib.save(image, folder / "scan.mgz")
        return folder / "scan.mgz"
    image = sitk.GetImageFromArray(volume.array)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.geometry.affine_xyz
    image.SetSpacing((x, y, z))
    image.SetOrigin(lps[:3, 3])
    image.SetDirection((lps[:3, :3] / (x, y, z)).ravel())
    if kind != "DICOM":
        sitk.WriteImage(image, str(folder / f"scan{kind}"))
        return folder / f"scan{kind}"
    series = folder / "scan"
    series.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    turn = np.array(image.GetDirection()).reshape(3, 3)
    about = {"0008|0060": "CT", "0020|000d": "1.2.1", "0020|000e": "1.2.2", "0020|0052": "1.2.3"}
    about["0020|0037"] = "\\".join(f"{v:g}" for v in (*turn[:, 0], *turn[:, 1]))
    for number in range(image.GetSize()[2]):
        piece = image[:, :, number]
        place = image.TransformIndexToPhysicalPoint((0, 0, number))
        more = {
            "0008|0018": f"1.2.4.{number}",
            "0020|0032": "\\".join(f"{v:.10g}" for v in place),
            "0020|0013": str(number + 1),
            "0018|0050": f"{z:g}",
        }
        for key, value in {**about, **more}.items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(series / f"{number}.dcm"))
        writer.Execute(piece)
    return series


@pytest.mark.parametrize("kind", [".mgz", ".mhd", ".nhdr", "DICOM"])
def test_what_is_only_read_is_dropped_too(make_napari_viewer, tmp_path, kind):
    pytest.importorskip("SimpleITK")
    pytest.importorskip("pydicom")
    viewer = make_napari_viewer()
    drop(viewer, write_elsewhere(tmp_path, kind))
    (layer,) = viewer.layers
    assert layer.name == "scan"
    np.testing.assert_allclose(layer.scale, (3.0, 2.0, 1.0), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(layer.data)[:, ::-1], scan().array)
    viewer.layers.save(str(tmp_path / "saved.nii.gz"), selected=False, plugin=NAME)
    back = read_volume(tmp_path / "saved.nii.gz")
    # A series has its slices in an order of its own: each voxel must be in its place.
    for index in ((0, 0, 0), (4, 1, 2), (2, 5, 6)):
        place = scan().geometry.to_world(index)
        there = tuple(np.rint(back.geometry.to_index(place)).astype(int))
        np.testing.assert_allclose(back.geometry.to_world(there), place, atol=1e-3)
        assert back.array[there] == scan().array[index]


def test_a_mask_on_a_dicom_scan_is_saved_as_dicom(make_napari_viewer, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    viewer = make_napari_viewer()
    drop(viewer, write_elsewhere(tmp_path, "DICOM"))
    (layer,) = viewer.layers
    painted = np.zeros(layer.data.shape, np.uint8)
    painted[1:3, 2:4, 3] = 1
    mask = viewer.add_labels(painted, scale=layer.scale, translate=layer.translate, name="painted")
    mask.units = layer.units
    viewer.layers.selection = {mask}
    out = tmp_path / "mask.dcm"
    viewer.layers.save(str(out), selected=True, plugin=NAME)
    found = pydicom.dcmread(out)
    assert found.Modality == "SEG"
    assert int(found.pixel_array.sum()) == 4
    viewer.layers.clear()
    alone = viewer.add_labels(painted, name="alone")
    viewer.layers.selection = {alone}
    with pytest.raises(Exception, match="belongs to no DICOM scan"):
        viewer.layers.save(str(tmp_path / "none.dcm"), selected=True, plugin=NAME)
    assert not (tmp_path / "none.dcm").exists()


def test_a_label_map_is_dropped_with_its_names_and_colours(make_napari_viewer, tmp_path):
    viewer = make_napari_viewer()
    classes = [{"name": "none", "colour": "#000000"}, {"name": "liver", "colour": "#e69f00"}]
    about = {"kind": "labels", "classes": classes}
    mask = scan().replace(array=np.ones((5, 6, 7), np.uint8), metadata=about)
    drop(viewer, write_volume(tmp_path / "anything.nii.gz", mask))
    (layer,) = viewer.layers
    assert layer._type_string == "labels"
    assert list(layer.features["name"]) == ["none", "liver"]
    np.testing.assert_allclose(
        layer.colormap.map(1)[:3], np.array([0xE6, 0x9F, 0]) / 255, atol=1e-6
    )
