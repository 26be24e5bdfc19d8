"""What goes into the report: gathered from the viewer, on the window's thread."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Attention3DError
from ..provenance import edit_note
from .inspect_look import MapLayer, sample
from .inspect_numbers import in_view
from .inspect_runs import Runs
from .inspect_words import answer_text
from .layer_series import time_in_view
from .layers import layer_to_volume
from .probe import voxel_to_shown

if TYPE_CHECKING:
    from napari.layers import Labels

    from ..analysis.table import Table
    from ..attention.report import Picture, Section
    from .inspect_tasks import Asked, RunRecord

__all__ = ["gather", "subtitle"]

_AXES = ("z", "y", "x")


def gather(
    runs: Runs,
    maps: Sequence[MapLayer],
    asked: Asked | None,
    tables: Sequence[Table],
    view: bytes | None,
    curves: bytes | None = None,
    bars: bytes | None = None,
) -> tuple[str, list[Section]]:
    """Return title and sections of a report on the chosen scan.

    Parameters
    ----------
    runs
        Knows scan, run and mask.
    maps
        Those that are shown.
    asked
        The newest answer.
    tables
        Figures that were counted.
    view
        A picture (PNG) of the view as it is.
    curves
        A picture (PNG) of deletion and insertion curves.
    bars
        A picture (PNG) of the shares about each label.

    Raises
    ------
    Attention3DError
        If no scan is open.
    """
    from ..attention.report import Picture, Section

    source = runs.source()
    record = runs.known()
    sections = [_about_scan(runs), *_about_model(record, runs.stale())]
    if view is not None:
        picture = Picture(view, "The view as it was when the report was written")
        sections.append(Section("View", pictures=[picture]))
    mask = runs.mask_layer()
    place = _place(runs, asked)
    pictures = [p for entry in maps for p in _slices(runs, entry, mask, place)]
    sections.append(
        Section(
            "Maps",
            text=["Slices through the place asked about, or the place in view."]
            if pictures
            else (),
            pictures=pictures,
            tables=[_ranges(maps)] if maps else (),
        )
    )
    if asked is not None:
        sections.append(_about_answer(asked))
    if tables:
        drawn = [
            Picture(data, words)
            for data, words in (
                (bars, "Where the map lies about each label; dots: its largest value"),
                (curves, "Deletion and insertion curves"),
            )
            if data is not None
        ]
        sections.append(Section("Figures", pictures=drawn, tables=tables))
    if record is not None and record.provenance is not None:
        note = _edits(runs, mask)
        made = Section(
            "How the mask was made", text=[note] if note else (), details=record.provenance
        )
        sections.append(made)
    return f"Where the network looked: {source.volume.name}", sections


def subtitle() -> str:
    """When, and by which program."""
    from .. import __version__

    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"napari-attention3d {__version__}, {now}. For research, not for diagnosis."


def _about_scan(runs: Runs) -> Section:
    from ..attention.report import Section

    volume = runs.source().volume
    geometry = volume.geometry
    unit = geometry.unit if geometry.unit != "pixel" else "(not calibrated)"
    facts = {
        "Scan": volume.name,
        "Voxels (z, y, x)": " x ".join(map(str, geometry.shape)),
        "Voxel size": f"{' x '.join(f'{s:.4g}' for s in geometry.spacing)} {unit}",
    }
    if volume.source is not None:
        facts["File"] = volume.source.name
    return Section("Scan", facts=facts)


def _about_model(record: RunRecord | None, stale: str) -> list[Section]:
    from ..attention.report import Section

    if record is None or record.card is None:
        return []
    card = record.card
    facts = {
        "Model": f"{card.title} ({card.name}, version {card.version})",
        "Checksum": str((record.provenance or {}).get("model", {}).get("sha256", "")),
        "Classes": ", ".join(card.class_names),
        "Limitations": card.limitations,
    }
    text = [f"Out of date: {stale}"] if stale else []
    return [Section("Model", text=text, facts={k: v for k, v in facts.items() if v})]


def _about_answer(asked: Asked) -> Section:
    from ..attention.ask import ALL_SCALES
    from ..attention.report import Section

    answer = asked.answer
    words = answer_text(asked, ALL_SCALES if answer is not None else "")
    facts = {}
    if answer is not None:
        names = asked.replay.model.card.class_names
        order = np.argsort(-answer.probabilities)[:5]
        facts = {names[i]: f"{answer.probabilities[i]:.3f}" for i in order}
    return Section("The voxel asked about", text=[words], facts=facts)


def _edits(runs: Runs, mask: Labels | None) -> str:
    """Say that the mask in view was painted on; one on the disk is not read for that."""
    if mask is None or mask.multiscale or not isinstance(mask.data, np.ndarray):
        return ""
    try:
        found = layer_to_volume(mask, leading=time_in_view(runs.viewer, mask))
    except Attention3DError:
        return ""
    return edit_note(found.volume)


def _place(runs: Runs, asked: Asked | None) -> tuple[int, int, int]:
    """Voxel of the shown array through which slices are drawn."""
    source = runs.source()
    if asked is not None and asked.record.source is source:
        index = voxel_to_shown(source, asked.question.voxel)
    else:
        point = np.asarray(runs.viewer.dims.point, dtype=float)[-3:]
        index = source.shown.to_index(point)
    z, y, x = np.clip(np.round(index), 0, np.array(source.shown.shape) - 1).astype(int).tolist()
    return z, y, x


def _slices(
    runs: Runs, entry: MapLayer, mask: Labels | None, place: tuple[int, int, int]
) -> list[Picture]:
    from ..attention.pictures import Overlay, png, slice_picture
    from ..attention.report import Picture

    scan_layer = runs.chooser.layer
    assert scan_layer is not None
    source = runs.source()
    scan = in_view(source, lazy=True)
    values = in_view(layer_to_volume(entry.layer, leading=source.lead), lazy=True)
    limits = (float(entry.layer.contrast_limits[0]), float(entry.layer.contrast_limits[1]))
    overlay = Overlay(values, limits, entry.layer.colormap.map)
    low, high = (float(v) for v in scan_layer.contrast_limits)
    labels: tuple[Any, Any] | None = None
    if mask is not None:
        try:
            lead = time_in_view(runs.viewer, mask) if source.lead is None else source.lead
            shown = layer_to_volume(mask, leading=min(lead, mask.data.shape[0] - 1))
            labels = in_view(shown, lazy=True), mask.colormap.map
        except Attention3DError:
            labels = None
    pictures = []
    for axis, name in enumerate(_AXES):
        drawn = slice_picture(scan, (low, high), axis, place[axis], [overlay], labels)
        caption = (
            f"{entry.title}, {name} = {place[axis]}; colours from {limits[0]:.3g} to "
            f"{limits[1]:.3g}"
        )
        pictures.append(Picture(png(drawn), caption))
    return pictures


def _ranges(maps: Sequence[MapLayer]) -> Table:
    from ..analysis.table import Cell, Column, Table

    rows: list[tuple[Cell, ...]] = []
    for entry in maps:
        values = sample(entry.layer)
        low, high = entry.layer.contrast_limits
        figures = [float(f(values)) if values.size else None for f in (np.min, np.mean, np.max)]
        rows.append((entry.title, entry.meaning, *figures, float(low), float(high)))
    names = ("map", "meaning", "min", "mean", "max", "first colour", "last colour")
    return Table(tuple(Column(name) for name in names), tuple(rows))
