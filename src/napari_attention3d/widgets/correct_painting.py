"""Painting in the Correct tab: classes and their brushes; strokes go to the session at once."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer

from ..errors import Attention3DError

if TYPE_CHECKING:
    from .correct_panel import CorrectPanel

__all__ = ["Painting"]

_LATE = 60  # ms
_LOOK = 250  # ms between looks for strokes that napari's undo and redo took or brought back


class Painting(QObject):
    """Chooses what the brush paints and takes over what it painted.

    Parameters
    ----------
    panel
        Whose session it is.
    """

    def __init__(self, panel: CorrectPanel) -> None:
        super().__init__(panel)
        self.panel = panel
        self._late = QTimer(self)
        self._late.setSingleShot(True)
        self._late.setInterval(_LATE)
        self._late.timeout.connect(self._on_late)
        self._look = QTimer(self)
        self._look.setInterval(_LOOK)
        self._look.timeout.connect(self._on_look)

    def start(self) -> None:
        """Follow a session's strokes layer: napari's undo emits nothing when it changes it."""
        self._look.start()

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._late.stop()
        self._look.stop()

    def _on_look(self) -> None:
        if self.panel.link is not None and self.panel.link.layers.history_moved():
            self._on_late()

    def choose(self, value: int) -> None:
        """Paint with a label from now on; 0 erases strokes."""
        link = self.panel.link
        if link is not None:
            link.ensure()
            link.layers.choose(value)
            self.panel.form.show_brush(value)

    def choose_background(self) -> None:
        """Paint "background" from now on."""
        if self.panel.link is not None:
            self.choose(self.panel.link.marker)

    def choose_next_class(self) -> None:
        """Paint with the next class; the background comes after the last."""
        if self.panel.link is None:
            return
        order = [value for value in self.panel.form.brush_buttons if value]
        layer = self.panel.link.layers.strokes
        now = int(layer.selected_label) if layer is not None else 0
        place = order.index(now) + 1 if now in order else 0
        self.choose(order[place % len(order)])

    def show_class(self, value: int) -> None:
        """The brush paints another label now."""
        self.panel.form.show_brush(value)
        if self.panel.link is not None and value and value not in self.panel.form.brush_buttons:
            last, marker = len(self.panel.link.session.classes) - 1, self.panel.link.marker
            self.panel.refuse(
                f"Label {value} is no class here: paint with 1 to {last}, or {marker}, background"
            )

    def take(self, box: tuple[slice, ...]) -> None:
        """Take over a movement of the brush."""
        assert self.panel.link is not None
        try:
            if not self.panel.link.take_box(box):
                self._late.start()
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        self._after_strokes()

    def _on_late(self) -> None:
        if self.panel.link is None:
            return
        try:
            if not self.panel.link.take_strokes():
                self._late.start()
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        self._after_strokes()

    def _after_strokes(self) -> None:
        assert self.panel.link is not None
        self.panel.form.show_painted(self.panel.link.stroke_counts())
        self.panel.tell_notes()
        if self.panel.form.auto_box.isChecked():
            self.panel.pause()

    def tell_removed(self, name: str) -> None:
        """Say that a deleted layer is not lost."""
        self.panel.status.idle(
            f"The {name} layer was deleted; it comes back, with all you painted, when you choose a "
            "class or press Learn"
        )
