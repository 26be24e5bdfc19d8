"""What a person has done to one scan: strokes, edits of the mask, approvals, rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..inference.preprocess import crop_region
from ..models.store import Model
from ..volumes.volume import Volume
from .autosave import Autosave
from .encoding import background_value, check_start, class_type
from .features import voxel_ratio
from .grid import choose_work_grid
from .merge import Approval, approved_too, box_at, flipped, mask_edits, merge
from .places import doubt, group_voxels, worst_place
from .rounds import Round, RoundHistory, RoundRecord
from .strokes import Stroke, Strokes, split_strokes

__all__ = ["SessionState"]

Labels = npt.NDArray[Any]
Region = Sequence[Sequence[int]]


class SessionState(RoundHistory):
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
    model
        The network that `refine_job` trains a copy of. Its classes may be others: it gets
        a new head then, all else is kept. None: a new small network.
    folder
        Where to save as you work; made if missing. None: nowhere.
    threads
        Threads to learn and predict with.

    Attributes
    ----------
    rounds, current
        See `rounds.RoundHistory`.
    strokes
        All strokes so far.
    approval
        What is approved, or None.

    Raises
    ------
    InputError
        If shapes or classes don't fit together, or the folder holds something else.
    """

    def __init__(
        self,
        scan: Volume,
        classes: Sequence[str],
        *,
        labels: Labels | None = None,
        probabilities: npt.NDArray[Any] | None = None,
        model: Model | None = None,
        folder: Path | None = None,
        threads: int = 2,
    ) -> None:
        self.scan, self.classes, self.threads = scan, tuple(classes), threads
        self.shape: tuple[int, int, int] = scan.geometry.shape
        check_start(self.shape, self.classes, labels, probabilities)
        self.start_probabilities, self.start_model = probabilities, model
        dtype = class_type(len(self.classes))
        first = np.zeros(self.shape, dtype) if labels is None else labels.astype(dtype)
        if labels is None and probabilities is not None:
            first = np.asarray(probabilities).argmax(0).astype(dtype)
        super().__init__(Round(RoundRecord(0, 0, "start"), first, None))
        self.grid = choose_work_grid(self.shape, voxel_ratio(scan.geometry.spacing))
        self.strokes = Strokes(self.shape, self.classes)
        self.approval: Approval | None = None
        self._seen: list[tuple[int, int, int]] = []
        self._written = self.labels
        self.saved = Autosave(folder) if folder is not None else None
        if self.saved is not None:
            self.saved.begin(scan, self.classes, first, probabilities, model)

    # what is shown

    @property
    def predicted(self) -> Labels:
        """Labels (Z, Y, X) of the current round, without strokes and approvals."""
        return self.shown_round.labels

    @property
    def labels(self) -> Labels:
        """The mask to show: the current round with strokes and approvals over it; a new array."""
        return self.merged(self.predicted)

    @property
    def corrections(self) -> Labels:
        """Everything painted, see `encoding`."""
        return self.strokes.corrections

    def merged(self, labels: Labels, start: Sequence[int] = (0, 0, 0)) -> Labels:
        """Put strokes and approvals as they are now over labels (z, y, x) from `start` on.

        A `learn.Patch` holds the strokes there were when its job started; pass its labels
        through here to keep those made meanwhile.
        """
        where = box_at(start, labels.shape)
        return merge(labels, self.strokes.corrections, self.approval, where)

    def strokes_since(self, movements: int) -> tuple[npt.NDArray[np.intp], Labels]:
        """Voxels (N, 3) of all strokes but the first so many, and what the mask shows there."""
        late = [stroke.voxels for stroke in self.strokes.items[movements:]]
        voxels = np.concatenate(late) if late else np.empty((0, 3), np.intp)
        where = tuple(voxels.T)
        shown = self.predicted[where]
        if self.approval is not None:
            shown = np.where(self.approval.voxels[where], self.approval.labels[where], shown)
        painted = self.corrections[where]
        marker = background_value(self.corrections.dtype)
        said = np.where(painted == marker, 0, painted)
        values = np.where(painted != 0, said, shown).astype(self.predicted.dtype)
        self._written[where] = values
        return np.asarray(voxels, np.intp), values

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

    def paint_parts(self, corrections: Labels) -> int:
        """`paint`, but each touching part of one class is a stroke of its own; how many.

        For corrections that come all at once, from a file.

        Raises
        ------
        InputError
            As `paint`.
        """
        whole = self.strokes.difference(corrections)
        parts = [] if whole is None else split_strokes(whole)
        for part in parts:
            self.add_stroke(part.voxels, part.values)
        return len(parts)

    def add_stroke(self, voxels: npt.NDArray[Any], values: npt.NDArray[Any] | int) -> Stroke:
        """Paint voxels (N, 3) with values as in the corrections (0: erase).

        Raises
        ------
        InputError
            If a voxel is outside the scan, or a value is no class.
        """
        stroke = self.strokes.checked(voxels, values)
        if self.saved is not None:
            self.saved.add_stroke(stroke)
        self.strokes.add(stroke)
        return stroke

    def note_written(self, labels: Labels, start: Sequence[int] = (0, 0, 0)) -> None:
        """Say that labels (z, y, x) from `start` on were written into the mask's layer.

        Needed for parts shown while a job runs; `apply`, `undo`, `redo` and `go_to` take
        it that the layer then gets `labels`.
        """
        self._written[box_at(start, labels.shape)] = labels

    def take_mask_edits(
        self, mask: Labels, where: tuple[slice, ...] = (slice(None),) * 3
    ) -> Stroke | None:
        """Turn direct edits of the mask, the eraser's too, into a stroke.

        They are what differs between `mask` and what was last written, so call it before
        writing anything into the layer, and when learning starts.

        Parameters
        ----------
        mask
            (Z, Y, X), the mask's layer as it is now; any integer type.
        where
            The part of it to look at.

        Returns
        -------
        Stroke or None
            None if nothing was edited.

        Raises
        ------
        InputError
            If its shape is another, or a value is no class; nothing is changed then.
        """
        if tuple(mask.shape) != self.shape:
            raise InputError(
                f"the mask has the shape {tuple(mask.shape)}, the scan {self.shape}; it was "
                "replaced by another layer: choose the mask of this scan"
            )
        voxels, values = mask_edits(self._written[where], mask[where])
        voxels += [part.start or 0 for part in where]
        if not len(voxels):
            return None
        marker = background_value(self.strokes.corrections.dtype)
        stroke = self.add_stroke(voxels, np.where(values == 0, marker, values))
        self._written[tuple(voxels.T)] = values
        return stroke

    def approval_with(self, voxels: npt.NDArray[np.bool_] | None) -> Approval | None:
        """What would be approved with `voxels` (Z, Y, X) besides; with None nothing at all.

        Raises
        ------
        InputError
            If the shape is another.
        """
        if voxels is None:
            return None
        if tuple(voxels.shape) != self.shape:
            raise InputError(
                f"what is approved has the shape {tuple(voxels.shape)}, the scan {self.shape}"
            )
        approval = approved_too(self.approval, voxels, self.labels)
        return approval if approval.voxels.any() else None

    def save_approval(self, approval: Approval | None) -> None:
        """Save what `approval_with` returned; for the worker: it holds with `set_approval`.

        Raises
        ------
        OutputError
            If it can't be saved.
        """
        if self.saved is not None:
            self.saved.write_approval(approval, self.shape)

    def set_approval(self, approval: Approval | None) -> int:
        """Let what `save_approval` saved hold; how many voxels are approved then.

        Raises
        ------
        OutputError
            If it can't be saved.
        """
        if self.saved is not None:
            self.saved.keep_approval()
        self.approval = approval
        return 0 if approval is None else int(approval.voxels.sum())

    def approve(self, voxels: npt.NDArray[np.bool_]) -> int:
        """Keep the mask as it is where `voxels` (Z, Y, X) is True, whatever is learned.

        Returns
        -------
        int
            How many voxels are approved in all.

        Raises
        ------
        InputError
            If the shape is another.
        """
        approval = self.approval_with(voxels)
        self.save_approval(approval)
        return self.set_approval(approval)

    def region_voxels(self, region: Region) -> npt.NDArray[np.bool_]:
        """Which voxels (Z, Y, X) index ranges ((z0, z1), (y0, y1), (x0, x1)) hold.

        Raises
        ------
        InputError
            If they lie outside the scan.
        """
        box, _ = crop_region(self.scan.geometry, region)
        voxels = np.zeros(self.shape, bool)
        voxels[box] = True
        return voxels

    def approve_region(self, region: Region) -> int:
        """Approve index ranges ((z0, z1), (y0, y1), (x0, x1)); see `approve`."""
        return self.approve(self.region_voxels(region))

    def approve_slice(self, index: int, axis: int = 0) -> int:
        """Approve a plane of the array along `axis` (0, 1, 2 for z, y, x); see `approve`."""
        region = [[0, n] for n in self.shape]
        region[axis] = [int(index), int(index) + 1]
        return self.approve_region(region)

    def approve_label(self, value: int) -> int:
        """Approve all voxels that have a class in the mask; see `approve`.

        Raises
        ------
        InputError
            If there is no such class.
        """
        if not 0 <= value < len(self.classes):
            raise InputError(
                f"there is no class {value}; the classes are 0 to {len(self.classes) - 1}"
            )
        return self.approve(self.labels == value)

    def withdraw_approval(self) -> None:
        """Let learning change everything again."""
        self.save_approval(None)
        self.set_approval(None)

    def forgotten(self) -> npt.NDArray[np.intp]:
        """Approved voxels (N, 3) that the current round alone would change."""
        return flipped(self.predicted, self.approval, self.corrections)

    def flips(self) -> list[tuple[int, int, int]]:
        """A voxel in each connected group of `forgotten` ones, the largest group first."""
        return group_voxels(self.forgotten())

    def next_place(self) -> tuple[int, int, int] | None:
        """Voxel (z, y, x) of the scan to check next; None if there is no more, or no round yet.

        The highest uncertainty times disagreement (see `places.doubt`) away from strokes,
        approved voxels and the places this told before in the same round. Opinions that
        may disagree: what is shown, and what was learned before it was smoothed.
        """
        made = self.shown_round
        if made.state is None:
            return None
        raw = made.state.probabilities
        doubts = doubt(raw if made.shown is None else made.shown, raw)
        if self.approval is not None:
            doubts[self.grid.reduce(self.approval.voxels) > 0.5] = 0
        painted = self.grid.blocks_of(self.strokes.painted().voxels)
        seen = np.array(self._seen, np.intp).reshape(-1, 3)
        place = worst_place(doubts, seen, painted)
        if place is None:
            return None
        self._seen.append(place)
        centre = (np.array(place) * self.grid.factors) + np.array(self.grid.factors) // 2
        z, y, x = np.minimum(centre, np.array(self.shape) - 1)
        return int(z), int(y), int(x)

    def go_to(self, index: int) -> Round:
        """Make round `index` the current one. Strokes stay: they are the person's.

        Raises
        ------
        InputError
            If there is no such round.
        """
        made = super().go_to(index)
        if self.saved is not None:
            self.saved.set_current(index)
            if made.state is None and index:  # dropped to save memory
                made = self.rounds[index] = self.saved.whole(made)
        self._show()
        return made

    def restore_best(self) -> Round:
        """Go back to the latest round that did not look worse than the one before it."""
        return self.go_to(self.best)

    @property
    def _erased(self) -> bool:
        """Whether strokes were erased since the current round learned from them."""
        late = self.strokes.items[self.shown_round.record.movements :]
        return any((stroke.values == 0).any() for stroke in late)

    def _show(self, *, written: bool = False) -> None:
        if not written:
            self._written = self.labels
        self._seen = []
