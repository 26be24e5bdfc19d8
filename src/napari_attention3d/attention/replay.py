"""A finished run, to be asked again: the same grid, statistics and tiles, a tile at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry import Geometry
from ..inference.device import Precision
from ..inference.plans import ExactPlan, plan_multiple
from ..inference.preprocess import Prepared, Preprocessor
from ..inference.runner import private_copy
from ..inference.setup import focus_on_grid
from ..inference.tiling import Box, TilePlan, plan_tiles
from ..models.store import Model
from ..networks.norm import Calibration, calibrating, clear_calibration, load_calibration
from ..networks.self_attention import PositionRecord
from ..progress import Job, Progress
from ..volumes.volume import Volume
from .parts import has_position_attention, position_parts

__all__ = ["Look", "Replay", "stale_reason"]

KEPT_BYTES = 2**28
"""Queries and keys of looked-at tiles that are kept in memory."""


@dataclass(frozen=True)
class Look:
    """One tile, computed alone.

    Attributes
    ----------
    box
        The tile on the model's grid.
    logits
        float32 (K, z, y, x), on the CPU.
    maps
        By name: (z, y, x) float32.
    records
        Queries and keys of the position attentions, by map name.
    additions
        By map name, (z, y, x): how long the vector is that position attention adds at
        each voxel, against the features that it adds to.
    """

    box: Box
    logits: Tensor
    maps: dict[str, Tensor]
    records: dict[str, PositionRecord] = field(default_factory=dict)
    additions: dict[str, Tensor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory that keeping it takes."""
        tensors = [self.logits, *self.maps.values(), *self.additions.values()]
        for record in self.records.values():
            tensors += [record.queries, record.keys]
        return sum(t.numel() * t.element_size() for t in tensors)


def stale_reason(model: Model, provenance: Mapping[str, Any]) -> str:
    """Why results of a run do not belong to a model; empty if they do."""
    then = provenance.get("model", {})
    if then.get("name") != model.card.name:
        return f"made by {then.get('name')}, not by {model.card.name}"
    if then.get("sha256") != model.card.sha256:
        return f"{model.card.name} has changed since: its weights are others"
    return ""


