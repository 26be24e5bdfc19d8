"""Where a NIfTI file's voxels lie: qform, sform, units; read, judged and written back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError, VolumeFormatError
from ...geometry import Geometry

__all__ = ["Form", "read_form", "write_form"]

_Matrix = npt.NDArray[np.float64]

_FIELDS = (
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
)
_UNITS = {0: ("mm", 1.0), 1: ("mm", 1000.0), 2: ("mm", 1.0), 3: ("um", 1.0)}
"""NIfTI's code of length: our unit, and what the header's numbers are multiplied by."""
_CODES = {"mm": 2, "um": 3, "pixel": 0}
_SCANNER, _ALIGNED = 1, 2


@dataclass(frozen=True)
class Form:
    """A file's grid, and the header fields that said so.

    Parameters
    ----------
    geometry
        Ours.
    fields
        The header's numbers as they are, so that a mask can say it in the same way.
    notes
        What a person should know.
    """

    geometry: Geometry
    fields: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """JSON-compatible form, for ``Volume.metadata["nifti"]``."""
        grid = self.geometry
        return {
            **self.fields,
            "shape": list(grid.shape),
            "affine": grid.affine.tolist(),
            "unit": grid.unit,
        }

    @staticmethod
    def recorded_geometry(record: Mapping[str, Any]) -> Geometry:
        """Grid that a record belongs to."""
        z, y, x = record["shape"]
        return Geometry((z, y, x), np.asarray(record["affine"]), record["unit"])


def read_form(header: Any, shape: tuple[int, int, int], name: str) -> Form:
    """Find out where the voxels lie.

    Parameters
    ----------
    header
        nibabel's.
    shape
        (X, Y, Z).
    name
        Of the file, for messages.

    Raises
    ------
    VolumeFormatError
        If neither form is usable.
    """
    notes: list[str] = []
    code = int(header["xyzt_units"]) & 7
    unit, factor = _UNITS.get(code, ("mm", 1.0))
    matrix = _choose(header, shape, notes, (unit, factor))
    if code not in _UNITS or code == 0:
        notes.append("the header names no unit of length; taken as mm")
    elif factor != 1.0:
        notes.append("lengths converted from metres to mm")
    known = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    scale = np.diag([factor, factor, factor, 1.0])
    x, y, z = shape
    try:
        grid = Geometry.from_xyz((z, y, x), scale @ matrix, unit, anatomical=known)
    except InputError as error:
        raise VolumeFormatError(f"{name}: {error}") from error
    fields = {key: header[key].tolist() for key in _FIELDS}
    fields["pixdim"] = header["pixdim"][:4].tolist()
    fields["xyzt_units"] = code if code in _UNITS else 0
    fields["version"] = 2 if int(header["sizeof_hdr"]) == 540 else 1
    return Form(grid, fields, notes)


def _choose(
    header: Any, shape: tuple[int, int, int], notes: list[str], length: tuple[str, float]
) -> _Matrix:
    """(4, 4) index (i, j, k) to world, in the header's unit: sform, else qform, else neither."""
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    qform = _qform(header, notes)
    if sform is not None and not _usable(sform):
        notes.append("the sform is damaged and was ignored")
        sform = None
    if sform is not None and qform is not None:
        apart = _apart(sform, qform, shape)
        if apart > 0.01 * np.linalg.norm(sform[:3, :3], axis=0).min():
            notes.append(
                f"sform and qform differ by up to {apart * length[1]:.3g} {length[0]}; the sform "
                "was used"
            )
    if sform is not None:
        return np.asarray(sform, dtype=float)
    if qform is not None:
        return qform
    notes.append(
        "the header has neither sform nor qform: which way the axes point is not known, left and "
        "right may be swapped"
    )
    return np.asarray(header.get_base_affine(), dtype=float)


def _qform(header: Any, notes: list[str]) -> _Matrix | None:
    if int(header["qform_code"]) <= 0:
        return None
    try:
        qform = np.asarray(header.get_qform(), dtype=float)
    except ValueError:  # nibabel's for a quaternion longer than 1
        qform = np.full((4, 4), np.nan)
    if _usable(qform):
        return qform
    notes.append("the qform is damaged and was ignored")
    return None


def _usable(matrix: _Matrix) -> bool:
    try:
        Geometry.from_xyz((1, 1, 1), matrix, "mm")
    except InputError:
        return False
    return True


def _apart(a: _Matrix, b: _Matrix, shape: tuple[int, int, int]) -> float:
    """Largest distance between where two matrices put the grid's corners."""
    corners = np.array(np.meshgrid(*[(0, s - 1) for s in shape])).reshape(3, -1)
    difference = (a - b)[:3, :3] @ corners + (a - b)[:3, 3:]
    return float(np.linalg.norm(difference, axis=0).max())


def write_form(header: Any, geometry: Geometry, keep: Mapping[str, Any] | None) -> None:
    """Set qform, sform, voxel sizes and units.

    Parameters
    ----------
    header
        nibabel's; its data shape must be set already.
    geometry
        Of the volume.
    keep
        Record of the scan on the same grid (`Form.record`), repeated to the last bit;
        None: both forms say the geometry's affine.
    """
    if keep is not None:
        for key in _FIELDS:
            header[key] = keep[key]
        header["pixdim"][:4] = keep["pixdim"]
        header["xyzt_units"] = int(keep["xyzt_units"])
        return
    code = _SCANNER if geometry.anatomical else _ALIGNED
    header["xyzt_units"] = _CODES[geometry.unit]
    header.set_zooms((*reversed(geometry.spacing), *header.get_zooms()[3:]))
    header.set_sform(geometry.affine_xyz, code)
    header.set_qform(geometry.affine_xyz, code, strip_shears=True)
