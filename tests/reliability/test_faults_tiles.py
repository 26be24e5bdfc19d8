"""Faults while tiles are computed and blended: of what is on its way nothing is kept.

Memory that runs out there makes the run go on with smaller tiles: see
tests/inference/test_out_of_memory.py. What else fails ends it.
"""

from __future__ import annotations

import pytest

from napari_attention3d.inference.bands import BandSums
from napari_attention3d.inference.runner import Runner

from .faults import (
    DEVICE_LOST,
    DISK_FULL,
    READING_FAILS,
    from_call,
    inject_and_look,
    run,
)

FAULTS = (DEVICE_LOST, READING_FAILS, DISK_FULL)
POINTS = {
    "first tile": from_call(Runner, "compute"),
    "middle tile": from_call(Runner, "compute", 4),
    "first tile blended": from_call(BandSums, "add"),
    "middle tile blended": from_call(BandSums, "add", 3),
}


@pytest.fixture
def model(model_folder, soak):
    """One that sees the whole of a tile, so that a scan is always cut into several."""
    return soak.make_model(model_folder, patch_size=(16, 16, 16))


def test_a_run_has_several_tiles(qtbot, viewer, dock, monkeypatch):
    calls, add = [], BandSums.add
    monkeypatch.setattr(BandSums, "add", lambda *given: calls.append(given[1]) or add(*given))
    run(qtbot, dock)
    assert dock.failures == []
    assert len(set(calls)) > 5


@pytest.mark.parametrize(
    ("point", "faults"),
    [pytest.param(p, FAULTS[n % 2 : n % 2 + 1], id=p) for n, p in enumerate(POINTS)]
    + [pytest.param(p, FAULTS, id=f"{p}-all", marks=pytest.mark.long) for p in POINTS],
)
def test_after_a_fault_among_tiles_all_is_as_before_and_a_next_run_works(
    qtbot, viewer, dock, temporary, alive, monkeypatch, point, faults
):
    inject_and_look(qtbot, viewer, dock, temporary, alive, monkeypatch, POINTS[point], faults)
