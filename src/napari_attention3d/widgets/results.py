"""Results in the viewer: how they look, where they go, what they replace."""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .layer_transform import place_layer
from .layers import KEY, LayerSource, geometry_to_dict

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..models.card import ModelCard
    from ..session import Segmentation
    from ..volumes.volume import Volume

__all__ = [
    "LayerPlan",
    "ResultLayers",
    "plan_layers",
    "plan_preview",
    "prepare_label_colours",
]


@dataclass(frozen=True)
class LayerPlan:
    """A layer to be made: `role` is "labels", "attention:NAME", "probability:3", ..."""

    role: str
    kind: str
    array: Any
    keywords: dict[str, Any]


# ---- on the worker's thread


def plan_layers(result: Segmentation, source: LayerSource) -> list[LayerPlan]:
    """Turn a result into layers to make, from bottom to top; the labels come last."""
    head = f"{source.volume.name} · {result.card.name}"
    plans: list[LayerPlan] = []
    if result.probabilities is not None:
        plans += _probability_plans(result, source, head)
    if result.uncertainty is not None:
        keywords = {"name": f"{head} · uncertainty", "colormap": "viridis", "visible": False}
        plans.append(_plan("uncertainty", "image", result.uncertainty, source, result, keywords))
    # The network names the finest first; it comes last here, to lie on top and be shown.
    backwards = list(result.attention.items())[::-1]
    coarse_first = sorted(backwards, key=lambda item: item[1].geometry.voxel_volume, reverse=True)
    for index, (name, volume) in enumerate(coarse_first):
        plans.append(
            _attention_plan(name, volume, source, result, head, index == len(coarse_first) - 1)
        )
    plans.append(_labels_plan(result, source, head))
    return plans


def _plan(
    role: str,
    kind: str,
    volume: Volume,
    source: LayerSource,
    result: Segmentation,
    keywords: dict[str, Any],
) -> LayerPlan:
    if volume.geometry.is_close(source.volume.geometry):
        array, place = source.show(volume.array), dict(source.transform)
        geometry = source.record(result.provenance)[KEY]
    else:
        array, place = source.place(volume)
        geometry = {
            "geometry": geometry_to_dict(volume.geometry),
            "provenance": dict(result.provenance),
        }
    metadata = {KEY: {**geometry, "role": role, "model": result.card.name}}
    if kind == "image":
        keywords = {
            "blending": "additive",
            "interpolation2d": "linear",
            "interpolation3d": "linear",
            "contrast_limits": (0.0, 1.0),
            **keywords,
        }
    if isinstance(array, np.ndarray):  # else it lies on the disk
        array = np.ascontiguousarray(array)
    return LayerPlan(role, kind, array, {**place, **keywords, "metadata": metadata})


def _labels_plan(result: Segmentation, source: LayerSource, head: str) -> LayerPlan:
    keywords = _labels_look(result.card, head)
    return _plan("labels", "labels", result.labels, source, result, keywords)


def _labels_look(card: ModelCard, head: str) -> dict[str, Any]:
    classes = card.classes
    return {
        "name": f"{head} · labels",
        "features": {"index": list(range(len(classes))), "name": [c.name for c in classes]},
        "opacity": 0.6,
        "colours": [c.colour for c in classes],
    }


def plan_preview(card: ModelCard, source: LayerSource) -> tuple[LayerPlan, npt.NDArray[Any]]:
    """Return an empty labels layer to fill while a run is on its way.

    Returns
    -------
    tuple
        The plan, and the array (Z, Y, X), on the scan's own grid, of which the layer
        shows a view: what is written there appears when the layer is refreshed.
    """
    kind = np.uint8 if len(card.classes) <= 256 else np.uint16
    array = np.zeros(source.volume.geometry.shape, kind)
    metadata = {KEY: {**source.record()[KEY], "role": "labels", "model": card.name}}
    keywords = _labels_look(card, f"{source.volume.name} · {card.name}")
    keywords = {**source.transform, **keywords, "metadata": metadata}
    return LayerPlan("labels", "labels", source.show(array), keywords), array


