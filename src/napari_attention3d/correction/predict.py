"""What a network says about a scan, as probabilities on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..inference.predict import run_attempts
from ..inference.preprocess import Preprocessor
from ..inference.setup import focus_on_grid, plan_run, set_up_trusted
from ..inference.sink import ScanResults
from ..models.store import Model
from ..progress import Job
from ..volumes.volume import Volume

__all__ = ["predict_job"]


def predict_job(
    model: Model,
    scan: Volume,
    *,
    region: Sequence[Sequence[int]] | None = None,
    focus: Sequence[float] | None = None,
    device: str = "auto",
) -> Job[npt.NDArray[Any]]:
    """Run a network over a scan, the viewed place first.

    Parameters
    ----------
    model
        Its network is moved to the device.
    scan
        Any orientation and spacing.
    region
        Index ranges ((z0, z1), (y0, y1), (x0, x1)) of the scan's array; None: everything.
    focus
        Voxel (z, y, x) of the scan that is looked at.
    device
        "auto", "cpu", "mps" or "cuda".

    Yields
    ------
    Progress
        Per tile; ``partial`` lists labels that are final (`inference.sink.Finished`).

    Returns
    -------
    ndarray
        (K, z, y, x) float32 (float16 if large) of the region.

    Raises
    ------
    InputError, ModelMismatchError
        If scan and model don't fit together.
    OutOfMemory
        If even the smallest plan does not fit the memory.
    """
    setup, _ = set_up_trusted(
        scan,
        model.card,
        model.network,
        weights=f"working copy {id(model.network)}",
        test=True,
        device=device,
        region=region,
    )
    prepared = yield from Preprocessor(model.card).open(scan)
    results = ScanResults(
        len(model.card.classes),
        setup.place.grid,
        setup.target,
        setup.place.reorientation,
        probabilities=True,
        uncertainty=False,
    )
    was_training = model.network.training
    model.network.eval()
    try:
        yield from run_attempts(
            model.network,
            prepared.source,
            plan_run(model.network, setup, ()),
            results=results,
            focus=focus_on_grid(setup.place, focus),
            skip_empty=model.card.skip_empty,
        )
    finally:
        model.network.train(was_training)
    return np.asarray(results.probabilities)
