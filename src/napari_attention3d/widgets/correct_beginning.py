"""How a correction session begins: what there is to start from, resume, discard."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog

from ..errors import Attention3DError, InputError
from . import correct_tasks
from .correct_sessions import SavedSession, discard, saved_sessions
from .correct_start import NOTHING, StartForm, short_path
from .layer_classes import layer_class_names, layer_classes
from .layer_series import lead_in_view
from .layers import LayerSource, layer_to_volume
from .measure_choosers import LayerList, role_of
from .tasks import ModelShelf
from .worker import Run

if TYPE_CHECKING:
    from napari.layers import Labels, Layer

    from ..models import ModelInfo
    from .correct_link import SessionLink
    from .correct_panel import CorrectPanel

__all__ = ["Beginning"]

_NO_SCAN = "Open a 3D scan first: File > Open, or File > Open Sample > Attention 3D"
_NO_MASKS = ("strokes", "disagreement", "clean-up preview")
_MOST_CLASSES = 60
"""Labels beyond that are numbered objects rather than classes."""


class Beginning(QObject):
    """Fills the start form and starts what it says.

    Parameters
    ----------
    panel
        Whose session it will be.
    shelf
        Keeps the last model loaded.
    """

    def __init__(self, panel: CorrectPanel, shelf: ModelShelf | None) -> None:
        super().__init__(panel)
        self.panel, self.shelf = panel, shelf or ModelShelf()
        self.form = StartForm()
        self._models: list[ModelInfo] = []
        self._files: list[Path] = []
        self._masks: dict[str, Labels] = {}
        self._listing: Run | None = None
        self._listed = False
        self._busy = False
        self.scan_layer: Layer | None = None
        self.follow = LayerList(panel.viewer, self.refresh)
        self.form.changed.connect(self._on_changed)
        self.form.start_clicked.connect(self.begin)
        self.form.open_clicked.connect(self._open_model)
        self.form.resume_clicked.connect(self.resume)
        self.form.discard_clicked.connect(self._discard)
        panel.chooser.layer_changed.connect(self._on_scan)
        self.attach()

    def attach(self) -> None:
        """Follow the viewer's layers."""
        self.follow.attach()

    def detach(self) -> None:
        """Follow them no longer."""
        self.follow.detach()

    # ---- what there is

    def look(self) -> None:
        """List models in the background, sessions at once."""
        self._on_scan()
        if self._listing is None:
            self._listing = self.panel.runner.call(correct_tasks.find_models, "list models")
            self._listing.returned.connect(self._on_models)
            self._listing.finished.connect(self._on_listed)

    def _on_models(self, models: list[ModelInfo]) -> None:
        self._models, self._listed = models, True
        self.refresh()

    def _on_listed(self) -> None:
        self._listing = None

    def refresh(self) -> None:
        """Bring masks and models that can be started from up to date."""
        from napari.layers import Labels

        scan = self.panel.chooser.layer
        starts: dict[str, tuple[str, list[str]]] = {NOTHING: ("Nothing: I name the classes", [])}
        self._masks = {}
        for layer in reversed(self.panel.viewer.layers):
            if not isinstance(layer, Labels) or role_of(layer) in _NO_MASKS or layer.ndim != 3:
                continue
            if scan is not None and tuple(layer.data.shape) != tuple(scan.data.shape[-3:]):
                continue
            key = f"mask:{id(layer)}"
            self._masks[key] = layer
            starts[key] = (f"Mask: {layer.name}", _names_of(layer))
        for info in self._models:
            assert info.card is not None
            starts[f"model:{info.path}"] = (f"Model: {info.title}", info.card.class_names)
        for path in self._files:
            starts[f"model:{path}"] = (short_path(path), self._names_in(path))
        self.form.set_starts(starts)

    def _names_in(self, path: Path) -> list[str]:
        from ..models.header import read_card, read_header

        try:
            return list(read_card(path, read_header(path)).class_names)
        except Attention3DError:
            return []

    def _on_scan(self) -> None:
        """Another scan was chosen, or its place changed."""
        if self.panel.link is not None:
            return
        sessions: list[SavedSession] = []
        # No scan, or none that can be corrected: the button says so.
        with suppress(Attention3DError):
            sessions = saved_sessions(self._source().volume)
        self.form.set_sessions(sessions)
        self.refresh()

    def _source(self) -> LayerSource:
        layer = self.panel.chooser.layer
        if layer is None:
            raise InputError(_NO_SCAN)
        one = self._wants_one_channel()
        leading = lead_in_view(self.panel.viewer, layer, one_channel=one)
        return layer_to_volume(layer, leading=leading)

    def _wants_one_channel(self) -> bool:
        """Whether the chosen model takes one channel: of a series, the point in view then."""
        key = self.form.start.removeprefix("model:")
        return any(
            str(info.path) == key and info.card is not None and len(info.card.channels) == 1
            for info in self._models
        )

    # ---- the form

    def _on_changed(self) -> None:
        self.update(self._busy)

    def update(self, busy: bool) -> None:
        """Enable the button, or say why it can't be pressed."""
        self._busy = busy
        reason = ""
        if self.panel.chooser.layer is None:
            reason = _NO_SCAN
        elif len(self.form.classes) < 2:
            reason = "Name at least one class, for example: nucleus"
        elif len(set(self.form.classes)) < len(self.form.classes):
            reason = "Two classes have the same name"
        self.form.set_state(reason, busy)

    def _open_model(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self.panel, "Open a model file", "", "Models (*.safetensors);;All files (*)"
        )
        if path:
            self.add_model_file(Path(path))

    def add_model_file(self, path: Path) -> None:
        """Offer a model file, and choose it."""
        if path not in self._files:
            self._files.append(path)
        self.refresh()
        self.form.choose(f"model:{path}")

    # ---- beginning

    def begin(self) -> None:
        """Start a session as the form says."""
        if not self.form.start_button.isEnabled() or self.panel.is_busy:
            return
        try:
            request = self._request()
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        self.scan_layer = self.panel.chooser.layer
        job = partial(correct_tasks.start_session, self.shelf, request)
        self.panel.submit(job, "start", self.panel.open_session, "Starting …")

    def _request(self) -> correct_tasks.Request:
        source, key, classes = self._source(), self.form.start, tuple(self.form.classes)
        if key.startswith("model:"):
            return correct_tasks.Request(source, classes, model=key.removeprefix("model:"))
        layer = self._masks.get(key)
        if layer is None:
            return correct_tasks.Request(source, classes)
        colours = tuple(one["colour"] for one in layer_classes(_attributes(layer)))
        layer.visible = False  # the session has a mask of its own, which begins as a copy
        return correct_tasks.Request(
            source, classes, self._model_of(layer, classes), layer_to_volume(layer), colours
        )

    def _model_of(self, layer: Layer, classes: tuple[str, ...]) -> str:
        """Model that made a mask, if it is installed and its classes are still the same."""
        from .layers import KEY

        entry = layer.metadata.get(KEY, {})
        made_by = entry.get("model") if isinstance(entry, dict) else None
        for info in self._models:
            card = info.card
            if card is not None and info.name == made_by and tuple(card.class_names) == classes:
                return str(info.path)
        return ""

    def resume(self, saved: SavedSession) -> None:
        """Go on with a saved session."""
        if self.panel.is_busy:
            return
        try:
            source = self._source()
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        self.scan_layer = self.panel.chooser.layer
        job = partial(
            correct_tasks.call, partial(correct_tasks.resume_session, saved.folder, source)
        )
        self.panel.submit(job, "start", self.panel.open_session, "Reading the session …")

    def _discard(self, saved: SavedSession) -> None:
        discard(saved.folder)
        self._on_scan()
        self.panel.status.idle("The session was deleted")

    def closed(self, session: Any) -> None:
        """A session has ended: offer it, or remove what holds nothing."""
        saved = session.saved
        if saved is not None and not len(session.strokes) and len(session.rounds) == 1:
            discard(saved.folder)
        self._on_scan()

    def check_scan(self, link: SessionLink) -> None:
        """Refuse to go on if the scan's layer shows something of another shape now.

        Raises
        ------
        InputError
            If it does; the session is as before.
        """
        layer, name = link.scan_layer, link.source.volume.name
        if layer is None or layer not in self.panel.viewer.layers:
            return  # deleted: the session holds the scan itself
        wanted = link.source.shown.shape
        if tuple(layer.data.shape[-3:]) != tuple(wanted):
            raise InputError(
                f"the scan {name!r} has the shape {tuple(layer.data.shape[-3:])} now, the session "
                f"is of {tuple(wanted)}; open that scan again, or close the session"
            )


def _names_of(layer: Labels) -> list[str]:
    """Class names of a mask, background first; numbered where it has none."""
    known = layer_class_names({"features": layer.features})
    if known or not isinstance(layer.data, np.ndarray):
        return known
    highest = int(layer.data.max(initial=0))
    if highest > _MOST_CLASSES:
        return []
    return ["background", *(f"class {value}" for value in range(1, max(1, highest) + 1))]


def _attributes(layer: Labels) -> dict[str, Any]:
    return {"features": layer.features, "colormap": layer.colormap}
