"""``napari-attention3d doctor``: what this machine has, and what will be used."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated, Any

from .. import __version__
from .common import JsonOption, print_json

__all__ = ["doctor"]

_PACKAGES = ("torch", "monai", "napari", "numpy", "nibabel", "tifffile", "nilearn")
_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")


def doctor(json: Annotated[bool, JsonOption("what was found")] = False) -> None:
    """Say what this machine has: versions, device, memory, models; and what is missing."""
    found = examine()
    if json:
        print_json(found)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for key, value in found.items():
        if isinstance(value, dict):
            value = "\n".join(f"{k} {'- (missing)' if v is None else v}" for k, v in value.items())
        elif isinstance(value, list):
            value = "\n".join(str(v) for v in value) or "none"
        table.add_row(key, str(value))
    Console().print(table)


def examine() -> dict[str, Any]:
    """Look at versions, device, memory, display and models.

    Returns
    -------
    dict
        JSON-compatible; memory in GiB; ``problems`` lists what a person should mend.
    """
    import torch

    from ..inference.device import choose_device
    from ..models.store import list_models, user_models_folder

    choice = choose_device("auto")
    models = list_models()
    found: dict[str, Any] = {
        "napari-attention3d": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "qt": {name: _version(name) for name in _BINDINGS if find_spec(name)},
        "device": str(choice.device),
        "why this device": choice.reason,
        "threads": torch.get_num_threads(),
        "memory GiB": _memory(),
        "display": _display(),
        "models": [info.name + (f": {info.problem}" if info.problem else "") for info in models],
        "your models": str(user_models_folder()),
    }
    found["problems"] = _problems(found, [info for info in models if info.problem])
    return found


def _problems(found: dict[str, Any], broken: list[Any]) -> list[str]:
    problems = [f"model {info.name}: {info.problem}" for info in broken]
    if not found["qt"]:
        problems.append('no Qt binding: pip install "napari-attention3d[all]"')
    if found["packages"]["nilearn"] is None:
        problems.append('no nilearn, which carries the demo\'s scan: pip install "nilearn"')
    if not any(info for info in found["models"]):
        problems.append("no model was found; is the installation complete?")
    return problems


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> dict[str, float] | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    figures = {"total": os.sysconf("SC_PHYS_PAGES") * page / 2**30}
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        figures["free"] = os.sysconf("SC_AVPHYS_PAGES") * page / 2**30
    return {key: round(value, 1) for key, value in figures.items()}


def _display() -> str:
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return "yes"
    helper = "xvfb-run" if shutil.which("xvfb-run") else "no xvfb-run: apt install xvfb xauth"
    return f"none; the demo draws without one ({helper})"
