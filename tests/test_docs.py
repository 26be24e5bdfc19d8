"""The documentation's own pages: links lead somewhere, names exist, pictures are small."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def anchors(page: Path) -> set[str]:
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_are_there(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if target.startswith("http"):
            continue
        page = (DOCS / name).parent / target if target else DOCS / name
        assert page.is_file(), f"{name} links to {target}"
        if anchor and page.suffix == ".md":
            assert anchor in anchors(page), f"{name} links to {target}#{anchor}"


def test_all_pages_are_in_the_navigation():
    """A page that was moved or forgotten is told here and breaks the build."""
    import yaml

    text = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")

    def pages(entries):
        for entry in entries:
            (value,) = entry.values()
            yield from [value] if isinstance(value, str) else pages(value)

    assert sorted(pages(yaml.safe_load(text)["nav"])) == PAGES
    assert yaml.safe_load(text)["validation"]["links"]["anchors"] == "warn"


def test_pages_of_python_name_what_exists():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: (\S+)(?:\n +options: \{ members: \[(.+)\] \})?", text, re.MULTILINE)
    assert len(entries) > 15
    for module, members in entries:
        found = import_module(module)
        for member in filter(None, members.split(", ")):
            assert hasattr(found, member), f"{module}.{member}"


def test_pictures_are_small():
    for picture in (DOCS / "images").glob("*.png"):
        # Whole colours: few of them would show as bands in the maps.
        assert picture.stat().st_size < 400_000, picture.name
