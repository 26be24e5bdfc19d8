"""Write docs/licences.md: what the project depends on and ships, and under which licence.

python scripts/licences.py            # write it
python scripts/licences.py --check    # fail if a dependency is missing or its licence changed
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
_ABSENT = "not installed here"
_LONGEST = 300
"""Characters of a licence's name; longer ones are texts."""
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
        return _ABSENT
    said = about.get("License-Expression") or about.get("License") or ""
    classifiers = [
        c.rsplit(" :: ", 1)[1] for c in about.get_all("Classifier") or [] if "License" in c
    ]
    if said and "\n" not in said and len(said) <= _LONGEST:
        return said  # an expression is told in full: cut short it would say something else
    return ", ".join(classifiers) or f"its own: {said.strip().splitlines()[0][:80]} ..."


def weights() -> Iterator[str]:
    """Yield a row per model that comes with the package."""
    from napari_attention3d.models import list_models

    for info in list_models():
        if info.built_in and info.card is not None:
            yield f"| model `{info.name}` | {info.card.licence} | {info.card.citation} |"


def page() -> str:
    """Return the page."""
    rows = [HEAD + "\n".join([*weights(), SAMPLES])]
    earlier = rows_of(PAGE.read_text(encoding="utf-8")) if PAGE.is_file() else {}
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
                said = licence(name)
                said = earlier.get(name, said) if said == _ABSENT else said
                rows.append(f"| {name} | {shown} | {said} |")
    rows += [
        "",
        "Qt comes through `napari[all]` (PyQt6: GPL-3.0 or commercial; PySide6, LGPL-3.0, will do,",
        "too). What these packages need in turn: `pip-licenses` lists it for an installation.",
        "",
        "Written by `scripts/licences.py` from what is installed.",
    ]
    return "\n".join(rows) + "\n"


def rows_of(text: str) -> dict[str, str]:
    """Licence by package, as a page tells it."""
    lines = ([cell.strip() for cell in line.split("|")] for line in text.splitlines())
    return {cells[1]: cells[3] for cells in lines if len(cells) == 5}


def is_pinned(name: str) -> bool:
    """Whether the version that constraints.txt names is installed: others may say other words."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    try:
        here = version(name).split("+")[0]
    except PackageNotFoundError:
        return False
    return f"\n{name.lower()}=={here}\n" in f"\n{pins}\n"


def problems(text: str) -> list[str]:
    """What a page does not say, or says otherwise than the pinned packages installed here."""
    told, wrong = rows_of(text), []
    for name in sorted({name for name, _ in requirements()}):
        here = licence(name)
        if name not in told:
            wrong.append(f"{name} is missing")
        elif is_pinned(name) and told[name] != here.strip():
            wrong.append(f"{name} says {here!r}, the page {told[name]!r}")
    return wrong


def main() -> None:
    """Write or check."""
    if "--check" in sys.argv:
        text = PAGE.read_text(encoding="utf-8")
        wrong = problems(text)
        if wrong:
            sys.exit(f"docs/licences.md: {'; '.join(wrong)}; run scripts/licences.py")
    else:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
