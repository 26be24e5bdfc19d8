"""A person correcting one scan: strokes, rounds, approvals, undo. No window, no threads.

Jobs change nothing; the caller applies their results (`CorrectionSession.apply`), in a
window on the main thread. Strokes may be added while a job runs: it learns from those
there were when it started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, OutOfMemory
from ..progress import Job, Progress
from ..volumes.volume import Volume
from .autosave import Autosave, RoundRecord
from .encoding import background_value
from .fast_head import FastHead
from .features import ScanFeatures, scan_features, voxel_ratio
from .grid import choose_work_grid
from .learn import Learned, Previous, learn_job
from .merge import Approval, flipped, merge
from .strokes import Stroke, Strokes

__all__ = ["CorrectionSession", "Round"]

KEPT_ROUNDS = 12
"""Rounds whose whole state stays in memory; older ones keep their labels only."""

Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class Round:
    """A state that one can go back to.

    Attributes
    ----------
    record
        Number, strokes, score and warnings; what the list shows.
    labels
        (Z, Y, X) as predicted, before strokes and approvals.
    state
        For the next round; None if it was dropped to save memory.
    weights
        Of the working copy of the network after this round, by name; None: as before.
    """

    record: RoundRecord
    labels: Labels
    state: Previous | None
    weights: dict[str, Any] | None = None


class CorrectionSession:
    """Corrections of one scan.

    Parameters
    ----------
    scan
        (Z, Y, X) or (C, Z, Y, X).
    classes
        Names, background first; at least two.
    labels
        (Z, Y, X) the mask to start from; None: empty.
    probabilities
        (K, Z, Y, X) of the model that made it (`Segmentation.probabilities`): the model is
        then corrected rather than replaced. None: from nothing.
    folder
        Where to save as you work; None: nowhere.
    threads
        Threads to learn and predict with.

    Raises
    ------
    InputError
        If shapes or classes don't fit together.
    """

    def __init__(
        self,
        scan: Volume,
        classes: Sequence[str],
        *,
        labels: Labels | None = None,
        probabilities: npt.NDArray[Any] | None = None,
        folder: Path | None = None,
        threads: int = 2,
    ) -> None:
        self.scan, self.classes, self.threads = scan, tuple(classes), threads
        self.shape: tuple[int, int, int] = scan.geometry.shape
        _check(self.shape, self.classes, labels, probabilities)
        self.detail = probabilities
        self.grid = choose_work_grid(self.shape, voxel_ratio(scan.geometry.spacing))
        self.strokes = Strokes(self.shape, self.classes)
        dtype = np.uint8 if len(self.classes) < 256 else np.uint16
        first = np.zeros(self.shape, dtype) if labels is None else labels.astype(dtype)
        if labels is None and probabilities is not None:
            first = np.asarray(probabilities).argmax(0).astype(dtype)
        self.rounds = [Round(RoundRecord(0, 0), first, None)]
        self.current = 0
        self.approval: Approval | None = None
        self._head: FastHead | None = None
        self.saved = Autosave(folder) if folder is not None else None
        if self.saved is not None:
            self.saved.begin(scan, self.classes, first)

    @classmethod
    def resume(
        cls,
        folder: Path,
        scan: Volume,
        *,
        probabilities: npt.NDArray[Any] | None = None,
        threads: int = 2,
    ) -> CorrectionSession:
        """Go on where a saved session ended, however it ended.

        Raises
        ------
        InputError
            If the folder holds no session, or one of another scan.
        """
        saved = Autosave(folder)
        about = saved.about(scan)
        session = cls(scan, about.classes, probabilities=probabilities, threads=threads)
        session.saved = saved
        for stroke in saved.strokes():
            session.strokes.add(stroke)
        session.rounds = [
            Round(
                r.record,
                r.labels,
                None if r.probabilities is None else Previous(r.probabilities),
                r.weights,
            )
            for r in saved.rounds()
        ]
        session.current = min(saved.current(), len(session.rounds) - 1)
        session.approval = saved.approval()
        return session

    # what is shown

    @property
    def predicted(self) -> Labels:
        """Labels (Z, Y, X) of the current round, without strokes and approvals."""
        return self.rounds[self.current].labels

    @property
    def labels(self) -> Labels:
        """The mask to show: the current round with strokes and approvals over it."""
        return merge(self.predicted, self.strokes.corrections, self.approval)

    @property
    def corrections(self) -> Labels:
        """Everything painted, see `encoding`."""
        return self.strokes.corrections

    # what the person does

    def paint(self, corrections: Labels) -> Stroke | None:
        """Take over the strokes layer as it is now; what changed is one stroke, saved at once.

        Raises
        ------
        InputError
            If the layer's shape, type or a value is wrong; nothing is changed then.
        """
        stroke = self.strokes.difference(corrections)
        if stroke is not None:
            self.add_stroke(stroke.voxels, stroke.values)
        return stroke

    def add_stroke(self, voxels: npt.NDArray[Any], values: npt.NDArray[Any] | int) -> None:
        """Paint voxels (N, 3) with values as in the corrections (0: erase).

        Raises
        ------
        InputError
            If a voxel is outside the scan, or a value is no class.
        """
        voxels = np.atleast_2d(np.asarray(voxels, dtype=np.int64))
        dtype = self.strokes.corrections.dtype
        numbers = np.broadcast_to(np.asarray(values, dtype=np.int64), (len(voxels),))
        outside = (voxels < 0).any(axis=1) | (voxels >= np.array(self.shape)).any(axis=1)
        if outside.any():
            raise InputError(
                f"a stroke leaves the scan: voxel {tuple(voxels[outside][0].tolist())} is outside "
                f"{self.shape}; paint on a layer made for this scan"
            )
        marker = background_value(dtype)
        odd = (numbers < 0) | ((numbers >= len(self.classes)) & (numbers != marker))
        if odd.any():
            raise InputError(
                f"a stroke has the label {int(numbers[odd][0])}, but the classes are 1 to "
                f"{len(self.classes) - 1} ({marker} is background); choose one of them"
            )
        stroke = Stroke(voxels.astype(np.int32), numbers.astype(dtype))
        if self.saved is not None:
            self.saved.add_stroke(len(self.strokes), stroke)
        self.strokes.add(stroke)

    def approve(self, voxels: npt.NDArray[np.bool_]) -> None:
        """Keep the mask as it is where `voxels` (Z, Y, X) is True, whatever is learned."""
        shown = self.labels
        if self.approval is None:
            self.approval = Approval(voxels.copy(), shown)
        else:
            old = self.approval
            kept = np.where(voxels, shown, old.labels)
            self.approval = Approval(old.voxels | voxels, kept.astype(shown.dtype))
        if self.saved is not None:
            self.saved.approve(self.approval)

    # what is computed

    def prepare_job(self) -> Job[FastHead]:
        """Compute what does not depend on strokes; worth doing before the first one."""
        if self._head is not None:
            return self._head
        image = self.grid.reduce(self.scan.array)
        spacing = np.array(self.scan.geometry.spacing) * np.array(self.grid.factors)
        features: ScanFeatures | None = None
        for step in scan_features(image, spacing):
            if isinstance(step, ScanFeatures):
                features = step
            else:
                yield Progress(*step, "Looking at the scan")
        assert features is not None
        prior = None if self.detail is None else self.grid.reduce(self.detail)
        self._head = FastHead(features, len(self.classes), prior, self.threads)
        return self._head

    def learn_job(self, *, focus: int | None = None) -> Job[Learned]:
        """Learn from all strokes and predict everything; `apply` the result.

        Parameters
        ----------
        focus
            Plane (z) that is looked at; None: the middle.

        Yields
        ------
        Progress
            ``partial`` is a `learn.Patch` to be shown at once, or None.

        Raises
        ------
        InputError
            If nothing is painted, or only one class and there is no model.
        OutOfMemory
            If the memory does not suffice; the session is as before.
        """
        painted = self.strokes.painted()
        state = self.rounds[self.current].state
        corrections, approval = self.strokes.corrections.copy(), self.approval

        def over(labels: Labels, first: int) -> Labels:
            where = (slice(first, first + len(labels)), slice(None), slice(None))
            return merge(labels, corrections, approval, where)

        try:
            if not len(painted.voxels):
                raise InputError("nothing is painted yet; paint a stroke where the mask is wrong")
            if self.detail is None and len(np.unique(painted.values)) < 2:
                raise InputError(
                    "all strokes are of one class; paint at least one stroke of a second class "
                    "(background counts)"
                )
            head = yield from self.prepare_job()
            middle = self.shape[0] // 2 if focus is None else focus
            return (
                yield from learn_job(
                    head, self.grid, painted, state, detail=self.detail, focus=middle, merge=over
                )
            )
        except MemoryError as error:
            raise OutOfMemory(
                "the memory does not suffice to learn from this scan; close other programs or "
                "crop the scan. Your strokes are kept"
            ) from error

    def apply(self, learned: Learned, weights: dict[str, Any] | None = None) -> Round:
        """Make a round's result the current one; rounds that were undone are forgotten."""
        lost = flipped(learned.labels, self.approval)
        record = RoundRecord(
            number=self.current + 1,
            strokes=learned.strokes,
            seconds=learned.seconds,
            score=learned.score,
            before=learned.before,
            drift=learned.drift,
            lost=learned.lost,
            flipped=len(lost),
            warnings=list(learned.warnings),
        )
        if len(lost):
            record.warnings.append(
                f"{len(lost)} approved voxels would have changed (first at "
                f"{tuple(lost[0].tolist())}); they are kept as approved"
            )
        del self.rounds[self.current + 1 :]
        made = Round(record, learned.labels, learned.state, weights)
        if self.saved is not None:
            self.saved.add_round(record, made.labels, learned.state.probabilities, weights)
        self.rounds.append(made)
        self.current += 1
        self._forget_old()
        return made

    # undo

    @property
    def best(self) -> int:
        """Index of the latest round that did not look worse than the one before."""
        good = [i for i, r in enumerate(self.rounds[: self.current + 1]) if not r.record.lost]
        return good[-1]

    def undo(self) -> Round:
        """Go back to the round before: labels, probabilities and weights together.

        Raises
        ------
        InputError
            If there is none.
        """
        if self.current == 0:
            raise InputError("there is no round to undo")
        return self.go_to(self.current - 1)

    def redo(self) -> Round:
        """Take back an undo.

        Raises
        ------
        InputError
            If there is nothing to redo.
        """
        if self.current + 1 >= len(self.rounds):
            raise InputError("there is no round to redo")
        return self.go_to(self.current + 1)

    def go_to(self, index: int) -> Round:
        """Make round `index` the current one. Strokes stay: they are the person's."""
        if self.saved is not None:
            self.saved.set_current(index)
        self.current = index
        return self.rounds[index]

    def _forget_old(self) -> None:
        for i, old in enumerate(self.rounds[: max(0, self.current - KEPT_ROUNDS)]):
            if old.state is not None:
                self.rounds[i] = replace(old, state=None)


def _check(
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    labels: Labels | None,
    probabilities: npt.NDArray[Any] | None,
) -> None:
    if len(classes) < 2:
        raise InputError("name at least one class besides the background")
    if labels is not None and tuple(labels.shape) != shape:
        raise InputError(
            f"the mask has the shape {tuple(labels.shape)}, the scan {shape}; choose a mask of "
            "this scan"
        )
    wanted = (len(classes), *shape)
    if probabilities is not None and tuple(probabilities.shape) != wanted:
        raise InputError(
            f"probabilities have the shape {tuple(probabilities.shape)}, expected {wanted}; "
            "segment this scan again with this model"
        )
