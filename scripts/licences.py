"""Write docs/licences.md: what the project depends on and ships, and under which licence.

python scripts/licences.py            # write it
python scripts/licences.py --check    # fail if a direct dependency is missing from it
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
DEVELOPERS = ("dev", "docs", "test")
HEAD = """# Licences

napari-attention3d itself is under the BSD-3-Clause licence. Nothing of others' code is part of it.

## Weights and data that come with it

| what | licence | from |
|---|---|---|
"""
SAMPLES = (
    "| sample volumes (`sample_data/`) | BSD-3-Clause | drawn by `sample_data/make_samples.py` |"
)


def requirements() -> Iterator[tuple[str, str]]:
    """Yield name and extra ("" for none) of what the project names, without itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    for extra, lines in groups.items():
        for line in lines:
            name = re.split(r"[\s<>=!~;\[]", line)[0]
            if name != "napari-attention3d" and not (extra == "all" and name == "napari"):
                yield name, extra


def licence(name: str) -> str:
    """Return what a package says of its licence, in a few words."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    said = about.get("License-Expression") or about.get("License") or ""
    classifiers = [
        c.rsplit(" :: ", 1)[1] for c in about.get_all("Classifier") or [] if "License" in c
    ]
    if said and "\n" not in said and len(said) < 90:
        return said
    return ", ".join(classifiers) or said.splitlines()[0][:80]


def weights() -> Iterator[str]:
    """Yield a row per model that comes with the package."""
    from napari_attention3d.models import list_models

    for info in list_models():
        if info.built_in and info.card is not None:
            yield f"| model `{info.name}` | {info.card.licence} | {info.card.citation} |"


def page() -> str:
    """Return the page."""
    rows = [HEAD + "\n".join([*weights(), SAMPLES])]
    by_name: dict[str, list[str]] = {}
    for name, extra in requirements():
        by_name.setdefault(name, []).append(extra)
    for title, wanted in (
        ("## What it needs to run", lambda extras: any(e not in DEVELOPERS for e in extras)),
        ("## What developers need besides", lambda extras: all(e in DEVELOPERS for e in extras)),
    ):
        rows += [
            "",
            title,
            "",
            "| package | extra | licence, as the package says |",
            "|---|---|---|",
        ]
        for name, extras in sorted(by_name.items(), key=lambda item: item[0].lower()):
            if wanted(extras):
                shown = ", ".join(e for e in extras if e not in DEVELOPERS or "" not in extras)
                rows.append(f"| {name} | {shown} | {licence(name)} |")
    rows += [
        "",
        "Qt comes through `napari[all]` (PyQt6: GPL-3.0 or commercial; PySide6, LGPL-3.0, will do,",
        "too). What these packages need in turn: `pip-licenses` lists it for an installation.",
        "",
        "Written by `scripts/licences.py` from what is installed.",
    ]
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write or check."""
    if "--check" in sys.argv:
        text = PAGE.read_text(encoding="utf-8")
        missing = sorted({name for name, _ in requirements() if f"| {name} |" not in text})
        if missing:
            sys.exit(f"not in docs/licences.md: {', '.join(missing)}; run scripts/licences.py")
    else:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
