"""What one can do with a scan and a model: plain generators, without a window.

The window's thread, the command line and the tests drive the same jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .attention.maps import choose_maps, map_volumes
from .errors import InputError
from .inference.outlook import in_words, outlook
from .inference.predict import GridPrediction, run_attempts
from .inference.preprocess import Prepared, Preprocessor, crop_region
from .inference.setup import (
    Setup,
    describe_run,
    focus_on_grid,
    held_results,
    plan_run,
    set_up_trusted,
)
from .inference.sink import Allocate, ScanResults, in_memory
from .models.card import ModelCard
from .models.store import Model
from .networks.norm import Calibration
from .progress import Job, Progress, finish
from .provenance import fingerprint, made_with
from .volumes.volume import Volume

__all__ = [
    "Preflight",
    "SegmentOptions",
    "Segmentation",
    "preflight",
    "segment",
    "segment_job",
]

Range = tuple[int, int]


class SegmentOptions(BaseModel):
    """How to segment. All have defaults that suit most scans.

    Attributes
    ----------
    device
        "auto", "cpu", "mps", "cuda" or "cuda:N".
    overlap
        Share of a tile that it has in common with its neighbour; None: the card's.
    attention
        Attention maps: none, all, or their names.
    probabilities, uncertainty
        Whether to return them too.
    region
        Index ranges ((z0, z1), (y0, y1), (x0, x1)) of the volume's own array; the result
        then covers the region alone, with the values a run over the whole scan gives.
    tile
        Largest tile in voxels of the model's grid (z, y, x); None: chosen by memory.
    channel
        Which channel of a scan with several to use.
    precision
        "auto", "exact" or "fast": see `choose_precision`.
    memory
        Bytes that the run may take; None: a share of what is free.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = "auto"
    overlap: float | None = Field(default=None, ge=0, lt=1)
    attention: bool | tuple[str, ...] = False
    probabilities: bool = False
    uncertainty: bool = False
    region: tuple[Range, Range, Range] | None = None
    tile: tuple[int, int, int] | None = None
    channel: int | None = Field(default=None, ge=0)
    precision: Literal["auto", "exact", "fast"] = "auto"
    memory: int | None = Field(default=None, gt=0)

    @field_validator("tile")
    @classmethod
    def _sized(cls, tile: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if tile is not None and min(tile) < 1:
            raise ValueError(f"tile {tile} must be positive")
        return tile


@dataclass
class Segmentation:
    """What came out.

    Attributes
    ----------
    labels
        (Z, Y, X) uint8 or uint16 on the scan's own grid (with a region: the region's).
    probabilities
        (K, Z, Y, X), or None.
    uncertainty
        (Z, Y, X), 0 to 1, or None.
    attention
        By name, each on its own coarse grid in the model's orientation.
    card
        The model's.
    device, device_reason
        Where it ran and why there.
    seconds
        Wall time.
    warnings
        What the person should look at.
    provenance
        How to get this result again; JSON-compatible.
    """

    labels: Volume
    probabilities: Volume | None
    uncertainty: Volume | None
    attention: dict[str, Volume]
    card: ModelCard
    device: str
    device_reason: str
    seconds: float
    warnings: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preflight:
    """What a run would do, known without reading a voxel.

    Attributes
    ----------
    text
        One line for the person.
    tiles
        Tiles to compute; 0 where the scan goes through plane by plane.
    grid_shape
        Voxels of the model's grid (z, y, x).
    bytes
        Estimated memory at the peak.
    seconds
        Estimated time of the network's passes; None if its speed here is not known.
    """

    text: str
    tiles: int
    grid_shape: tuple[int, int, int]
    bytes: int
    seconds: float | None = None


def _set_up(
    volume: Volume, model: Model, options: SegmentOptions, *, test: bool
) -> tuple[Setup, list[str]]:
    """Set up on a device that passed its self-test, and name what the person should doubt."""
    setup, problem = set_up_trusted(
        volume,
        model.card,
        model.network,
        weights=model.card.sha256 or f"{model.path} {id(model.network)}",
        test=test,
        device=options.device,
        precision=options.precision,
        region=options.region,
        tile=options.tile,
        overlap=options.overlap,
        channel=options.channel,
        memory=options.memory,
    )
    doubts = [f"computed on the CPU: {problem}"] if problem else []
    if model.card.metrics.get("import", {}).get("encoder_only"):
        doubts.append(
            f"only the encoder of {model.card.name} is trained: its mask means nothing until "
            "the model is trained (napari-attention3d train)"
        )
    return setup, doubts


def preflight(
    volume: Volume,
    model: Model,
    options: SegmentOptions | None = None,
    *,
    probe: bool = False,
    calibrated: bool = False,
) -> Preflight:
    """Tell what `segment_job` would do; raises what it would raise before reading a voxel.

    Parameters
    ----------
    volume, model, options
        As for `segment_job`.
    probe
        Test the device and measure how fast the network is here, where that is not known
        yet: a few small forward passes. Else the time is told only after a first run.
    calibrated
        Whether the run will be given the scan's statistics.
    """
    options = options or SegmentOptions()
    setup, _ = _set_up(volume, model, options, test=probe)
    maps = choose_maps(options.attention, model.network.map_specs)
    network, grid = model.network, setup.place.grid
    voxels = int(np.prod(volume.array.shape))
    cost = outlook(network, setup, voxels, maps=maps, probe=probe, calibrated=calibrated)
    time_ = f" and {in_words(cost.seconds)} in the network" if cost.seconds is not None else ""
    how = f"in {cost.tiles} tile{'s' * (cost.tiles > 1)}" if cost.tiles else "plane by plane"
    text = (
        f"{' x '.join(map(str, grid.shape))} voxels of "
        f"{' x '.join(f'{s:.3g}' for s in grid.spacing)} {grid.unit} {how}, "
        f"about {_memory(cost.bytes)}{time_}, on "
        f"{setup.choice.device} ({setup.choice.reason}), {cost.attempt.precision.name}"
    )
    return Preflight(text, cost.tiles, grid.shape, cost.bytes, cost.seconds)


def _memory(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def segment_job(
    volume: Volume,
    model: Model,
    options: SegmentOptions | None = None,
    *,
    calibration: Calibration | None = None,
    focus: Sequence[float] | None = None,
    allocate: Allocate = in_memory,
) -> Job[Segmentation]:
    """Segment a scan.

    Neither the volume nor the model is changed (the model's weights move to the device
    and stay there).

    Parameters
    ----------
    volume
        (Z, Y, X) or (C, Z, Y, X), any orientation and spacing.
    model
        From `load_model`.
    options
        See `SegmentOptions`.
    calibration
        ``provenance["calibration"]`` of an earlier run over the same scan, to be used
        instead of measuring the scan's statistics again.
    focus
        Voxel (z, y, x) of the scan's array that is looked at: the work begins there.
    allocate
        Makes the arrays of the results ("labels", "probabilities", "uncertainty" and maps
        by name); default: in memory.

    Yields
    ------
    Progress
        Per step; ``partial`` lists labels that are final (`Finished`). Closing the
        generator cancels within one step.

    Raises
    ------
    InputError, ModelMismatchError
        If scan, model and options don't fit together.
    OutOfMemory
        If even the smallest plan does not fit the memory.
    """
    options = options or SegmentOptions()
    begin = time.perf_counter()
    yield Progress(0, 0, "Preparing the scan")
    setup, doubts = _set_up(volume, model, options, test=True)
    maps = choose_maps(options.attention, model.network.map_specs)
    prepared = yield from Preprocessor(model.card).open(
        volume, channel=options.channel, memory=options.memory
    )
    results = ScanResults(
        len(model.card.classes),
        setup.place.grid,
        setup.target,
        setup.place.reorientation,
        probabilities=options.probabilities,
        uncertainty=options.uncertainty,
        allocate=allocate,
    )
    attempt = plan_run(
        model.network,
        setup,
        maps,
        calibrated=calibration is not None,
        results=held_results(
            setup,
            results.classes,
            probabilities=options.probabilities,
            uncertainty=options.uncertainty,
            stored=allocate is not in_memory,
        ),
        reading=prepared.source.held_bytes(),
    )
    prediction = yield from run_attempts(
        model.network,
        prepared.source,
        attempt,
        calibration=calibration,
        results=results,
        allocate=allocate,
        focus=focus_on_grid(setup.place, focus),
        skip_empty=model.card.skip_empty,
    )
    seconds = time.perf_counter() - begin
    prediction.warnings[:0] = doubts
    return _gather(volume, model, options, setup, prepared, prediction, results, seconds)


def segment(
    volume: Volume,
    model: Model | str,
    *,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Segmentation:
    """Segment a scan and wait for it.

    Parameters
    ----------
    volume
        The scan.
    model
        From `load_model`, or a name or path that it understands.
    progress
        Called with each step.
    **options
        Fields of `SegmentOptions`.

    Raises
    ------
    InputError
        If an option is not known or its value is wrong; else see `segment_job`.
    """
    if isinstance(model, str):
        from .models.store import load_model

        model = load_model(model)
    return finish(segment_job(volume, model, make_options(**options)), progress)


def make_options(**options: Any) -> SegmentOptions:
    """Build `SegmentOptions`, with an InputError of one line if something is wrong."""
    try:
        return SegmentOptions(**options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "options"
        if first["type"] == "extra_forbidden":
            known = ", ".join(SegmentOptions.model_fields)
            raise InputError(f"option {where!r} is not known; there are: {known}") from error
        raise InputError(f"option {where!r}: {first['msg']}") from error


def _gather(
    volume: Volume,
    model: Model,
    options: SegmentOptions,
    setup: Setup,
    prepared: Prepared,
    prediction: GridPrediction,
    results: ScanResults,
    seconds: float,
) -> Segmentation:
    card = model.card
    _, geometry = crop_region(volume.geometry, options.region)
    warnings = [*prepared.warnings, *prediction.warnings]
    if not results.found:
        warnings.append(_empty_warning(card, prepared))
    provenance = made_with(
        model=model.origin,
        options=options.model_dump(mode="json"),
        seconds=round(seconds, 3),
        **describe_run(volume, setup, prepared, prediction),
        **({"warnings": warnings} if warnings else {}),
    )
    provenance["software"]["torch"] = torch.__version__
    if isinstance(results.labels, np.ndarray):  # what lies on the disk is read when it is whole
        provenance["fingerprint"] = fingerprint(results.labels)
    about = {"provenance": provenance, "classes": [c.model_dump() for c in card.classes]}
    if "nifti" in volume.metadata:
        about["nifti"] = volume.metadata["nifti"]  # to be written in the scan's own way

    def place(array: Any, name: str, channels: Sequence[str] = (), kind: str = "image") -> Volume:
        title = f"{volume.name} {name}"
        return Volume(array, geometry, title, tuple(channels), None, {**about, "kind": kind})

    attention = map_volumes(
        prediction.maps,
        model.network.map_specs,
        setup.place.grid,
        prediction.box,
        unit=volume.geometry.unit,
        name=volume.name,
    )
    attention = {
        key: one.replace(metadata={**one.metadata, "kind": "image", "provenance": provenance})
        for key, one in attention.items()
    }
    shares, doubt = results.probabilities, results.uncertainty
    return Segmentation(
        labels=place(results.labels, "labels", kind="labels"),
        probabilities=None if shares is None else place(shares, "probabilities", card.class_names),
        uncertainty=None if doubt is None else place(doubt, "uncertainty"),
        attention=attention,
        card=card,
        device=str(prediction.attempt.devices[0]),
        device_reason=provenance["device_reason"],
        seconds=seconds,
        warnings=warnings,
        provenance=provenance,
    )


def _empty_warning(card: ModelCard, prepared: Prepared) -> str:
    expects = f" ({card.intensity})" if card.intensity else ""
    spacing = " x ".join(f"{s:.3g}" for s in prepared.placement.turned.spacing)
    checks = [
        f"intensities are what the model knows{expects}",
        f"voxels really measure {spacing} {prepared.placement.turned.unit}",
    ]
    if card.orientation is not None:
        checks.append("the orientation is right")
    return "no voxel was given a class: check that " + ", that ".join(checks)
