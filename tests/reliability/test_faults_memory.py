"""Memory is given back: after a series of faults there is no more than after one run, + 5 %."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("faults_memory.py")
ROUNDS = 3


@pytest.mark.long  # what is left alive is looked for in test_faults_run.py, too
def test_memory_after_faults_is_that_after_one_run(tmp_path, record_property):
    report = tmp_path / "memory.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SCRIPT)]
    run = subprocess.run(
        command,
        env={
            **os.environ,
            "FAULTS_MEMORY": str(report),
            "FAULTS_ROUNDS": str(ROUNDS),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert report.exists(), run.stdout[-3000:]
    rows = json.loads(report.read_text())
    first, last = rows[0][1], rows[-1][1]
    record_property("megabytes", [round(size / 1e6) for _, size in rows])
    assert len(rows) == 1 + 9 * ROUNDS
    assert last <= 1.05 * first, rows
