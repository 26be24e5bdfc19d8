"""The viewer's canvas draws into its own OpenGL context, also while layers go.

napari 0.9 empties vispy's queue of OpenGL commands when a layer is removed, whichever context
is current. Outside of a draw that is Qt's, for putting the window together. Programs deleted
there are still bound in the canvas's context, and Mesa's software renderer ends the process
in `glDrawArrays` at the next draw (napari's issues 6472, 7345 and 8471 describe such ends).
"""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["draw_safely"]


class _MakeCurrent:
    """Called before a layer is removed: makes the canvas's context the current one."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = weakref.ref(viewer)

    def __call__(self, event: Any = None) -> None:
        """Do nothing where there is no window, or a napari that is built otherwise."""
        window = getattr(self._viewer(), "window", None)
        canvas = getattr(getattr(window, "_qt_viewer", None), "canvas", None)
        scene = getattr(canvas, "_scene_canvas", None)
        if scene is not None:
            scene.set_current()


def draw_safely(viewer: Any) -> None:
    """Let layers be removed with the canvas's context current, as long as the viewer lives.

    Parameters
    ----------
    viewer
        A `napari.Viewer`; one without a window, as `ViewerModel`, needs nothing. Asked twice
        for the same viewer, nothing more is done.
    """
    removing = viewer.layers.events.removing
    if not any(isinstance(one, _MakeCurrent) for one in removing.callbacks):
        removing.connect(_MakeCurrent(viewer))
