"""Results that would not fit the memory lie in a temporary OME-Zarr and are shown from there.

On the worker's thread, as `tasks`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..progress import Progress
from ..provenance import fingerprint
from .layers import LayerSource
from .results import LayerPlan

if TYPE_CHECKING:
    from ..models import Model
    from ..networks.norm import Calibration
    from ..session import Segmentation, SegmentOptions
    from ..volumes.volume import Volume

__all__ = ["is_large", "result_bytes", "segment_to_disk", "with_levels"]

_SHARE = 0.25
"""Results of a lazy scan may take this part of the free memory."""
_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Folders that layers show; gone when the program ends."""


def result_bytes(volume: Volume, model: Model, options: SegmentOptions) -> int:
    """Bytes of a run's results on the scan's own grid."""
    shape = volume.geometry.shape
    if options.region is not None:
        shape = tuple(b - a for a, b in options.region)  # type: ignore[assignment]
    classes = len(model.card.classes)
    per_voxel = 1 if classes <= 256 else 2
    per_voxel += 4 * classes * options.probabilities + 4 * options.uncertainty
    return int(np.prod(shape, dtype=np.int64)) * per_voxel


def is_large(volume: Volume, model: Model, options: SegmentOptions) -> bool:
    """Whether a run's results go to the disk: its scan lies there, too, and memory is short."""
    import torch

    from ..inference.memory import available_bytes

    if isinstance(volume.array, np.ndarray) and not isinstance(volume.array, np.memmap):
        return False
    free = available_bytes(torch.device("cpu"))
    return result_bytes(volume, model, options) > _SHARE * free


def segment_to_disk(
    source: LayerSource,
    model: Model,
    options: SegmentOptions,
    focus: Sequence[float] | None = None,
    calibration: Calibration | None = None,
) -> Generator[Progress, None, Segmentation]:
    """Job: as `session.segment_job`, its results lazy arrays of a temporary OME-Zarr.

    Attention maps, which are coarse, are in memory.

    Raises
    ------
    InputError
        If the disk has no room for them.
    """
    from ..inference.preprocess import crop_region
    from ..inference.store import ZarrStore
    from ..session import segment_job

    holder = _make_room(result_bytes(source.volume, model, options))
    names = ["labels"]
    names += [n for n in ("probabilities", "uncertainty") if getattr(options, n)]
    paths = {name: Path(holder.name) / f"{name}.ome.zarr" for name in names}
    _, geometry = crop_region(source.volume.geometry, options.region)
    try:
        with ZarrStore(paths, geometry, source.volume.name, model.card.class_names) as store:
            result = yield from segment_job(
                source.volume,
                model,
                options,
                calibration=calibration,
                focus=focus,
                allocate=store.allocate,
            )
            yield Progress(0, 0, "Writing to the disk …")
            store.flush()
            stored = getattr(result.labels.array, "array")  # noqa: B009
            result.provenance["fingerprint"] = fingerprint(stored)
            for name in names:
                store.describe(name, getattr(result, name).metadata)
            maps = {
                name: volume.replace(array=np.asarray(volume.array[:]))
                for name, volume in result.attention.items()
            }
        lazy: dict[str, Any] = {
            name: _lazy(getattr(result, name), path) for name, path in paths.items()
        }
    except BaseException:
        holder.cleanup()
        raise
    _KEPT.append(holder)
    return replace(result, attention=maps, **lazy)


def _make_room(size: int) -> tempfile.TemporaryDirectory[str]:
    holder = tempfile.TemporaryDirectory(prefix="attention3d-", ignore_cleanup_errors=True)
    free = shutil.disk_usage(holder.name).free
    if free < 1.3 * size:  # with the coarser levels, not compressed
        folder = Path(holder.name).parent
        holder.cleanup()
        raise InputError(
            f"the results need {1.3 * size / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB "
            "free; set TMPDIR to a larger disk, choose a region, or use the command line: "
            "napari-attention3d segment SCAN -o MASK.ome.zarr"
        )
    return holder


def _lazy(volume: Volume, path: Path) -> Volume:
    from ..volumes import read_volume

    found: Any = read_volume(path).array
    return volume.replace(array=found, source=path)


def with_levels(
    plans: Sequence[LayerPlan], result: Segmentation, source: LayerSource
) -> list[LayerPlan]:
    """Plans of which those on the disk are multiscale: the 3D view takes the coarsest level."""
    from ..volumes.formats.ome_zarr import coarser_levels

    found = []
    for plan in plans:
        volume = {"labels": result.labels, "uncertainty": result.uncertainty}.get(plan.role)
        if (
            volume is not None
            and volume.source is not None
            and not isinstance(plan.array, np.ndarray)
            and volume.geometry.is_close(source.volume.geometry)
        ):
            coarser = [source.show(level) for level in coarser_levels(volume.source)]
            keywords = {**plan.keywords, "multiscale": True}
            if coarser:
                plan = replace(plan, array=[plan.array, *coarser], keywords=keywords)
        found.append(plan)
    return found
