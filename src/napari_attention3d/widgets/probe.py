"""From a click, in 2D or 3D, to a voxel of the scan's own array."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .layers import LayerSource

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["Place", "Probe", "shown_to_voxel", "values_at", "voxel_to_shown", "voxel_under"]

Voxel = tuple[float, float, float]


def voxel_under(
    layer: Layer, source: LayerSource, event: Any, mask: Layer | None = None
) -> Voxel | None:
    """Voxel (z, y, x) of the scan's own array under the mouse; None outside the scan.

    Parameters
    ----------
    layer
        The scan's, in any place, turned, multiscale, with a leading axis or without.
    source
        What it was read as.
    event
        A mouse event of the viewer (position, view_direction, dims_displayed).
    mask
        A Labels layer: in 3D its first labelled voxel along the ray is taken. Without
        one, or where it has none, the brightest voxel along the ray: what a maximum
        projection shows.
    """
    if len(event.dims_displayed) == 2:
        at = np.asarray(layer.world_to_data(event.position), dtype=float)[-3:]
    else:
        found = _along_ray(layer, event, mask)
        if found is None:
            return None
        at = found
    # A voxel reaches half a step to both sides of its centre.
    shown = source.shown.shape
    if any(not -0.5 <= v <= n - 0.5 for v, n in zip(at, shown, strict=True)):
        return None
    return shown_to_voxel(source, at)


def shown_to_voxel(source: LayerSource, shown: npt.ArrayLike) -> Voxel:
    """Index (z, y, x) in the shown array to index in the scan's own array."""
    own = [0.0, 0.0, 0.0]
    for axis, (at, size) in enumerate(zip(np.asarray(shown), source.shown.shape, strict=True)):
        flip = source.turn.flips[axis]
        own[source.turn.permutation[axis]] = float(size - 1 - at if flip else at)
    return own[0], own[1], own[2]


