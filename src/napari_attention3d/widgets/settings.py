"""What is remembered between sessions, through napari's own plugin settings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

__all__ = ["SegmentSettings"]

PLUGIN = "napari-attention3d"


@dataclass
class SegmentSettings:
    """The Segment panel's choices; the same names as in napari.yaml's configurations.

    `overlap` is in percent, -1 for the model's own.
    """

    device: str = "auto"
    model: str = ""
    overlap: int = -1
    attention: bool = True
    probabilities: bool = False
    uncertainty: bool = False

    @classmethod
    def load(cls) -> SegmentSettings:
        """Read the person's settings; defaults where napari does not know the plugin."""
        section = _section()
        if section is None:
            return cls()
        return cls(**{f.name: getattr(section, f.name) for f in fields(cls)})

    def save(self) -> None:
        """Store what changed."""
        section = _section()
        if section is None:
            return
        for f in fields(self):
            if getattr(section, f.name) != getattr(self, f.name):
                setattr(section, f.name, getattr(self, f.name))


def _section() -> Any | None:
    from napari.settings import get_plugin_settings

    try:
        return get_plugin_settings(PLUGIN).segment
    except (KeyError, AttributeError):  # not discovered: run from a script, without its manifest
        return None
