"""What the Correct panel lets the worker's thread do. No Qt; torch is imported here only."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, OutputError
from ..progress import Job, Progress
from .correct_sessions import new_folder
from .layers import LayerSource
from .tasks import ModelShelf, threads_beside_window

if TYPE_CHECKING:
    from ..correction.learn import Learned
    from ..correction.merge import Approval
    from ..correction.rounds import Round
    from ..correction.session import CorrectionSession
    from ..models import ModelInfo

__all__ = [
    "Approved",
    "Outcome",
    "Request",
    "Started",
    "approve",
    "as_shares",
    "call",
    "class_colours",
    "find_models",
    "first_step_locked",
    "kept",
    "learn",
    "locked",
    "prepare",
    "resume_session",
    "start_session",
    "train",
]

SURE = 0.9
"""Probability that a mask to start from gives its own label: strokes can overrule it."""
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00")


@dataclass(frozen=True, eq=False)
class Request:
    """What to start a session from.

    Attributes
    ----------
    source
        The scan.
    classes
        Names, background first.
    model
        Name or file of a model; "" for none.
    mask
        Labels to start from, or None.
    colours
        Of the first classes, where they are known.
    """

    source: LayerSource
    classes: tuple[str, ...]
    model: str = ""
    mask: LayerSource | None = None
    colours: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Started:
    """A session, ready for the viewer."""

    session: CorrectionSession
    source: LayerSource
    colours: tuple[str, ...]
    note: str = ""


def class_colours(count: int, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Colours of classes, background first: known ones, then some that everybody tells apart."""
    from colorsys import hsv_to_rgb

    colours = list(known[:count]) or ["#000000"]
    for i in range(len(colours) - 1, count - 1):
        if i < len(_COLOURS):
            colours.append(_COLOURS[i])
            continue
        rgb = hsv_to_rgb((0.05 + i * 0.618034) % 1.0, 0.75, 0.9)
        colours.append("#" + "".join(f"{round(255 * c):02x}" for c in rgb))
    return tuple(colours)


def find_models() -> list[ModelInfo]:
    """Load torch, list models."""
    from .. import correction  # noqa: F401
    from ..correction import session  # noqa: F401  (the window need not wait for it later)
    from ..models import list_models

    return [one for one in list_models() if one.card is not None]


def start_session(shelf: ModelShelf, request: Request) -> Generator[Progress, None, Started]:
    """Begin a session and its folder; a job.

    A mask to start from is believed where it differs from what the model says: somebody
    cleaned or edited it.

    Raises
    ------
    InputError, ModelMismatchError, OutOfMemory
        If scan, mask, classes and model don't fit together, or the memory ends.
    """
    yield Progress(0, 0, "Loading …")
    from ..correction.predict import predict_job
    from ..correction.session import CorrectionSession
    from ..correction.working_copy import with_classes

    scan, classes = request.source.volume, request.classes
    mask = None if request.mask is None else _checked(request.mask, request)
    model = shelf.get(request.model) if request.model else None
    known: Sequence[str] = request.colours
    shares: npt.NDArray[Any] | None = None
    if model is not None and list(classes) == model.card.class_names:
        known = [one.colour for one in model.card.classes]
        shares = yield from predict_job(model, scan)
    elif model is not None:
        with_classes(model, classes)  # refuses now what it would refuse after the first strokes
    if mask is not None:
        yield Progress(0, 0, "Reading the mask …")
        shares = as_shares(mask, len(classes), shares)
    make = partial(
        CorrectionSession,
        scan,
        classes,
        labels=mask,
        probabilities=shares,
        model=model,
        threads=threads_beside_window(os.cpu_count() or 1),
    )
    note = ""
    yield Progress(0, 0, "Making the session …")
    try:
        session = make(folder=new_folder(scan.name))
    except (OutputError, OSError) as error:
        session = make()
        note = f"⚠ This session can't be saved as you work: {error}"
    return Started(session, request.source, class_colours(len(classes), known), note)


def resume_session(folder: Path, source: LayerSource) -> Started:
    """Go on with a saved session.

    Raises
    ------
    InputError
        If it can't be read, or is of another scan.
    """
    from ..correction.session import CorrectionSession

    threads = threads_beside_window(os.cpu_count() or 1)
    session = CorrectionSession.resume(folder, source.volume, threads=threads)
    known: Sequence[str] = ()
    model = session.start_model
    if model is not None and model.card.class_names == list(session.classes):
        known = [one.colour for one in model.card.classes]
    problems = session.saved.problems if session.saved is not None else []
    note = "".join(f"⚠ {text}. " for text in problems).strip()
    return Started(session, source, class_colours(len(session.classes), known), note)


