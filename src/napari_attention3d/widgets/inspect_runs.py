"""What was run on which scan, and one question at a time to it: shared by the sections."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject, Signal

from ..errors import Attention3DError
from ..progress import Progress
from . import inspect_tasks, tasks
from .layer_chooser import LayerChooser
from .layers import KEY, LayerSource, geometry_from_dict, layer_to_volume
from .notify import notify_failure
from .segment_panel import SegmentPanel
from .status_bar import StatusBar
from .worker import JobFactory, JobFailure, JobRunner, Run

if TYPE_CHECKING:
    from napari.layers import Labels, Layer

__all__ = ["NO_SCAN", "Runs", "mask_on_scan"]

NO_SCAN = "Open a 3D scan first, then run a model on it"


class Runs(QObject):
    """Remembers the newest run of each scan and drives the tab's only job.

    Parameters
    ----------
    viewer, runner, chooser, status
        Of the dock.
    segment
        Its finished runs can be asked.
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
        self._run: Run | None = None
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
        model = self.segment.form.model
        self.records[layer] = inspect_tasks.RunRecord(
            finished.source,
            model,
            result.provenance,
            result.card,
            stamp=inspect_tasks.file_stamp(model),
        )
        self.changed.emit()

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
        """Return the chosen scan as its run read it, or as it is.

        Raises
        ------
        Attention3DError
            If no scan is open, or it is none.
        """
        layer = self.chooser.layer
        if layer is None:
            raise Attention3DError(NO_SCAN)
        record = self.records.get(layer)
        return record.source if record is not None else layer_to_volume(layer, leading=0)

    def stale(self) -> str:
        """Why the newest run no longer describes scan and model; empty if it does."""
        layer, record = self.chooser.layer, self.known()
        if layer is None or record is None:
            return ""
        data = layer.data[0] if layer.multiscale else layer.data
        if tuple(data.shape[-3:]) != tuple(record.source.shown.shape):
            return "the scan has another size now"
        shown = layer_to_volume(layer, leading=0).shown
        if not shown.is_close(record.source.shown):
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
            if "geometry" not in entry or geometry_from_dict(entry["geometry"]).unit == scan.unit:
                return layer
        return None

    # ---- work

    @property
    def is_busy(self) -> bool:
        """Whether an answer is on its way."""
        return self._run is not None

    def submit(
        self,
        job: JobFactory,
        name: str,
        words: str,
        done: Callable[[Any], None] | None = None,
    ) -> Run:
        """Start a job; one that is on its way is given up, as only the last click counts."""
        if self._run is not None:
            self._run.cancel()
        self._run = run = self.runner.submit(job, name)
        if done is not None:
            run.returned.connect(done)
        run.progressed.connect(self.status.progress)
        run.errored.connect(self._on_failed)
        run.finished.connect(partial(self._on_finished, weakref.ref(run)))
        self.status.busy(words)
        return run

    def submit_call(
        self, work: Callable[[], Any], name: str, words: str, done: Callable[[Any], None]
    ) -> Run:
        """Start a plain function in place of a job."""

        def job() -> Generator[Progress, None, Any]:
            yield Progress(0, 0, words)
            return work()

        return self.submit(job, name, words, done)

    def cancel(self) -> None:
        """Drop what is on its way."""
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


def mask_on_scan(source: LayerSource, mask: Layer) -> npt.NDArray[Any]:
    """Return a mask's values on the scan's own grid; one of a region is laid into zeros.

    Raises
    ------
    Attention3DError
        If it does not lie on the scan's voxels.
    """
    volume = layer_to_volume(mask).volume
    scan, own = source.volume.geometry, volume.geometry
    if own.unit != scan.unit:
        raise Attention3DError(f"{mask.name} and the scan are in different units of length")
    corners = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], dtype=float)
    index = scan.to_index(own.to_world(corners))
    start = np.round(index[0]).astype(int)
    stop = start + own.shape
    fits = np.allclose(index, start + corners, atol=1e-3)
    if not fits or (start < 0).any() or (stop > scan.shape).any():
        raise Attention3DError(
            f"{mask.name} does not lie on the scan's voxels; run again or choose another mask"
        )
    array = np.asarray(volume.array)
    if array.shape == scan.shape:
        return array
    whole = np.zeros(scan.shape, array.dtype)
    whole[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = array
    return whole
