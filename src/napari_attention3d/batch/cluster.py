"""Many machines: scans, or parts of one large scan, on the workers of a dask cluster.

Every machine must have this version of the program and see the scans, the masks' folder and
the models under the same paths. A worker that dies loses nothing: what it had begun is given
to another one, and a file is complete or not there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .. import __version__
from ..errors import InputError
from ..models.store import Model
from ..progress import Job, Progress
from ..recipe import ModelReference, Recipe
from .outcome import Outcome
from .parts import Split, split_scan
from .plan import Plan
from .run import Machine, skipped, told
from .work import segment_on_worker

__all__ = ["Cluster", "connected", "run_on_cluster"]

_LARGE = 2**28
"""An OME-Zarr of more voxels is cut into parts that the workers share."""
_PAUSE = 0.2  # s, between looks at what is done
_TIMEOUT = 30  # s, for the scheduler to answer


def run_on_cluster(
    scheduler: str,
    plans: Sequence[Plan],
    model: Model,
    recipe: Recipe,
    machine: Machine | None = None,
    *,
    overwrite: bool = False,
    large: int = _LARGE,
) -> Job[list[Outcome]]:
    """Job: as `run.run_all`, by the workers of a dask cluster.

    Parameters
    ----------
    scheduler
        Its address, ``tcp://HOST:PORT``.
    large
        A scan of more voxels whose results go to OME-Zarr, without clean-up,
        attention maps and probabilities, is shared by the workers, in parts along z; others
        are one worker's each.

    Raises
    ------
    InputError
        If distributed is not installed, or no scheduler answers.
    """
    machine = machine or Machine()
    name = model.card.name if model.path is None else str(model.path.resolve())
    reference = ModelReference(name=name, sha256=model.card.sha256)
    recipe = recipe.model_copy(update={"model": reference})
    outcomes: dict[Plan, Outcome] = {}

    def over(outcome: Outcome) -> Progress:
        outcomes[outcome.plan] = outcome
        return Progress(len(outcomes), len(plans), outcome.plan.image.name, outcome)

    with connected(scheduler) as cluster:
        waiting: dict[Any, Plan] = {}
        parted: list[Split] = []
        for plan in plans:
            if plan.problem:
                yield over(Outcome(plan, "failed", error=plan.problem))
                continue
            if plan.labels.exists() and not overwrite:
                yield over((yield from skipped(plan, model, recipe)))
                continue
            split = split_scan(plan, recipe, machine, large)
            if split is not None:
                parted.append(split)
            else:
                waiting[cluster.submit(segment_on_worker, plan, recipe, machine)] = plan
        for future in cluster.done(waiting):
            if future is None:
                yield Progress(len(outcomes), len(plans), cluster.words())
            else:
                yield over(_outcome(cluster, waiting[future], future))
        for split in parted:
            yield over((yield from _guarded(split, cluster)))
    return [outcomes[plan] for plan in plans]


def _outcome(cluster: Cluster, plan: Plan, future: Any) -> Outcome:
    try:
        outcome: Outcome = cluster.result(future)
        return outcome
    except Exception as error:
        return Outcome(plan, "failed", error=told(error))


def _guarded(split: Split, cluster: Cluster) -> Job[Outcome]:
    """One large scan; its failure stops no other."""
    try:
        return (yield from split.run(cluster))
    except Exception as error:  # as in `run.run_all`
        return Outcome(split.plan, "failed", error=told(error))


class Cluster:
    """A connection to a scheduler; made by `connected`."""

    def __init__(self, client: Any) -> None:
        from distributed import Event

        self._client = client
        self._stop = Event(f"attention3d-{client.id}", client=client)
        self._futures: list[Any] = []

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def words(self) -> str:
        """What goes on, for a person."""
        workers = self.workers
        if not workers:
            return "Waiting for a worker"
        return f"Segmenting on {workers} worker{'s' * (workers > 1)}"

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Queue ``function(*args, stop=..., version=...)`` of `work`; returns its future."""
        about = {"stop": self._stop.name, "version": __version__}
        future = self._client.submit(function, *args, **about, pure=False)
        self._futures.append(future)
        return future

    def done(self, futures: Iterable[Any]) -> Iterator[Any]:
        """Each future when it is over, and None now and then while none is."""
        left = list(futures)
        while left:
            over = [future for future in left if future.done()]
            for future in over:
                # A worker that died since may have taken the result with it: it is made again.
                if future.done():
                    left.remove(future)
                    yield future
            if left and not over:
                yield None
                time.sleep(_PAUSE)

    def result(self, future: Any) -> Any:
        """The result of a call that is over; asked for once.

        The cluster keeps it no longer, else it would do the call anew when the worker that
        has it dies.

        Raises
        ------
        InputError
            If workers died over it, or it was cancelled; else what the call raised.
        """
        while future.status in ("pending", "lost"):  # its worker died: another one does it
            time.sleep(_PAUSE)
        if future.status == "finished":
            found = future.result()
            self._futures.remove(future)
            future.release()
            return found
        problem = future.exception() if future.status == "error" else None
        if problem is None:
            raise InputError("the cluster lost it; run it again")
        if type(problem).__name__ == "KilledWorker":
            raise InputError("several workers died over it; is their memory too small?")
        raise problem

    def close(self) -> None:
        """Ask what is still on its way to stop."""
        left = [future for future in self._futures if not future.done()]
        if left:
            self._stop.set()
            self._client.cancel(left)


@contextmanager
def connected(scheduler: str) -> Iterator[Cluster]:
    """Connect to a scheduler; what still runs at the block's end is stopped.

    Raises
    ------
    InputError
        If distributed is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "a cluster needs dask.distributed, which is not installed: "
            'pip install "napari-attention3d[distributed]"'
        ) from error
    try:
        client = Client(scheduler, timeout=_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no dask scheduler answers at {scheduler}; start one with `dask scheduler`, and "
            "workers with `dask worker tcp://HOST:PORT`"
        ) from error
    with client:
        cluster = Cluster(client)
        try:
            yield cluster
        finally:
            cluster.close()
