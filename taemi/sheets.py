"""Tables for a terminal and in Markdown, the same figures in both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 120
_NARROWEST_NAME = 16


@dataclass(frozen=True)
class Sheet:
    """One table.

    Args:
        title: What it shows.
        header: Names of its columns; the first ones hold names, the others figures.
        rows: Its cells.
        notes: What is worth knowing, below it.
        names: How many columns hold names.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    names: int = 1


def format_sheets(found: Sequence[Sheet], *, width: int = _WIDTH) -> str:
    """Format tables for a terminal of so many columns; names break there, figures never do."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=width, markup=False)
    unlimited = console.options.update(width=10_000)
    for sheet in found:
        table = _table(sheet)
        over = console.measure(table, options=unlimited).minimum - width
        if over > 0 and sheet.rows:
            # Paths have no spaces to break at.
            longest = max(
                len(word) for row in sheet.rows for cell in row[: sheet.names] for word in cell.split()
            )
            table = _table(sheet, max(_NARROWEST_NAME, longest - over))
        # A table that cannot be so narrow is wider, as cut figures are none.
        console.width = max(width, console.measure(table, options=unlimited).minimum)
        console.print(sheet.title, highlight=False)
        console.print(table)
        for note in sheet.notes:
            console.print(note, highlight=False)
        console.print()
    return stream.getvalue().rstrip()


def _table(sheet: Sheet, name_width: int = 10_000) -> Table:
    """Make a table, whose names have at most so many characters a line."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), show_edge=False)
    for place, name in enumerate(sheet.header):
        # Headers break between words, figures never do.
        widest = max([len(row[place]) for row in sheet.rows] + [len(word) for word in name.split()])
        table.add_column(
            "\n".join(wrap(name, widest)),
            justify="left" if place < sheet.names else "right",
            no_wrap=place >= sheet.names,
        )
    for row in sheet.rows:
        names = ("\n".join(wrap(name, name_width)) for name in row[: sheet.names])
        table.add_row(*names, *row[sheet.names :])
    return table


def format_markdown(found: Sequence[Sheet]) -> str:
    """Format tables as Markdown."""
    parts = []
    for sheet in found:
        lines = [markdown_row(cells) for cells in (sheet.header, *sheet.rows)]
        lines.insert(1, f"|{' --- |' * sheet.names}{' ---: |' * (len(sheet.header) - sheet.names)}")
        parts.append("\n".join([f"## {sheet.title}", "", *lines, *(f"\n{note}" for note in sheet.notes)]))
    return "\n\n".join(parts) + "\n"


def markdown_row(cells: Sequence[str]) -> str:
    """Format one line of a table in Markdown."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
