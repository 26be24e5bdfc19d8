"""Branch coverage inside and outside the window's code, and the files that are least covered.

python scripts/branch_coverage.py coverage.json    # of pytest --cov-report=json:coverage.json

Ends with 1 if less than 80 % of the branches in `widgets` or 90 % of all others were taken.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

WANTED = {"widgets": 80.0, "all others": 90.0}


def shares(files: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Percent of lines and of branches that ran."""
    sums = [one["summary"] for one in files]

    def share(done: str, there: str) -> float:
        return 100 * sum(s[done] for s in sums) / max(1, sum(s[there] for s in sums))

    return share("covered_lines", "num_statements"), share("covered_branches", "num_branches")


def main(path: str) -> int:
    """Print both figures and the ten weakest files of each part."""
    files = json.loads(Path(path).read_text(encoding="utf-8"))["files"]
    parts: dict[str, dict[str, Any]] = {name: {} for name in WANTED}
    for name, one in files.items():
        parts["widgets" if "/widgets/" in name else "all others"][name] = one
    enough = True
    for part, found in parts.items():
        lines, branches = shares(found.values())
        enough &= branches >= WANTED[part]
        print(f"{part}: {lines:.1f} % of lines, {branches:.1f} % of branches")
        with_branches = [name for name in found if found[name]["summary"]["num_branches"]]
        for name in sorted(with_branches, key=lambda n: shares([found[n]])[1])[:10]:
            lines, branches = shares([found[name]])
            print(f"  {branches:5.1f} %  {lines:5.1f} %  {name}")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
