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
