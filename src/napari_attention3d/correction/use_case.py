"""Correct one scan with strokes that are there already: the session's steps in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..models.store import Model
from ..progress import Job, finish
from ..volumes.volume import Volume
from .about import how_corrected
from .encoding import background_value
from .refine import RefineOptions
from .rounds import RoundRecord
from .session import CorrectionSession

__all__ = ["Refinement", "as_corrections", "refine", "refine_scan_job"]

NAMES = "background", "class"


@dataclass
class Refinement:
    """What strokes made of a scan's mask, and of the model.

    Attributes
    ----------
    labels
        (Z, Y, X) mask on the scan's grid; painted voxels are as painted.
    model
        The trained copy; None if no network was trained, or it measured worse.
    rounds
        What each round measured, the mask to start from first.
    warnings
        What the person should look at.
    """

    labels: Volume
    model: Model | None
    rounds: list[RoundRecord]
    warnings: list[str] = field(default_factory=list)


def refine(
    model: Model | None,
    scan: Volume,
    corrections: Volume | npt.NDArray[Any],
    *,
    classes: Sequence[str] | None = None,
    options: RefineOptions | None = None,
    network: bool = True,
    threads: int = 2,
    folder: Path | None = None,
) -> Refinement:
    """Learn from painted voxels of one scan; see `refine_scan_job` for all there is to say.

    Examples
    --------
    >>> better = refine(load_model("brain-attention-unet"), scan, strokes)  # doctest: +SKIP
    >>> write_volume("mask.nii.gz", better.labels)  # doctest: +SKIP
    """
    job = refine_scan_job(
        model,
        scan,
        corrections,
        classes=classes,
        options=options,
        network=network,
        threads=threads,
        folder=folder,
    )
    return finish(job)


def refine_scan_job(
    model: Model | None,
    scan: Volume,
    corrections: Volume | npt.NDArray[Any],
    *,
    classes: Sequence[str] | None = None,
    options: RefineOptions | None = None,
    network: bool = True,
    threads: int = 2,
    folder: Path | None = None,
) -> Job[Refinement]:
    """Correct a model's mask of one scan, or make one from nothing, and train a copy of the model.

    First the light head learns (seconds), then, with `network`, the network itself; its
    round is kept unless it measures worse (`CorrectionSession.apply_if_better`).

    Parameters
    ----------
    model
        Not changed; None: from nothing.
    scan
        (Z, Y, X) or (C, Z, Y, X).
    corrections
        (Z, Y, X) integers on the scan's grid: 0 not painted, c class c, 255 (with more than
        255 classes 65535) painted as background. What touches and has one class is a stroke.
    classes
        Names, background first. None: the model's, or "class 1" and so on as painted.
    options
        Of the network's training; its device is where the model predicts, too.
    network
        Whether to train the network.
    threads
        To learn and predict with.
    folder
        New folder where the session is saved, to go on with in the window; None: nowhere.

    Yields
    ------
    Progress
        With ``metrics["loss"]`` while the network trains.

    Raises
    ------
    InputError
        If corrections and scan don't fit together, nothing or one class alone is painted,
        or a label is no class.
    ModelMismatchError
        If scan and model don't fit together.
    OutOfMemory
        If the memory does not suffice.
    """
    named = classes if classes is not None or model is None else model.card.class_names
    painted = as_corrections(corrections, scan, len(named or ()))
    options = options or RefineOptions()
    if classes is None and model is None:
        highest = _highest(painted)
        classes = [NAMES[0], *(f"{NAMES[1]} {i}" for i in range(1, max(1, highest) + 1))]
    session = yield from CorrectionSession.start_job(
        scan, model, classes, folder=folder, threads=threads, device=options.device
    )
    session.paint_parts(painted)
    session.apply((yield from session.learn_job()))
    warnings: list[str] = []
    trained = None
    if network:
        learned = yield from session.refine_job(options)
        if session.apply_if_better(learned) is None:
            warnings += [*learned.warnings, "so the network is left as it was"]
        else:
            trained = session.current_model()
    for made in session.rounds:
        warnings += made.record.warnings
    labels = Volume(
        session.labels,
        scan.geometry,
        f"{scan.name} labels",
        metadata=_about(session, {"network": network, "threads": threads, **asdict(options)}),
    )
    return Refinement(labels, trained, [r.record for r in session.rounds], warnings)


def _highest(painted: npt.NDArray[Any]) -> int:
    """Highest class that is painted, where nobody named the classes."""
    if painted.dtype == np.uint16 and (painted == 255).any():
        raise InputError(
            f"the strokes go up to {int(painted.max())}, so 255 in them may be a class or the "
            "background; name the classes, or paint the background as 65535"
        )
    return int(painted[painted < background_value(painted.dtype)].max(initial=0))


def as_corrections(
    corrections: Volume | npt.NDArray[Any], scan: Volume, classes: int = 0
) -> npt.NDArray[Any]:
    """Corrections (Z, Y, X) as uint8 or uint16, if they lie on the scan's grid.

    Parameters
    ----------
    corrections
        Integers of any type; other programs write int16 or int32.
    scan
        The scan.
    classes
        How many there are; with more than 255 of them 255 is a class, not background.

    Raises
    ------
    InputError
        If their grid is another, or they are no integers from 0 to 65535.
    """
    array = corrections
    if isinstance(corrections, Volume):
        if corrections.n_channels != 1:
            raise InputError(f"{corrections.name} has {corrections.n_channels} channels, not one")
        array = corrections.channel(0).array
        _check_place(corrections, scan)
    values = np.asarray(array)
    if values.shape != scan.geometry.shape:
        raise InputError(
            f"the strokes have the shape {values.shape}, the scan {scan.geometry.shape}; paint "
            "on a layer made for this scan"
        )
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    whole = np.rint(values)
    if low < 0 or high > 65535 or not np.array_equal(whole, values):
        raise InputError(
            f"strokes are whole numbers from 0 to 65535, these go from {low:g} to {high:g}; "
            "is it the right file?"
        )
    return np.asarray(whole.astype(np.uint8 if high < 256 and classes < 256 else np.uint16))


def _check_place(corrections: Volume, scan: Volume) -> None:
    """Refuse strokes that lie elsewhere in the world, where both files say where they lie."""
    own, other = corrections.geometry, scan.geometry
    if own.shape != other.shape or "pixel" in (own.unit, other.unit):
        return
    corners = np.array([[0, 0, 0], [n - 1 for n in own.shape]], float)
    apart = np.abs(own.to_world(corners) - other.to_world(corners)).max()
    if apart > 0.5 * min(other.spacing):
        raise InputError(
            f"{corrections.name} lies up to {apart:.3g} {other.unit} from {scan.name}; paint on "
            "a layer made for this scan"
        )


def _about(session: CorrectionSession, settings: dict[str, Any]) -> dict[str, Any]:
    card = session.current_model().card
    about: dict[str, Any] = {
        "kind": "labels",
        "classes": [c.model_dump() for c in card.classes],
        "provenance": how_corrected(session, **settings),
    }
    if "nifti" in session.scan.metadata:
        about["nifti"] = session.scan.metadata["nifti"]
    return about
