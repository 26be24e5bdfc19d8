"""Names and colours of classes, as a Labels layer has them and as volumes do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["class_keywords", "layer_class_names", "layer_classes"]


def class_keywords(classes: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Names (shown in the status bar) and colours of labels 0, 1, 2, ..."""
    if not classes:
        return {}
    table: dict[int | None, str] = {v: c["colour"] for v, c in enumerate(classes) if v > 0}
    names = [c["name"] for c in classes]
    return {
        "features": {"index": list(range(len(names))), "name": names},
        "colormap": {**table, 0: "transparent", None: "#ffffff"},
    }


def layer_classes(meta: Mapping[str, Any]) -> list[dict[str, str]]:
    """Names and colours of a Labels layer that tells names for labels 0, 1, 2, ...; else none.

    Parameters
    ----------
    meta
        Layer attributes, "features" and "colormap" among them.
    """
    names, colormap = layer_class_names(meta), meta.get("colormap")
    if not names or colormap is None:
        return []
    table = getattr(colormap, "color_dict", None)
    if table is None:
        colours = np.asarray(colormap.map(np.arange(len(names))))
    else:  # its `map` compiles code first, which takes the window a second
        colours = np.array([table.get(i, table[None]) for i in range(len(names))], float)
    hexes = ["#" + bytes(np.rint(255 * one).astype(np.uint8)).hex() for one in colours[:, :3]]
    return [{"name": n, "colour": c} for n, c in zip(names, hexes, strict=True)]


def layer_class_names(meta: Mapping[str, Any]) -> list[str]:
    """Names that a Labels layer tells for labels 0, 1, 2, ...; else none.

    Parameters
    ----------
    meta
        Layer attributes, "features" among them.
    """
    features = meta.get("features")
    if features is None or not {"index", "name"} <= set(features):
        return []
    names = [str(name) for name in features["name"]]
    return names if list(features["index"]) == list(range(len(names))) else []
