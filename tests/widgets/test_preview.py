"""Labels that appear while the run is on its way."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.inference import plans
from napari_attention3d.widgets.layers import layer_to_volume
from napari_attention3d.widgets.region import focus_in_view


def labels_of(viewer):
    return [layer for layer in viewer.layers if layer._type_string == "labels"]


@pytest.fixture
def plane_by_plane(monkeypatch):
    monkeypatch.setattr(plans, "fits_whole", lambda *about: False)
    monkeypatch.setattr(plans, "PLANES", 2)


def test_labels_appear_while_it_runs_and_become_the_result(
    dock, viewer, scan_array, qtbot, tools, plane_by_plane, monkeypatch
):
    monkeypatch.setattr("napari_attention3d.widgets.preview.REFRESH_EVERY", 0)
    scan = viewer.add_image(scan_array, name="cells", scale=(2, 1, 0.5))
    seen = []

    def look(step):
        if isinstance(step.partial, list) and labels_of(viewer):
            (layer,) = labels_of(viewer)
            seen.append((layer, np.array(layer.data)))

    dock.segment.running.connect(lambda run: run.progressed.connect(look))
    tools.run_to_end(qtbot, dock)
    (labels,) = labels_of(viewer)
    assert dock.segment.last.provenance["plan"]["engine"] == "exact"
    assert len(seen) > 2
    assert all(layer is labels for layer, _ in seen)
    final = np.asarray(labels.data)
    assert (final == dock.segment.last.labels.array).all()
    filled = [int((data != 0).sum()) for _, data in seen]
    assert filled == sorted(filled)
    assert 0 < filled[len(filled) // 2] < filled[-1] == (final != 0).sum()
    for _, data in seen:
        assert (data[data != 0] == final[data != 0]).all()
    assert viewer.layers[-1] is labels  # above the maps, which came later
    np.testing.assert_allclose(labels.scale, scan.scale)
    tools.run_to_end(qtbot, dock)
    assert labels_of(viewer) == [labels]  # the second run shows no preview


def test_cancel_takes_the_preview_away(dock, viewer, scan_array, qtbot, tools, plane_by_plane):
    viewer.add_image(scan_array, name="cells")
    seen = []

    def stop(step):
        if isinstance(step.partial, list):
            seen.extend(labels_of(viewer))
            dock.segment.cancel()

    dock.segment.running.connect(lambda run: run.progressed.connect(stop))
    dock.segment.run()
    qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=30_000)
    assert seen
    assert [layer.name for layer in viewer.layers] == ["cells"]
    assert "Cancelled" in dock.status.text


def test_a_preview_that_was_painted_in_is_kept(
    dock, viewer, scan_array, qtbot, tools, plane_by_plane
):
    viewer.add_image(scan_array, name="cells")

    def paint(step):
        if isinstance(step.partial, list) and labels_of(viewer):
            layer = labels_of(viewer)[0]
            layer.paint((1, 1, 1), 2)
            dock.segment.cancel()

    dock.segment.running.connect(lambda run: run.progressed.connect(paint))
    dock.segment.run()
    qtbot.waitUntil(lambda: not dock.segment.is_running, timeout=30_000)
    (labels,) = labels_of(viewer)
    assert labels.data[1, 1, 1] == 2


def test_the_middle_of_the_view_is_where_it_begins(viewer, scan_array):
    layer = viewer.add_image(scan_array, scale=(2, 1, 1))
    viewer.dims.set_point(0, 2 * 5)
    layer.corner_pixels = np.array([[0, 2, 4], [0, 6, 8]])
    source = layer_to_volume(layer)
    assert focus_in_view(viewer, layer, source) == (5, 4, 6)
    viewer.dims.ndisplay = 3
    assert focus_in_view(viewer, layer, source) is None