def _checked(mask: LayerSource, request: Request) -> npt.NDArray[Any]:
    """Mask to start from (Z, Y, X), if it lies on the scan's grid."""
    own, scan = mask.volume, request.source.volume
    if own.geometry.shape != scan.geometry.shape:
        raise InputError(
            f"{own.name!r} has the shape {own.geometry.shape}, {scan.name!r} has "
            f"{scan.geometry.shape}; choose labels of this scan"
        )
    labels = np.asarray(own.channel(0).array)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(request.classes):
        odd = low if low < 0 else high
        raise InputError(
            f"{own.name!r} has the label {odd}, but {len(request.classes) - 1} classes are named; "
            "name a class for each label, or join numbered objects into one class first"
        )
    return labels


def as_shares(
    labels: npt.NDArray[Any], classes: int, said: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Probabilities (K, Z, Y, X) float16 whose most probable class is `labels`.

    Parameters
    ----------
    labels
        (Z, Y, X).
    classes
        K.
    said
        (K, Z, Y, X) a model's, kept where they agree with the labels; None: nowhere.
    """
    rest = (1 - SURE) / (classes - 1)
    if said is None:
        shares = np.full((classes, *labels.shape), rest, np.float16)
        for k in range(classes):
            shares[k][labels == k] = SURE
        return shares
    shares = np.asarray(said).astype(np.float16)
    other = shares.argmax(0) != labels
    for k in range(classes):
        shares[k][other] = np.where(labels[other] == k, SURE, rest)
    return shares


def prepare(session: CorrectionSession) -> Job[Any]:
    """Compute what does not depend on strokes, while the first ones are painted; a job."""
    return (yield from session.prepare_job())


def first_step_locked(job: Job[Learned], lock: threading.Lock) -> Job[Learned]:
    """Run a job of a session; `lock` is held while it copies the strokes there are."""
    with lock:
        step = next(job)
    yield step
    return (yield from job)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was learned, saved already but not yet visible.

    Attributes
    ----------
    learned
        The result.
    made
        The round it will be; None if it is not taken, or could not be saved.
    problem
        Why it could not be saved.
    """

    learned: Learned
    made: Round | None
    problem: OSError | OutputError | None = None


def kept(session: CorrectionSession, learned: Learned) -> Generator[Progress, None, Outcome]:
    """Save a result while the window is free; a job."""
    if learned.kind == "network" and learned.lost:
        return Outcome(learned, None)
    yield Progress(0, 0, "Saving the round …")
    try:
        return Outcome(learned, session.make_round(learned))
    except (OutputError, OSError) as error:
        return Outcome(learned, None, error)


def learn(
    session: CorrectionSession, focus: Sequence[float] | None, axis: int, lock: threading.Lock
) -> Generator[Progress, None, Outcome]:
    """Learn from all strokes in seconds; a job."""
    job = session.learn_job(focus=focus, axis=axis)
    learned = yield from first_step_locked(job, lock)
    return (yield from kept(session, learned))


def approve(
    session: CorrectionSession, voxels: Callable[[], npt.NDArray[np.bool_]] | None
) -> Generator[Progress, None, Approved]:
    """Work out and save what is approved then; None: nothing any more. A job."""
    yield Progress(0, 0, "Approving …")
    chosen = None if voxels is None else voxels()
    approval = session.approval_with(chosen)
    try:
        session.save_approval(approval)
    except (OutputError, OSError) as error:
        return Approved(approval, error)
    return Approved(approval)


@dataclass(frozen=True, eq=False)
class Approved:
    """What is approved, saved but not yet valid; why it could not be saved."""

    approval: Approval | None
    problem: OSError | OutputError | None = None


def locked(function: Callable[[], Any], lock: threading.Lock) -> Job[Any]:
    """Make a job of a function that reads the strokes."""
    yield Progress(0, 0, "Looking …")
    with lock:
        return function()


def call(function: Callable[[], Any]) -> Job[Any]:
    """Make a job of a plain function."""
    yield Progress(0, 0, "Working …")
    return function()


def train(
    session: CorrectionSession,
    seconds: float,
    focus: Sequence[float] | None,
    axis: int,
    lock: threading.Lock,
    attention: npt.NDArray[Any] | None = None,
) -> Generator[Progress, None, Outcome]:
    """Train the network on all strokes, those on its attention too; a job."""
    from ..correction.refine import RefineOptions

    options = RefineOptions(seconds=seconds)
    job = session.refine_job(options, focus=focus, axis=axis, attention=attention)
    learned = yield from first_step_locked(job, lock)
    return (yield from kept(session, learned))
