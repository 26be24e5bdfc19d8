"""Attention maps that a network returned, placed in the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..geometry import Geometry
from ..inference.tiling import Box
from ..networks.base import MapSpec
from ..volumes.volume import Volume

__all__ = ["choose_maps", "display_range", "map_volumes"]


def choose_maps(request: bool | Sequence[str], specs: Mapping[str, MapSpec]) -> tuple[str, ...]:
    """Names of the maps that were asked for, in the network's order.

    Parameters
    ----------
    request
        True for all primary ones, False for none, or names.
    specs
        What the network can return.

    Raises
    ------
    InputError
        If the network has no such map.
    """
    if isinstance(request, bool):
        return tuple(name for name, spec in specs.items() if spec.primary) if request else ()
    unknown = [name for name in request if name not in specs]
    if unknown:
        raise InputError(
            f"the network has no attention map {unknown[0]!r}; "
            f"it has: {', '.join(specs) if specs else 'none'}"
        )
    return tuple(name for name in specs if name in set(request))


def display_range(
    array: npt.NDArray[np.float32], value_range: tuple[float, float | None]
) -> tuple[float, float]:
    """Contrast limits of a map: its stated range or, where that is open, what it holds.

    Parameters
    ----------
    array
        The whole stitched map, any shape: limits per tile would show as seams.
    value_range
        Of its `MapSpec`.

    Returns
    -------
    tuple of float
        The stated range, or the 1st and 99th percentile if it has no upper end.
    """
    low, high = value_range
    if high is not None:
        return float(low), float(high)
    p1, p99 = (float(v) for v in np.percentile(array, (1, 99)))
    return (p1, p99) if p99 > p1 else (p1, p1 + 1.0)


def map_volumes(
    maps: Mapping[str, npt.NDArray[np.float32]],
    specs: Mapping[str, MapSpec],
    grid: Geometry,
    box: Box,
    *,
    unit: str,
    name: str = "scan",
) -> dict[str, Volume]:
    """Place stitched maps on their own coarse grids.

    Parameters
    ----------
    maps
        (z, y, x) each: the voxels ``box.on_stride(stride)`` of the whole map, as a
        prediction returns them.
    specs
        The network's, by name.
    grid
        The model's whole grid, in the model's orientation.
    box
        The part of the grid that was predicted. A map covers it: its outermost voxels
        may reach beyond.
    unit
        The scan's unit of length, in which the maps are to lie.
    name
        The scan's name.

    Returns
    -------
    dict
        By map name: a (z, y, x) float32 volume in the model's orientation. Voxel ``j`` is
        centred on grid index ``stride * j + offset``. ``metadata["map"]`` holds the
        `MapSpec`'s fields.
    """
    volumes = {}
    for key, array in maps.items():
        spec = specs[key]
        start = box.on_stride(spec.stride).start
        whole = grid.strided(array.shape, spec.stride, spec.offset)
        place = whole.cropped(start, array.shape)
        volumes[key] = Volume(
            array,
            place if place.unit == unit else place.with_unit(unit),
            name=f"{name} {spec.title}",
            metadata={
                "map": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(spec).items()}
            },
        )
    return volumes
