"""YAML that may come from a stranger."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["parse_yaml"]


def parse_yaml(text: str) -> Any:
    """Parse YAML into plain Python values; no tag of it can make or call anything.

    Raises
    ------
    yaml.YAMLError
        For whatever is wrong: PyYAML itself ends with errors of Python at text nested too
        deeply, at impossible dates and at numbers of thousands of digits.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except ValueError as error:
        raise yaml.YAMLError(f"it holds an impossible value ({error})"[:200]) from error
