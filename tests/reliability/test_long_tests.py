"""`make test-long` goes on where it was stopped: tests that passed are not run again."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "long_tests.py"
TESTS = """
import pathlib, pytest

@pytest.mark.parametrize("number", [1, 2, 3])
def test_one(number):
    with open("ran", "a") as file:
        file.write(f"{number}\\n")
    assert number != 2 or pathlib.Path("repaired").exists()
"""


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("long_tests", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder, state):
    """Some tests with the journal's plugin, in a process of their own."""
    program = (
        "import importlib.util, pathlib, pytest\n"
        f"spec = importlib.util.spec_from_file_location('long_tests', {str(SCRIPT)!r})\n"
        "long_tests = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(long_tests)\n"
        f"journal = long_tests.Journal(pathlib.Path('journal.jsonl'), {state!r})\n"
        "pytest.main(['-q', '-p', 'no:cacheprovider', 'test_some.py'], plugins=[journal])\n"
    )
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # napari's takes seconds
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=folder, env=alone, check=True, timeout=600)
    ran = (folder / "ran").read_text().split() if (folder / "ran").exists() else []
    (folder / "ran").unlink(missing_ok=True)
    return ran


def test_what_passed_with_the_same_code_is_not_run_again(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    assert run(tmp_path, "a") == ["1", "2", "3"]
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"test": "cut o')  # killed while writing
    assert run(tmp_path, "a") == ["2"]
    (tmp_path / "repaired").touch()
    assert run(tmp_path, "a") == ["2"]
    assert run(tmp_path, "a") == []
    assert run(tmp_path, "b") == ["1", "2", "3"]  # the code changed
    rows = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert sum('"passed"' in row for row in rows) == 6
    assert json.loads(rows[0])["outcome"] == "passed"


def test_the_state_is_that_of_the_code(script, tmp_path):
    (tmp_path / "src").mkdir()
    file = tmp_path / "src" / "a.py"
    file.write_text("1")
    states = [script.state_of_code(tmp_path)]
    file.write_text("2")
    states.append(script.state_of_code(tmp_path))
    file.rename(tmp_path / "src" / "b.py")
    states.append(script.state_of_code(tmp_path))
    (tmp_path / "notes.txt").touch()
    assert script.state_of_code(tmp_path) == states[-1]
    assert len(set(states)) == 3
