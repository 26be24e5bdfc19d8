"""Layers of an answer: the map, the outline of what could be seen, the place, the lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..geometry import Geometry
from ..provenance import made_with, origin
from ..volumes.volume import Volume
from .layer_transform import place_layer
from .layers import KEY, LayerSource, geometry_to_dict
from .probe import voxel_to_shown

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.utils import Colormap

    from ..attention.ask import Targets

__all__ = ["COLOURS", "AnswerLayers", "answer_colormap"]

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442")
"""Of asked places, one after the other; told apart by colour-blind people, too."""


def answer_colormap(number: int) -> Colormap:
    """Colours of an asked map: black is 0 in each, so that they can be added.

    Parameters
    ----------
    number
        How many answers are pinned already.
    """
    from napari.utils import Colormap
    from napari.utils.colormaps import ensure_colormap

    if number == 0:
        return ensure_colormap("inferno")
    colour = COLOURS[number % len(COLOURS)]
    return Colormap(["#000000", colour, "#ffffff"], name=f"answer {colour}", controls=[0, 0.8, 1])


class AnswerLayers:
    """Makes and renews the layers of one answer; they are removed together.

    Parameters
    ----------
    viewer
        Any viewer model.
    source
        The scan's layer as it was read.
    title
        Head of the layers' names.
    colour
        Of outline, place and lines.
    number
        How many answers are pinned already: each has colours of its own.

    Attributes
    ----------
    about
        What the layers note of the run that they come from.
    """

    def __init__(
        self, viewer: Any, source: LayerSource, title: str, colour: str, *, number: int = 0
    ) -> None:
        self.viewer, self.source = viewer, source
        self.title, self.colour = title, colour
        self.colormap = answer_colormap(number)
        self.pinned = 0
        self.about: dict[str, Any] = {}
        self._layers: dict[str, Layer] = {}
        self._made: dict[str, Any] = made_with(source=origin(source.volume))
        """What the newest map says of itself, for the layers that go with it."""

    @property
    def layers(self) -> list[Layer]:
        """Those that are still in the viewer."""
        return [layer for layer in self._layers.values() if layer in self.viewer.layers]

    def layer(self, part: str) -> Layer | None:
        """One of "map", "outline", "place" and "lines"."""
        found = self._layers.get(part)
        return found if found is not None and found in self.viewer.layers else None

    def show_map(self, volume: Volume, name: str, *, upper: float | None = None) -> None:
        """Show a map over the scan, from 0 to its largest value or to `upper`."""
        array, place = self.source.place(volume)
        array = np.ascontiguousarray(array, dtype=np.float32)
        limits = (0.0, float(upper if upper is not None else array.max()) or 1.0)
        metadata = self._metadata("asked", volume)
        for other in self.layers:  # they go with this answer now
            other.metadata = {KEY: {**other.metadata[KEY], "provenance": self._made}}
        layer = self.layer("map")
        if layer is not None and layer.data.shape == array.shape:
            np.copyto(layer.data, array)
            layer.refresh(extent=False, thumbnail=False)  # the limits renew it
            place_layer(layer, place)
            layer.contrast_limits_range = limits
            layer.contrast_limits = limits
            layer.metadata, layer.name = metadata, name
            return
        self._drop("map")
        from napari.layers import Image

        self._add(
            "map",
            Image(
                array.copy(),  # written over by the next answer
                name=name,
                colormap=self.colormap,
                blending="additive",
                interpolation2d="linear",
                interpolation3d="linear",
                contrast_limits=limits,
                opacity=0.8,
                metadata=metadata,
                **place,
            ),
        )

    def show_outline(self, support: Geometry) -> None:
        """Outline the box outside which the network could not look."""
        size = [float(n) for n in support.shape]
        # One voxel as large as the box: napari draws its edges in 2D and 3D alike.
        box = support.strided((1, 1, 1), size, [(n - 1) / 2 for n in size])
        array, place = self.source.place(Volume(np.zeros((1, 1, 1), np.float32), box))
        layer = self.layer("outline")
        if layer is None:
            from napari.layers import Image

            layer = Image(
                array,
                name=f"{self.title} · could look within",
                blending="additive",
                contrast_limits=(0, 1),
                metadata=self._metadata("asked-outline"),
                **place,
            )
            layer.bounding_box.line_color = self.colour
            layer.bounding_box.line_thickness = 2
            layer.bounding_box.points = False
            layer.bounding_box.visible = True
            self._add("outline", layer)
            return
        place_layer(layer, place)

    def show_place(self, voxel: npt.ArrayLike) -> None:
        """Mark the asked voxel (z, y, x) of the scan's own array."""
        shown = voxel_to_shown(self.source, voxel)[None]
        layer = self.layer("place")
        if layer is not None and len(layer.data) == 1:
            _write(layer, shown)
            return
        self._drop("place")
        from napari.layers import Points

        size = max(2.0, max(self.source.shown.shape) / 40)
        self._add(
            "place",
            Points(
                shown,
                name=f"{self.title} · asked here",
                symbol="ring",
                size=size,
                face_color="transparent",
                border_color=self.colour,
                border_width=0.15,
                blending="translucent_no_depth",
                metadata=self._metadata("asked-place"),
                **self.source.transform,
            ),
        )

    def show_lines(self, targets: Targets | None) -> None:
        """Draw lines to the strongest targets, the wider the share the more opaque."""
        if targets is None or not len(targets.shares):
            self._drop("lines")
            return
        origin, ends = (
            voxel_to_shown(self.source, self.source.volume.geometry.to_index(p))
            for p in (targets.origin, targets.places)
        )
        vectors = np.stack((np.broadcast_to(origin, ends.shape), ends - origin), axis=1)
        from napari.layers import Vectors
        from napari.utils.colormaps.standardize_color import transform_color

        colours = np.repeat(transform_color(self.colour), len(ends), axis=0)
        # The stronger, the more opaque; the weakest can still be seen.
        colours[:, 3] = 0.25 + 0.75 * targets.shares / (targets.shares.max() or 1.0)
        features = {"share of attention": targets.shares}
        layer = self.layer("lines")
        if isinstance(layer, Vectors):  # a new layer would cost a second
            if layer.data.shape == vectors.shape:
                _write(layer, vectors)
            else:
                layer.data = vectors
            layer.features, layer.edge_color = features, colours
            return
        self._add(
            "lines",
            Vectors(
                vectors,
                name=f"{self.title} · strongest targets",
                features=features,
                edge_color=colours,
                edge_width=max(self.source.shown.shape) / 200,
                blending="translucent_no_depth",
                vector_style="line",
                projection_mode="all",
                metadata=self._metadata("asked-lines"),
                **self.source.transform,
            ),
        )

    def pin(self, number: int) -> None:
        """Give the answer a number, in titles and in what its layers note."""
        self.title += f" {number}"
        self.pinned = number
        for layer in self.layers:
            layer.metadata = {**layer.metadata, KEY: {**layer.metadata[KEY], "pin": number}}
            layer.name = f"📌 {number} {layer.name}"

    def limit(self, upper: float | None = None) -> float:
        """Let the map's colours reach from 0 to a value, or to its own largest one.

        Returns
        -------
        float
            Its own largest value; 0 without a map.
        """
        layer = self.layer("map")
        if layer is None:
            return 0.0
        own = float(layer.data.max())
        top = (own if upper is None else upper) or 1.0
        if tuple(layer.contrast_limits) != (0.0, top):
            layer.contrast_limits_range = (0.0, top)
            layer.contrast_limits = (0.0, top)
        return own

    def remove(self) -> None:
        """Take the layers out of the viewer."""
        for part in list(self._layers):
            self._drop(part)

    def set_visible(self, on: bool) -> None:
        """Show or hide them all."""
        for layer in self.layers:
            layer.visible = on

    def _metadata(self, role: str, volume: Volume | None = None) -> dict[str, Any]:
        entry: dict[str, Any] = {"role": role, **self.about}
        if self.pinned:
            entry["pin"] = self.pinned
        if volume is not None:
            entry["geometry"] = geometry_to_dict(volume.geometry)
            entry |= dict(volume.metadata)
            self._made = dict(volume.metadata.get("provenance") or {})
        entry["provenance"] = self._made
        return {KEY: entry}

    def _add(self, part: str, layer: Layer) -> None:
        layers = self.viewer.layers
        active = layers.selection.active
        layers.append(layer)
        if active is not None and active in layers:
            layers.selection.active = active
        self._layers[part] = layer

    def _drop(self, part: str) -> None:
        layer = self.layer(part)
        self._layers.pop(part, None)
        if layer is not None:
            self.viewer.layers.remove(layer)


def _write(layer: Layer, values: npt.ArrayLike) -> None:
    """Change a layer's own array: a new one would let napari go through all layers' extents."""
    layer.data[:] = values
    layer.refresh(extent=False, thumbnail=False)
