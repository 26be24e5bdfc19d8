"""What was run on which scan, and one question at a time to it: shared by the sections."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from ..errors import Attention3DError
from ..progress import Progress
from . import inspect_tasks, tasks
from .inspect_dress import Dress
from .layer_chooser import LayerChooser
from .layer_series import time_in_view
from .layers import KEY, LayerSource, geometry_from_dict, layer_to_volume
from .notify import notify_failure
from .segment_panel import SegmentPanel
from .status_bar import StatusBar
from .worker import JobFactory, JobFailure, JobRunner, Run

if TYPE_CHECKING:
    from napari.layers import Labels, Layer

__all__ = ["NO_SCAN", "Runs"]

NO_SCAN = "Open a 3D scan first, then run a model on it"


class Runs(QObject):
    """Remembers the newest run of each scan and drives the tab's only job.

    Parameters
    ----------
    viewer, runner, chooser, status
        Of the dock.
    segment
        Its finished runs can be asked.

    Attributes
    ----------
    records
        The newest run of each scan.
    history
        The runs of each scan as it is, the newest last.
    dress
        Through it the sections change how the person's layers look.
    corrected
        Says whether the mask of a run was corrected since; empty if not.
    """

    changed = Signal()
    """Another scan was chosen, or a run has finished."""
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
        self.history: weakref.WeakKeyDictionary[Layer, list[inspect_tasks.RunRecord]] = (
            weakref.WeakKeyDictionary()
        )
        self.dress = Dress()
        self.corrected: Callable[[inspect_tasks.RunRecord], str] = lambda record: ""
        self._gone: weakref.WeakKeyDictionary[Layer, list[dict[str, Any]]] = (
            weakref.WeakKeyDictionary()
        )
        self._sources: weakref.WeakKeyDictionary[Layer, LayerSource] = weakref.WeakKeyDictionary()
        self._run: Run | None = None
        self._gives_way = False
        segment.about_to_show.connect(self._on_new_run)
        status.cancel_clicked.connect(self.cancel)
        chooser.layer_changed.connect(self.changed)

    # ---- what there is

    def _on_new_run(self, finished: tasks.Finished) -> None:
        """Remember what made the newest mask of a scan."""
        layer = self.segment.source_layer
        if layer is None:
            return
        result = finished.segmentation
        model = finished.model_ref or self.segment.form.model
        record = inspect_tasks.RunRecord(
            finished.source,
            model,
            result.provenance,
            result.card,
            stamp=finished.stamp if finished.model_ref else tasks.file_stamp(model),
        )
        self.records[layer] = record
        self._remember(layer, record)
        self.changed.emit()

    def _remember(self, layer: Layer, record: inspect_tasks.RunRecord) -> None:
        """Keep a run, and of runs over an array that the layer no longer has only what they did."""
        before = self.history.get(layer, [])
        kept = [r for r in before if r.source.origin is record.source.origin]
        self.history[layer] = [*kept, record]
        gone = [r.provenance for r in before if r not in kept and r.provenance is not None]
        self._gone.setdefault(layer, []).extend(gone)

    def record(self) -> tuple[Layer, inspect_tasks.RunRecord]:
        """Return the chosen scan's layer and its newest run.

        Raises
        ------
        Attention3DError
            If there is none.
        """
        layer = self.chooser.layer
        if layer is None:
            raise Attention3DError(NO_SCAN)
        record = self.records.get(layer)
        if record is None:
            raise Attention3DError(
                f"{layer.name} has no mask from this session: press Run in the Segment tab first, "
                "or “Ask the guided model here”"
            )
        return layer, record

    def known(self) -> inspect_tasks.RunRecord | None:
        """Return the newest run of the chosen scan, if there is one."""
        layer = self.chooser.layer
        return None if layer is None else self.records.get(layer)

    def source(self) -> LayerSource:
        """Return the chosen scan as its run read it; without a run as it is, at the time in view.

        The same object as long as the layer stays as it is.

        Raises
        ------
        Attention3DError
            If no scan is open, or it is none.
        """
        layer = self.chooser.layer
        if layer is None:
            raise Attention3DError(NO_SCAN)
        record = self.records.get(layer)
        if record is not None:
            return record.source
        lead = time_in_view(self.viewer, layer)
        found, kept = layer_to_volume(layer, leading=lead), self._sources.get(layer)
        if kept is not None and kept.origin is found.origin and kept.lead == found.lead:
            same = kept.shown.is_close(found.shown) and kept.volume.name == found.volume.name
            if same:
                return kept
        self._sources[layer] = found
        return found

    def here(self) -> object:
        """What figures of now belong to: the newest run of the chosen scan, or the scan."""
        layer = self.chooser.layer
        return None if layer is None else self.records.get(layer) or weakref.ref(layer)

    def stale(self) -> str:
        """Why the newest run no longer describes scan and model; empty if it does."""
        layer, record = self.chooser.layer, self.known()
        return "" if layer is None or record is None else self._changed(layer, record)

    def stale_of(self, layer: Layer) -> str:
        """Why a map no longer describes scan, mask and model; empty if it does, or is not ours."""
        runs = self._runs_of(layer)
        if runs:
            scan, record = runs[-1]
            return self._changed(scan, record) or self.corrected(record)
        made_by = _entry(layer).get("provenance")
        if made_by and any(made_by in gone for gone in self._gone.values()):
            return "the scan's voxels were replaced since the run"
        return ""

    def _runs_of(self, layer: Layer) -> list[tuple[Layer, inspect_tasks.RunRecord]]:
        """The run that made a layer, and its scan; none for layers from elsewhere."""
        made_by = _entry(layer).get("provenance")
        if not made_by:
            return []
        return [
            (scan, record)
            for scan, records in self.history.items()
            for record in records
            if record.provenance is made_by or record.provenance == made_by
        ]

    def fits(self, layer: Layer, record: inspect_tasks.RunRecord) -> bool:
        """Whether a map may be one of a run: unless it is of another model, or another scan."""
        entry = _entry(layer)
        model = entry.get("model")
        if model and (record.card is None or model != record.card.name):
            return False
        if not entry.get("provenance"):
            return True
        if self.stale_of(layer):
            return False
        return any(record in self.history[scan] for scan, _ in self._runs_of(layer))

    def _is_elsewhere(self, layer: Layer) -> bool:
        """Whether a mask was made by a run of another scan than the chosen one."""
        scans = [scan for scan, _ in self._runs_of(layer)]
        return bool(scans) and self.chooser.layer not in scans

    def _changed(self, layer: Layer, record: inspect_tasks.RunRecord) -> str:
        """Why a run no longer describes its scan and its model."""
        data = layer.data[0] if layer.multiscale else layer.data
        source = record.source
        if tuple(data.shape[-3:]) != tuple(source.shown.shape):
            return "the scan has another size now"
        if source.origin is not None and data is not source.origin:
            return "the scan's voxels were replaced since the run"
        if not layer_to_volume(layer, leading=source.lead or 0).shown.is_close(source.shown):
            return "the scan was moved or rescaled since the run"
        return inspect_tasks.model_changed(record)

    def mask_layer(self) -> Labels | None:
        """Return the uppermost visible mask that belongs to the chosen scan."""
        try:
            scan = self.source().volume.geometry
        except Attention3DError:
            return None
        from napari.layers import Labels

        for layer in reversed(self.viewer.layers):
            entry = layer.metadata.get(KEY, {})
            role = entry.get("role", "labels") if isinstance(entry, dict) else "labels"
            if not isinstance(layer, Labels) or role != "labels" or not layer.visible:
                continue
            if self._is_elsewhere(layer):
                continue
            if "geometry" not in entry or geometry_from_dict(entry["geometry"]).unit == scan.unit:
                return layer
        return None

    # ---- work

    @property
    def is_busy(self) -> bool:
        """Whether an answer is on its way."""
        return self._run is not None

    @property
    def is_working(self) -> bool:
        """Whether a job is on its way that no other may take the place of."""
        return self._run is not None and not self._run.is_over and not self._gives_way

    def tell_busy(self) -> None:
        """Say what goes on, and how to end it."""
        name = "something" if self._run is None else self._run.name
        self.status.label.setText(f"Busy: {name}. Wait for it, or press Cancel first")

    def submit(
        self,
        job: JobFactory,
        name: str,
        words: str,
        done: Callable[[Any], None] | None = None,
        *,
        question: bool = False,
    ) -> Run | None:
        """Start a job.

        Parameters
        ----------
        job, name, words
            What to do, its name, and what the status says.
        done
            Called with what it returns.
        question
            Whether it may be given up for a newer job, as only the last click counts. Any
            other job on its way stays.

        Returns
        -------
        Run or None
            None if another job is on its way; the status says so.
        """
        if self.is_working:
            self.tell_busy()
            return None
        if self._run is not None:
            self._run.cancel()
        self._run = run = self.runner.submit(job, name)
        self._gives_way = question
        if done is not None:
            run.returned.connect(done)
        run.progressed.connect(self.status.progress)
        run.errored.connect(self._on_failed)
        run.finished.connect(partial(self._on_finished, weakref.ref(run)))
        self.status.busy(words)
        return run

    def submit_call(
        self, work: Callable[[], Any], name: str, words: str, done: Callable[[Any], None]
    ) -> Run | None:
        """Start a plain function in place of a job."""

        def job() -> Generator[Progress, None, Any]:
            yield Progress(0, 0, words)
            return work()

        return self.submit(job, name, words, done)

    def cancel(self) -> None:
        """Drop what is on its way."""
        if self._run is not None:
            self._run.cancel()

    def give_up_question(self) -> None:
        """Drop a question that is on its way; other jobs stay."""
        if self._run is not None and self._gives_way:
            self._run.cancel()

    def _on_failed(self, failure: JobFailure) -> None:
        self.status.error(notify_failure(failure), failure.details)
        self.failed.emit(failure)

    def _on_finished(self, ref: weakref.ref[Run]) -> None:
        if self._run is ref():
            self._run = None
            if self.status.cancel_button.isEnabled():
                self.status.idle("Ready")


def _entry(layer: Layer) -> dict[str, Any]:
    """What we noted of a layer."""
    entry = layer.metadata.get(KEY, {})
    return entry if isinstance(entry, dict) else {}
