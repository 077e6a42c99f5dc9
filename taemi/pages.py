"""Self-contained HTML pages: no script, no font, no file beside the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; background: #fff;
       max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .4rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
table { border-collapse: collapse; }
th, td { padding: .25rem .55rem; border-bottom: 1px solid #dde3ea; white-space: nowrap; }
th { text-align: left; font-weight: 600; vertical-align: bottom; white-space: normal; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.note { background: #fff4d6; padding: .6rem .9rem; border-left: 4px solid #e0a800; }
.side { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-start; }
figcaption { font-size: .9rem; color: #52606d; }
figure { margin: 0; }
svg text { font: 12px system-ui, sans-serif; fill: #3e4c59; }
svg .grid { stroke: #e4e7eb; }
"""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def html_page(title: str, parts: Sequence[str], *, style: str = "") -> str:
    """Put a page together.

    Args:
        title: Its title and first heading.
        parts: What follows, as HTML.
        style: Rules beside the common ones.
    """
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}{style}</style>"
    start = f"<!doctype html><html lang='en'><head>{head}</head><body><h1>{escape(title)}</h1>"
    return "\n".join([start, *parts, "</body></html>\n"])


def html_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a table; a cell that is [Html][] is a whole ``td``, and numbers are right-aligned."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = []
    for row in rows:
        cells = [cell if isinstance(cell, Html) else _cell(str(cell)) for cell in row]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _cell(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return f"<td>{escape(text)}</td>"
    return f"<td class='n'>{escape(text)}</td>"
