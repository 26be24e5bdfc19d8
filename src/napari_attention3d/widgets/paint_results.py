"""What painting the attention changed, as layers and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .inspect_look import map_layers
from .inspect_runs import Runs
from .inspect_section import outline_mask, show_map
from .inspect_switches import show_change
from .paint_layers import find_strokes

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.utils import Colormap

    from .paint_jobs import PaintResult

__all__ = ["MovedLayers", "result_words"]

_WHAT = "mask change by painting"
_LESS, _MORE = "#ff7f2a", "#4db8ff"
_MEANING = "Attention after minus before painting. Blue: more than before. Orange: less."
_DIMMED = 0.4
"""Opacity of the scan under a difference of maps, at most."""


class MovedLayers:
    """Layers of a result, and how the others looked before.

    Parameters
    ----------
    runs
        Of the tab.
    result
        The change of each map is shown, the largest one visible, and the mask's. The scan
        is dimmed and other maps are hidden meanwhile, as additive colours add up.
    """

    def __init__(self, runs: Runs, result: PaintResult) -> None:
        self.viewer, self._dress = runs.viewer, runs.dress
        moved, source = result.moved, result.record.source
        outline_mask(runs)
        wanted: dict[Layer, dict[str, Any]] = {
            entry.layer: {"visible": False} for entry in map_layers(self.viewer)
        }
        scan, strokes = runs.chooser.layer, find_strokes(self.viewer, source)
        if scan is not None:
            wanted[scan] = {"opacity": lambda own: min(_DIMMED, own)}
        if strokes is not None:
            wanted[strokes] = {"contour": 1}
        self._dress.claim(self, wanted)
        changes = {name: moved.change(name) for name in moved.before}
        largest = max(changes, key=lambda name: float(np.abs(changes[name].array).mean()))
        self.layers = []
        for name, volume in changes.items():
            limit = float(np.percentile(np.abs(volume.array), 99.9)) or 1e-6
            title = str(volume.metadata["map"]["title"])
            about = {**volume.metadata["map"], "description": _MEANING}
            layer = show_map(
                self.viewer,
                result.record,
                volume.replace(metadata={**volume.metadata, "map": about}),
                f"moved:{name}",
                f"{source.volume.name} · {result.model.card.name} · change of {title}",
                colormap=_diverging(),
                contrast_limits=(-limit, limit),
                blending="additive",
                interpolation2d="linear",
                opacity=1.0,
                visible=name == largest,
            )
            self.layers.append(layer)
        self.layers.append(show_change(runs, result.record, moved.effect, _WHAT))

    def remove(self) -> None:
        """Take the layers out of the viewer, those that are still there; show the others again."""
        for layer in self.layers:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self._dress.release(self)


def result_words(result: PaintResult) -> str:
    """Say in figures what moved; the first line is for the status."""
    from ..attention.guide import LOOK, NOT

    moved = result.moved
    parts = []
    for value, words in ((LOOK, "look here"), (NOT, "not here")):
        shares = moved.shares(value)
        if shares is not None:
            times = f" (× {shares[1] / shares[0]:.2f})" if shares[0] else ""
            parts.append(f"“{words}” {_percent(shares[0])} → {_percent(shares[1])}{times}")
    effect = moved.effect
    own = [float(v) for v in effect.table.column("Dice")[:-1] if isinstance(v, int | float)]
    classes = f" ({np.mean(own):.3f} mean of its {len(own)} classes)" if len(own) > 1 else ""
    first = f"Share of attention under {', '.join(parts)}. Mask: Dice {effect.dice:.3f}{classes} "
    first += "to before, "
    first += f"{effect.changed_voxels:,} voxels changed"
    return (
        f"{first}\n{result.steps} steps. Shares are means over the maps, of all attention in the "
        "part compared. Blue: more attention than before, orange: less."
    )


def _percent(share: float) -> str:
    return f"{share:.3g} %"


def _diverging() -> Colormap:
    """Black in the middle, so that it adds nothing to the scan where nothing changed."""
    from napari.utils import Colormap

    return Colormap([_LESS, "#000000", _MORE], name="attention less or more")
