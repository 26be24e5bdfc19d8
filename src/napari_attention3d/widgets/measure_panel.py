"""The Measure tab: figures of a mask, how well two agree, clean-up."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ..errors import Attention3DError
from . import measure_tasks
from .clean_page import CleanPage
from .layer_chooser import LayerChooser
from .layer_series import is_time_series, time_in_view, time_of_result
from .layers import KEY, LayerSource, layer_to_volume
from .measure_choosers import LabelsChooser, role_of
from .measure_forms import CompareForm, MeasureForm
from .notify import notify_failure
from .results import ResultLayers
from .status_bar import StatusBar
from .worker import JobFailure, JobRunner, Run

if TYPE_CHECKING:
    from napari.layers import Layer


__all__ = ["MeasurePanel"]

_NO_MASK = "Open or make a mask first: run a model, paint, or open a Labels file"
_ONLY_IN_FILES = ("start ", "stop ", "low ", "high ")
_NO_MASKS = ("disagreement", "clean-up preview")


class MeasurePanel(QWidget):
    """Controller of the tab: translates between forms, worker and viewer."""

    measured = Signal(object)
    """`Table`."""
    compared = Signal(object)
    """`measure_tasks.Compared`."""
    failed = Signal(object)
    """`JobFailure`."""

    def __init__(
        self, viewer: Any, runner: JobRunner, chooser: LayerChooser, status: StatusBar
    ) -> None:
        super().__init__()
        self.viewer, self.runner, self.chooser, self.status = viewer, runner, chooser, status
        self.mask = LabelsChooser(
            viewer, "no labels open", lambda layer: role_of(layer) not in _NO_MASKS
        )
        self.mask.setToolTip("The mask to measure, compare or clean up")
        self.form = MeasureForm(viewer)
        self.compare_form = CompareForm(viewer)
        self.results = ResultLayers(viewer)
        self._run: Run | None = None
        self._measured: weakref.ref[Layer] | None = None
        self._source: LayerSource | None = None
        self._places: list[tuple[float, float, float] | None] = []
        self.clean = CleanPage(viewer, self.mask, self)
        self._build()
        self.form.button.clicked.connect(self.measure)
        self.form.table.row_chosen.connect(self._go_to)
        self.compare_form.button.clicked.connect(self.compare)
        for table in (self.form.table, self.compare_form.table):
            table.saved.connect(self._on_saved)
            table.failed.connect(self.status.idle)
        self.mask.layer_changed.connect(self._update)
        self.compare_form.truth.layer_changed.connect(self._update)
        status.cancel_clicked.connect(self.cancel)
        self._update()

    @property
    def is_busy(self) -> bool:
        """Whether a job of this tab is on its way."""
        return self._run is not None

    def start(self) -> None:
        """Follow the viewer's layers (again)."""
        for one in (self.mask, self.form.images, self.compare_form.truth):
            one.follow.attach()

    def close_down(self) -> None:
        """Follow them no longer."""
        for one in (self.mask, self.form.images, self.compare_form.truth):
            one.follow.detach()

    def show_page(self, name: str) -> None:
        """Show "measure", "compare" or "clean"."""
        for key, (button, page) in self._pages.items():
            button.setChecked(key == name)
            page.setVisible(key == name)

    def _build(self) -> None:
        group = QButtonGroup(self)
        row = QHBoxLayout()
        row.setSpacing(4)
        self._pages: dict[str, tuple[QPushButton, QWidget]] = {}
        titles = {"measure": "Measure", "compare": "Compare", "clean": "Clean up"}
        pages = {"measure": self.form, "compare": self.compare_form, "clean": self.clean.form}
        for key, title in titles.items():
            button = QPushButton(title)
            button.setCheckable(True)
            button.clicked.connect(partial(self.show_page, key))
            group.addButton(button)
            row.addWidget(button)
            self._pages[key] = (button, pages[key])
        head = QFormLayout()
        head.setContentsMargins(0, 0, 0, 0)
        label = QLabel("Mask")
        label.setBuddy(self.mask)
        head.addRow(label, self.mask)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addLayout(head)
        layout.addLayout(row)
        for _, page in self._pages.values():
            layout.addWidget(page)
        layout.addStretch(1)
        self.show_page("measure")

    # ---- jobs

    def submit(self, job: Any, name: str, on_returned: Any) -> None:
        """Queue a job of this tab; only one at a time."""
        if self._run is not None:
            return
        run = self.runner.submit(job, name)
        self._run = run
        run.progressed.connect(self.status.progress)
        run.returned.connect(on_returned)
        run.cancelled.connect(self._on_cancelled)
        run.errored.connect(self._on_failed)
        run.finished.connect(self._on_finished)
        self.status.busy("Waiting for the worker …")
        self._update()

    def cancel(self) -> None:
        """Stop what runs at its next step."""
        if self._run is not None:
            self._run.cancel()

    def _on_cancelled(self) -> None:
        self.status.idle("Cancelled; your layers are as they were")

    def _on_failed(self, failure: JobFailure) -> None:
        self.status.error(notify_failure(failure), failure.details)
        self.failed.emit(failure)

    def _on_finished(self) -> None:
        self._run = None
        self._update()

    def refuse(self, error: Attention3DError) -> None:
        """Say what can't be done."""
        self.status.idle(f"⚠ {error}")

    def _update(self, *_: object) -> None:
        reason = ""
        if self._run is not None:
            reason = "Something runs; Cancel is below"
        elif self.mask.layer is None:
            reason = _NO_MASK
        _enable(self.form.button, reason, "Measure each label, in the scan's own unit")
        if not reason and self.compare_form.truth.layer is self.mask.layer:
            reason = "Choose two different masks"
        _enable(self.compare_form.button, reason, "Compare the mask with the truth, per class")
        self.clean.update()

    # ---- measure

    def measure(self) -> None:
        """Measure the chosen mask."""
        layer = self.mask.layer
        if layer is None or not self.form.button.isEnabled():
            return
        try:
            source = measure_tasks.read_labels(layer)
            images, attention = self._images(layer)
            self._settings = self.form.settings()
        except Attention3DError as error:
            self.refuse(error)
            return
        self._measured, self._source = weakref.ref(layer), source
        scan = any(not role_of(one) for one in self.form.images.ticked)
        self._inside = {"image": scan, "attention": bool(attention)}
        job = partial(measure_tasks.measure_job, source, images, attention, **self._settings)
        self.submit(job, "measure", self._on_measured)

    def _images(self, mask: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        images: dict[str, Any] = {}
        attention: dict[str, Any] = {}
        for layer in self.form.images.ticked:
            found = attention if role_of(layer).startswith("attention:") else images
            lead = None
            if is_time_series(layer):  # that of the mask, else the one in view
                lead = time_of_result(mask)
                if lead is None or lead >= layer.data.shape[0]:
                    lead = time_in_view(self.viewer, layer)
            found[_short(layer)] = layer_to_volume(layer, leading=lead).volume
        return images, attention

    def _on_measured(self, measured: measure_tasks.Measured) -> None:
        table, self._places = measured.table, measured.places
        self.form.table.show_table(table, _ONLY_IN_FILES)
        layer = self._measured() if self._measured is not None else None
        parts = self._settings["components"]
        if layer is not None and layer in self.viewer.layers and table.rows:
            if not parts:
                layer.features = measure_tasks.features_with(layer, table)
            self._remember(layer)
        many = "part" if parts else "label"
        where = "" if parts or not table.rows else "; also in the layer's features"
        self.form.note.setText("\n".join(f"⚠ {note}" for note in table.notes))
        self.status.idle(
            f"{len(table.rows)} {many}{'s' * (len(table.rows) != 1)} measured{where}"
            if table.rows
            else "The mask holds no labels, only background"
        )
        self.measured.emit(table)

    def _remember(self, layer: Layer) -> None:
        """Keep what was measured, for a recipe of what was done, and for the mask's file."""
        entry = layer.metadata.get(KEY)
        told = entry.get("provenance") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and isinstance(told, dict):
            settings = {**self._settings, "percentiles": list(self._settings["percentiles"])}
            told = {**told, "measured": {**settings, **self._inside}}
            layer.metadata = {**layer.metadata, KEY: {**entry, "provenance": told}}

    def _go_to(self, row: int) -> None:
        """Move the view to a measured region and choose its label."""
        layer = self._measured() if self._measured is not None else None
        table = self.form.table.table
        if layer is None or layer not in self.viewer.layers or table is None:
            return
        assert self._source is not None
        index = self._places[row]
        if index is None:
            index = measure_tasks.place_of_row(table, row, self._source)
        whole = [0.0] * (layer.ndim - 3) + list(index)
        world = np.asarray(layer.data_to_world(whole), dtype=float)
        dims = self.viewer.dims
        first = dims.ndim - len(world)
        for axis, value in enumerate(world):
            dims.set_point(first + axis, value)
        shown = [world[axis - first] for axis in dims.displayed if axis >= first]
        self.viewer.camera.center = ([0.0] * (3 - len(shown)) + shown)[-3:]
        value = table.column("label")[row]
        if isinstance(value, int):
            layer.selected_label = value

    # ---- compare

    def compare(self) -> None:
        """Compare the chosen mask with the truth."""
        layer, truth = self.mask.layer, self.compare_form.truth.layer
        if layer is None or truth is None or not self.compare_form.button.isEnabled():
            return
        try:
            one, other = measure_tasks.read_labels(layer), measure_tasks.read_labels(truth)
        except Attention3DError as error:
            self.refuse(error)
            return
        limit = float(self.compare_form.tolerance.value())
        job = partial(
            measure_tasks.compare_job,
            one,
            other,
            tolerance=limit or None,
            resample=self.compare_form.resample_box.isChecked(),
        )
        self._truth = weakref.ref(truth)
        self.submit(job, "compare", self._on_compared)

    def _on_compared(self, result: measure_tasks.Compared) -> None:
        figures = result.found.figures
        self.compare_form.table.show_table(result.found.table())
        mean = figures["mean_dice"]
        words = "nothing to compare" if mean is None else f"Mean Dice {mean:.4f}"
        self.compare_form.note.setText(
            "\n".join([words, *(f"⚠ {note}" for note in figures["notes"])])
        )
        truth = self._truth()
        source = truth if truth is not None and truth in self.viewer.layers else None
        self.results.show([result.plan], source, "disagreement")
        self.status.idle(f"{words}; the new layer shows where they differ")
        self.compared.emit(result)

    def _on_saved(self, path: str) -> None:
        self.status.idle(f"Saved {path}")


def _enable(button: QPushButton, reason: str, tip: str) -> None:
    button.setEnabled(not reason)
    button.setToolTip(reason or tip)


def _short(layer: Layer) -> str:
    """Name of an image's columns: without the scan's and model's names in front."""
    return str(layer.name).rsplit(" · ", 1)[-1] if role_of(layer) else str(layer.name)
