"""The documentation's own pages: links lead somewhere, names exist, pictures are small."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
OURS = ("index.md", "tutorial.md", "troubleshooting.md", "api.md")


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", OURS)
def test_links_and_pictures_are_there(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if target.startswith("http"):
            continue
        page = DOCS / (target or name)
        assert page.is_file(), f"{name} links to {target}"
        if anchor:
            assert anchor in anchors(page), f"{name} links to {target}#{anchor}"


def test_pages_of_python_name_what_exists():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: (\S+)(?:\n +options: \{ members: \[(.+)\] \})?", text, re.MULTILINE)
    assert len(entries) > 15
    for module, members in entries:
        found = import_module(module)
        for member in filter(None, members.split(", ")):
            assert hasattr(found, member), f"{module}.{member}"


def test_pictures_are_small():
    for picture in (DOCS / "images").glob("tab-*.png"):
        assert picture.stat().st_size < 150_000, picture.name
