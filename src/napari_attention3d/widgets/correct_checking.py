"""Checking in the Correct tab: approve, go to doubtful places, save the model."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog

from ..errors import Attention3DError
from . import correct_tasks
from .correct_view import go_to_voxel, to_approve

if TYPE_CHECKING:
    from .correct_panel import CorrectPanel

__all__ = ["Checking"]


class Checking(QObject):
    """What is done with a mask besides painting.

    Parameters
    ----------
    panel
        Whose session it is.
    """

    def __init__(self, panel: CorrectPanel) -> None:
        super().__init__(panel)
        self.panel = panel

    def approve(self, what: str) -> None:
        """Approve "slice", "region", "label" or "all"; "withdraw" takes all back."""
        link = self.panel.collected()
        if link is None:
            return
        try:
            voxels, words = (
                (None, "") if what == "withdraw" else to_approve(self.panel.viewer, link, what)
            )
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        if what == "withdraw":
            said = "Nothing is approved any more; learning may change everything"
        else:
            said = f"{words} is approved and stays; only a stroke changes it"
        job = partial(correct_tasks.approve, link.session, voxels)
        self.panel.submit(job, "approve", partial(self._on_approved, said), "Approving …")

    def _on_approved(self, said: str, found: correct_tasks.Approved) -> None:
        link = self.panel.link
        assert link is not None
        link.approve(found)
        self.panel.status.idle(said)
        self.panel.tell_notes()
        self.panel.update_state()

    def next_flip(self) -> None:
        """Move the view to the next approved voxels that the current round would change."""
        link = self.panel.collected()
        if link is None:
            return
        if not link.session.shown_round.record.flipped:
            self.panel.refuse("This round would change nothing that is approved")
        elif link.flips is None:
            job = partial(correct_tasks.locked, link.session.flips, link.lock)
            self.panel.submit(job, "flips", self._on_flips, "Looking …")
        else:
            self._show_flip()

    def _on_flips(self, places: list[tuple[int, int, int]]) -> None:
        assert self.panel.link is not None
        self.panel.link.flips = places
        self._show_flip()

    def _show_flip(self) -> None:
        link = self.panel.link
        assert link is not None
        if not link.flips:
            link.flips = None  # the next press begins again
            self.panel.status.idle("These were all approved places that this round would change")
            return
        place = link.flips.pop(0)
        go_to_voxel(self.panel.viewer, link, place)
        session = link.session
        approval = session.approval
        kept = "" if approval is None else session.classes[int(approval.labels[place])]
        new = session.classes[int(session.predicted[place])]
        left = f"; {len(link.flips)} more" if link.flips else ""
        self.panel.status.idle(
            f"In the middle the round says “{new}”, you approved “{kept}”, which stays{left}"
        )

    def next_place(self) -> None:
        """Move the view to the place where the mask is most doubtful."""
        link = self.panel.collected()
        if link is None:
            return
        session = link.session
        if not session.current:
            self.panel.refuse("Learn once first; then there are doubts to look at")
            return
        job = partial(correct_tasks.locked, session.next_place, link.lock)
        self.panel.submit(job, "place", self._on_place, "Looking …")

    def _on_place(self, place: tuple[int, int, int] | None) -> None:
        assert self.panel.link is not None
        if place is None:
            self.panel.status.idle("No doubtful place is left in this round")
            return
        go_to_voxel(self.panel.viewer, self.panel.link, place)
        self.panel.status.idle("The most doubtful place is in the middle; paint if it errs")

    def save_model(self) -> None:
        """Ask for a file and save the network."""
        from ..models.store import user_models_folder

        if self.panel.session is None or self.panel.is_busy:
            return
        folder = user_models_folder()
        folder.mkdir(parents=True, exist_ok=True)
        path, _ = QFileDialog.getSaveFileName(
            self.panel,
            "Save the model",
            str(folder / "my-model.safetensors"),
            "Models (*.safetensors)",
        )
        if path:
            self.save_model_as(Path(path))

    def save_model_as(self, path: Path) -> None:
        """Save the network as a model file."""
        if self.panel.session is None or self.panel.is_busy:
            return
        if path.suffix != ".safetensors":
            path = path.with_name(path.name + ".safetensors")
        job = partial(correct_tasks.call, partial(self.panel.session.save_model, path))
        self.panel.submit(job, "save", self._on_saved, "Saving the model …")

    def _on_saved(self, path: Path) -> None:
        self.panel.status.idle(f"Saved {path}; it can be chosen in the Segment tab")
        self.panel.model_saved.emit(path)
