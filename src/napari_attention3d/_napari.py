"""Targets of napari.yaml: the dock, readers, writers, sample data.

Importing this loads neither torch nor (until the dock is asked for) Qt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError, TimePointNeeded

if TYPE_CHECKING:
    from .volumes import Volume
    from .widgets.layers import LayerData, LayerSource
    from .widgets.main_widget import Attention3DWidget

__all__ = [
    "Attention3DWidget",
    "get_reader",
    "sample_mni152",
    "sample_phantom_mri",
    "sample_phantom_nuclei",
    "write_dicom_seg",
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
    return [layer for one in _one_of_each_series(_paths(path)) for layer in _opened(one)]


def _one_of_each_series(paths: list[str]) -> list[str]:
    """Of slices of the same DICOM series, which stand for the whole, only the first."""
    from .volumes.formats.dicom import series_of

    kept, seen = [], set()
    for one in paths:
        if len(paths) > 1 and one.lower().endswith(".dcm"):
            key = (Path(one).parent, series_of(Path(one)))
            if key in seen:
                continue
            seen.add(key)
        kept.append(one)
    return kept


def _opened(path: str) -> list[LayerData]:
    """Layers of a file or of an OME-Zarr folder, the label maps inside it too."""
    from .volumes.formats.ome_zarr import label_groups

    layers = _shown(path)
    for labels in label_groups(path):
        layers += _shown(labels, kind="labels")
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


def write_dicom_seg(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a Labels layer as a DICOM Segmentation of the DICOM scan that it belongs to.

    Raises
    ------
    InputError
        If it belongs to no DICOM scan, or highdicom is not installed.
    OutputError
        If the file can't be written.
    """
    from .volumes.dicom_seg import write_dicom_seg as write
    from .volumes.formats.dicom import DicomFormat

    mask = _volume_to_write(data, meta, "labels")
    told = ((mask.metadata.get("provenance") or {}).get("source") or {}).get("path")
    for one in (told, mask.source):
        if one and Path(one).exists() and DicomFormat().matches(Path(one)):
            return [str(write(path, mask, one))]
    raise InputError(
        f"{mask.name} belongs to no DICOM scan that is there, so no DICOM Segmentation can be made "
        "of it; save it as .nii.gz, or name the series: napari-attention3d export MASK --series "
        "FOLDER"
    )


def _write(path: str, data: Any, meta: dict[str, Any], kind: str) -> list[str]:
    from .volumes import write_volume

    return [str(write_volume(path, _volume_to_write(data, meta, kind)))]


def _volume_to_write(data: Any, meta: dict[str, Any], kind: str) -> Volume:
    from .widgets.layer_classes import layer_classes

    if meta.get("rgb"):
        raise InputError(
            f"{meta.get('name', 'the layer')!r} is an RGB picture; "
            "split it with right-click > Split RGB and save the channels"
        )
    source = _source(data[0] if meta.get("multiscale") else data, meta)
    about = {**source.volume.metadata, "kind": kind}
    if kind == "labels":
        about["classes"] = layer_classes(meta)
    return source.volume.replace(metadata=about)


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
    """Open a real brain MRI: the MNI152 T1 template that the nilearn package carries.

    Raises
    ------
    InputError
        If nilearn is not installed; names the extra that brings it.
    """
    from .volumes.samples import mni152_t1_path

    return _shown(mni152_t1_path(), "MNI152 T1")


def sample_phantom_mri() -> list[LayerData]:
    """Open a generated head-like scan with its true labels."""
    from .volumes.samples import phantom_paths

    paths = phantom_paths()
    truth = _shown(paths["mri_labels"], "phantom MRI truth", kind="labels")
    return _shown(paths["mri"], "phantom MRI") + truth


def sample_phantom_nuclei() -> list[LayerData]:
    """Open a generated stack of nuclei with its true labels."""
    from .volumes.samples import phantom_paths

    paths = phantom_paths()
    truth = _shown(paths["nuclei_labels"], "phantom nuclei truth", kind="labels")
    return _shown(paths["nuclei"], "phantom nuclei") + truth


def _shown(path: str | Path, name: str | None = None, kind: str | None = None) -> list[LayerData]:
    from .volumes import read_volume
    from .widgets.layer_series import series_to_layer_data
    from .widgets.layers import guess_kind, volume_to_layer_data

    times = 0
    try:
        volume = read_volume(path)
    except TimePointNeeded as needed:
        times = needed.times
        volume = read_volume(path, time=0)
    _stand_upright(volume)
    if name is not None:
        volume = volume.replace(name=name)
    kind = kind or str(volume.metadata.get("kind") or guess_kind(volume))
    if times:
        return series_to_layer_data(volume, Path(path), times, kind)
    coarser: list[Any] = []
    if Path(path).is_dir() and volume.metadata.get("format") != "DICOM":
        from .volumes.formats.ome_zarr import coarser_levels

        if kind == "labels" and volume.array.nbytes <= _EDITABLE:
            volume = volume.replace(array=np.asarray(volume.array))
        else:
            coarser = _shown_levels(volume.array, coarser_levels(path))
    return volume_to_layer_data(volume, kind=kind, coarser=coarser)


_EDITABLE = 1 << 28
"""Label maps of so many bytes are read, since napari can't edit lazy or multiscale ones."""
_FINE_ENOUGH = 256
"""Voxels along the longest axis of the coarsest level shown, which is what 3D view shows."""


def _shown_levels(finest: Any, coarser: Sequence[Any]) -> list[Any]:
    """Levels worth showing beside the finest: napari's 3D view takes the last of them."""
    levels, last = [], finest
    for level in coarser:
        if max(last.shape[-3:]) <= _FINE_ENOUGH:
            break
        levels.append(level)
        last = level
    return levels


def _stand_upright(volume: Volume) -> None:
    """In an empty viewer, let anatomical axes grow upwards and show the scale bar."""
    from napari import current_viewer

    viewer = current_viewer()
    if viewer is None or len(viewer.layers) > 0:
        return
    if volume.geometry.unit != "pixel":
        viewer.scale_bar.visible = True
    if volume.geometry.anatomical:
        viewer.camera.orientation2d = ("up", "right")
