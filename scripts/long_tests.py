"""Run the tests marked `long`; those that passed with the code as it is are not run again.

python scripts/long_tests.py build/long/tests.jsonl [pytest's arguments]

The journal has a line per test. `make test-long` calls this, then the scripts of benchmarks/ that
go on with journals of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("src", "tests", "benchmarks", "recipes", "scripts")
ELSEWHERE = (
    "test_every_mutant_is_read_or_refused[5000]",
    "test_a_killed_run_goes_on_as_if_nothing_had_happened[50]",
    "tests/reliability/test_faults_",
)
"""What the scripts of benchmarks/ do, with their own journals."""


def state_of_code(root: Path = ROOT) -> str:
    """Hash of all that the outcome of a test may depend on."""
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(root)).encode() + b"\0")
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Journal:
    """A pytest plugin that leaves out what passed, and notes what comes.

    Parameters
    ----------
    path
        Of the journal.
    state
        Of the code.
    """

    def __init__(self, path: Path, state: str) -> None:
        self.path, self.state = path, state
        self.passed: set[str] = set()
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    row = json.loads(line)
                    if row["state"] == state and row["outcome"] == "passed":
                        self.passed.add(row["test"])
            if not path.read_bytes().endswith(b"\n"):  # killed while writing
                with path.open("a", encoding="utf-8") as file:
                    file.write("\n")

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Leave out what passed, and what runs elsewhere."""
        out = [i for i in items if i.nodeid in self.passed or any(e in i.nodeid for e in ELSEWHERE)]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a test that came to its end."""
        if report.when == "call" or report.outcome != "passed":
            row = {"test": report.nodeid, "outcome": report.outcome, "state": self.state}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def main() -> None:
    """Run from the command line."""
    here = str(Path(__file__).parent)
    sys.path[:] = [one for one in sys.path if one != here]  # scripts/coverage.py is not coverage
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path, state_of_code())
    code = pytest.main(["-m", "long", *sys.argv[2:]], plugins=[journal])
    raise SystemExit(0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code)


if __name__ == "__main__":
    main()
