"""What all pictures of figures share: the frame of an SVG, and the file."""

from __future__ import annotations

from pathlib import Path

from ..volumes.atomic import atomic_path

__all__ = ["framed", "write_svg"]


def framed(width: float, height: float, body: str) -> str:
    """Return a whole SVG, on white, of what is drawn in it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        # In numbers: Qt takes a share of the width for so many units.
        f'font-size="12" font-family="sans-serif"><rect width="{width:.0f}" height="{height:.0f}" '
        f'fill="white"/>{body}</svg>\n'
    )


def write_svg(path: str | Path, picture: str) -> Path:
    """Write a picture to a file.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(picture, encoding="utf-8")
    return path
