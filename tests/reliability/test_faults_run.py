"""Faults at every point of a run in the window: it stays usable, and nothing is lost or left.

Each is injected into a real run of a small network. After it the earlier result is as it was,
no file, thread or array of the run is left, the message says what to do, and a next run works.
"""

from __future__ import annotations

import pytest

from napari_attention3d.inference import memory

from .faults import FAULTS, POINTS, inject_and_look


def sample(number):
    """One way for memory to run out and one other fault; the rest is for the long tests."""
    return FAULTS[number % 3], FAULTS[3 + number % 3]


@pytest.mark.parametrize(
    ("point", "faults"),
    [pytest.param(p, sample(n), id=p) for n, p in enumerate(POINTS)]
    + [pytest.param(p, FAULTS, id=f"{p}-all", marks=pytest.mark.long) for p in POINTS],
)
def test_after_a_fault_all_is_as_before_and_a_next_run_works(
    qtbot, viewer, dock, temporary, alive, monkeypatch, point, faults
):
    if point == "middle planes":  # plane by plane, as a scan too large for one pass
        monkeypatch.setattr(memory, "WHOLE_GRID_VOXELS", 10)
    inject_and_look(qtbot, viewer, dock, temporary, alive, monkeypatch, POINTS[point], faults)
