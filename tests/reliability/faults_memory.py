"""Memory after a series of faults against that after one run; by test_faults_memory.py.

In a process of its own: what other tests left behind is not in the count.
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import numpy as np
import psutil
import pytest
from napari.components import ViewerModel

from napari_attention3d.inference import memory

from .faults import FAULTS, POINTS, run

SHAPE = (64, 96, 96)
"""Probabilities of three classes take 7 MB: some that stay behind are seen."""


@pytest.fixture
def viewer():
    made = ViewerModel()
    scan = np.random.default_rng(1).random(SHAPE).astype(np.float32)
    made.add_image(scan, name="cells")
    return made


def resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def test_memory(qtbot, viewer, dock, monkeypatch):
    monkeypatch.setattr(memory, "WHOLE_GRID_VOXELS", 10)  # in planes: they have a middle
    dock.segment.form.probabilities_box.setChecked(True)
    run(qtbot, dock)
    assert dock.failures == []
    rows = [("after one run", resident())]
    for rounds in range(int(os.environ["FAULTS_ROUNDS"])):
        for number, (point, inject) in enumerate(POINTS.items()):
            error = FAULTS[(number + rounds) % len(FAULTS)]
            with monkeypatch.context() as patch:
                inject(patch, error)
                run(qtbot, dock)
            error.__traceback__ = error.__context__ = None
            dock.failures[-1] = None
            rows.append((f"{point}: {type(error).__name__}", resident()))
    assert len(dock.failures) == len(rows) - 1
    Path(os.environ["FAULTS_MEMORY"]).write_text(json.dumps(rows))
