"""Maps that are computed on request, with their cost shown first."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QPushButton

from . import inspect_jobs
from .inspect_runs import Runs
from .inspect_section import Section, show_map

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..volumes.volume import Volume
    from .inspect_tasks import RunRecord

__all__ = ["RequestSection"]

_KINDS = (
    (
        "entropy",
        "Uncertainty (entropy)",
        "How undecided the network is between its classes. Sure does not mean right.",
    ),
    (
        "flip-spread",
        "Spread under flips",
        "Whether it says the same of the scan's three mirror images.",
    ),
    (
        "agreement",
        "Agreement of the scales",
        "Guided models: whether the four scales predict the same; the mask is their mean.",
    ),
    (
        "reconstruction-error",
        "Reconstruction error",
        "Guided models: where features are unlike those the autoencoder learned to rebuild.",
    ),
)


class RequestSection(Section):
    """Chooses a map and computes it."""

    shown = Signal(object)
    """The new layer."""

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs)
        self.kind_combo = QComboBox()
        for name, title, _ in _KINDS:
            self.kind_combo.addItem(title, name)
        self.about_label = self.words()
        self.button = QPushButton("Compute")
        for widget in (self.kind_combo, self.about_label, self.button):
            self.column.addWidget(widget)
        self.kind_combo.currentIndexChanged.connect(self.explain)
        runs.changed.connect(self.explain)
        self.button.clicked.connect(self.compute)
        self.explain()

    def explain(self, *_: object) -> None:
        """Say what the chosen map means and about what it costs."""
        name = self.kind_combo.currentData()
        about = next(words for kind, _, words in _KINDS if kind == name)
        self.about_label.setText(about)
        record = self.runs.known()
        cost = ""
        if record is not None and record.provenance is not None:
            from ..attention.request import expected_seconds, kind_named

            kind = kind_named(name)
            seconds = expected_seconds(record.provenance, kind)
            times = f", {kind.passes} passes of the network" if kind.passes > 1 else ""
            cost = f" (about {max(1, round(seconds))} s{times})"
        self.button.setText(f"Compute{cost}")

    def compute(self) -> None:
        """Compute the chosen map on the worker's thread."""
        record = self.record()
        if record is None:
            return
        name = self.kind_combo.currentData()
        job = partial(inspect_jobs.map_job, self.runs.desk, record, name)
        self.ask(job, f"compute {name}", "Computing the map …", partial(self._show, record))

    def _show(self, record: RunRecord, volume: Volume) -> None:
        from ..attention import display_range
        from ..attention.request import kind_named

        about = volume.metadata["map"]
        model = record.card.name if record.card is not None else "model"
        layer: Layer = show_map(
            self.runs.viewer,
            record,
            volume,
            f"request:{about['name']}",
            f"{record.source.volume.name} · {model} · {about['title']}",
            colormap=kind_named(about["name"]).colormap,
            contrast_limits=display_range(volume.array, tuple(about["value_range"])),
            blending="additive",
            interpolation2d="linear",
            opacity=0.6,
        )
        self.runs.status.idle("Computed")
        self.shown.emit(layer)
