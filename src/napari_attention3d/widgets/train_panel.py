"""The Train tab: choose scans with labels, see the plan, train, watch, stop and go on."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QVBoxLayout, QWidget

from ..errors import Attention3DError, InputError
from . import train_tasks
from .curves import CurvePlot
from .layer_chooser import LayerChooser
from .notify import notify_failure, summarise
from .status_bar import StatusBar
from .train_form import TrainForm
from .train_pairs import class_names_of, read_pair
from .train_runs import UnfinishedRuns
from .worker import JobFailure, JobRunner, Run

if TYPE_CHECKING:
    from ..progress import Progress
    from ..training import TrainResult
    from ..training.runs import RunInfo

__all__ = ["TrainPanel"]

_LOOKING_AHEAD = 400  # ms without a change before the plan is made
_NO_PAIRS = "Open a scan and a Labels layer with its true labels, and tick it above"
_NO_FOLDER = "Choose the folder of the training scans"


class TrainPanel(QWidget):
    """Controller of the tab.

    Trainings take long, so they have a worker and a progress line of their own: the other
    tabs go on working meanwhile.
    """

    trained = Signal(object)
    """Path of a model that is new or better now."""
    failed = Signal(object)
    """`JobFailure`."""

    def __init__(
        self, viewer: Any, runner: JobRunner, chooser: LayerChooser, status: StatusBar
    ) -> None:
        super().__init__()
        self.viewer, self.status = viewer, status
        self.runner = JobRunner()
        self.runner.end_with(self)
        self.form = TrainForm(viewer)
        self.runs = UnfinishedRuns()
        self.curves = CurvePlot("step")
        self.curves.add_curve("loss")
        self.curves.add_curve("Dice", share=True)
        self.progress = StatusBar()
        self.progress.cancel_button.setText("Stop")
        self.progress.cancel_button.setToolTip(
            "Stop after the step at hand; the best model so far is kept, and it can go on later"
        )
        self.ahead: train_tasks.Ahead | None = None
        self._ready = False
        self._loading: Run | None = None
        self._planning: Run | None = None
        self._run: Run | None = None
        self._output: Any = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        for widget in (self.form, self.curves, self.progress, self.runs):
            layout.addWidget(widget)
        layout.addStretch(1)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_LOOKING_AHEAD)
        self._timer.timeout.connect(self._look_ahead)
        self.form.changed.connect(self._on_changed)
        self.form.start_button.clicked.connect(self.train)
        self.progress.cancel_clicked.connect(self.stop)
        self.runs.resume_clicked.connect(self.resume)
        self.runs.discard_clicked.connect(self._discard)
        self._show_progress(False)

    # ---- state

    @property
    def is_training(self) -> bool:
        """Whether a training is on its way."""
        return self._run is not None

    @property
    def is_ready(self) -> bool:
        """Whether torch is loaded and the choices are there."""
        return self._ready

    @property
    def has_planned(self) -> bool:
        """Whether the plan is up to date: nothing is computed or waited for."""
        waits = self._loading is not None or self._planning is not None or self._timer.isActive()
        return self._ready and not waits

    def start(self) -> None:
        """Follow the viewer (again)."""
        self.form.pairs.follow.attach()

    def close_down(self) -> None:
        """Stop a training, which keeps its state; follow the viewer no longer."""
        self.form.pairs.stop()
        self.runner.stop()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Load what is needed when the tab is seen for the first time; look for runs again."""
        if event is not None:
            super().showEvent(event)
        self.look_around()

    def look_around(self) -> None:
        """Load torch, list choices and stopped runs, in the background."""
        if self._loading is not None or self._run is not None:
            return
        self._loading = self.runner.call(train_tasks.look_around, "look around")
        self._loading.returned.connect(self._on_ready)
        self._loading.errored.connect(self._on_failed)
        self._loading.finished.connect(self._on_loaded)

    def _on_ready(self, ready: train_tasks.Ready) -> None:
        self._ready = True
        self.form.set_choices(ready.presets, ready.networks, ready.devices)
        self.runs.show_runs(ready.runs)
        self._on_changed()

    def _on_loaded(self) -> None:
        self._loading = None
        self._update()

    # ---- the plan

    def _on_changed(self) -> None:
        self.ahead = None
        self._update()
        self._timer.start()

    def _wish(self) -> train_tasks.Wish:
        """What the form asks for.

        Raises
        ------
        Attention3DError
            If something is missing or layers do not fit together.
        """
        values = self.form.values()
        if not values["name"]:
            raise InputError("Give the model a name")
        if self.form.page == "folder":
            folder, labels = self.form.folder
            if folder is None:
                raise InputError(_NO_FOLDER)
            return train_tasks.Wish(folder=folder, labels=labels, **values)
        chosen = self.form.pairs.pairs
        if not chosen:
            raise InputError(_NO_PAIRS)
        names: dict[int, str] = {}
        pairs = []
        for number, (image, labels_layer) in enumerate(chosen):
            names = class_names_of(labels_layer) | names
            pairs.append((f"case{number + 1}", *read_pair(image, labels_layer)))
        return train_tasks.Wish(pairs=tuple(pairs), names=names, **values)

    def _look_ahead(self) -> None:
        if not self._ready or self._run is not None:
            return
        if self._planning is not None:
            self._planning.cancel()
        try:
            wish = self._wish()
        except Attention3DError as error:
            self._planning = None
            self.form.show_plan([], str(error))
            self._update()
            return
        self.form.show_plan(["Looking at the scans …"])
        run = self._planning = self.runner.submit(partial(train_tasks.plan, wish), "plan")
        run.returned.connect(self._on_planned)  # never from one that was cancelled
        run.errored.connect(self._on_not_planned)

    def _on_planned(self, ahead: train_tasks.Ahead) -> None:
        self._planning = None
        self.ahead = None if ahead.taken else ahead
        self.form.show_plan(ahead.lines, ahead.taken)
        self._update()

    def _on_not_planned(self, failure: JobFailure) -> None:
        self._planning = None
        self.form.show_plan([], summarise(failure.error))
        self._update()

    def _update(self) -> None:
        button, training = self.form.start_button, self._run is not None
        self.runs.setVisible(not training and self.runs.run is not None)
        idle = "Start training" if self._ready else "Loading torch …"
        button.setText("Training …" if training else idle)
        button.setEnabled(self._ready and not training and self.ahead is not None)

    # ---- training

    def train(self) -> None:
        """Begin what is planned; the button's slot."""
        if self.ahead is None or self._run is not None:
            return
        self._begin(partial(train_tasks.train, self.ahead), self.ahead.output)

    def resume(self, run: RunInfo) -> None:
        """Go on with a run that was stopped."""
        if self._run is None:
            self.form.show_plan([f"Going on with “{run.config.title}”, from step {run.step}"])
            self._begin(partial(train_tasks.resume, run), run.output)

    def _begin(self, job: Any, output: Any) -> None:
        self._timer.stop()
        self._output = output
        self._run = run = self.runner.submit(job, "train")
        run.progressed.connect(self._on_progress)
        run.returned.connect(self._on_trained)
        run.cancelled.connect(self._on_stopped)
        run.errored.connect(self._on_failed)
        run.finished.connect(self._on_finished)
        self._show_progress(True)
        self.curves.clear()
        self.progress.busy("Starting …")
        self._update()

    def stop(self) -> None:
        """Stop at the next step; keeps the best so far."""
        if self._run is not None:
            self._run.cancel()
            self.progress.cancelling()
            self.progress.label.setText("Stopping, after the step at hand …")

    def _on_progress(self, step: Progress) -> None:
        self.progress.progress(step)
        points = step.partial
        if not isinstance(points, train_tasks.Points):
            return
        if points.first:
            self.curves.clear()
        for row in points.rows:
            self.curves.append("loss", row["step"], row.get("loss", math.nan))
            self.curves.append("Dice", row["step"], row.get("val_dice", math.nan))

    def _on_trained(self, result: TrainResult) -> None:
        score = "" if math.isnan(result.score) else f", Dice {result.score:.3f} on kept-back scans"
        notes = f". Note: {'; '.join(result.warnings)}" if result.warnings else ""
        self._say(f"Done after {result.steps} steps{score}. {self._where()}{notes}")
        self.trained.emit(result.best)

    def _on_stopped(self) -> None:
        kept = self._output is not None and self._output.exists()
        self._say(f"Stopped. {self._where() if kept else 'It can go on below'}")
        if kept:
            self.trained.emit(self._output)

    def _where(self) -> str:
        name = self._output.name.removesuffix(".safetensors")
        return f"“{name}” is in the Segment tab's list"

    def _say(self, text: str) -> None:
        self.progress.idle(text)
        self.progress.cancel_button.hide()

    def _on_failed(self, failure: JobFailure) -> None:
        self._show_progress(True)
        self.progress.error(notify_failure(failure), failure.details)
        self.failed.emit(failure)

    def _on_finished(self) -> None:
        self._run = None
        self._update()
        self.look_around()

    def _discard(self, run: RunInfo) -> None:
        done = self.runner.call(partial(train_tasks.discard, run), "discard")
        done.returned.connect(self._on_discarded)
        done.errored.connect(self._on_failed)

    def _on_discarded(self, runs: list[RunInfo]) -> None:
        self.runs.show_runs(runs)
        self._on_changed()

    def _show_progress(self, on: bool) -> None:
        self.curves.setVisible(on)
        self.progress.setVisible(on)
