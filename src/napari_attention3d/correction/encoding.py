"""Corrections as integers on the scan's grid: the same in layer, files and training labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError

__all__ = [
    "background_value",
    "check_corrections",
    "check_start",
    "check_values",
    "class_type",
    "empty_corrections",
]


def background_value(dtype: npt.DTypeLike) -> int:
    """Value of "painted as background": 255 in uint8, 65535 in uint16.

    Raises
    ------
    InputError
        If corrections are of another type.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise InputError(f"corrections are uint8 or uint16, not {dtype}; convert them first")
    return int(np.iinfo(dtype).max)


def class_type(classes: int) -> np.dtype[Any]:
    """Smallest type of masks and corrections for so many classes, background included."""
    return np.dtype(np.uint8 if classes < 256 else np.uint16)


def empty_corrections(shape: Sequence[int], classes: int) -> npt.NDArray[Any]:
    """Corrections ``(Z, Y, X)`` with nothing painted, of the smallest type for `classes`."""
    return np.zeros(tuple(shape), class_type(classes))


def check_corrections(
    corrections: npt.NDArray[Any], shape: Sequence[int], classes: Sequence[str]
) -> None:
    """Refuse corrections that do not belong to the scan or its classes.

    Parameters
    ----------
    corrections
        (Z, Y, X) uint8 or uint16: 0 not painted, c class c, 255 or 65535 background.
    shape
        The scan's (Z, Y, X).
    classes
        Names, background first.

    Raises
    ------
    InputError
        If the shape or the type is another, or a value is no class.
    """
    background_value(corrections.dtype)  # refuses other types
    if tuple(corrections.shape) != tuple(shape):
        raise InputError(
            f"corrections have the shape {tuple(corrections.shape)}, the scan {tuple(shape)}; "
            "paint on a layer made for this scan"
        )
    check_values(corrections, classes)


def check_values(values: npt.NDArray[Any], classes: Sequence[str]) -> None:
    """Refuse values of corrections, of any shape, that are no class.

    Raises
    ------
    InputError
        If their type is another, or a value is no class.
    """
    marker = background_value(values.dtype)
    odd = values[(values >= len(classes)) & (values != marker)]
    if odd.size:
        known = ", ".join(f"{i} {name}" for i, name in enumerate(classes) if i)
        raise InputError(
            f"a stroke has the label {odd.min()}, but the classes are {known} "
            f"({marker} is background); erase it, or add a class"
        )


def check_start(
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    labels: npt.NDArray[Any] | None,
    probabilities: npt.NDArray[Any] | None,
) -> None:
    """Refuse a mask or probabilities to start from that do not belong to the scan or its classes.

    Parameters
    ----------
    shape
        The scan's (Z, Y, X).
    classes
        Names, background first.
    labels, probabilities
        (Z, Y, X) and (K, Z, Y, X), or None.

    Raises
    ------
    InputError
        If there are fewer than two classes, a shape is another, or a label is no class.
    """
    if len(classes) < 2:
        raise InputError("name at least one class besides the background")
    if labels is not None and tuple(labels.shape) != shape:
        raise InputError(
            f"the mask has the shape {tuple(labels.shape)}, the scan {shape}; choose a mask of "
            "this scan"
        )
    if labels is not None and int(labels.max()) >= len(classes):
        raise InputError(
            f"the mask has the label {int(labels.max())}, but there are {len(classes)} classes "
            "(background included); name a class for each label"
        )
    wanted = (len(classes), *shape)
    if probabilities is not None and tuple(probabilities.shape) != wanted:
        raise InputError(
            f"probabilities have the shape {tuple(probabilities.shape)}, expected {wanted}; "
            "segment this scan again with this model"
        )
