"""A large scan in parts that several workers compute into the same OME-Zarr."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..geometry import Geometry
from ..inference.preprocess import crop_region
from ..inference.sink import label_type
from ..models.card import ModelCard
from ..progress import Job, Progress
from ..provenance import fingerprint
from ..recipe import Recipe
from ..volumes import Volume, read_volume
from ..volumes.formats.ome_zarr_write import StreamedZarr, default_chunks, streamed
from .outcome import Outcome, count_volumes
from .plan import Plan
from .run import Machine, measured, write_table
from .work import PartDone, measure_on_worker, part_on_worker

if TYPE_CHECKING:
    from .cluster import Cluster

__all__ = ["Split", "split_scan"]

_PARTS_PER_WORKER = 2


@dataclass(frozen=True)
class Split:
    """A scan to be shared by workers.

    Parameters
    ----------
    planes
        Of the stored chunks: no two parts write into the same one.
    """

    plan: Plan
    recipe: Recipe
    machine: Machine
    scan: Volume
    grid: Geometry
    planes: int

    def parts(self, workers: int) -> list[Machine]:
        """A machine with its region for each part, along z of the scan's array."""
        z0, z1 = self._region[0]
        rows = -(-(z1 - z0) // self.planes)
        step = self.planes * max(1, rows // (_PARTS_PER_WORKER * max(1, workers)))
        return [self._machine(z, min(z + step, z1)) for z in range(z0, z1, step)]

    @property
    def _region(self) -> tuple[tuple[int, int], ...]:
        return self.machine.region or tuple((0, n) for n in self.scan.geometry.shape)

    def _machine(self, start: int, stop: int) -> Machine:
        return replace(self.machine, region=((start, stop), *self._region[1:]))

    def run(self, cluster: Cluster) -> Job[Outcome]:
        """Job: measure the scan once, then segment its parts wherever a worker is free."""
        begin = time.perf_counter()
        card = self.recipe.load_model().card
        z0 = self._region[0][0]
        first = cluster.submit(measure_on_worker, self.plan, self.recipe, self._machine(z0, z0 + 1))
        for _ in cluster.done([first]):
            yield Progress(0, 0, f"{self.plan.image.name}: measuring the scan's intensities")
        provenance = cluster.result(first)
        with ExitStack() as stack:
            writers = self._open(stack, card)
            arrays = {name: str(writer.path.resolve()) for name, writer in writers.items()}
            known = provenance["calibration"] or None
            parts = [
                cluster.submit(part_on_worker, self.plan, self.recipe, machine, arrays, z0, known)
                for machine in self.parts(cluster.workers)
            ]
            over: list[PartDone] = []
            for future in cluster.done(parts):
                if future is not None:
                    over.append(cluster.result(future))
                words = f"{self.plan.image.name}: {cluster.words()}, {len(over)} of {len(parts)}"
                yield Progress(len(over), len(parts), f"{words} parts")
            outcome = yield from self._finish(writers, over, provenance, card)
        return replace(outcome, seconds=time.perf_counter() - begin)

    def _open(self, stack: ExitStack, card: ModelCard) -> dict[str, StreamedZarr]:
        """The files to be, at the paths of `run.segment_file`."""
        kinds = {"labels": label_type(len(card.classes))}
        if self.recipe.uncertainty:
            kinds["uncertainty"] = np.dtype(np.float32)
        return {
            name: stack.enter_context(
                streamed(
                    self._path(name),
                    self.grid.shape,
                    kind,
                    self.grid,
                    name=f"{self.scan.name} {name}",
                    kind="labels" if name == "labels" else "image",
                    version=self.recipe.zarr_version,
                )
            )
            for name, kind in kinds.items()
        }

    def _finish(
        self,
        writers: dict[str, StreamedZarr],
        over: list[PartDone],
        provenance: dict[str, Any],
        card: ModelCard,
    ) -> Job[Outcome]:
        warnings = list(dict.fromkeys(w for part in over for w in part.warnings))
        if not all(part.empty for part in over):  # parts without any class are no wonder
            warnings = [w for w in warnings if not w.startswith("no voxel was given a class")]
        region = self.machine.options(self.recipe).model_dump(mode="json")["region"]
        provenance = {
            **provenance,
            "options": {**provenance["options"], "region": region},
            "parts": len(over),
            "seconds": round(sum(part.seconds for part in over), 3),
            "device": ",".join(sorted({part.device for part in over})),
            "warnings": warnings,
            "fingerprint": fingerprint(writers["labels"].array),
        }
        classes = [c.model_dump() for c in card.classes]
        about = {"provenance": provenance, "classes": classes}
        if "nifti" in self.scan.metadata:
            about["nifti"] = self.scan.metadata["nifti"]
        for writer in writers.values():
            writer.metadata.update(about)
        labels = Volume(
            writers["labels"].array, self.grid, "labels", metadata={**about, "kind": "labels"}
        )
        volumes = yield from count_volumes(labels)
        written = {name: str(self._path(name)) for name in writers}
        if self.recipe.measure is not None:
            table = yield from measured(labels, self.scan, {}, self.recipe)
            written |= write_table(self.plan, table, self.recipe)
        for name, writer in writers.items():
            for done, total in writer.coarser():
                yield Progress(done, total, f"Coarser levels of {name}")
        return Outcome(
            self.plan,
            "done",
            0.0,
            provenance["device"],
            tuple(warnings),
            tuple(self.scan.notes),
            volumes=volumes,
            written=written,
            provenance={k: v for k, v in provenance.items() if k != "calibration"},
        )

    def _path(self, name: str) -> Path:
        return self.plan.labels if name == "labels" else self.plan.beside(name)


def split_scan(plan: Plan, recipe: Recipe, machine: Machine, large: int) -> Split | None:
    """A `Split`, if the scan is large and its results can be written in parts; else None."""
    if not plan.is_zarr or recipe.clean_up:
        return None
    if recipe.attention or recipe.probabilities:
        return None
    try:
        scan = read_volume(plan.image, time=recipe.time)
        _, grid = crop_region(scan.geometry, machine.region)
    except Exception:
        return None  # told where it is segmented
    planes = default_chunks(grid.shape)[0]
    if int(np.prod(grid.shape)) <= large or grid.shape[0] <= planes:
        return None
    return Split(plan, recipe, machine, scan, grid, planes)