class Replay:
    """A scan and a model, with the tiles and statistics of a run.

    Parameters
    ----------
    model
        Its network is left as it is.
    volume
        The scan.
    prepared
        The scan on the model's grid.
    plan
        Tiles of the whole grid.
    calibration
        Statistics of the scan-calibrated norms; None: each tile's own.
    precision
        Number format of the run.
    box
        The part of the grid that the run covered; None: all.
    exact
        How the exact pass went over the grid; None: the run went tile by tile.
    """

    def __init__(
        self,
        model: Model,
        volume: Volume,
        prepared: Prepared,
        plan: TilePlan,
        calibration: Calibration | None,
        precision: Precision,
        box: Box | None = None,
        exact: ExactPlan | None = None,
    ) -> None:
        self.box = box or Box((0, 0, 0), plan.shape)
        self.exact = exact
        self.model, self.volume, self.prepared, self.plan = model, volume, prepared, plan
        self.precision = precision
        self.calibration = calibration
        self.network = private_copy(model.network)
        if calibration is not None:
            load_calibration(self.network, calibration)
        self._looks: OrderedDict[Box, Look] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def open(
        cls, volume: Volume, model: Model, provenance: Mapping[str, Any] | None = None
    ) -> Job[Replay]:
        """Prepare a scan as a run did.

        Parameters
        ----------
        volume
            The scan that was segmented.
        model
            That did it.
        provenance
            Of the run's result; None: no run, the model's own tile size, and each tile's
            own statistics.

        Yields
        ------
        Progress
            While the scan is read.

        Raises
        ------
        InputError
            If model or scan are not those of the run.
        """
        yield Progress(0, 0, "Preparing the scan")
        about: Mapping[str, Any] = provenance or {}
        if provenance is not None:
            reason = stale_reason(model, provenance)
            if reason:
                raise InputError(f"the maps are out of date: {reason}; press Run again")
        channel = about.get("options", {}).get("channel")
        prepared = yield from Preprocessor(model.card).open(volume, channel=channel)
        shape = prepared.grid.shape
        if provenance is not None and list(shape) != list(about["grid"]["shape"]):
            raise InputError(
                f"the run saw {about['grid']['shape']} voxels of the model's grid, this scan gives "
                f"{list(shape)}: it has changed since; press Run again"
            )
        tiles = about.get("plan", {})
        tile = tiles.get("tile") or [
            min(p, n) for p, n in zip(model.card.patch_size, shape, strict=True)
        ]
        overlap = tiles.get("overlap", model.card.min_overlap)
        plan = plan_tiles(shape, tile, overlap, plan_multiple(model.network))
        calibration = None if provenance is None else about.get("calibration", {})
        precision = Precision(about.get("precision", "float32"), "as in the run")
        part = tiles.get("box")
        box = None if part is None else Box(tuple(part[0]), tuple(part[1]))
        exact = None
        if tiles.get("engine") == "exact":
            axis = "zyx".index(tiles["axis"])
            whole = box or Box((0, 0, 0), plan.shape)
            exact = ExactPlan(plan.shape, whole, axis, tiles["planes"], tiles["columns"])
        return cls(model, volume, prepared, plan, calibration, precision, box, exact)

    # ---- places

    @property
    def grid(self) -> Geometry:
        """The model's whole grid."""
        return self.prepared.grid

    def on_grid(self, voxel: Sequence[float]) -> tuple[float, float, float]:
        """Where a voxel (z, y, x) of the scan's array lies on the model's grid.

        Raises
        ------
        InputError
            If it is outside the scan.
        """
        size = self.volume.geometry.shape
        if any(not -0.5 <= v <= n - 0.5 for v, n in zip(voxel, size, strict=True)):
            raise InputError("this place lies outside the scan; click inside it")
        place = focus_on_grid(self.prepared.placement, voxel)
        assert place is not None
        return place

    def tile_at(self, place: Sequence[float]) -> Box:
        """Return the tile that counts most in the blend at a place of the model's grid."""
        inside = [min(max(round(p), 0), n - 1) for p, n in zip(place, self.plan.shape, strict=True)]
        best: tuple[float, Box | None] = (-1.0, None)
        for tile in self.plan.tiles:
            local = [p - a for p, a in zip(inside, tile.start, strict=True)]
            if any(not 0 <= p < n for p, n in zip(local, tile.shape, strict=True)):
                continue
            lines = self.plan.weights(tile)
            weight = float(np.prod([line[p] for line, p in zip(lines, local, strict=True)]))
            if weight > best[0]:
                best = weight, tile
        assert best[1] is not None, "tiles cover the grid"
        return best[1]

    def window_at(self, place: Sequence[float], size: Sequence[int] | None = None) -> Box:
        """Return a window of a tile's size around a place, moved inside where the scan ends."""
        starts, stops = [], []
        size = size or self.plan.tile
        multiple = plan_multiple(self.model.network)
        for p, t, n, m in zip(place, size, self.plan.shape, multiple, strict=True):
            t = min(int(t), n)
            start = min(max(round((p - t / 2) / m) * m, 0), (n - t) // m * m)
            starts.append(start)
            stops.append(min(start + t, n))
        return Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))

    def geometry_of(self, box: Box) -> Geometry:
        """Where a box of the model's grid lies, in the scan's unit."""
        return self._in_unit(self.grid.cropped(box.start, box.shape))

    def map_geometry(self, name: str, box: Box) -> Geometry:
        """Where the voxels of a map of a tile lie, in the scan's unit."""
        spec = self.model.network.map_specs[name]
        part = box.on_stride(spec.stride)
        whole = self.grid.strided(part.shape, spec.stride, spec.offset)
        return self._in_unit(whole.cropped(part.start, part.shape))

    def _in_unit(self, geometry: Geometry) -> Geometry:
        unit = self.volume.geometry.unit
        return geometry if geometry.unit == unit else geometry.with_unit(unit)

    # ---- computing

    def kept(self, box: Box) -> Look | None:
        """Return a tile that was looked at before and is still kept."""
        return self._looks.get(box)

    def kept_around(self, place: Sequence[float]) -> Look | None:
        """Return a kept tile or window with a place of the model's grid in it.

        The tile that counts most there if it is kept, else the one that reaches furthest
        around the place.
        """
        found = self.kept(self.tile_at(place))
        if found is not None:
            return found
        with self._lock:
            looks = list(self._looks.values())
        best: tuple[float, Look | None] = (-0.5, None)
        for look in looks:
            rim = min(
                min(p - a, b - 1 - p)
                for p, a, b in zip(place, look.box.start, look.box.stop, strict=True)
            )
            if rim >= best[0]:
                best = rim, look
        return best[1]

    def look(self, box: Box) -> Look:
        """Compute a tile alone, with its queries and keys, or return the kept one."""
        found = self._looks.get(box) or self._compute(box)
        with self._lock:  # rows of kept tiles are asked for from the window's thread
            self._looks[box] = found
            self._looks.move_to_end(box)
            size = sum(one.bytes for one in self._looks.values())
            while len(self._looks) > 1 and size > KEPT_BYTES:
                size -= self._looks.popitem(last=False)[1].bytes
        return found

    def read(self, box: Box) -> Tensor:
        """Return the network's input for a box: float32 (1, C, z, y, x) on its device."""
        return self.prepared.source.read(box)[None].to(self.model.network.device)

    def forward(self, x: Tensor, **options: Any) -> Any:
        """Run the network of the run over an input, without gradients."""
        device = self.model.network.device
        self.network.to(device)  # statistics of norms follow the shared weights
        with torch.inference_mode(), self.precision.context(device):
            if self.calibration is not None:
                return self.network(x, **options)
            clear_calibration(self.network)
            with calibrating(self.network):
                return self.network(x, **options)

    def _compute(self, box: Box) -> Look:
        records: dict[str, PositionRecord] = {}
        additions: dict[str, Tensor] = {}
        hooks = []
        options: dict[str, Any] = {}
        if has_position_attention(self.network):
            options["keep"] = records
            for name, module in position_parts(self.network).items():

                def note(_: Any, given: tuple[Tensor], out: Tensor, name: str = name) -> None:
                    before = given[0].float()
                    added = torch.linalg.vector_norm(out.float() - before, dim=1)
                    there = torch.linalg.vector_norm(before, dim=1).clamp(min=1e-6)
                    additions[name] = (added / there)[0].cpu()

                hooks.append(module.register_forward_hook(note))
        try:
            output = self.forward(self.read(box), return_maps=True, **options)
        finally:
            for hook in hooks:
                hook.remove()
        kept = {
            name: PositionRecord(r.queries.float().cpu(), r.keys.float().cpu(), r.kv_pool, r.window)
            for name, r in records.items()
        }
        maps = {name: value[0, 0].float().cpu() for name, value in output.maps.items()}
        return Look(box, output.logits[0].float().cpu(), maps, kept, additions)
