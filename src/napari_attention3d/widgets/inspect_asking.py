"""“Ask a voxel”: from the mouse to a question, and from its answer to layers."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from ..errors import Attention3DError
from . import inspect_tasks
from .inspect_layers import COLOURS, AnswerLayers
from .inspect_mask import label_reader
from .inspect_probe import ProbeForm
from .inspect_runs import Runs
from .inspect_words import answer_text
from .probe import Place, Probe, Voxel, voxel_under
from .region import place_in_view
from .tasks import file_stamp

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..volumes.volume import Volume
    from .layers import LayerSource

__all__ = ["Asking"]

DIMMED = 0.55
"""Share of the scan's opacity that is left while answers lie on it."""
IN_3D = 0.3
"""Share of the mask's opacity that is left in the 3D view."""
_HOVER = 60
"""Milliseconds that the mouse rests before a hovered voxel is asked."""


class Asking(QObject):
    """Controller of the probe.

    Parameters
    ----------
    runs
        What can be asked.
    """

    answered = Signal(object)
    """`inspect_tasks.Asked`, after its layers are shown."""

    def __init__(self, runs: Runs) -> None:
        super().__init__()
        self.runs, self.viewer, self.status = runs, runs.viewer, runs.status
        self.form = ProbeForm()
        self.probe = Probe(self.viewer, self._on_click, self._on_move)
        self.last: inspect_tasks.Asked | None = None
        self._shown: AnswerLayers | None = None
        self._pinned: list[AnswerLayers] = []
        self._event: Any = None
        self._voxel_of_no_run: Voxel | None = None
        self._aside: inspect_tasks.RunRecord | None = None
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_HOVER)
        self._rest.timeout.connect(self._on_rest)
        form = self.form
        form.switched.connect(self._on_switched)
        form.changed.connect(self._on_question)
        form.scale_changed.connect(self._show_scale)
        form.guided_clicked.connect(self.ask_guided)
        form.pin_clicked.connect(self.pin)
        form.peak_clicked.connect(self.go_to_peak)
        form.dim_changed.connect(self._dim)
        form.same_changed.connect(self._compare)
        form.clear_clicked.connect(self.clear)
        form.pin_toggled.connect(self._on_pin_toggled)

    def start(self) -> None:
        """Follow the viewer's change between 2D and 3D."""
        self.viewer.dims.events.ndisplay.connect(self._dim)

    def close_down(self) -> None:
        """Stop listening to the mouse."""
        self.form.probe_button.setChecked(False)
        self._rest.stop()
        self.viewer.dims.events.ndisplay.disconnect(self._dim)

    # ---- the mouse

    def _on_switched(self, on: bool) -> None:
        self.probe.switch(on)
        self.form.probe_button.setText("Click a voxel … (on)" if on else "Ask a voxel")
        if on:
            self.form.say("Click a voxel in the scan, in 2D or 3D.")
            self._prepare()

    def _prepare(self) -> None:
        """Look at the tile in the middle of the view beforehand, so that a click is quick."""
        try:
            layer, record = self.runs.record()
        except Attention3DError:
            return
        if self.runs.is_busy:
            return
        voxel = place_in_view(self.viewer, layer, record.source)
        job = partial(inspect_tasks.prepare_job, self.runs.desk, record, voxel)
        words = "Preparing the probe …"
        self.runs.submit(job, "prepare the probe", words, self._on_prepared, question=True)

    def _on_prepared(self, _: object) -> None:
        self.status.idle("Ready")
        if self.form.kind != "row":
            self._tell_cost()

    def _on_click(self, event: Any) -> None:
        active = self.viewer.layers.selection.active
        mode = str(getattr(active, "mode", "pan_zoom"))
        if mode not in ("pan_zoom", "transform"):
            self.status.idle(f"{active.name} is being edited: choose its pan/zoom tool to probe")
            return
        try:
            voxel = self.voxel_at(event)
        except Attention3DError as error:
            self.status.idle(str(error))
            return
        if voxel is None:
            self.status.idle("This place lies outside the scan; click inside it")
            return
        self.ask(voxel)

    def _on_move(self, event: Any) -> None:
        if self.form.hover_box.isChecked() and len(event.dims_displayed) == 2:
            self._event = Place(event)
            self._rest.start()

    def _on_rest(self) -> None:
        """Answer where the mouse rests, if that costs nothing."""
        event, self._event = self._event, None
        if event is None or not self.probe.is_on or self.runs.is_busy:
            return
        try:
            _, record = self.runs.record()
            voxel = self.voxel_at(event)
            if voxel is None:
                return
            asked = self.runs.desk.at_once(record, self._question(voxel))
        except Attention3DError:
            return  # only a click is worth a message
        if asked is not None:
            self._show(asked)
        else:
            self.status.idle(
                self.runs.desk.why_no_rows(record, self.form.kind)
                or "Click once here: then the mouse can be followed in this tile"
            )

    def voxel_at(self, event: Any) -> Voxel | None:
        """Voxel of the chosen scan under the mouse; None outside the scan.

        Raises
        ------
        Attention3DError
            If no scan is open.
        """
        source = self.runs.source()
        return voxel_under(self.runs.chooser.layer, source, event, self.runs.mask_layer())

    # ---- asking

    def _question(self, voxel: Voxel) -> inspect_tasks.Question:
        kind = self.form.kind
        return inspect_tasks.Question(
            voxel,
            kind,
            centred=self.form.centre_box.isChecked(),
            mask=self._label_at(voxel) if kind == "label" else None,
            with_lines=self.form.lines_box.isChecked(),
        )

    def _label_at(self, voxel: Voxel) -> Callable[[], Volume]:
        _, record = self.runs.record()
        shown = self.runs.mask_layer()
        if shown is None:
            raise Attention3DError("No mask is shown: run the model, or make its mask visible")
        return label_reader(record.source, shown, voxel)

    def ask(self, voxel: Voxel) -> None:
        """Ask the newest run of the chosen scan about a voxel of the scan's array."""
        try:
            _, record = self.runs.record()
            question = self._question(voxel)
            asked = self.runs.desk.at_once(record, question)
        except Attention3DError as error:
            self._voxel_of_no_run = voxel
            self.form.say(str(error), offer_guided=self.runs.chooser.layer is not None)
            self.status.idle(str(error))
            return
        if self.runs.is_working:
            self.runs.tell_busy()  # a click must not end what takes minutes
            return
        if asked is not None:
            self.runs.give_up_question()
            self._show(asked)
            return
        self._submit(record, question)

    def ask_guided(self) -> None:
        """Let an installed guided model look at a window around the last voxel."""
        voxel = self.last.question.voxel if self.last is not None else self._voxel_of_no_run
        if self.runs.chooser.layer is None or voxel is None:
            return
        try:
            source = self.runs.source()
            reference = inspect_tasks.find_guided()
        except Attention3DError as error:
            self.status.idle(str(error))
            return
        question = inspect_tasks.Question(
            voxel, centred=True, with_lines=self.form.lines_box.isChecked()
        )
        self._submit(self._guided(source, reference), question)

    def _guided(self, source: LayerSource, reference: str) -> inspect_tasks.RunRecord:
        """Return the record of a model without a run, the same one for the same scan."""
        known = self._aside
        if known is None or known.source is not source or known.model_ref != reference:
            stamp = file_stamp(reference)
            known = inspect_tasks.RunRecord(source, reference, None, stamp=stamp)
            self._aside = known
        return known

    def _submit(self, record: inspect_tasks.RunRecord, question: inspect_tasks.Question) -> None:
        job = partial(inspect_tasks.ask_job, self.runs.desk, record, question)
        words = "Looking at the voxel's tile …"
        self.runs.submit(job, "ask a voxel", words, self._show, question=True)

    def _on_question(self) -> None:
        """Ask anew if that is quick; else say what the next click will cost."""
        if self.form.kind == "row":
            self.ask_again()
            return
        self._tell_cost()

    def _tell_cost(self) -> None:
        cost = "The tile's network pass comes first, then all its voxels are gone through."
        seconds = self._seconds()
        if seconds:
            cost = f"Goes through all voxels of the tile: about {max(0.1, seconds):.1f} s."
        self.form.say(f"{self.form.question_combo.currentText()} {cost} Click a voxel.")

    def _seconds(self) -> float | None:
        """What a question about all voxels costs, in the tile asked last or the one in view."""
        if self.last is not None:
            return self.runs.desk.seconds(self.last.record, self.last.question.voxel)
        try:
            layer, record = self.runs.record()
        except Attention3DError:
            return None
        return self.runs.desk.seconds(record, place_in_view(self.viewer, layer, record.source))

    def ask_again(self) -> None:
        """Ask the last voxel anew, after the question was changed."""
        if self.last is not None and self.probe.is_on:
            self.ask(self.last.question.voxel)

    # ---- showing

    def _show(self, asked: inspect_tasks.Asked) -> None:
        self.last = asked
        model = asked.replay.model.card.name
        if asked.answer is None:
            self.form.say(answer_text(asked), offer_guided=True)
            self.form.pin_button.setEnabled(False)
            self.status.idle("Done")
            self.answered.emit(asked)
            return
        from ..attention.ask import ALL_SCALES

        names = list(asked.answer.volumes)
        names.insert(0, names.pop(names.index(ALL_SCALES)))
        titles = [(n, asked.answer.volumes[n].name.split(", ", 1)[1].capitalize()) for n in names]
        self.form.set_scales(titles)
        if self._shown is None or self._shown.source is not asked.record.source:
            self._hide()
            colour = COLOURS[len(self._pinned) % len(COLOURS)]
            self._shown = AnswerLayers(
                self.viewer, asked.record.source, model, colour, number=len(self._pinned)
            )
        self._shown.about = {**inspect_tasks.made_by(asked.record), "model": model}
        self._shown.show_outline(asked.answer.support)
        self._show_scale()
        self._shown.show_lines(asked.targets)
        self._shown.show_place(asked.question.voxel)
        for button in (self.form.pin_button, self.form.peak_button, self.form.clear_button):
            button.setEnabled(True)
        self._dim()
        self.status.idle("Answered")
        self.answered.emit(asked)

    def _show_scale(self) -> None:
        asked = self.last
        if asked is None or asked.answer is None or self._shown is None:
            return
        volume = asked.answer.volumes[self.form.scale]
        self._shown.show_map(volume, f"{asked.replay.model.card.name} · {volume.name}")
        self._compare()
        stale = inspect_tasks.model_changed(asked.record)
        words = answer_text(asked, self.form.scale)
        self.form.say(f"⚠ Out of date: {stale}\n{words}" if stale else words)

    def _compare(self) -> None:
        """Let the same colour mean the same share in all answers, or each use its own range."""
        answers = [*self._pinned, *([self._shown] if self._shown is not None else [])]
        tops = [one.limit() for one in answers]
        if self.form.same_box.isChecked() and tops:
            for one in answers:
                one.limit(max(tops))

    @property
    def present(self) -> inspect_tasks.Asked | None:
        """The newest answer, if it is of the run that is inspected now."""
        if self.last is None:
            return None
        try:
            source = self.runs.source()
        except Attention3DError:
            return None
        record = self.last.record
        aside = record.provenance is None and record.source is source
        return self.last if aside or record is self.runs.known() else None

    @property
    def map_layer(self) -> Layer | None:
        """The map of the answer that is shown."""
        return self._shown.layer("map") if self._shown is not None else None

    def _hide(self) -> None:
        if self._shown is not None:
            self._shown.remove()
            self._shown = None

    def _dim(self, event: Any = None) -> None:
        """Show the scan darker and the mask as outlines while answers lie on them."""
        wanted: dict[Layer, dict[str, Any]] = {}
        answered = self._shown is not None or bool(self._pinned)
        if answered and self.form.dim_box.isChecked():
            scan, mask = self.runs.chooser.layer, self.runs.mask_layer()
            if scan is not None:
                wanted[scan] = {"opacity": lambda own: DIMMED * own}
            if mask is not None:
                in_3d = self.viewer.dims.ndisplay == 3  # where a mask has no outlines
                share = IN_3D if in_3d else 1.0
                wanted[mask] = {"contour": 1, "opacity": lambda own: share * own}
        self.runs.dress.claim(self, wanted)

    def go_to_peak(self) -> None:
        """Move the view to the slice where the shown map is strongest."""
        layer = self.map_layer
        if layer is None:
            self.status.idle("There is no answer in the viewer: click a voxel first")
            return
        index = np.unravel_index(int(np.argmax(layer.data)), layer.data.shape)
        world = layer.data_to_world(index)
        for axis, value in enumerate(world, start=self.viewer.dims.ndim - 3):
            self.viewer.dims.set_point(axis, float(value))

    def pin(self) -> None:
        """Keep the answer that is shown, to compare with the next."""
        if self._shown is None:
            return
        number = len(self._pinned) + 1
        self._shown.pin(number)
        self._pinned.append(self._shown)
        self._shown = None
        self.form.pin_button.setEnabled(False)
        self.form.set_pinned([f"{i + 1}: {one.title}" for i, one in enumerate(self._pinned)])

    def clear(self) -> None:
        """Remove all answers."""
        self._hide()
        for one in self._pinned:
            one.remove()
        self._pinned.clear()
        self._dim()
        self.last = None
        self.form.set_pinned([])
        for button in (self.form.pin_button, self.form.peak_button, self.form.clear_button):
            button.setEnabled(False)
        self.form.say("Switch the probe on and click a voxel.")

    def _on_pin_toggled(self, index: int, on: bool) -> None:
        if index < len(self._pinned):
            self._pinned[index].set_visible(on)
