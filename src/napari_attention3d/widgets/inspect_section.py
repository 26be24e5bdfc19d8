"""What the sections of the Inspect tab that compute something have in common."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import (
    QComboBox,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from ..errors import Attention3DError
from ..geometry import Geometry
from ..provenance import made_with, origin
from .inspect_numbers import in_view
from .inspect_runs import Runs
from .inspect_tasks import made_by
from .layers import KEY, LayerSource, geometry_to_dict, layer_to_volume
from .region import place_in_view

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..volumes.volume import Volume
    from .inspect_tasks import RunRecord

__all__ = ["Section", "fit_dock", "onto_scan", "outline_mask", "show_map"]


def fit_dock(widget: QWidget) -> None:
    """Let long words of combos and buttons be cut, so that none makes the dock wider."""
    fixed = QSizePolicy.Policy.Fixed
    for combo in widget.findChildren(QComboBox):
        combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        combo.setMinimumContentsLength(8)
        combo.setSizePolicy(QSizePolicy.Policy.Expanding, fixed)
    for button in widget.findChildren(QPushButton):
        if len(button.text()) > 12:
            button.setMinimumWidth(60)
            button.setSizePolicy(QSizePolicy.Policy.Ignored, fixed)


class Section(QWidget):
    """A part of the tab that asks the newest run of the chosen scan for something."""

    def __init__(self, runs: Runs) -> None:
        super().__init__()
        self.runs = runs
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(0, 0, 0, 0)

    def words(self, text: str = "") -> QLabel:
        """Return a label that breaks lines."""
        label = QLabel(text)
        label.setWordWrap(True)
        return label

    def record(self) -> RunRecord | None:
        """Return the run to ask; without one, or if it is out of date, the status says so."""
        try:
            _, record = self.runs.record()
        except Attention3DError as error:
            self.runs.status.idle(str(error))
            return None
        stale = self.runs.stale()
        if stale:
            self.runs.status.idle(f"Out of date: {stale}; press Run in the Segment tab again")
            return None
        return record

    def voxel(self, record: RunRecord) -> tuple[float, ...]:
        """Return the voxel in the middle of the view; in 3D, that of the sliders."""
        layer = self.runs.chooser.layer
        assert layer is not None
        return place_in_view(self.runs.viewer, layer, record.source)

    def ask(
        self, job: Callable[[], Any], name: str, words: str, done: Callable[[Any], None]
    ) -> None:
        """Start a job on the worker's thread."""
        self.runs.submit(job, name, words, done)

    def is_of_now(self, of: object) -> bool:
        """Whether a result belongs to the run that is inspected now; see `Runs.here`."""
        return of is not None and of == self.runs.here()


def onto_scan(layer: Layer, scan: LayerSource) -> Volume:
    """Return what a layer shows, placed in the true world of the scan that it lies on."""
    seen = in_view(layer_to_volume(layer, leading=0))
    true = scan.volume.geometry.reorient(scan.turn)
    affine = true.affine @ np.linalg.inv(scan.shown.affine) @ seen.geometry.affine
    return seen.replace(geometry=Geometry(seen.geometry.shape, affine, true.unit))


def outline_mask(runs: Runs) -> None:
    """Show the mask as outlines, so that what is laid on it can be seen."""
    mask = runs.mask_layer()
    if mask is not None and not mask.contour:
        mask.contour = 1


def show_map(
    viewer: Any,
    record: RunRecord,
    volume: Volume,
    role: str,
    name: str,
    *,
    labels: bool = False,
    **look: Any,
) -> Layer:
    """Show a volume over the scan; one of the same role and name is replaced.

    Parameters
    ----------
    record
        The run that it comes from.
    role
        See `inspect_look.map_layers`.
    labels
        Whether it is a Labels layer.
    **look
        Further keywords of the layer.
    """
    from napari.layers import Image, Labels

    array, place = record.source.place(volume)
    about = {k: v for k, v in volume.metadata.items() if k in ("map", "attention")}
    told = volume.metadata.get("provenance")
    scan = record.source.volume
    about["provenance"] = told or made_with(source=origin(scan), shows=volume.name)
    geometry = geometry_to_dict(volume.geometry)
    entry = {"role": role, "geometry": geometry, **made_by(record), **about}
    keywords = {"name": name, "metadata": {KEY: entry}, **place, **look}
    for layer in list(viewer.layers):
        ours = layer.metadata.get(KEY, {})
        if isinstance(ours, dict) and ours.get("role") == role and layer.name == name:
            viewer.layers.remove(layer)
    array = np.ascontiguousarray(array)
    made = Labels(array, **keywords) if labels else Image(array.astype(np.float32), **keywords)
    active = viewer.layers.selection.active
    viewer.layers.append(made)
    if active is not None and active in viewer.layers:
        viewer.layers.selection.active = active
    return made
