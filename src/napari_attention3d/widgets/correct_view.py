"""What the Correct panel does with the viewer: approve what is seen, go to a place, keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtGui import QKeySequence, QShortcut

from ..errors import InputError
from .correct_layers import shown_index
from .region import focus_in_view, region_in_view

if TYPE_CHECKING:
    from .correct_link import SessionLink
    from .correct_panel import CorrectPanel

__all__ = ["DEPTH", "bind_keys", "go_to_voxel", "looked_at", "to_approve"]

DEPTH = 5
"""Slices on either side of the one in view that "what the canvas shows" takes in."""


Voxels = Callable[[], npt.NDArray[np.bool_]]


def looked_at(viewer: Any, link: SessionLink) -> tuple[tuple[float, ...] | None, int]:
    """Voxel (z, y, x) of the scan in the middle of the view, and the axis it is seen along.

    The voxel is None in 3D, and where the middle lies outside the scan.
    """
    layer = link.layers.mask
    if layer is None or viewer.dims.ndisplay != 2:
        return None, 0
    focus = focus_in_view(viewer, layer, link.source)
    return focus, link.source.turn.permutation[_hidden(viewer)]


def to_approve(viewer: Any, link: SessionLink, what: str) -> tuple[Voxels, str]:
    """Which voxels are "slice", "region", "label" or "all", and words about them.

    The voxels are for the worker to compute: the scan may be large.

    Raises
    ------
    InputError
        If that can't be told from the view.
    """
    session = link.session
    if what == "all":
        return lambda: np.ones(session.shape, bool), "The whole mask"
    if what == "label":
        layer = link.layers.strokes
        chosen = 0 if layer is None else int(layer.selected_label)
        value = 0 if chosen == link.marker else chosen
        if value >= len(session.classes):
            raise InputError(f"label {value} is no class here; choose a class first")
        said = f"Every voxel of “{session.classes[value]}”"
        return lambda: session.labels == value, said
    if what == "region":
        return partial(session.region_voxels, _region(viewer, link)), "What the canvas shows"
    axis, index = _slice(viewer, link)
    region = [(0, n) for n in session.shape]
    region[axis] = (index, index + 1)
    return partial(session.region_voxels, region), "This slice"


def _hidden(viewer: Any) -> int:
    """Axis of the shown array that a 2D view does not show."""
    (hidden,) = {0, 1, 2} - {axis - (viewer.dims.ndim - 3) for axis in viewer.dims.displayed}
    return hidden


def _slice(viewer: Any, link: SessionLink) -> tuple[int, int]:
    """Axis and index on the scan's own grid of the slice in view."""
    layer = link.layers.mask
    assert layer is not None
    if viewer.dims.ndisplay != 2:
        raise InputError("a slice can be approved in the 2D view only; press the 2D/3D button")
    hidden = _hidden(viewer)
    index = np.asarray(layer.world_to_data(viewer.dims.point), float)[-3:]
    shown = int(np.round(index[hidden]))
    size = link.source.shown.shape[hidden]
    if not 0 <= shown < size:
        raise InputError("the slice in view lies outside the scan; move to one of its slices")
    turn = link.source.turn
    return turn.permutation[hidden], size - 1 - shown if turn.flips[hidden] else shown


def _region(viewer: Any, link: SessionLink) -> tuple[tuple[int, int], ...]:
    layer = link.layers.mask
    assert layer is not None
    if viewer.dims.ndisplay != 2:
        raise InputError("what the canvas shows can be approved in the 2D view only")
    region = region_in_view(viewer, layer, link.source, 2 * DEPTH)
    if region is not None:
        return region
    if focus_in_view(viewer, layer, link.source) is None:
        raise InputError("the canvas shows nothing of the scan; press Home")
    return tuple((0, n) for n in link.session.shape)


def go_to_voxel(viewer: Any, link: SessionLink, voxel: tuple[int, int, int]) -> None:
    """Move the view to a voxel of the scan's own grid."""
    layer = link.layers.strokes
    if layer is None:
        return
    world = np.asarray(layer.data_to_world(shown_index(link.source, voxel)), float)
    dims = viewer.dims
    first = dims.ndim - len(world)
    for axis, value in enumerate(world):
        dims.set_point(first + axis, value)
    shown = [world[axis - first] for axis in dims.displayed if axis >= first]
    viewer.camera.center = ([0.0] * (3 - len(shown)) + shown)[-3:]


def bind_keys(panel: CorrectPanel) -> None:
    """Shortcuts that hold while the tab is open."""
    keys = {
        "L": panel.learn,
        "N": panel.checking.next_place,
        "F": panel.checking.next_flip,
        "Z": panel.history.undo,
        "Y": panel.history.redo,
        "B": panel.history.back_to_best,
        "C": panel.painting.choose_next_class,
        "E": partial(panel.painting.choose, 0),
        "0": panel.painting.choose_background,
    }
    keys |= {str(value): partial(panel.painting.choose, value) for value in range(1, 10)}
    for key, slot in keys.items():
        QShortcut(QKeySequence(f"Ctrl+Alt+{key}"), panel).activated.connect(slot)
