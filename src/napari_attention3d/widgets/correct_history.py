"""Rounds in the Correct tab: undo, redo, go to one, back to the best."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject

from ..errors import Attention3DError

if TYPE_CHECKING:
    from .correct_panel import CorrectPanel

__all__ = ["History"]


class History(QObject):
    """Goes through the rounds, and shows them in the form.

    Parameters
    ----------
    panel
        Whose session it is.
    """

    def __init__(self, panel: CorrectPanel) -> None:
        super().__init__(panel)
        self.panel = panel
        rounds = panel.form.rounds
        rounds.undo_clicked.connect(self.undo)
        rounds.redo_clicked.connect(self.redo)
        rounds.best_clicked.connect(self.back_to_best)
        rounds.go_clicked.connect(self.go_to)

    def undo(self) -> None:
        """Go back to the round before."""
        self._go("undo")

    def redo(self) -> None:
        """Take an undo back."""
        self._go("redo")

    def back_to_best(self) -> None:
        """Go back to the latest round that did not look worse than the one before it."""
        session = self.panel.session
        if session is not None and session.best != session.current:
            self._go("best")

    def go_to(self, index: int) -> None:
        """Show a round."""
        session = self.panel.session
        if session is not None and index != session.current:
            self._go(index)

    def _go(self, where: str | int) -> None:
        link = self.panel.link
        if link is None or self.panel.is_busy:
            return
        try:
            made = link.go(where)
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        number = made.record.number
        words = [f"Back at {f'round {number}' if number else 'the start'}"]
        words += [f"⚠ {text}" for text in link.notes]
        link.notes.clear()
        self.panel.status.idle(". ".join(words))
        self.panel.update_state()

    def show(self) -> None:
        """Bring the list of rounds and its buttons up to date."""
        session, form = self.panel.session, self.panel.form
        if session is None:
            return
        free, best = not self.panel.is_busy, session.best
        form.rounds.set_enabled(session.can_undo, session.can_redo, free)
        form.rounds.show_best(best if best != session.current else None, free)
        form.rounds.show_rounds([r.record for r in session.rounds], session.current)
        form.show_flipped(session.shown_round.record.flipped, free)
