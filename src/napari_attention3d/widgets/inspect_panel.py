"""The Inspect tab: where the network looked, asked voxel by voxel."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QVBoxLayout, QWidget

from ..errors import Attention3DError
from . import inspect_tasks, tasks
from .inspect_layers import COLOURS, AnswerLayers
from .inspect_probe import ProbeForm
from .inspect_words import answer_text
from .layer_chooser import LayerChooser
from .layers import KEY, LayerSource, layer_to_volume
from .notify import notify_failure
from .probe import Probe, Voxel, voxel_under
from .region import focus_in_view
from .segment_panel import SegmentPanel
from .status_bar import StatusBar
from .worker import JobFailure, JobRunner, Run

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["InspectPanel"]

DIMMED = 0.55
"""Share of the scan's opacity that is left while answers lie on it."""
_HOVER = 60
"""Milliseconds that the mouse rests before a hovered voxel is asked."""


class InspectPanel(QWidget):
    """Controller of the tab: translates between the probe, the worker and the viewer."""

    answered = Signal(object)
    """`inspect_tasks.Asked`, after its layers are shown."""
    failed = Signal(object)
    """`JobFailure`."""

    def __init__(
        self,
        viewer: Any,
        runner: JobRunner,
        chooser: LayerChooser,
        status: StatusBar,
        segment: SegmentPanel,
    ) -> None:
        super().__init__()
        self.viewer, self.runner, self.chooser, self.status = viewer, runner, chooser, status
        self.segment = segment
        self.desk = inspect_tasks.Desk(segment.shelf)
        self.records: weakref.WeakKeyDictionary[Layer, inspect_tasks.RunRecord] = (
            weakref.WeakKeyDictionary()
        )
        self.form = ProbeForm()
        self.probe = Probe(viewer, self._on_click, self._on_move)
        self.last: inspect_tasks.Asked | None = None
        self._shown: AnswerLayers | None = None
        self._pinned: list[AnswerLayers] = []
        self._opacity: weakref.WeakKeyDictionary[Layer, float] = weakref.WeakKeyDictionary()
        self._run: Run | None = None
        self._event: Any = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addWidget(self.form)
        layout.addStretch(1)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_HOVER)
        self._rest.timeout.connect(self._on_rest)
        shortcut = QShortcut(QKeySequence("Ctrl+Alt+P"), self)
        shortcut.activated.connect(self.form.probe_button.toggle)
        self.form.switched.connect(self._on_switched)
        self.form.changed.connect(self._ask_again)
        self.form.scale_changed.connect(self._show_scale)
        self.form.guided_clicked.connect(self.ask_guided)
        self.form.pin_clicked.connect(self.pin)
        self.form.peak_clicked.connect(self.go_to_peak)
        self.form.dim_changed.connect(self._dim)
        self.form.clear_clicked.connect(self.clear)
        self.form.pin_toggled.connect(self._on_pin_toggled)
        segment.about_to_show.connect(self._on_new_run)
        status.cancel_clicked.connect(self.cancel)

    @property
    def is_asking(self) -> bool:
        """Whether an answer is on its way."""
        return self._run is not None

    def close_down(self) -> None:
        """Stop listening to the mouse."""
        self.form.probe_button.setChecked(False)
        self._rest.stop()

    # ---- runs

    def _on_new_run(self, finished: tasks.Finished) -> None:
        """Remember what made the newest mask of a scan."""
        layer = self.segment.source_layer
        if layer is None:
            return
        result = finished.segmentation
        self.records[layer] = inspect_tasks.RunRecord(
            finished.source,
            self.segment.form.model,
            result.provenance,
            result.card,
            weakref.ref(result),
        )

    def record(self) -> tuple[Layer, inspect_tasks.RunRecord]:
        """Return the chosen scan's layer and its newest run.

        Raises
        ------
        Attention3DError
            If there is none.
        """
        layer = self.chooser.layer
        if layer is None:
            raise Attention3DError("Open a 3D scan first, then run a model on it")
        record = self.records.get(layer)
        if record is None:
            raise Attention3DError(
                f"{layer.name} has no mask from this session: press Run in the Segment tab first, "
                "or “Ask the guided model here”"
            )
        return layer, record

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
            layer, record = self.record()
        except Attention3DError:
            return
        voxel = focus_in_view(self.viewer, layer, record.source)
        if voxel is None or self._run is not None:
            return
        job = partial(inspect_tasks.prepare_job, self.desk, record, voxel)
        self._start(self.runner.submit(job, "prepare the probe"), "Preparing the probe …")

    def _on_click(self, event: Any) -> None:
        active = self.viewer.layers.selection.active
        mode = str(getattr(active, "mode", "pan_zoom"))
        if mode not in ("pan_zoom", "transform"):
            self.status.idle(f"{active.name} is being edited: choose its pan/zoom tool to probe")
            return
        try:
            voxel = self._voxel(event)
        except Attention3DError as error:
            self.status.idle(str(error))
            return
        if voxel is None:
            self.status.idle("This place lies outside the scan; click inside it")
            return
        self.ask(voxel)

    def _on_move(self, event: Any) -> None:
        if self.form.hover_box.isChecked() and len(event.dims_displayed) == 2:
            self._event = _Place(event)
            self._rest.start()

    def _on_rest(self) -> None:
        """Answer where the mouse rests, if that costs nothing."""
        event, self._event = self._event, None
        if event is None or not self.probe.is_on or self._run is not None:
            return
        try:
            _, record = self.record()
            voxel = self._voxel(event)
            if voxel is None:
                return
            asked = self.desk.at_once(record, self._question(voxel))
        except Attention3DError:
            return  # only a click is worth a message
        if asked is not None:
            self._show(asked)

    def _voxel(self, event: Any) -> Voxel | None:
        layer = self.chooser.layer
        if layer is None:
            raise Attention3DError("Open a 3D scan first, then run a model on it")
        record = self.records.get(layer)
        source = record.source if record is not None else layer_to_volume(layer, leading=0)
        return voxel_under(layer, source, event, self._mask_layer(layer))

    def _mask_layer(self, scan: Layer) -> Layer | None:
        """Return the visible mask that lies on top of the scan."""
        for layer in reversed(self.viewer.layers):
            entry = layer.metadata.get(KEY, {})
            if isinstance(entry, dict) and entry.get("role") == "labels" and layer.visible:
                found: Layer = layer
                return found
        return None

    # ---- asking

    def _question(self, voxel: Voxel) -> inspect_tasks.Question:
        kind = self.form.kind
        mask = None
        if kind == "label":
            mask = self._label_at(voxel)
        return inspect_tasks.Question(
            voxel,
            kind,
            centred=self.form.centre_box.isChecked(),
            mask=mask,
            with_lines=self.form.lines_box.isChecked(),
        )

    def _label_at(self, voxel: Voxel) -> Any:
        """Return the label under a voxel as a mask of its own."""
        layer, record = self.record()
        segmentation = record.segmentation() if record.segmentation is not None else None
        shown = self._mask_layer(layer)
        if segmentation is None or shown is None:
            raise Attention3DError("No mask is shown: run the model, or make its mask visible")
        labels = segmentation.labels
        place = labels.geometry.to_index(record.source.volume.geometry.to_world(voxel))
        index = np.round(place).astype(int)
        if any(not 0 <= i < n for i, n in zip(index, labels.geometry.shape, strict=True)):
            raise Attention3DError("This place lies outside the region that was segmented")
        value = int(labels.array[tuple(index)])
        if value == 0:
            raise Attention3DError("There is background here: click on a label")
        mask = np.asarray(labels.array) == value
        return labels.replace(array=mask.astype(np.uint8))

    def ask(self, voxel: Voxel) -> None:
        """Ask the newest run of the chosen scan about a voxel of the scan's array."""
        try:
            _, record = self.record()
            question = self._question(voxel)
            asked = self.desk.at_once(record, question)
        except Attention3DError as error:
            self._voxel_of_no_run = voxel
            self.form.say(str(error), offer_guided=self.chooser.layer is not None)
            self.status.idle(str(error))
            return
        if asked is not None:
            self._show(asked)
            return
        self._submit(record, question)

    def ask_guided(self) -> None:
        """Let an installed guided model look at a window around the last voxel."""
        layer = self.chooser.layer
        voxel = self.last.question.voxel if self.last is not None else self._voxel_of_no_run
        if layer is None or voxel is None:
            return
        record = self.records.get(layer)
        source = record.source if record is not None else layer_to_volume(layer, leading=0)
        try:
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
            self._aside = inspect_tasks.RunRecord(source, reference, None)
        assert self._aside is not None
        return self._aside

    _aside: inspect_tasks.RunRecord | None = None
    _voxel_of_no_run: Voxel | None = None

    def _submit(self, record: inspect_tasks.RunRecord, question: inspect_tasks.Question) -> None:
        if self._run is not None:
            self._run.cancel()  # only the last click counts
        job = partial(inspect_tasks.ask_job, self.desk, record, question)
        run = self.runner.submit(job, "ask a voxel")
        run.returned.connect(self._show)
        self._start(run, "Looking at the voxel's tile …")

    def _start(self, run: Run, words: str) -> None:
        self._run = run
        run.progressed.connect(self.status.progress)
        run.errored.connect(self._on_failed)
        run.finished.connect(partial(self._on_finished, weakref.ref(run)))
        self.status.busy(words)

    def cancel(self) -> None:
        """Drop the question that is on its way."""
        if self._run is not None:
            self._run.cancel()

    def _on_failed(self, failure: JobFailure) -> None:
        self.status.error(notify_failure(failure), failure.details)
        self.failed.emit(failure)

    def _on_finished(self, ref: weakref.ref[Run]) -> None:
        if self._run is ref():
            self._run = None
            if self.status.cancel_button.isEnabled():
                self.status.idle("Ready")

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
            self._shown = AnswerLayers(self.viewer, asked.record.source, model, colour)
        self._shown.show_outline(asked.answer.support)
        self._show_scale()
        self._shown.show_lines(asked.targets)
        self._shown.show_place(asked.question.voxel)
        self.form.pin_button.setEnabled(True)
        self.form.peak_button.setEnabled(True)
        self._dim()
        self.status.idle("Answered")
        self.answered.emit(asked)

    def _show_scale(self) -> None:
        asked = self.last
        if asked is None or asked.answer is None or self._shown is None:
            return
        volume = asked.answer.volumes[self.form.scale]
        self._shown.show_map(volume, f"{asked.replay.model.card.name} · {volume.name}")
        self.form.say(answer_text(asked, self.form.scale))

    def _ask_again(self) -> None:
        if self.last is not None and self.probe.is_on:
            self.ask(self.last.question.voxel)

    def _hide(self) -> None:
        if self._shown is not None:
            self._shown.remove()
            self._shown = None

    def _dim(self) -> None:
        """Show the scan darker while answers lie on it, as it was otherwise."""
        answered = self._shown is not None or bool(self._pinned)
        scan = self.chooser.layer
        if answered and self.form.dim_box.isChecked() and scan is not None:
            if scan not in self._opacity:
                self._opacity[scan] = scan.opacity
                scan.opacity = DIMMED * scan.opacity
            return
        for layer, opacity in list(self._opacity.items()):
            layer.opacity = opacity
        self._opacity.clear()

    def go_to_peak(self) -> None:
        """Move the view to the slice where the shown map is strongest."""
        layer = self._shown.layer("map") if self._shown is not None else None
        if layer is None:
            return
        index = np.unravel_index(int(np.argmax(layer.data)), layer.data.shape)
        world = layer.data_to_world(index)
        for axis, value in enumerate(world, start=self.viewer.dims.ndim - 3):
            self.viewer.dims.set_point(axis, float(value))

    def pin(self) -> None:
        """Keep the answer that is shown, to compare with the next."""
        if self._shown is None:
            return
        self._shown.title += f" {len(self._pinned) + 1}"
        for layer in self._shown.layers:
            layer.name = f"📌 {len(self._pinned) + 1} {layer.name}"
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
        self.form.say("Switch the probe on and click a voxel.")

    def _on_pin_toggled(self, index: int, on: bool) -> None:
        if index < len(self._pinned):
            self._pinned[index].set_visible(on)


class _Place:
    """What of a mouse event outlives it."""

    def __init__(self, event: Any) -> None:
        self.position = tuple(float(p) for p in event.position)
        self.view_direction = event.view_direction
        self.dims_displayed = list(event.dims_displayed)
