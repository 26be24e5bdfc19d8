"""Killed at any moment, a session goes on with every stroke that was finished."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from napari_attention3d.correction.session import CorrectionSession

WORKER = Path(__file__).with_name("kill_worker.py")
_spec = importlib.util.spec_from_file_location("kill_worker", WORKER)
worker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(worker)


def run_and_kill(folder: Path, strokes: int, delay: float) -> int:
    """Kill the worker `delay` seconds after it said it finished so many strokes.

    Returns the number of strokes that it said were finished.
    """
    process = subprocess.Popen(
        [sys.executable, str(WORKER), str(folder)], stdout=subprocess.PIPE, encoding="utf-8"
    )
    finished = 0
    bound = threading.Timer(240, process.kill)  # should it hang
    bound.start()
    try:
        for said in process.stdout:
            if said.startswith("stroke"):
                finished = int(said.split()[1])
            if finished >= strokes:
                break
        time.sleep(delay)
    finally:
        bound.cancel()
        process.kill()  # SIGKILL: no handler, no clean-up
    for said in process.stdout:  # what was said before it died
        if said.startswith("stroke"):
            finished = int(said.split()[1])
    process.stdout.close()
    process.wait(60)
    assert finished >= strokes
    return finished


def check(folder: Path, finished: int) -> None:
    session = CorrectionSession.resume(folder, worker.scan(), threads=1)
    # the stroke after the last one that was reported may be on disk already
    assert finished <= len(session.strokes) <= finished + 1
    wanted = np.zeros(worker.SHAPE, np.uint8)
    for number in range(len(session.strokes)):
        voxels, value = worker.stroke(number)
        wanted[tuple(np.array(voxels).T)] = value
    np.testing.assert_array_equal(session.corrections, wanted)
    painted = wanted != 0
    shown = np.where(wanted == 255, 0, wanted)
    np.testing.assert_array_equal(session.labels[painted], shown[painted])
    assert 0 <= session.current < len(session.rounds)
    assert session.rounds[-1].record.number == len(session.rounds) - 1
    if finished > 9:  # it approved something before
        assert session.approval is not None
    session.add_stroke([[0, 0, 0]], 1)
    assert len(CorrectionSession.resume(folder, worker.scan()).strokes) == len(session.strokes)


@pytest.mark.parametrize(("strokes", "delay"), [(1, 0.0), (12, 0.013), (31, 0.05)])
def test_every_finished_stroke_survives_a_kill(tmp_path, strokes, delay):
    folder = tmp_path / "session"
    check(folder, run_and_kill(folder, strokes, delay))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(50))
def test_every_finished_stroke_survives_a_kill_at_random(tmp_path, seed):
    rng = np.random.default_rng(seed)
    folder = tmp_path / "session"
    check(folder, run_and_kill(folder, int(rng.integers(1, 60)), float(rng.random() * 0.2)))
