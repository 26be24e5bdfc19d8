"""The Segment tab: choose a model, look ahead, run, see the layers."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from ..errors import Attention3DError
from . import tasks
from .layer_chooser import LayerChooser
from .layer_series import lead_in_view
from .layers import LayerSource, layer_to_volume
from .notify import notify_failure, summarise
from .preview import Preview
from .region import focus_in_view, region_in_view
from .results import ResultLayers, prepare_label_colours
from .segment_form import SegmentForm
from .settings import SegmentSettings
from .status_bar import StatusBar, duration_text
from .worker import JobFailure, JobRunner, Run

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..progress import Progress
    from ..session import Segmentation, SegmentOptions

__all__ = ["SegmentPanel"]

_NO_SCAN = "Open a 3D scan first: File > Open, or File > Open Sample > Attention 3D"
_LOOKING_AHEAD = 200  # ms without a change before the outlook is computed


class SegmentPanel(QWidget):
    """Controller of the tab: translates between form, worker and viewer.

    Everything slow runs through `runner`; this class only reads and shows.
    """

    failed = Signal(object)
    """`JobFailure`, of loading or of a run."""
    running = Signal(object)
    """`Run`, just begun."""
    about_to_show = Signal(object)
    """`tasks.Finished`, before its layers are added."""

    def __init__(
        self, viewer: Any, runner: JobRunner, chooser: LayerChooser, status: StatusBar
    ) -> None:
        super().__init__()
        self.viewer, self.runner, self.chooser, self.status = viewer, runner, chooser, status
        self.shelf = tasks.ModelShelf()
        self.results = ResultLayers(viewer)
        self.settings = SegmentSettings.load()
        self.form = SegmentForm(self.settings)
        self.last: Segmentation | None = None
        self._ready = False
        self._loading: Run | None = None
        self._run: Run | None = None
        self._outlook: Run | None = None
        self._put_off = False
        self._preview: Preview | None = None
        self._patch = (96, 96, 96)
        self._block = ""
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addWidget(self.form)
        layout.addStretch(1)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_LOOKING_AHEAD)
        self._timer.timeout.connect(self._look_ahead)
        shortcut = QShortcut(QKeySequence("Ctrl+Alt+R"), self)
        shortcut.activated.connect(self.run)
        self.form.run_button.clicked.connect(self.run)
        self.form.changed.connect(self._on_changed)
        self.form.refresh_clicked.connect(self.start)
        self.form.open_clicked.connect(self._open_model)
        self.chooser.layer_changed.connect(self._on_changed)
        self.status.cancel_clicked.connect(self.cancel)
        viewer.camera.events.connect(self._on_view)
        viewer.dims.events.connect(self._on_view)
        QTimer.singleShot(0, self.start)

    # ---- state

    @property
    def is_running(self) -> bool:
        """Whether a segmentation is on its way."""
        return self._run is not None

    @property
    def source_layer(self) -> Layer | None:
        """The scan of the run on its way, also while its result is about to be shown."""
        return getattr(self, "_layer", None)

    @property
    def is_ready(self) -> bool:
        """Whether torch is loaded and the models are listed."""
        return self._ready

    @property
    def has_looked_ahead(self) -> bool:
        """Whether the outlook is up to date: nothing is computed or waited for."""
        return self._outlook is None and not self._timer.isActive() and not self._put_off

    def _reason_not_to_run(self) -> str:
        if self.chooser.layer is None:
            return _NO_SCAN
        if not self.form.model:
            return "No model is installed; choose “Open a model file …”"
        return self._block

    def _update_button(self) -> None:
        button = self.form.run_button
        if self._run is not None:
            text, reason = "Running …", "A run is on its way; Cancel is below"
        elif not self._ready:
            text, reason = "Loading torch …", "The engine is being loaded, a few seconds"
        else:
            text, reason = "Run", self._reason_not_to_run()
        button.setText(text)
        button.setEnabled(self._ready and self._run is None and not reason)
        button.setToolTip(reason or "Segment the scan (Ctrl+Alt+R)")
        if reason and self._ready and self._run is None:
            self.form.show_outlook(reason, warn=True)

    # ---- torch, models, devices

    def start(self) -> None:
        """Load torch and list models and devices, in the background; again to refresh."""
        if self._loading is not None:
            return
        if not self._ready:
            self.status.idle("Loading torch in the background …")
        self._loading = self.runner.call(tasks.look_around, "look around")
        self._loading.returned.connect(self._on_ready)
        self._loading.errored.connect(self._on_failed)
        self._loading.finished.connect(self._on_loaded)
        self._update_button()

    def _on_ready(self, ready: tasks.Ready) -> None:
        first, self._ready = not self._ready, True
        self.form.set_models(ready.models)
        self.form.set_devices(ready.devices, ready.reasons)
        if first:
            self.runner.call(prepare_label_colours, "prepare colours")
        if first and self._run is None:
            self.status.idle("Ready")
        self._on_changed()

    def _on_loaded(self) -> None:
        self._loading = None
        self._update_button()

    def _open_model(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Open a model file", "", "Models (*.safetensors);;All files (*)"
        )
        if path:
            self.form.add_model_file(path)
            self._on_changed()

    # ---- looking ahead

    def _on_changed(self) -> None:
        self._drop_outlook()  # its failure would be of what was chosen before
        self._block = ""
        self.form.remember(self.settings)
        self.settings.save()
        self._update_button()
        self._timer.start()

    def _on_view(self, event: Any = None) -> None:
        if self.form.region_only:
            self._timer.start()

    def _read_layer(self) -> tuple[Layer, LayerSource]:
        layer = self.chooser.layer
        if layer is None:
            raise Attention3DError(_NO_SCAN)
        one = self.form.model_channels == 1
        leading = lead_in_view(self.viewer, layer, one_channel=one)
        return layer, layer_to_volume(layer, leading=leading)

    def _options(self, layer: Layer, source: LayerSource) -> SegmentOptions:
        from ..session import SegmentOptions

        region = None
        if self.form.region_only:
            region = region_in_view(self.viewer, layer, source, self._patch[0])
        return SegmentOptions(region=region, **self.form.options())

    def _look_ahead(self) -> None:
        if self._run is not None:
            self._put_off = True  # until the run is over
            return
        self._put_off = False
        if not self._ready or self._reason_not_to_run():
            self._update_button()
            return
        self._drop_outlook()
        try:
            layer, source = self._read_layer()
            options = self._options(layer, source)
        except Attention3DError as error:
            self._blocked(str(error))
            return
        self.form.show_outlook("Looking at the scan …")
        work = partial(tasks.look_ahead, self.shelf, self.form.model, source, options)
        self._outlook = self.runner.submit(work, "look ahead", gives_way=True)
        self._outlook.cancelled.connect(self._on_outlook_cancelled)
        self._outlook.returned.connect(self._on_outlook)
        self._outlook.errored.connect(self._on_outlook_failed)

    def _drop_outlook(self) -> None:
        old, self._outlook = self._outlook, None
        if old is not None:
            old.cancelled.disconnect(self._on_outlook_cancelled)
            old.cancel()

    def _on_outlook(self, outlook: tasks.Outlook) -> None:
        self._outlook = None
        self._patch = outlook.patch_size
        self.form.set_maps(outlook.maps)
        self.form.show_outlook(outlook.text)
        self._update_button()

    def _on_outlook_cancelled(self) -> None:
        """Another job came in between: look again after it."""
        outlook, self._outlook = self._outlook, None
        if outlook is not None and outlook.gave_way:
            self._put_off = True
            self._timer.start()

    def _on_outlook_failed(self, failure: JobFailure) -> None:
        self._outlook = None
        reason = summarise(failure.error)
        if isinstance(failure.error, Attention3DError):
            self._blocked(reason)
        else:  # memory, disk or device: may be over when the person presses Run
            self.form.show_outlook(reason, warn=True)

    def _blocked(self, reason: str) -> None:
        self._block = reason
        self._update_button()

    # ---- running

    def run(self) -> None:
        """Segment the chosen scan; the button's and the shortcut's slot."""
        if not self.form.run_button.isEnabled():
            if self._run is None and self._ready:
                self.status.idle(self._reason_not_to_run() or "Ready")
            return
        try:
            layer, source = self._read_layer()
            options = self._options(layer, source)
        except Attention3DError as error:
            self._on_failed(JobFailure(error))
            return
        focus = focus_in_view(self.viewer, layer, source)
        job = partial(tasks.run_segmentation, self.shelf, self.form.model, source, options, focus)
        self._run = run = self.runner.submit(job, "segment")
        self._layer: Layer | None = layer
        run.progressed.connect(self.status.progress)
        run.progressed.connect(self._on_partial)
        run.returned.connect(self._on_returned)
        run.cancelled.connect(self._on_cancelled)
        run.errored.connect(self._on_failed)
        run.finished.connect(self._on_finished)
        self.status.busy("Starting …")
        self._update_button()
        self.running.emit(run)

    def cancel(self) -> None:
        """Stop the run at its next tile."""
        if self._run is not None:
            self._run.cancel()
            self.status.cancelling()

    def _on_partial(self, step: Progress) -> None:
        """Show the labels that are final already."""
        if isinstance(step.partial, tasks.Empty):
            empty = step.partial
            layer = self.results.preview(empty.plan, self._layer, empty.key)
            self._preview = None if layer is None else Preview(layer, empty.array)
        elif step.partial and self._preview is not None:
            self._preview.fill(step.partial)

    def _drop_preview(self) -> None:
        if self._preview is not None:
            self.results.drop(self._preview.layer)
            self._preview = None

    def _on_returned(self, finished: tasks.Finished) -> None:
        result = finished.segmentation
        source_layer = self._layer if self._layer in self.viewer.layers else None
        key = result.card.name
        if result.provenance.get("options", {}).get("region"):
            key += " (region)"
        try:
            self.about_to_show.emit(finished)
            self.results.show(finished.plans, source_layer, key)
        except Exception as error:  # memory or the graphics card's: the window must live on
            self._on_failed(JobFailure(error))
            return
        self.last = result
        self.status.idle(*_closing_words(result, source_layer is None))

    def _on_cancelled(self) -> None:
        self._drop_preview()
        self.status.idle("Cancelled; your layers are as they were")

    def _on_failed(self, failure: JobFailure) -> None:
        self._drop_preview()
        self.status.error(notify_failure(failure), failure.details)
        self.failed.emit(failure)

    def _on_finished(self) -> None:
        self._run = None
        self._preview = None
        self._layer = None
        self._update_button()
        if self._put_off and self.runner.is_alive:
            self._timer.start()


def _closing_words(result: Segmentation, orphan: bool) -> tuple[str, str]:
    """Status line and report after a run."""
    import json

    line = f"Done in {duration_text(result.seconds)} on {result.device}"
    if orphan:
        line += "; the scan's layer was removed meanwhile"
    if result.warnings:
        line += ". Note: " + "; ".join(result.warnings)
    return line, json.dumps(result.provenance, indent=2, default=str)
