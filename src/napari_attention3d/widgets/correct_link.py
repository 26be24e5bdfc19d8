"""A session and its two layers, kept in step. Used on the window's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, OutputError
from .correct_layers import CorrectionLayers
from .correct_tasks import Started

if TYPE_CHECKING:
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
        What went wrong with saving, in words; empty if all is well.
    """

    def __init__(self, viewer: Any, started: Started) -> None:
        from ..correction.encoding import background_value

        self.session, self.source = started.session, started.source
        self.viewer, self.colours = viewer, started.colours
        self.marker = background_value(self.session.corrections.dtype)
        self.lock = threading.Lock()
        self.notes: list[str] = []
        self.layers = CorrectionLayers(
            viewer, self.source, self.session.classes, self.colours, self.marker
        )
        self.ensure()

    def ensure(self) -> list[str]:
        """Make layers that are missing or can't be used; what was repaired, in words.

        A new mask holds strokes that were made since the last one was written: they are
        noted as written, else they would count as edits of it.
        """
        labels, before = self.session.labels, self.layers.mask
        notes = self.layers.ensure(labels, self.session.corrections)
        if self.layers.mask is not before:
            self.session.note_written(labels)
        return notes

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

    def take_edits(self) -> int:
        """Turn edits of the mask into a stroke, which the strokes layer shows then.

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
            stroke = self._saving(lambda: self.session.take_mask_edits(mask))
        if stroke is None:
            return 0
        strokes = self.layers.read("strokes")
        if strokes is not None:
            strokes[tuple(stroke.voxels.T)] = stroke.values
            self.layers.write("strokes", strokes[:0])  # shows what was just written
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
            self.session.saved = None
            self.notes.append(f"saving stopped, the disk says: {error}")
            return action()

    # ---- into the layers

    def show_patch(self, patch: Patch) -> None:
        """Show a part of the new mask; strokes made meanwhile stay on top of it."""
        self._keep_edits()
        labels = self.session.merged(patch.labels, patch.first)
        if self.layers.write("mask", labels, patch.first):
            self.session.note_written(labels, patch.first)

    def restore(self) -> None:
        """Show the current round, whatever parts of another were shown."""
        self._keep_edits()
        labels = self.session.labels
        if self.layers.write("mask", labels):
            self.session.note_written(labels)

    def apply(self, learned: Learned) -> Round | None:
        """Make a result the current round and show it; None if a network's is not better."""
        self._keep_edits()
        better_only = learned.kind == "network"
        action = self.session.apply_if_better if better_only else self.session.apply
        made: Round | None = self._saving(lambda: action(learned))
        self.ensure()
        if made is None:
            self.restore()  # the session did not change: what was shown meanwhile is no edit
        else:
            self.restore_without_edits()
        return made

    def go(self, where: str | int) -> Round:
        """Go to "undo", "redo" or a round's index, and show it.

        Raises
        ------
        InputError
            If there is no such round.
        """
        self.collect()
        if where == "undo":
            made = self.session.undo()
        elif where == "redo":
            made = self.session.redo()
        else:
            made = self.session.go_to(int(where))
        self.restore_without_edits()
        return made

    def restore_without_edits(self) -> None:
        """Show the mask after the session has taken it for written."""
        self.layers.write("mask", self.session.labels)

    def _keep_edits(self) -> None:
        """Take edits over before the mask is written; odd labels are left out, and overwritten."""
        try:
            self.take_edits()
        except InputError as error:
            self.notes.append(str(error))

    # ---- about it

    def stroke_counts(self) -> dict[str, int]:
        """How many strokes there are of each class."""
        counts = dict.fromkeys((*self.session.classes[1:], self.session.classes[0]), 0)
        for stroke in self.session.strokes.items:
            for value in np.unique(stroke.values):
                if value:
                    counts[self.session.classes[0 if value == self.marker else int(value)]] += 1
        return counts

    def approved_share(self) -> float:
        """Share of the scan that is approved."""
        approval = self.session.approval
        return 0.0 if approval is None else float(approval.voxels.mean())

    def close(self) -> None:
        """Follow the layers no longer; the strokes layer goes if its strokes are saved."""
        self.layers.close(keep_strokes=self.session.saved is None and len(self.session.strokes) > 0)
