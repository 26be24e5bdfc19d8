"""Inject every fault of the tests into real runs in the window, and list the outcomes.

xvfb-run -a python benchmarks/faults.py --json faults.json

Runs tests/reliability/test_faults_*.py, with those that `make test` only samples, in a
process of its own, and prints what each fault came to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

TESTS = Path(__file__).resolve().parents[1] / "tests" / "reliability"


def outcomes(report: Path) -> list[dict[str, str]]:
    """Read pytest's report: fault, outcome (passed, failed, skipped), seconds."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):  # written by our own process
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "passed"
        if "skipped" in kinds:
            outcome = "skipped"
        name = case.get("name", "").removeprefix("test_").replace("_", " ")
        found.append({"fault": name, "outcome": outcome, "seconds": case.get("time", "")})
    return found


def table(found: list[dict[str, str]]) -> str:
    """For RESULTS.md."""
    rows = [f"| {one['fault']} | {one['outcome']} |" for one in found]
    return "\n".join(["| fault | outcome |", "|---|---|", *rows])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="those of `make test` alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = sorted(map(str, TESTS.glob("test_faults_*.py")))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["-m", "not long"] if given.quick else []
        subprocess.run([*command, f"--junitxml={report}", *files], check=False)
        found = outcomes(report)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))
    if any(one["outcome"] == "failed" for one in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
