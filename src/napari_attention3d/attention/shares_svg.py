"""Where a map lies, as an SVG file: a bar per label, inside, near and outside."""

from __future__ import annotations

from html import escape
from pathlib import Path

from ..analysis.table import Table
from .svg import framed, write_svg

__all__ = ["COLOURS", "shares_svg", "write_shares"]

COLOURS = {"inside": "#d55e00", "near": "#e69f00", "outside": "#bbbbbb"}
_BAR, _ROW, _WIDTH = 18, 28, 360
_LETTER = 6.6
_BOLD_LETTER = 7.8
"""About the width of a letter, in the drawing's unit."""


def shares_svg(table: Table) -> str:
    """Return a picture of the shares.

    Parameters
    ----------
    table
        Of `localise.attention_shares`. A dot marks in which part of a label's bar the map's
        largest value lies (pointing game).
    """
    names = [
        str(name if name is not None else f"label {label}")
        for label, name in zip(table.column("label"), table.column("name"), strict=True)
    ]
    left = 20 + _LETTER * max(len(name) for name in names)
    top = 46.0
    width, heading = left + _WIDTH + 70, table.notes[0]
    size = min(12.0, 12 * (width - 20) / (_BOLD_LETTER * max(1, len(heading))))  # all is to be read
    parts = [
        f'<text x="10" y="18" font-weight="bold" font-size="{size:.1f}">{escape(heading)}</text>'
    ]
    x = left
    for where, colour in COLOURS.items():
        parts.append(f'<rect x="{x}" y="28" width="11" height="11" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="38">{where}</text>')
        x += 15 + 10 * _LETTER
    parts.append(f'<circle cx="{x + 5}" cy="34" r="3.5"/><text x="{x + 13}" y="38">peak</text>')
    shares = {where: table.column(f"share {where} (%)") for where in COLOURS}
    for row, name in enumerate(names):
        y = top + row * _ROW
        middle = y + _BAR / 2
        parts.append(
            f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>'
        )
        at = left
        for where, colour in COLOURS.items():
            share = shares[where][row]
            assert isinstance(share, int | float)
            long = _WIDTH * share / 100
            title = f"<title>{escape(name)}, {where}: {share:.1f} %</title>"
            parts.append(
                f'<rect x="{at:.2f}" y="{y}" width="{long:.2f}" height="{_BAR}" fill="{colour}">'
                f"{title}</rect>"
            )
            if table.column("largest value")[row] == where:
                parts.append(f'<circle cx="{at + long / 2:.2f}" cy="{middle}" r="3.5"/>')
            at += long
        inside = shares["inside"][row]
        parts.append(f'<text x="{left + _WIDTH + 8}" y="{middle + 4}">{inside:.1f} %</text>')
    bottom = top + len(names) * _ROW
    for share in (0, 50, 100):
        x = left + _WIDTH * share / 100
        parts.append(f'<path d="M{x} {top - 4}V{bottom - 6}" stroke="#000" stroke-opacity=".2"/>')
        parts.append(f'<text x="{x}" y="{bottom + 9}" text-anchor="middle">{share} %</text>')
    return framed(width, bottom + 20, "".join(parts))


def write_shares(path: str | Path, table: Table) -> Path:
    """Write `shares_svg` to a file.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    return write_svg(path, shares_svg(table))
