"""Deletion and insertion curves as an SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from .faithfulness import LEAST, MOST, RANDOM, Direction, Faithfulness
from .svg import framed, write_svg

__all__ = ["curves_svg", "write_curves"]

_WIDTH, _HEIGHT, _LEFT, _TOP = 300, 190, 46, 40
_COLOURS = {MOST: "#d55e00", RANDOM: "#888888", LEAST: "#0072b2"}
_WORDS: dict[Direction, str] = {"deletion": "taken out", "insertion": "put back"}


def curves_svg(results: Sequence[Faithfulness]) -> str:
    """Return a picture: a row per map, deletion left and insertion right.

    Parameters
    ----------
    results
        Of `faithfulness`.
    """
    column, row = _WIDTH + 70, _HEIGHT + 80
    body = []
    for number, found in enumerate(results):
        for place, way in enumerate(_WORDS):
            x, y = 10 + place * column + _LEFT, number * row + _TOP
            body.append(f'<g transform="translate({x},{y})">{_plot(found, way)}</g>')
    return framed(2 * column + 20, row * len(results) + 20, "".join(body))


def write_curves(path: str | Path, results: Sequence[Faithfulness]) -> Path:
    """Write `curves_svg` to a file.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    return write_svg(path, curves_svg(results))


def _plot(found: Faithfulness, way: Direction) -> str:
    parts = [f'<text x="0" y="-14">{escape(found.name)}: {_WORDS[way]}</text>']
    for share in (0, 0.5, 1):
        y, x = _HEIGHT * (1 - share), _WIDTH * share
        parts.append(f'<path d="M0 {y}H{_WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="-8" y="{y + 4}" text-anchor="end">{share:g}</text>')
        words = f"{100 * share:g} %"
        parts.append(f'<text x="{x}" y="{_HEIGHT + 18}" text-anchor="middle">{words}</text>')
    for number, (order, colour) in enumerate(_COLOURS.items()):
        curve = found.curve(order, way)
        points = " ".join(
            f"{_WIDTH * f:.1f},{_HEIGHT * (1 - s):.1f}"
            for f, s in zip(curve.fractions, curve.scores, strict=True)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        words = f"{order.replace(' attended', '')} ({curve.area:.3f})"
        x = number * 105
        parts.append(
            f'<text x="{x}" y="{_HEIGHT + 36}" fill="{colour}" font-size="10">{words}</text>'
        )
    return "".join(parts)
