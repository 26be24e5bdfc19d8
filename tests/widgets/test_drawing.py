"""Layers are removed with the canvas's own OpenGL context current."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attention3d.widgets.drawing import draw_safely


@pytest.fixture
def window(qapp):
    import napari

    viewer = napari.Viewer(show=True)
    for number in range(2):
        viewer.add_image(np.zeros((2, 8, 8), np.float32), name=str(number))
    qapp.processEvents()
    canvas = viewer.window._qt_viewer.canvas._scene_canvas
    canvas.native.makeCurrent()
    if canvas.native.context() is None:
        viewer.close()
        pytest.skip("this screen has no OpenGL")
    yield viewer
    viewer.close()
    qapp.processEvents()


@pytest.mark.parametrize("how", ["one", "all"])
def test_the_canvas_is_current_while_layers_go(window, how):
    from qtpy.QtGui import QOpenGLContext

    draw_safely(window)
    canvas = window.window._qt_viewer.canvas._scene_canvas
    seen = []
    finish = canvas.context.finish
    canvas.context.finish = lambda: (seen.append(QOpenGLContext.currentContext()), finish())
    canvas.native.doneCurrent()  # as it is outside of a draw
    if how == "one":
        window.layers.remove("0")
    else:
        window.layers.clear()
    assert seen
    assert all(one is canvas.native.context() for one in seen)


def test_asked_twice_it_is_done_once_and_a_viewer_without_a_window_needs_nothing():
    viewer = ViewerModel()
    before = len(viewer.layers.events.removing.callbacks)
    draw_safely(viewer)
    draw_safely(viewer)
    assert len(viewer.layers.events.removing.callbacks) == before + 1
    viewer.add_image(np.zeros((2, 8, 8), np.float32))
    viewer.layers.clear()
    assert len(viewer.layers) == 0