def _attention_plan(
    name: str, volume: Volume, source: LayerSource, result: Segmentation, head: str, finest: bool
) -> LayerPlan:
    from ..attention import display_range  # needs torch, which is loaded by now

    spec = volume.metadata.get("map", {})
    low, high = spec.get("value_range", (0.0, 1.0))
    keywords = {
        "name": f"{head} · {spec.get('title', name)}",
        "colormap": "magma",
        "contrast_limits": display_range(np.asarray(volume.array), (low, high)),
        "opacity": 0.4,  # a gate that lets all through is 1: the scan must stay visible
        "visible": finest,
    }
    return _plan(f"attention:{name}", "image", volume, source, result, keywords)


def _probability_plans(result: Segmentation, source: LayerSource, head: str) -> list[LayerPlan]:
    volume = result.probabilities
    assert volume is not None
    plans = []
    for index, entry in enumerate(result.card.classes):
        if index == 0:
            continue
        keywords = {
            "name": f"{head} · probability of {entry.name}",
            "colormap": "viridis",
            "visible": False,
        }
        one = volume.replace(array=volume.array[index].astype(np.float32), channel_names=())
        plans.append(_plan(f"probability:{index}", "image", one, source, result, keywords))
    return plans


# ---- on the window's thread


class _Made:
    """A result layer, and whether the person has painted in it since."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.painted = False
        if hasattr(layer.events, "paint"):
            layer.events.paint.connect(self.on_paint)

    def on_paint(self, event: Any = None) -> None:
        self.painted = True


class ResultLayers:
    """Adds results to a viewer; a newer result takes the place of the older one.

    Only layers that were made here are ever replaced, and not once the person has
    painted in them. Layers are known by object: they may be renamed, moved or deleted.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._made: weakref.WeakKeyDictionary[Layer, dict[str, dict[str, _Made]]] = (
            weakref.WeakKeyDictionary()
        )

    def show(self, plans: list[LayerPlan], source_layer: Layer | None, key: str) -> list[Layer]:
        """Add the layers; replace what the same source layer and `key` showed before.

        Parameters
        ----------
        plans
            From bottom to top.
        source_layer
            The scan's layer; None or deleted: the results go on top.
        key
            What makes a result "the same again" (the model's name).
        """
        layers = self._viewer.layers
        old: dict[str, _Made] = {}
        if source_layer is not None:
            old = self._made.setdefault(source_layer, {}).get(key, {})
        old_here = {
            role: one for role, one in old.items() if one.layer in layers and not one.painted
        }
        renewed = {
            plan.role
            for plan in plans
            if plan.role in old_here and _fits_into(old_here[plan.role].layer, plan)
        }
        # All made before any is shown: should memory run out, nothing has changed.
        new = {plan.role: make_layer(plan) for plan in plans if plan.role not in renewed}
        made: dict[str, _Made] = {}
        selection = self._viewer.layers.selection.active
        for number, plan in enumerate(plans):
            before = old_here.get(plan.role)
            if before is not None and plan.role in renewed:
                _update(before.layer, plan)
                made[plan.role] = before
                continue
            layer = new[plan.role]
            if before is not None:
                _take_place(layers, before.layer, layer)
            else:
                layers.insert(self._index(made, plans[number + 1 :], old), layer)
            made[plan.role] = _Made(layer)
        for role, before in old.items():
            if role not in made and before.layer in layers and not before.painted:
                layers.remove(before.layer)
        if source_layer is not None:
            self._made[source_layer][key] = made
        if selection is not None and selection in layers:
            layers.selection.active = selection
        return [one.layer for one in made.values()]

    def preview(self, plan: LayerPlan, source_layer: Layer | None, key: str) -> Layer | None:
        """Add a labels layer that `show` will put the result into.

        Returns
        -------
        Layer or None
            None if an earlier result is there: it stays until the newer one is complete.
        """
        if source_layer is None or source_layer not in self._viewer.layers:
            return None
        made = self._made.setdefault(source_layer, {})
        before = made.get(key, {}).get("labels")
        if before is not None and before.layer in self._viewer.layers:
            return None
        active = self._viewer.layers.selection.active
        layer = make_layer(plan)
        self._viewer.layers.append(layer)
        made.setdefault(key, {})["labels"] = _Made(layer)
        if active is not None and active in self._viewer.layers:
            self._viewer.layers.selection.active = active
        return layer

    def drop(self, layer: Layer) -> None:
        """Remove a preview whose run came to nothing, unless the person has painted in it."""
        for results in self._made.values():
            for roles in results.values():
                for role, made in list(roles.items()):
                    if made.layer is layer and not made.painted:
                        del roles[role]
                        if layer in self._viewer.layers:
                            self._viewer.layers.remove(layer)

    def _index(
        self, made: dict[str, _Made], following: list[LayerPlan], old: dict[str, _Made]
    ) -> int:
        """Place of a new layer: above those made before it, below those that stay above it."""
        layers = self._viewer.layers
        below = [layers.index(one.layer) for one in made.values() if one.layer in layers]
        later = [old[plan.role].layer for plan in following if plan.role in old]
        above = [layers.index(layer) for layer in later if layer in layers]
        if below:
            return int(max(below)) + 1
        return int(min(above)) if above else len(layers)


