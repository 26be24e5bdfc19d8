"""Hooks of mkdocs: what is not part of the site is left out instead of breaking it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Drop entries of the navigation whose page is not written yet."""
    folder = Path(config["docs_dir"])
    config["nav"] = [entry for entry in config["nav"] if _is_there(entry, folder)]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Name files outside ``docs`` (benchmarks, recipes) instead of linking to them."""
    docs = Path(config["docs_dir"]).resolve()
    here = (docs / page.file.src_path).parent

    def outside(found: re.Match[str]) -> str:
        target = (here / found[2]).resolve()
        if target.is_relative_to(docs) or not target.exists():
            return found[0]
        return f"{found[1]} (`{target.relative_to(docs.parent)}`)"

    return _LINK.sub(outside, markdown)


def _is_there(entry: dict[str, Any], folder: Path) -> bool:
    (page,) = entry.values()
    if not isinstance(page, str):
        return True
    file = folder / page
    return file.is_file() and file.stat().st_size > 0
