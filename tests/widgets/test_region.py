"""The region in view, in the scan's own array."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.geometry import Geometry, Reorientation
from napari_attention3d.volumes.volume import Volume
from napari_attention3d.widgets.layers import layer_to_volume, volume_to_layer_data
from napari_attention3d.widgets.region import region_in_view


def shown(viewer, turn):
    rng = np.random.default_rng(0)
    straight = Volume(
        rng.random((20, 30, 40)), Geometry((20, 30, 40), np.diag([2.0, 1, 1, 1]), "mm", True)
    )
    volume = straight.replace(
        array=turn.apply(straight.array), geometry=straight.geometry.reorient(turn)
    )
    ((data, keywords, kind),) = volume_to_layer_data(volume)
    layer = viewer._add_layer_from_data(data, keywords, kind)[0]
    return volume, layer


@pytest.mark.parametrize(
    "turn",
    [
        Reorientation(),
        Reorientation((1, 2, 0), (True, False, True)),
        Reorientation((2, 0, 1), (False, True, True)),
    ],
    ids=str,
)
def test_the_region_holds_the_voxels_that_are_shown(viewer, turn):
    volume, layer = shown(viewer, turn)
    viewer.dims.point = (20.0, 0, 0)  # world mm: slice 10
    layer.corner_pixels = np.array([[10, 5, 7], [10, 14, 26]])
    region = region_in_view(viewer, layer, layer_to_volume(layer), depth=6)
    part = volume.array[tuple(slice(*r) for r in region)]
    turned = volume.geometry.canonical_reorientation().apply(part)
    np.testing.assert_array_equal(turned, layer.data[7:14, 5:15, 7:27])


def test_there_is_no_region_where_all_is_in_view_or_nothing_or_the_view_is_3d(viewer):
    _, layer = shown(viewer, Reorientation())
    source = layer_to_volume(layer)
    viewer.dims.point = (20.0, 0, 0)
    layer.corner_pixels = np.array([[10, 0, 0], [10, 29, 39]])
    assert region_in_view(viewer, layer, source, depth=100) is None
    layer.corner_pixels = np.array([[10, 5, 7], [10, 14, 26]])
    assert region_in_view(viewer, layer, source, depth=6) is not None
    viewer.dims.ndisplay = 3
    assert region_in_view(viewer, layer, source, depth=6) is None


def test_a_run_over_the_region_covers_it_and_lies_there(
    dock, viewer, scan_array, qtbot, tools, monkeypatch
):
    from napari_attention3d.widgets import segment_panel

    scan = viewer.add_image(scan_array, scale=(2, 1, 1), units=("um",) * 3)
    region = ((4, 14), (0, 24), (8, 20))
    monkeypatch.setattr(segment_panel, "region_in_view", lambda *_: region)
    dock.segment.form.region_box.setChecked(True)
    tools.run_to_end(qtbot, dock)
    labels = viewer.layers[-1]
    assert labels._type_string == "labels"
    assert labels.data.shape == (10, 24, 12)
    np.testing.assert_allclose(labels.data_to_world((0, 0, 0)), scan.data_to_world((4, 0, 8)))
    np.testing.assert_allclose(labels.data_to_world((9, 23, 11)), scan.data_to_world((13, 23, 19)))
