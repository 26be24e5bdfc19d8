"""Targets of napari.yaml: the dock, readers, writers, sample data.

Importing this loads neither torch nor (until the dock is asked for) Qt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from .volumes import Volume
    from .widgets.layers import LayerData, LayerSource
    from .widgets.main_widget import Attention3DWidget

__all__ = [
    "Attention3DWidget",
    "get_reader",
    "sample_mni152",
    "sample_phantom",
    "write_image",
    "write_labels",
]

PathOrPaths = str | Sequence[str]


def __getattr__(name: str) -> Any:
    if name == "Attention3DWidget":
        from .widgets.main_widget import Attention3DWidget

        return Attention3DWidget
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ---- reading


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData]] | None:
    """Return a reader if all paths are of a format of ours, else None."""
    from .volumes import formats

    if all(formats.can_read(one) for one in _paths(path)):
        return _read
    return None


def _read(path: PathOrPaths) -> list[LayerData]:
    from .volumes import read_volume
    from .widgets.layers import volume_to_layer_data

    layers: list[LayerData] = []
    for one in _paths(path):
        layers += volume_to_layer_data(read_volume(one))
    return layers


def _paths(path: PathOrPaths) -> list[str]:
    return [str(path)] if isinstance(path, (str, Path)) else [str(one) for one in path]


# ---- writing


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a Labels layer on the grid of the scan that it belongs to.

    Raises
    ------
    InputError
        If the layer is not 3D.
    OutputError
        If the file can't be written; nothing half-written stays.
    """
    return _write(path, data, meta, "labels")


def write_image(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write an Image layer on the scan's own grid; see `write_labels`."""
    return _write(path, data, meta, "image")


def _write(path: str, data: Any, meta: dict[str, Any], kind: str) -> list[str]:
    from .volumes import write_volume

    if meta.get("rgb"):
        raise InputError(
            f"{meta.get('name', 'the layer')!r} is an RGB picture; "
            "split it with right-click > Split RGB and save the channels"
        )
    source = _source(data[0] if meta.get("multiscale") else data, meta)
    volume = source.volume.replace(metadata={**source.volume.metadata, "kind": kind})
    return [str(write_volume(path, volume))]


def _source(data: Any, meta: dict[str, Any]) -> LayerSource:
    """Read the layer; one made by hand takes the true grid of the scan that it lies on."""
    from .widgets.layers import KEY, layer_to_volume, meta_to_source, source_for_array

    source = meta_to_source(data, meta)
    if KEY in (meta.get("metadata") or {}) or data.ndim != 3:
        return source
    from napari import current_viewer

    viewer = current_viewer()
    for layer in viewer.layers if viewer is not None else ():
        if KEY in layer.metadata and layer.ndim == 3 and not getattr(layer, "rgb", False):
            like = layer_to_volume(layer)
            if like.shown.is_close(source.shown):
                return source_for_array(data, like)
    return source


# ---- samples


def sample_mni152() -> list[LayerData]:
    """Open a real brain MRI: the MNI152 T1 template that the nilearn package carries."""
    from .volumes import read_volume
    from .volumes.samples import mni152_t1_path

    return _titled(read_volume(mni152_t1_path()), "MNI152 T1")


def sample_phantom() -> list[LayerData]:
    """Open generated volumes with known shapes."""
    from .volumes import read_volume
    from .volumes.samples import phantom_paths
    from .widgets.layers import volume_to_layer_data

    layers: list[LayerData] = []
    found = phantom_paths()
    for path in found.values() if isinstance(found, dict) else found:
        layers += volume_to_layer_data(read_volume(path))
    return layers


def _titled(volume: Volume, name: str) -> list[LayerData]:
    from .widgets.layers import volume_to_layer_data

    return volume_to_layer_data(volume.replace(name=name))
