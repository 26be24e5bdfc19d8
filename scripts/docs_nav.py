"""Hook of mkdocs: pages that are planned in mkdocs.yml but not written yet are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Drop entries of the navigation whose file is missing or empty."""
    folder = Path(config["docs_dir"])
    config["nav"] = [entry for entry in config["nav"] if _is_there(entry, folder)]
    return config


def _is_there(entry: dict[str, Any], folder: Path) -> bool:
    (page,) = entry.values()
    if not isinstance(page, str):
        return True
    file = folder / page
    return file.is_file() and file.stat().st_size > 0
