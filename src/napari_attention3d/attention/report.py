"""A report as one self-contained HTML file: pictures, figures and where they came from."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from ..analysis.table import Cell, Table
from ..volumes.atomic import atomic_path

__all__ = ["Picture", "Section", "html_report", "write_report"]


@dataclass(frozen=True)
class Picture:
    """A picture of a report.

    Attributes
    ----------
    png
        Bytes of a PNG file.
    caption
        Below it.
    """

    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of a report; whatever is empty is left out.

    Attributes
    ----------
    title
        Its heading.
    text
        Paragraphs; line breaks stay.
    facts
        Names and values.
    pictures, tables
        In order.
    details
        Something long to fold away, JSON-compatible.
    """

    title: str
    text: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.small { opacity: .75; font-size: .85rem; } p { white-space: pre-line; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; }
dt { opacity: .75; } dd { margin: 0; overflow-wrap: anywhere; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-end; }
figure { margin: 0; } img { max-width: 100%; display: block; background: #000; }
figcaption { font-size: .85rem; opacity: .8; max-width: 40rem; }
table { border-collapse: collapse; margin: .5rem 0; } caption { text-align: left; }
th, td { padding: .15rem .7rem; border-bottom: 1px solid #8884; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; font-size: .8rem; }
"""


def html_report(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """Return a page that needs no other file and runs no script.

    Parameters
    ----------
    title, subtitle
        At its head.
    sections
        In order. All text is escaped: names may hold anything.
    """
    body = [f"<h1>{escape(title)}</h1>"]
    if subtitle:
        body.append(f'<p class="small">{escape(subtitle)}</p>')
    body += [_section(section) for section in sections]
    # Nothing may be loaded from elsewhere, whatever a name smuggles in.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def write_report(
    path: str | Path, title: str, sections: Sequence[Section], *, subtitle: str = ""
) -> Path:
    """Write `html_report` to a file.

    Raises
    ------
    OutputError
        If it can't be written; nothing half-written stays behind.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(html_report(title, sections, subtitle=subtitle), encoding="utf-8")
    return path


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(line)}</p>" for line in section.text]
    if section.facts:
        pairs = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
            for name, value in section.facts.items()
        )
        parts.append(f"<dl>{pairs}</dl>")
    if section.pictures:
        parts.append(f'<div class="pictures">{"".join(map(_figure, section.pictures))}</div>')
    parts += [_table(table) for table in section.tables]
    if section.details:
        text = json.dumps(section.details, indent=2, ensure_ascii=False, default=str)
        parts.append(f"<details><summary>In full</summary><pre>{escape(text)}</pre></details>")
    parts.append("</section>")
    return "\n".join(parts)


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column.heading)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    caption = f"<caption>{escape(table.notes[0])}</caption>" if table.notes else ""
    notes = "".join(f'<p class="small">{escape(note)}</p>' for note in table.notes[1:])
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{notes}"


def _cell(value: Cell) -> str:
    if value is None:
        return '<td class="number">–</td>'
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f'<td class="number">{text}</td>'
