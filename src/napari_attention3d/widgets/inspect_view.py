"""How the view shows maps: the scan darkened and the mask outlined, colours stretched."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QWidget

from .inspect_look import base_colormap, sample, set_threshold
from .inspect_maps import MapsSection
from .inspect_runs import Runs

if TYPE_CHECKING:
    from napari.layers import Image, Layer

__all__ = ["ViewRow"]

_SCAN, _MAP = 0.55, 0.5
"""In 2D: share of the scan's opacity that is left; a map's own."""
_MASK_3D, _MAP_3D = 0.45, 0.9
"""In 3D, where a map is a plane through the mask and the scan is not shown."""
_MAPS = ("Where it looked", "On request", "How sure it is")


def _darker(own: float) -> float:
    return _SCAN * own


class ViewRow(QWidget):
    """Two boxes below the list of maps.

    Parameters
    ----------
    runs
        Knows scan and mask.
    maps
        The list: the chosen map's colours are stretched.
    """

    def __init__(self, runs: Runs, maps: MapsSection) -> None:
        super().__init__()
        self.runs, self.maps, self.viewer = runs, maps, runs.viewer
        self._limits: weakref.WeakKeyDictionary[Image, tuple[float, float]] = (
            weakref.WeakKeyDictionary()
        )
        self.dark_box = QCheckBox("Dark scan, outlined mask")
        self.dark_box.setToolTip(
            "2D: darkens the scan and shows the mask as outlines, so that maps stand out. "
            "3D: shows maps as a plane through the mask, at the slice in view"
        )
        self.stretch_box = QCheckBox("Stretch colours")
        self.stretch_box.setToolTip(
            "Spreads the chosen map's colours over what it holds (1st to 99.8th percentile), "
            "in place of its whole range. Shows detail; maps can't be compared by colour any more"
        )
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.dark_box)
        row.addWidget(self.stretch_box)
        row.addStretch(1)
        self.dark_box.toggled.connect(self._on_dark)
        self.stretch_box.toggled.connect(self._on_stretch)
        maps.chosen.connect(self._on_chosen)

    def start(self) -> None:
        """Follow the viewer's change between 2D and 3D."""
        self.viewer.dims.events.ndisplay.connect(self._again)

    def close_down(self) -> None:
        """Follow it no longer."""
        self.viewer.dims.events.ndisplay.disconnect(self._again)

    def _again(self, event: Any = None) -> None:
        if self.dark_box.isChecked():
            self._on_dark(True)

    def _on_dark(self, on: bool) -> None:
        wanted: dict[Layer, dict[str, Any]] = {}
        if on:
            scan, mask = self.runs.chooser.layer, self.runs.mask_layer()
            flat = self.viewer.dims.ndisplay == 2
            if scan is not None:
                wanted[scan] = {"opacity": _darker} if flat else {"visible": False}
            if mask is not None:
                # In 3D a mask has no outlines.
                wanted[mask] = {"contour": 1, "opacity": 1.0} if flat else {"opacity": _MASK_3D}
            for entry in self.maps.entries:
                if entry.group in _MAPS:
                    wanted[entry.layer] = {"opacity": _MAP if flat else _MAP_3D}
                    if not flat:
                        wanted[entry.layer]["depiction"] = "plane"
                        self._lay_plane(entry.layer)
        self.runs.dress.claim(self, wanted)

    def _lay_plane(self, layer: Image) -> None:
        """Choose the slice in view: all of a map at once hides itself."""
        normal = [0, 0, 0]
        normal[self.viewer.dims.order[-3] - (self.viewer.dims.ndim - 3)] = 1
        layer.plane.normal = tuple(normal)
        layer.plane.thickness = 1
        point = np.asarray(self.viewer.dims.point, dtype=float)[-3:]
        layer.plane.position = tuple(np.asarray(layer.world_to_data(point), dtype=float)[-3:])

    def _on_stretch(self, on: bool) -> None:
        layer = self.maps.layer
        if layer is None:
            return
        low, high = (float(v) for v in layer.contrast_limits)
        if on and layer not in self._limits:
            values = sample(layer)
            first, last = (float(v) for v in np.percentile(values, (1, 99.8)))
            if last > first:
                self._limits[layer] = low, high
                self._set(layer, first, last)
        elif not on and layer in self._limits:
            self._set(layer, *self._limits.pop(layer))

    @staticmethod
    def _set(layer: Image, low: float, high: float) -> None:
        """Change what the colours span; a threshold, which is a share of that, goes."""
        layer.colormap = base_colormap(layer)
        layer.contrast_limits_range = (
            min(low, layer.contrast_limits_range[0]),
            max(high, layer.contrast_limits_range[1]),
        )
        layer.contrast_limits = low, high
        set_threshold(layer, low)

    def _on_chosen(self) -> None:
        layer = self.maps.layer
        self.stretch_box.blockSignals(True)
        self.stretch_box.setChecked(layer is not None and layer in self._limits)
        self.stretch_box.blockSignals(False)
