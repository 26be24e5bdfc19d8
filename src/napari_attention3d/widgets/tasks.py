"""What the panels let the worker's thread do. No Qt, no viewer; torch is imported here only."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ..progress import Progress
from .garbage import WindowGarbage
from .layers import LayerSource
from .results import LayerPlan, plan_layers, plan_preview
from .statistics import KnownStatistics
from .tasks_large import is_large, segment_to_disk, with_levels

if TYPE_CHECKING:
    from ..models import Model, ModelInfo
    from ..networks.norm import Calibration
    from ..session import Segmentation, SegmentOptions

__all__ = [
    "NO_FILE",
    "Empty",
    "Finished",
    "ModelShelf",
    "Outlook",
    "Ready",
    "Stamp",
    "file_stamp",
    "look_ahead",
    "look_around",
    "run_segmentation",
    "threads_beside_window",
]


Stamp = tuple[int, int]
NO_FILE: Stamp = (0, 0)


@dataclass(frozen=True)
class Ready:
    """What is there once torch is loaded."""

    models: list[ModelInfo]
    devices: list[tuple[str, str]]
    """Request ("auto", "cuda", ...) and what to call it."""
    reasons: dict[str, str]
    """Why, by request."""


@dataclass(frozen=True)
class Outlook:
    """What a run would do."""

    text: str
    maps: list[tuple[str, str, bool]]
    """Attention maps that the model can show: name, title, whether a first look wants it."""
    patch_size: tuple[int, int, int]


@dataclass(frozen=True)
class Empty:
    """A labels layer to be filled during the run, and the array that it shows."""

    plan: LayerPlan
    array: npt.NDArray[Any]
    key: str


@dataclass(frozen=True)
class Finished:
    """A result, made ready for the viewer."""

    segmentation: Segmentation
    plans: list[LayerPlan]
    source: LayerSource
    model_ref: str = ""
    """Name or file of the model that was run; "" if unknown."""
    stamp: Stamp = NO_FILE
    """See `file_stamp`; as of the run's begin."""


def file_stamp(model_ref: str) -> Stamp:
    """When a model's file was last changed, in ns, and its size; zeros if it is not a file."""
    path = Path(model_ref)
    if not path.is_file():
        return NO_FILE
    about = path.stat()
    return about.st_mtime_ns, about.st_size


class ModelShelf:
    """Keeps the last model loaded between runs; used on the worker's thread only."""

    def __init__(self) -> None:
        self._key: tuple[str, Stamp] | None = None
        self._model: Model | None = None
        self.statistics = KnownStatistics()

    def get(self, name_or_path: str) -> Model:
        """Return the model, loading it if it is another one or its file changed."""
        from ..models import load_model

        key = (name_or_path, file_stamp(name_or_path))
        if self._model is None or key != self._key:
            self._model = None  # frees the old one before the new one comes
            self.statistics = KnownStatistics()
            self._model = load_model(name_or_path)
            self._key = key
        return self._model


def look_around() -> Ready:
    """Load torch, list models and devices."""
    import torch

    from .. import session  # noqa: F401  (loaded here, so that the window need not wait later)
    from ..inference.device import choose_device
    from ..inference.memory import collect_garbage_with
    from ..models import list_models

    collect_garbage_with(WindowGarbage.get().collect_all)
    torch.set_num_threads(threads_beside_window(torch.get_num_threads()))
    auto = choose_device("auto")
    devices = [("auto", f"Automatic: {_device_title(auto.device.type)}")]
    reasons = {"auto": auto.reason}
    if torch.cuda.is_available():
        devices.append(("cuda", f"GPU ({torch.cuda.get_device_name()})"))
    if torch.backends.mps.is_available():
        devices.append(("mps", "Apple GPU"))
    devices.append(("cpu", "CPU"))
    return Ready(list_models(), devices, reasons)


def threads_beside_window(threads: int) -> int:
    """Of so many threads, those that compute: one is left to the window, where two remain.

    With two cores the window's thread, which mostly waits, gets its share from the system,
    and a run on one of them would take twice as long.
    """
    return threads - 1 if threads > 2 else threads


def _device_title(kind: str) -> str:
    return {"cuda": "GPU", "mps": "Apple GPU", "cpu": "CPU"}.get(kind, kind)


def look_ahead(
    shelf: ModelShelf, model_ref: str, source: LayerSource, options: SegmentOptions
) -> Generator[Progress, None, Outlook]:
    """Say what a run would do; raises what the run would raise at once. A job.

    Its parts take seconds each where a network is met for the first time, so it can be
    cancelled between them.
    """
    from ..session import preflight

    yield Progress(0, 0, "Loading the model …")
    model = shelf.get(model_ref)
    maps = [(s.name, s.title, s.primary) for s in model.network.map_specs.values()]
    yield Progress(0, 0, "Estimating memory …")
    calibrated = _known(shelf, source, options) is not None
    preflight(source.volume, model, options, calibrated=calibrated)
    yield Progress(0, 0, "Measuring the speed …")
    plan = preflight(source.volume, model, options, probe=True, calibrated=calibrated)
    text = plan.text
    if is_large(source.volume, model, options):
        text += "; the results go to a temporary OME-Zarr"
    return Outlook(text, maps, model.card.patch_size)


def _known(shelf: ModelShelf, source: LayerSource, options: SegmentOptions) -> Calibration | None:
    """Statistics for a region: measured over the whole scan, where that was done already."""
    if options.region is None:
        return None
    return shelf.statistics.find(source.volume, options.channel)


def run_segmentation(
    shelf: ModelShelf,
    model_ref: str,
    source: LayerSource,
    options: SegmentOptions,
    focus: Sequence[float] | None = None,
) -> Generator[Progress, None, Finished]:
    """Segment a layer's volume and prepare the layers to show; a job.

    Parameters
    ----------
    focus
        Voxel (z, y, x) of the volume's array that is in view: the run begins there.
    """
    from ..session import segment_job

    yield Progress(0, 0, "Loading the model …")
    stamp = file_stamp(model_ref)
    model = shelf.get(model_ref)
    large = is_large(source.volume, model, options)
    known = _known(shelf, source, options)
    if options.region is None and not large:
        empty = Empty(*plan_preview(model.card, source), model.card.name)
        yield Progress(0, 0, "Preparing the scan", empty)
    if large:
        result = yield from segment_to_disk(source, model, options, focus, known)
    else:
        result = yield from segment_job(
            source.volume, model, options, calibration=known, focus=focus
        )
    shelf.statistics.keep(source.volume, options.channel, result.provenance)
    yield Progress(0, 0, "Preparing the layers …")
    plans = plan_layers(result, source)
    if large:
        plans = with_levels(plans, result, source)
    return Finished(result, plans, source, model_ref, stamp)