def voxel_to_shown(source: LayerSource, voxel: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Inverse of `shown_to_voxel`, of indices (..., 3)."""
    own = np.asarray(voxel, dtype=float)
    shown = np.empty_like(own)
    for axis, size in enumerate(source.shown.shape):
        line = own[..., source.turn.permutation[axis]]
        shown[..., axis] = size - 1 - line if source.turn.flips[axis] else line
    return shown


def _along_ray(layer: Layer, event: Any, mask: Layer | None) -> npt.NDArray[np.float64] | None:
    """Index in the layer's array that a click in the 3D view means."""
    if mask is not None:
        near, far = _ray(mask, event)
        hit = None if near is None else _first(mask, event, near, far)
        if hit is not None:
            world = np.asarray(mask.data_to_world(hit), dtype=float)[-3:]
            # The layers may have different numbers of axes: only the last three are places.
            at = np.array(event.position, dtype=float)[-layer.ndim :]
            at[-3:] = world
            return np.asarray(layer.world_to_data(at), dtype=float)[-3:]
    near, far = _ray(layer, event)
    if near is None or far is None:
        return None
    levels = layer.data if layer.multiscale else [layer.data]
    coarse = levels[-1]
    array = _part(layer, coarse, event)
    step = np.asarray(levels[0].shape[-3:]) / np.asarray(array.shape)
    points = _ray_points(np.asarray(near)[-3:], np.asarray(far)[-3:])
    index = np.clip(np.round((points + 0.5) / step - 0.5).astype(int), 0, np.array(array.shape) - 1)
    values = values_at(array, index)
    best: npt.NDArray[np.float64] = points[int(np.argmax(values))]
    return best


def _ray(layer: Layer, event: Any) -> tuple[Any, Any]:
    """Where the line of sight enters and leaves a layer; the viewer may have more axes."""
    more = len(event.position) - layer.ndim
    displayed = [axis - more for axis in event.dims_displayed]
    if sorted(displayed) != list(range(layer.ndim - 3, layer.ndim)):
        return None, None  # an axis of time is drawn as one of space
    found: tuple[Any, Any] = layer.get_ray_intersections(
        event.position[more:], np.asarray(event.view_direction)[more:], displayed, world=True
    )
    return found


def _part(layer: Layer, array: Any, event: Any) -> Any:
    """(z, y, x) of a layer's array, at an event's place along the axes before."""
    at = np.array(event.position, dtype=float)[-layer.ndim :]
    lead = np.round(np.asarray(layer.world_to_data(at), dtype=float)[: layer.ndim - 3])
    top = np.array(array.shape[: len(lead)], dtype=int) - 1
    return array[tuple(np.clip(lead.astype(int), 0, top).tolist())]


def values_at(array: Any, index: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Values (n,) of an array, lazy or not, at indices (n, axes); only their chunks are read."""
    if isinstance(array, np.ndarray):
        return np.asarray(array[tuple(index.T)])
    if hasattr(array, "vindex"):  # dask and zarr
        return np.asarray(array.vindex[tuple(index.T)])
    low, high = index.min(axis=0), index.max(axis=0) + 1
    part = np.asarray(array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
    return np.asarray(part[tuple((index - low).T)])


def _first(mask: Layer, event: Any, near: Any, far: Any) -> npt.NDArray[np.float64] | None:
    """First labelled voxel along a ray, as an index of the mask's whole array."""
    whole = mask.data[0] if mask.multiscale else mask.data
    array = _part(mask, whole, event)
    points = _ray_points(np.asarray(near)[-3:], np.asarray(far)[-3:])
    index = np.clip(np.round(points).astype(int), 0, np.array(array.shape[-3:]) - 1)
    labelled = np.flatnonzero(values_at(array, index))
    if not len(labelled):
        return None
    found = np.zeros(mask.ndim)
    found[-3:] = index[labelled[0]]
    return found


def _ray_points(
    near: npt.NDArray[np.float64], far: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    count = max(2, int(2 * np.abs(far - near).max()) + 1)
    return np.linspace(near, far, count)


class Place:
    """What of a mouse event outlives it.

    Parameters
    ----------
    event
        A mouse event of the viewer.
    """

    def __init__(self, event: Any) -> None:
        self.position = tuple(float(p) for p in event.position)
        self.view_direction = event.view_direction
        self.dims_displayed = list(event.dims_displayed)


class Probe:
    """Listens to a viewer's mouse: a click that is no drag, and rests between moves.

    Parameters
    ----------
    viewer
        Any viewer model.
    on_click, on_move
        Called with the event.
    """

    def __init__(
        self, viewer: Any, on_click: Callable[[Any], None], on_move: Callable[[Any], None]
    ) -> None:
        self.viewer = viewer
        self._on_click, self._on_move = on_click, on_move
        self._clicks: Any = None
        self._moves: Any = None

    @property
    def is_on(self) -> bool:
        """Whether clicks are listened to."""
        return self._clicks is not None

    def switch(self, on: bool) -> None:
        """Begin to listen, or stop."""
        if on == self.is_on:
            return
        if on:
            # napari calls the very objects in its lists: kept, to be found again.
            self._clicks, self._moves = self._clicked, self._moved
            self.viewer.mouse_drag_callbacks.append(self._clicks)
            self.viewer.mouse_move_callbacks.append(self._moves)
            return
        for callbacks, one in (
            (self.viewer.mouse_drag_callbacks, self._clicks),
            (self.viewer.mouse_move_callbacks, self._moves),
        ):
            if one in callbacks:
                callbacks.remove(one)
        self._clicks = self._moves = None

    def _clicked(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        """A press and a release without a move between: dragging pans and turns the view."""
        if event.button != 1:
            return
        yield
        while event.type == "mouse_move":
            if _far(event):
                return
            yield
        self._on_click(event)

    def _moved(self, viewer: Any, event: Any) -> None:
        self._on_move(event)


def _far(event: Any) -> bool:
    """Whether the mouse is being dragged, and does not merely tremble."""
    press = getattr(event, "press_event", None)
    if press is None or getattr(event, "pos", None) is None:
        return True
    return bool(np.abs(np.asarray(event.pos) - np.asarray(press.pos)).max() > 3)
