"""Names and colours of classes, as a Labels layer has them and as volumes do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["class_keywords", "layer_classes"]


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
    features, colormap = meta.get("features"), meta.get("colormap")
    if features is None or colormap is None or not {"index", "name"} <= set(features):
        return []
    names = [str(name) for name in features["name"]]
    if not names or list(features["index"]) != list(range(len(names))):
        return []
    colours = np.asarray(colormap.map(np.arange(len(names))))[:, :3]
    hexes = ["#" + bytes(np.rint(255 * one).astype(np.uint8)).hex() for one in colours]
    return [{"name": n, "colour": c} for n, c in zip(names, hexes, strict=True)]
