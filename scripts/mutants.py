"""Mutation testing: small faults are put into the code, one at a time, for the tests to see.

python scripts/mutants.py run              # all, or go on with a run that was stopped
python scripts/mutants.py run geometry     # one module
python scripts/mutants.py left             # those that no test saw, with what they change

mutmut makes the mutants. They run here rather than in its own runner, since that one forks
after the tests ran once: OpenMP's threads, which torch started, do not survive a fork, and
every mutant that reaches a convolution hangs. Here a process that has imported and collected
everything and computed nothing is forked for each mutant.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutants"
JOURNAL = WORK / "journal.jsonl"
PACKAGE = "napari_attention3d"
TESTS = {
    "geometry": ("tests/test_geometry.py",),
    "inference.tiling": ("tests/inference/test_tiling.py", "tests/inference/test_bands.py"),
    "inference.bands": ("tests/inference/test_bands.py",),
    "training.losses": (
        "tests/training/test_losses.py",
        "tests/training/test_losses_details.py",
        "tests/training/test_losses_guided.py",
        "tests/training/test_losses_sums.py",
    ),
}
"""Modules and the tests that must see their faults."""
UNUSED = ("cacheprovider", "xdist", "napari", "pytest-qt")
"""pytest's plugins that these tests can do without; napari's takes a second each time."""
OPTIONS = ("-s", "-q", "-m", "not long", *(f"-pno:{name}" for name in UNUSED))
LEAST_SECONDS = 20.0
"""A mutant may take the processor so long, or ten times what the unchanged code takes."""
WAITING = 15
"""By the clock it may take so many times more: a busy machine is no fault of the mutant."""


def make(module: str) -> list[str]:
    """Write the package with the mutants of one module; returns their names."""
    from mutmut.mutation.file_mutation import mutate_file_contents

    target = WORK / module / "src"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "src", target, ignore=shutil.ignore_patterns("__pycache__"))
    file = target / PACKAGE / (module.replace(".", "/") + ".py")
    mutated = mutate_file_contents(str(file), file.read_text(encoding="utf-8"))
    file.write_text(mutated.code, encoding="utf-8")
    return list(mutated.mutant_names)


def state_of(module: str) -> tuple[str, str]:
    """Hashes of the module and of its tests: what was judged with others is out of date."""

    def mark(names: Sequence[str]) -> str:
        return hashlib.sha256(b"".join((ROOT / n).read_bytes() for n in names)).hexdigest()[:12]

    return mark([f"src/{PACKAGE}/{module.replace('.', '/')}.py"]), mark(TESTS[module])


def load(module: str) -> None:
    """Import what the tests of a module need, so that forks need not."""
    sys.path.insert(0, str(WORK / module / "src"))
    for name in ("pytest", "hypothesis", "numpy", "scipy.ndimage", "torch", "monai.losses"):
        importlib.import_module(name)
    from hypothesis import Phase, settings

    settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None)
    settings.load_profile("mutants")  # a counterexample need not be made small
    for name in ("session", "networks", "models"):
        importlib.import_module(f"{PACKAGE}.{name}")
    found = importlib.import_module(f"{PACKAGE}.{module}")
    if WORK not in Path(str(found.__file__)).parents:
        raise RuntimeError(f"{found.__file__} is not the mutated file")


class Judge:
    """A pytest plugin that runs the collected tests once per mutant, each in a process of its own.

    Parameters
    ----------
    module
        That is mutated.
    mutants
        Their names.
    """

    def __init__(self, module: str, mutants: list[str]) -> None:
        self.module, self.mutants = module, mutants

    def pytest_runtestloop(self, session: Any) -> bool:
        """Take the place of pytest's own loop."""
        begin = os.times()
        if self._outcome(session, "", 600) != "survived":
            raise SystemExit(f"The tests of {self.module} fail without a mutant")
        now = os.times()
        took = now.children_user + now.children_system - begin.children_user
        limit = max(LEAST_SECONDS, 10 * (took - begin.children_system))
        source, tests = state_of(self.module)
        base = {"module": self.module, "source": source, "tests": tests}
        for number, name in enumerate(self.mutants, 1):
            outcome = self._outcome(session, name, limit)
            row = {**base, "mutant": name, "outcome": outcome}
            with JOURNAL.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if outcome == "survived" or number % 50 == 0:
                print(f"{self.module} {number}/{len(self.mutants)} {name}: {outcome}", flush=True)
        return True

    def _outcome(self, session: Any, mutant: str, limit: float) -> str:
        """``killed``, ``timeout`` or ``survived``; "" is the unchanged code."""
        child = os.fork()
        if child == 0:
            os.environ["MUTANT_UNDER_TEST"] = f"{PACKAGE}.{self.module}.{mutant}" if mutant else ""
            code = 1
            with open(os.devnull, "w") as nowhere, contextlib.suppress(BaseException):
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
                for number, item in enumerate(session.items):
                    following = session.items[number + 1 : number + 2]
                    item.config.hook.pytest_runtest_protocol(
                        item=item, nextitem=following[0] if following else None
                    )
                    if session.testsfailed:
                        break
                code = int(bool(session.testsfailed))
            os._exit(code)
        until = time.monotonic() + WAITING * limit
        while time.monotonic() < until and _used(child) < limit:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
            time.sleep(0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "timeout"


def _used(child: int) -> float:
    """Seconds of the processor that a process took so far."""
    import psutil

    with contextlib.suppress(psutil.Error):
        times = psutil.Process(child).cpu_times()
        return float(times.user + times.system)
    return 0.0


def known(module: str) -> dict[str, str]:
    """What the journal holds of a module as it is now, by mutant.

    What was seen once is seen still, whatever tests came; what was not is judged anew if
    the tests changed, and what took too long always.
    """
    if not JOURNAL.exists():
        return {}
    source, tests = state_of(module)
    rows = map(json.loads, JOURNAL.read_text(encoding="utf-8").splitlines())
    return {
        row["mutant"]: row["outcome"]
        for row in rows
        if (row["module"], row["source"]) == (module, source)
        and row["outcome"] != "timeout"
        and (row["outcome"] == "killed" or row["tests"] == tests)
    }


def run(module: str) -> None:
    """Judge the mutants of one module that are not in the journal."""
    import pytest

    before = known(module)
    names = [name for name in make(module) if name not in before]
    if names:
        load(module)
        tests = [str(ROOT / name) for name in TESTS[module]]
        pytest.main([*OPTIONS, *tests], plugins=[Judge(module, names)])


def change(module: str, mutant: str) -> Iterator[str]:
    """Yield the lines that a mutant takes away and puts in."""
    import ast

    text = (WORK / module / "src" / PACKAGE / (module.replace(".", "/") + ".py")).read_text()
    original = mutant.rpartition("_")[0] + "_orig"
    found = {
        node.name: ast.unparse(node).splitlines()[1:]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name in (mutant, original)
    }
    for line in difflib.unified_diff(found[original], found[mutant], n=0, lineterm=""):
        if not line.startswith(("---", "+++", "@@")):
            yield line


def left(module: str) -> None:
    """Print how many mutants of a module were seen, and those that were not."""
    outcomes = known(module)
    print(f"{module}: {dict(Counter(outcomes.values()))}")
    for mutant, outcome in outcomes.items():
        if outcome == "survived":
            print(f"  {mutant}")
            for line in change(module, mutant):
                print(f"    {line}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "left"))
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TESTS)}; all without")
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for module in given.modules or TESTS:
        if given.what == "left":
            left(module)
            continue
        child = os.fork()  # each module's package is loaded into a process of its own
        if child == 0:
            with contextlib.suppress(KeyboardInterrupt):
                run(module)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
