"""The Batch tab: many scans by one recipe; a result once more."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QPushButton, QVBoxLayout, QWidget

from ..errors import Attention3DError
from . import batch_tasks
from .batch_form import BatchForm
from .layer_chooser import LayerChooser
from .layers import KEY, layer_to_volume
from .notify import notify_failure, summarise
from .results import ResultLayers
from .segment_panel import SegmentPanel
from .status_bar import StatusBar, duration_text
from .worker import JobFailure, JobRunner, Run

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..batch import Machine, Outcome
    from ..progress import Progress
    from ..recipe import Recipe

__all__ = ["BatchPanel"]


class BatchPanel(QWidget):
    """Controller of the tab: translates between form, worker and viewer."""

    finished = Signal(object)
    """List of `Outcome`, or `batch_tasks.Again`."""
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
        self.form = BatchForm(viewer, _is_result)
        self.results = ResultLayers(viewer)
        self.outcomes: list[Outcome] = []
        self.recipe: Recipe | None = None
        """From a file or a result; None: as the Segment tab says."""
        self._run: Run | None = None
        self._count = 0
        self._again: weakref.ref[Layer] | None = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.form)
        form = self.form
        form.sources_changed.connect(self._look)
        form.changed.connect(self._update)
        form.button.clicked.connect(self.run)
        form.load_button.clicked.connect(self._ask_and_load)
        form.save_button.clicked.connect(self._ask_and_save)
        form.forget_button.clicked.connect(self.forget)
        form.take_button.clicked.connect(self.take)
        form.again_button.clicked.connect(self.run_again)
        form.open_button.clicked.connect(self.open_row)
        form.result.layer_changed.connect(self._update)
        form.table.row_chosen.connect(self._on_row)
        form.table.saved.connect(lambda path: status.idle(f"Saved {path}"))
        form.table.failed.connect(status.idle)
        segment.form.changed.connect(self._update)
        status.cancel_clicked.connect(self.cancel)
        self._row = -1
        self._update()

    @property
    def is_busy(self) -> bool:
        """Whether a job of this tab is on its way."""
        return self._run is not None

    def start(self) -> None:
        """Follow the viewer's layers (again)."""
        self.form.result.follow.attach()

    def close_down(self) -> None:
        """Follow them no longer."""
        self.form.result.follow.detach()

    # ---- what to do

    def current_recipe(self) -> Recipe:
        """What a run would do.

        Raises
        ------
        InputError
            If the model has no clean-up rules, or a choice is wrong.
        """
        from ..recipe import Measures, ModelReference, make_recipe, rules_of_model

        if self.recipe is not None:
            return self.recipe
        options = dict(self.segment.form.options())
        options.pop("device")
        model = self.segment.form.model
        rules = rules_of_model(model) if self.form.clean_box.isChecked() else ()
        measure = Measures() if self.form.measure_box.isChecked() else None
        return make_recipe(
            model=ModelReference(name=model), clean_up=rules, measure=measure, **options
        )

    def load(self, path: str) -> None:
        """Take the recipe of a file."""
        from ..recipe import read_recipe

        try:
            self.recipe = read_recipe(path)
        except Attention3DError as error:
            self._refuse(error)
        self._update()

    def save(self, path: str) -> None:
        """Write what a run would do."""
        from ..recipe import write_recipe

        try:
            write_recipe(path, self.current_recipe())
        except Attention3DError as error:
            self._refuse(error)
            return
        self.status.idle(f"Saved {path}; napari-attention3d segment --recipe does it again")

    def take(self) -> None:
        """Take the recipe of the chosen result."""
        layer = self.form.result.layer
        if layer is None:
            return
        try:
            self.recipe = batch_tasks.recipe_of_layer(layer)
            source = layer_to_volume(layer)
        except Attention3DError as error:
            self._refuse(error)
            self._update()
            return
        look = self.runner.call(partial(batch_tasks.not_in_recipe, source), "look at the mask")
        look.returned.connect(self._on_looked)
        self._update()

    def _on_looked(self, doubts: list[str]) -> None:
        if doubts and self.recipe is not None:
            self.status.idle(f"⚠ {'; '.join(doubts)}")

    def forget(self) -> None:
        """Do as the Segment tab says."""
        self.recipe = None
        self._update()

    def _ask_and_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a recipe", "", "Recipes (*.yaml *.yml)")
        if path:
            self.load(path)

    def _ask_and_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the recipe", "recipe.yaml", "Recipes (*.yaml)"
        )
        if path:
            self.save(path)

    def _refuse(self, error: Attention3DError) -> None:
        self.status.idle(f"⚠ {error}")

    # ---- which scans

    def _look(self) -> None:
        """Count the scans, on the worker's thread."""
        sources = self.form.sources
        if not sources:
            self._on_counted(0)
            return
        self.form.count_label.setText("Looking …")
        run = self.runner.call(partial(batch_tasks.count_scans, sources), "count scans")
        run.returned.connect(self._on_counted)
        run.errored.connect(self._on_not_counted)

    def _on_counted(self, count: int) -> None:
        self._count = count
        self.form.count_label.setText(f"{count} scan{'s' * (count != 1)}" if count else "")
        self._update()

    def _on_not_counted(self, failure: JobFailure) -> None:
        self._count = 0
        self.form.count_label.setText(f"⚠ {summarise(failure.error)}")
        self._update()

    # ---- state

    def _update(self, *_: object) -> None:
        form = self.form
        busy = "Something runs; Cancel is below" if self._run is not None else ""
        reason = busy
        if not reason and not self._count:
            reason = "Add a folder, files or a pattern first"
        if not reason and self.recipe is None and not self.segment.form.model:
            reason = "Choose a model in the Segment tab, or open a recipe"
        form.button.setText(f"Run on {self._count} scan{'s' * (self._count != 1)}")
        _enable(form.button, reason, "Segment all; a failure stops nothing")
        missing = busy or ("" if form.result.layer is not None else "No result of a model is open")
        _enable(form.take_button, missing, "Take model, options and clean-up of this mask")
        _enable(form.again_button, missing, "Make this mask again as it was made, as a new layer")
        _enable(
            form.open_button,
            "" if 0 <= self._row < len(self.outcomes) else "Choose a row first",
            "Add them as layers",
        )
        words = "As the Segment tab says"
        if self.recipe is not None:
            words = self.recipe.words()
        elif self.segment.form.model:
            words += f": {Path(self.segment.form.model).stem}"
        form.show_recipe(words, fixed=self.recipe is not None)

    # ---- jobs

    def run(self) -> None:
        """Segment all scans."""
        if not self.form.button.isEnabled():
            return
        try:
            recipe = self.current_recipe()
        except Attention3DError as error:
            self._refuse(error)
            return
        self.outcomes = []
        self._row = -1
        self.form.table.clear()
        job = partial(
            batch_tasks.batch_job,
            self.form.sources,
            self.form.out.text().strip(),
            recipe,
            self._machine(),
            overwrite=self.form.overwrite_box.isChecked(),
        )
        self._submit(job, "batch", self._on_all)

    def run_again(self) -> None:
        """Make the chosen result again, as a new layer."""
        from ..batch.again import calibration_of, region_of

        layer = self.form.result.layer
        if layer is None or not self.form.again_button.isEnabled():
            return
        try:
            recipe = batch_tasks.recipe_of_layer(layer)
            scan = batch_tasks.scan_of_layer(layer, list(self.viewer.layers))
            mask = layer_to_volume(layer)
        except Attention3DError as error:
            self._refuse(error)
            return
        about = layer.metadata[KEY]["provenance"]
        machine = replace(
            self._machine(), region=region_of(about), calibration=calibration_of(about)
        )
        self._again = weakref.ref(layer)
        job = partial(batch_tasks.rerun_job, mask, scan, recipe, machine)
        self._submit(job, "run again", self._on_again)

    def _machine(self) -> Machine:
        from ..batch import Machine

        return Machine(str(self.segment.form.options()["device"]))

    def _submit(self, job: Any, name: str, on_returned: Any) -> None:
        if self._run is not None:
            return
        self._run = run = self.runner.submit(job, name)
        run.progressed.connect(self._on_progress)
        run.returned.connect(on_returned)
        run.cancelled.connect(self._on_cancelled)
        run.errored.connect(self._on_failed)
        run.finished.connect(self._on_finished)
        self.status.busy("Waiting for the worker …")
        self._update()

    def cancel(self) -> None:
        """Stop what runs at its next step; what is done stays done."""
        if self._run is not None:
            self._run.cancel()

    def _on_progress(self, step: Progress) -> None:
        from ..batch import Outcome, summary

        self.status.progress(step)
        if isinstance(step.partial, Outcome):
            self.outcomes.append(step.partial)
            self.form.table.show_table(summary(self.outcomes))

    def _on_all(self, outcomes: list[Outcome]) -> None:
        failed = [one for one in outcomes if one.status == "failed"]
        skipped = sum(one.status == "skipped" for one in outcomes)
        words = f"{len(outcomes) - len(failed) - skipped} done"
        words += f", {skipped} skipped" if skipped else ""
        words += f", {len(failed)} failed: {failed[0].error}" if failed else ""
        self.status.idle(words)
        self.finished.emit(outcomes)

    def _on_again(self, again: batch_tasks.Again) -> None:
        layer = self._again() if self._again is not None else None
        for plan in again.plans:
            plan.keywords["name"] += " (again)"
        source = layer if layer is not None and layer in self.viewer.layers else None
        self.results.show(again.plans, source, "again")
        found = {None: "made again on another grid", 0: "identical"}.get(
            again.changed, f"{again.changed:,} voxels differ" if again.changed else ""
        )
        self.status.idle(f"Run again in {duration_text(again.seconds)}: {found}")
        self.finished.emit(again)

    def _on_cancelled(self) -> None:
        done = len(self.outcomes)
        self.status.idle(f"Cancelled; {done} scan{'s' * (done != 1)} done, and kept")

    def _on_failed(self, failure: JobFailure) -> None:
        self.status.error(notify_failure(failure), failure.details)
        self.failed.emit(failure)

    def _on_finished(self) -> None:
        self._run = None
        self._update()

    # ---- rows

    def _on_row(self, row: int) -> None:
        self._row = row
        self._update()

    def open_row(self) -> None:
        """Open scan and mask of the chosen row."""
        if not 0 <= self._row < len(self.outcomes):
            return
        plan = self.outcomes[self._row].plan
        for path, kind in ((plan.image, None), (plan.labels, "labels")):
            if path.exists():
                self.viewer.open(str(path), plugin="napari-attention3d", layer_type=kind)


def _is_result(layer: Layer) -> bool:
    """Whether a model of ours made it."""
    entry = layer.metadata.get(KEY)
    provenance = entry.get("provenance") if isinstance(entry, dict) else None
    if not isinstance(provenance, dict) or "model" not in provenance:
        return False
    return "options" in provenance or "corrections" in provenance  # these are refused in words


def _enable(button: QPushButton, reason: str, tip: str) -> None:
    button.setEnabled(not reason)
    button.setToolTip(reason or tip)
