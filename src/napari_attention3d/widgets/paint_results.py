"""What painting the attention changed, as layers and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .inspect_look import role_of
from .inspect_runs import Runs
from .inspect_section import outline_mask, show_map
from .inspect_switches import show_change

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.utils import Colormap

    from .paint_jobs import PaintResult

__all__ = ["remove_moved", "result_words", "show_moved"]

_WHAT = "mask change by painting"
_LESS, _MORE = "#ff7f2a", "#4db8ff"
_MEANING = "Attention after minus before painting. Blue: more than before. Orange: less."


def show_moved(runs: Runs, result: PaintResult) -> list[Layer]:
    """Show the change of each map, the largest one visible, and the mask's."""
    moved, source = result.moved, result.record.source
    outline_mask(runs)
    changes = {name: moved.change(name) for name in moved.before}
    largest = max(changes, key=lambda name: float(np.abs(changes[name].array).mean()))
    made = []
    for name, volume in changes.items():
        limit = float(np.percentile(np.abs(volume.array), 99.9)) or 1e-6
        title = str(volume.metadata["map"]["title"])
        about = {**volume.metadata["map"], "title": title, "description": _MEANING}
        layer = show_map(
            runs.viewer,
            source,
            volume.replace(metadata={**volume.metadata, "map": about}),
            f"moved:{name}",
            f"{source.volume.name} · {result.model.card.name} · change of {title}",
            colormap=_diverging(),
            contrast_limits=(-limit, limit),
            blending="additive",
            interpolation2d="linear",
            opacity=0.9,
            visible=name == largest,
        )
        made.append(layer)
    made.append(show_change(runs, result.record, moved.effect, _WHAT))
    return made


def remove_moved(viewer: Any, result: PaintResult) -> None:
    """Take the layers of a result out of the viewer, those that are still there."""
    scan = result.record.source.volume.name
    for layer in list(viewer.layers):
        role = role_of(layer)
        ours = role.startswith("moved:") or (role == "change" and layer.name.endswith(_WHAT))
        if ours and layer.name.startswith(f"{scan} · "):
            viewer.layers.remove(layer)


def result_words(result: PaintResult) -> str:
    """Say in figures what moved; the first line is for the status."""
    from ..attention.guide import LOOK, NOT

    moved = result.moved
    parts = []
    for value, words in ((LOOK, "look here"), (NOT, "not here")):
        shares = moved.shares(value)
        if shares is not None:
            parts.append(f"under “{words}” {_percent(shares[0])} → {_percent(shares[1])}")
    effect = moved.effect
    first = f"Attention {', '.join(parts)}; mask: Dice {effect.dice:.3f} to before, "
    first += f"{effect.changed_voxels:,} voxels changed"
    return (
        f"{first}\n{result.steps} steps. Shares are means over the maps, of all attention in the "
        "part compared. Blue: more attention than before, orange: less."
    )


def _percent(share: float) -> str:
    return f"{share:.2g} %"


def _diverging() -> Colormap:
    """Black in the middle, so that it adds nothing to the scan where nothing changed."""
    from napari.utils import Colormap

    return Colormap([_LESS, "#000000", _MORE], name="attention less or more")
