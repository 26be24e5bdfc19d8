"""A session and its two layers, kept in step. Used on the window's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..correction.merge import box_at
from ..errors import InputError, OutputError
from .correct_layers import CorrectionLayers
from .correct_tasks import Approved, Started

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..correction.learn import Learned, Patch
    from ..correction.rounds import Round

__all__ = ["SessionLink"]


class SessionLink:
    """Takes what the person does from the layers, puts what was learned into them.

    Parameters
    ----------
    viewer
        The viewer.
    started
        The session.

    Attributes
    ----------
    lock
        Held by a job while it copies the strokes there are.
    notes
        What the person should know (saving, edits, repairs), in words.
    scan_layer
        What the person chose as the scan; it may have been deleted meanwhile.
    flips
        Places of approved voxels that the current round would change, still to be shown;
        None: not looked for yet.
    """

    def __init__(self, viewer: Any, started: Started) -> None:
        from ..correction.encoding import background_value

        self.session, self.source = started.session, started.source
        self.viewer, self.colours = viewer, started.colours
        self.marker = background_value(self.session.corrections.dtype)
        self.lock = threading.Lock()
        self.notes: list[str] = []
        self.scan_layer: Layer | None = None
        self.flips: list[tuple[int, int, int]] | None = None
        self._shown = self._movements = 0
        self.layers = CorrectionLayers(
            viewer, self.source, self.session.classes, self.colours, self.marker
        )
        self.ensure()

    def ensure(self) -> list[str]:
        """Make layers that are missing or can't be used; what was repaired, in words.

        A new mask holds strokes that were made since the last one was written: they are
        noted as written, else they would count as edits of it.
        """
        made: list[npt.NDArray[Any]] = []

        def labels() -> npt.NDArray[Any]:
            made.append(self.session.labels)
            return made[0]

        notes = self.layers.ensure(labels, lambda: self.session.corrections)
        for written in made:
            self.session.note_written(written)
        if made:
            self.tell()
        return notes

    def tell(self) -> None:
        """Let the layers say how they were made, for files and recipes."""
        from ..correction.about import how_corrected

        self.layers.tell(how_corrected(self.session))

    # ---- from the layers

    def take_box(self, box: tuple[slice, ...]) -> bool:
        """Take over a movement of the brush; False if that must wait a moment.

        Raises
        ------
        InputError
            If it painted a label that is no class.
        """
        array = self.layers.read("strokes")
        if array is None or not self.lock.acquire(blocking=False):
            return False
        try:
            now, before = array[box], self.session.corrections[box]
            voxels = np.argwhere(now != before)
            if len(voxels):
                values = now[tuple(voxels.T)].astype(np.int64)
                start = [part.start for part in box]
                self._saving(lambda: self.session.add_stroke(voxels + start, values))
        finally:
            self.lock.release()
        return True

    def take_strokes(self) -> bool:
        """Take over whatever differs in the strokes layer; False if that must wait a moment.

        Raises
        ------
        InputError
            If there is a label that is no class.
        """
        array = self.layers.read("strokes")
        if array is None:
            return True
        if not self.lock.acquire(blocking=False):
            return False
        try:
            own = self._as_own(array)
            self._saving(lambda: self.session.paint(own))
        finally:
            self.lock.release()
        return True

    def take_edits(self, where: tuple[slice, ...] = (slice(None),) * 3) -> int:
        """Turn edits of the mask into a stroke, which the strokes layer shows then.

        Parameters
        ----------
        where
            The part of the mask to look at.

        Returns
        -------
        int
            How many voxels were edited.

        Raises
        ------
        InputError
            If there is a label that is no class.
        """
        mask = self.layers.read("mask")
        if mask is None:
            return 0
        with self.lock:
            stroke = self._saving(lambda: self.session.take_mask_edits(mask, where))
        if stroke is None:
            return 0
        self.layers.write_voxels("strokes", stroke.voxels, stroke.values)
        return len(stroke.voxels)

    def collect(self) -> list[str]:
        """Take all that was painted and edited; repair the layers first.

        Returns
        -------
        list of str
            What the person should know, in words.

        Raises
        ------
        InputError
            If something was painted that can't be used; the session is as before.
        """
        notes = self.ensure()
        self.take_strokes()
        edited = self.take_edits()
        if edited:
            notes.append(f"{edited} voxels edited in the mask count as a stroke")
        return notes

    def _as_own(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Strokes in the session's type; napari lets people swap it."""
        kind = self.session.corrections.dtype
        if array.dtype == kind:
            return array
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > self.marker:
            odd = low if low < 0 else high
            raise InputError(
                f"a stroke has the label {odd}, but the classes are 1 to "
                f"{len(self.session.classes) - 1} ({self.marker} is background); erase it"
            )
        return array.astype(kind)

    def _saving(self, action: Callable[[], Any]) -> Any:
        """Do something that is saved at once; if the disk fails, go on without saving."""
        try:
            return action()
        except (OutputError, OSError) as error:
            self.stop_saving(error)
            return action()

    def stop_saving(self, error: BaseException) -> None:
        """Go on without saving: the disk failed."""
        self.session.saved = None
        self.notes.append(f"saving stopped, the disk says: {error}")

    # ---- into the layers

    def begin(self) -> None:
        """Say that a job begins that may show parts of a new mask."""
        self._shown, self._movements = 0, len(self.session.strokes)

    def show_patch(self, patch: Patch) -> None:
        """Show a part of the new mask; strokes made meanwhile stay on top of it."""
        self._keep_edits(box_at(patch.start, patch.labels.shape))
        labels = self.session.merged(patch.labels, patch.start)
        if self.layers.write("mask", labels, patch.start, part=True):
            self.session.note_written(labels, patch.start)
            self._shown += labels.size * patch.final

    def restore(self) -> None:
        """Show the current round, whatever parts of another were shown."""
        self._keep_edits()
        self._shown = 0
        labels = self.session.labels
        if self.layers.write("mask", labels):
            self.session.note_written(labels)
        self.tell()

    def apply(self, learned: Learned, made: Round | None = None) -> Round | None:
        """Make a result the current round and show it; None if a network's is not better.

        Parameters
        ----------
        learned
            The result.
        made
            What `CorrectionSession.make_round` made of it; None: it is made and saved now.
        """
        self._keep_edits()
        self.flips = None
        whole, self._shown = self._shown == learned.labels.size, 0
        better_only = learned.kind == "network"
        action = self.session.apply_if_better if better_only else self.session.apply
        taken: Round | None = self._saving(lambda: action(learned, made, shown=whole))
        self.notes += self.ensure()
        if taken is None:
            self.restore()  # the session did not change: what was shown meanwhile is no edit
        elif whole:  # all is there but what was painted meanwhile
            voxels, values = self.session.strokes_since(self._movements)
            self.layers.write_voxels("mask", voxels, values)
        else:
            self.restore_without_edits()
        self.tell()
        return taken

    def approve(self, found: Approved) -> None:
        """Let what a job worked out hold."""
        if found.problem is not None:
            self.stop_saving(found.problem)
        self._saving(lambda: self.session.set_approval(found.approval))
        self.flips = None

    def go(self, where: str | int) -> Round:
        """Go to "undo", "redo", "best" or a round's index, and show it.

        Raises
        ------
        InputError
            If there is no such round.
        """
        self.flips = None
        self.notes += self.collect()
        if where == "undo":
            made = self.session.undo()
        elif where == "redo":
            made = self.session.redo()
        elif where == "best":
            made = self.session.restore_best()
        else:
            made = self.session.go_to(int(where))
        self.restore_without_edits()
        return made

    def restore_without_edits(self) -> None:
        """Show the mask after the session has taken it for written."""
        self.layers.write("mask", self.session.labels)
        self.tell()

    def _keep_edits(self, where: tuple[slice, ...] = (slice(None),) * 3) -> None:
        """Take edits over before the mask is written; odd labels are left out, and overwritten."""
        try:
            self.take_edits(where)
        except InputError as error:
            self.notes.append(str(error))

    # ---- about it

    def stroke_counts(self) -> dict[str, int]:
        """How many strokes there are of each class."""
        counts = dict.fromkeys((*self.session.classes[1:], self.session.classes[0]), 0)
        for value, count in self.session.strokes.counts().items():
            counts[self.session.classes[0 if value == self.marker else value]] += count
        return counts

    def approved_share(self) -> float:
        """Share of the scan that is approved."""
        approval = self.session.approval
        return 0.0 if approval is None else float(approval.voxels.mean())

    def close(self) -> None:
        """Follow the layers no longer; the strokes layer goes if its strokes are saved."""
        self.layers.close(keep_strokes=self.session.saved is None and len(self.session.strokes) > 0)
