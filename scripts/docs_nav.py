"""Hooks of mkdocs: files outside of `docs` are named instead of linked to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


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