def _fits_into(layer: Layer, plan: LayerPlan) -> bool:
    """Whether a newer result can go into the layer of the older one: it has the same grid."""
    if not isinstance(plan.array, np.ndarray) or not isinstance(layer.data, np.ndarray):
        return False
    if layer.data.shape != plan.array.shape or layer.data.dtype != plan.array.dtype:
        return False
    return "scale" in plan.keywords


def _update(layer: Layer, plan: LayerPlan) -> None:
    """Put a newer result into the layer of the older one."""
    keywords = plan.keywords
    layer.data = plan.array
    layer.metadata = keywords["metadata"]
    names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    place_layer(layer, {name: keywords[name] for name in names})
    if plan.kind == "labels":
        layer.features = keywords["features"]
        colours = _label_colours(keywords["colours"])
        if not _same_colours(layer.colormap, colours):
            layer.colormap = colours


def _same_colours(one: Any, other: Any) -> bool:
    """Whether two colormaps of labels show the same; setting one draws the layer anew."""
    first, second = (getattr(colours, "color_dict", None) for colours in (one, other))
    if first is None or second is None or set(first) != set(second):
        return False
    return all(np.allclose(first[label], second[label]) for label in first)


def _take_place(layers: Any, old: Layer, new: Layer) -> None:
    new.visible = old.visible
    new.opacity = old.opacity
    new.blending = old.blending
    new.name = old.name
    index = layers.index(old)
    layers.remove(old)
    layers.insert(index, new)


def make_layer(plan: LayerPlan) -> Layer:
    """Make the napari layer of a plan."""
    from napari.layers import Image, Labels

    keywords = dict(plan.keywords)
    if plan.kind == "image":
        return Image(plan.array, **keywords)
    colours = keywords.pop("colours")
    return Labels(plan.array, colormap=_label_colours(colours), **keywords)


@functools.cache
def prepare_label_colours() -> None:
    """Let napari compile what colours masks need: seconds that the window would stand still.

    Touches no layer; for the thread that works.
    """
    _label_colours(["#000000", "#ffffff"]).map(np.zeros((2, 2), np.uint8))


def _label_colours(colours: list[str]) -> Any:
    from napari.utils.colormaps import DirectLabelColormap

    table: dict[int | None, str] = {
        index: colour for index, colour in enumerate(colours) if index > 0
    }
    table[0] = "transparent"
    table[None] = "#ffffff"  # painted with a value that is no class
    return DirectLabelColormap(color_dict=table)
