"""Masks as DICOM Segmentation objects, beside the series that they belong to (highdicom).

One segment per class, binary, each frame referring to the slice that it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .atomic import atomic_path
from .formats.dicom import read_series
from .formats.dicom_slices import Slice
from .volume import Volume

__all__ = ["series_path", "write_dicom_seg"]

_NEEDED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
           "StudyTime", "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
"""Attributes of patient and study that each object must have, if only empty."""
_MOST = 65535


def series_path(mask: Volume) -> Path:
    """The DICOM series that a mask says it was made from.

    Raises
    ------
    InputError
        If it does not say, or it is not there.
    """
    source = (mask.metadata.get("provenance") or {}).get("source") or {}
    path = Path(str(source.get("path") or ""))
    if source.get("path") and path.exists():
        return path
    raise InputError(
        f"{mask.name} does not say which DICOM series it belongs to, or it is not there; name the "
        "folder with --series"
    )


def write_dicom_seg(path: str | Path, mask: Volume, series: str | Path) -> Path:
    """Write a mask as a DICOM Segmentation object, atomically.

    Parameters
    ----------
    path
        The file to write, ``.dcm``.
    mask
        (Z, Y, X) of whole numbers on the series' own grid (its axes may be turned or
        flipped). Names and colours of its classes become those of the segments; with
        provenance of a model the segments are told to be made by it.
    series
        Folder of the series, or one of its files.

    Raises
    ------
    InputError
        If highdicom is not installed, the mask is on another grid or empty, or holds more
        than 65535 labels.
    OutputError
        If the file can't be written.
    """
    hd = _highdicom()
    path = Path(path)
    stack, geometry, name = read_series(Path(series))
    pixels = _on_series(mask, geometry, name)
    values = [int(v) for v in np.unique(pixels) if v]
    if not values:
        raise InputError(f"{mask.name} holds no labels; there is nothing to write")
    if len(values) > _MOST:
        raise InputError(f"{mask.name} holds {len(values)} labels; DICOM takes {_MOST}")
    numbers = np.zeros(values[-1] + 1, np.uint16)
    numbers[values] = np.arange(1, len(values) + 1)  # segments are numbered without gaps
    from .. import __version__

    segmentation = hd.seg.Segmentation(
        source_images=_sources(stack, name),
        pixel_array=numbers[pixels],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _segment(hd, number, value, mask) for number, value in enumerate(values, start=1)
        ],
        series_instance_uid=hd.UID(),
        series_number=300,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="napari-attention3d",
        manufacturer_model_name="napari-attention3d",
        software_versions=__version__,
        device_serial_number="1",
        content_description=mask.name[:64],
    )
    segmentation.SeriesDescription = f"Segmentation of {name}"[:64]
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)
    return path


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise InputError(
            "DICOM Segmentation needs highdicom, which is not installed: "
            'pip install "napari-attention3d[dicom-seg]"'
        ) from error
    return highdicom


def _on_series(mask: Volume, geometry: Any, name: str) -> Any:
    """The mask's voxels in the order of the series' pixels."""
    from ..geometry import Geometry

    assert isinstance(geometry, Geometry)
    turned = mask.geometry.canonical_reorientation()
    wanted = geometry.canonical_reorientation()
    if not mask.geometry.reorient(turned).is_close(geometry.reorient(wanted), 0.01):
        raise InputError(
            f"{mask.name} is not on the grid of {name} "
            f"({' x '.join(map(str, mask.geometry.shape))} and "
            f"{' x '.join(map(str, geometry.shape))} voxels, or another place); a DICOM mask lies "
            "on its series' own slices"
        )
    array = np.asarray(mask.channel(0).array)
    if array.dtype.kind not in "iub" or (array.dtype.kind == "i" and array.min() < 0):
        raise InputError(f"{mask.name} holds {array.dtype}; a mask holds whole numbers from 0 up")
    return np.ascontiguousarray(wanted.inverse().apply(turned.apply(array)))


def _sources(stack: list[Slice], name: str) -> list[Any]:
    """Data sets of the slices; what anonymisers leave out is there, but empty."""
    frames = [one.frame for one in stack]
    if frames != [None] * len(stack) and frames != list(range(len(stack))):
        raise InputError(f"the frames of {name} are not in their order; this is not supported")
    sources = [one.data for one in stack] if frames[0] is None else [stack[0].data]
    for data in sources:
        for keyword in _NEEDED:
            if keyword not in data:
                setattr(data, keyword, "")
    return sources


def _segment(hd: Any, number: int, value: int, mask: Volume) -> Any:
    from pydicom.sr.codedict import codes

    classes: Sequence[Mapping[str, Any]] = mask.metadata.get("classes") or ()
    about = classes[value] if value < len(classes) else {}
    model = (mask.metadata.get("provenance") or {}).get("model") or {}
    algorithm = None
    if model:
        algorithm = hd.AlgorithmIdentificationSequence(
            name=str(model.get("name") or "model")[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=str(model.get("version") or "1")[:64],
            source="napari-attention3d",
            parameters={"sha256": str(model.get("sha256") or "")},
        )
    colour = about.get("colour")
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=str(about.get("name") or f"label {value}")[:64],
        # What a class is stands in its name alone; these are the codes of "some tissue".
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type=(
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
            if model
            else hd.seg.SegmentAlgorithmTypeValues.MANUAL
        ),
        algorithm_identification=algorithm,
        display_color=hd.color.CIELabColor.from_rgb(*_rgb(colour)) if colour else None,
    )


def _rgb(colour: str) -> tuple[int, int, int]:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return r, g, b
