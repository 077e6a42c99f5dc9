"""From a report of latencies to one that says how far each row is from what the machine can do."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from taemi_bench.ceilings import SECONDS, measure_ceilings
from taemi_bench.floors import describe_gaps, with_floors
from taemi_bench.profiles import COLUMNS, Profile, cells, title, write_profiles
from taemi_bench.profiling import profile_report
from taemi_bench.report import Report
from taemi_bench.roofline import Ceilings
from taemi_bench.tables import PIPE_WIDTH
from taemi_bench.timer import describe_failure
from taemi_runtime.bundle import Bundle
from taemi_runtime.console import Tick
from taemi_runtime.errors import MissingExtraError, TaemiError

if TYPE_CHECKING:
    from taemi.exportable import ExportSource

MOST_GAPS = 10
SHOWN_GAPS = 3


@dataclass(frozen=True)
class Roof:
    """What was found.

    Args:
        report: The report, with ceilings, costs and floors where they could be had.
        profiles: Where the rows' time goes, by ``profiles.row_key``.
        interrupted: Whether Ctrl-C ended it; ``report`` is then as it was given.
        why: Why something of it could not be had, one reason for each.
    """

    report: Report
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    interrupted: bool = False
    why: tuple[str, ...] = ()


def try_add_roof(
    report: Report,
    bundle: Bundle,
    source: ExportSource | None,
    *,
    folder: Path | None = None,
    wanted: bool = True,
    progress: Tick = lambda step, done, total: None,
) -> Roof:
    """Do what ``add_roof`` does where it is wanted and the run was not interrupted; Ctrl-C loses nothing.

    Args:
        report: What was timed.
        bundle: The bundle.
        source: The checkpoint.
        folder: As for ``add_roof``.
        wanted: Whether to do it at all; with a ``folder`` it is done anyway.
        progress: Called with what is done, and how many steps are done of how many.
    """
    if report.interrupted or not (wanted or folder):
        return Roof(report)
    steps = itertools.count()
    total = 2 * len(report.rows)

    def tick() -> None:
        progress("roof", min(next(steps), total), total)

    try:
        return add_roof(report, bundle, source, folder=folder, tick=tick)
    except KeyboardInterrupt:
        return Roof(report, interrupted=True)
    except MissingExtraError as error:
        return Roof(report, why=(describe_failure(error),))


def add_roof(
    report: Report,
    bundle: Bundle,
    source: ExportSource | None,
    *,
    folder: Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Roof:
    """Measure the ceilings of every device that has rows, trace the rows, and add costs and floors.

    Args:
        report: What was timed.
        bundle: The bundle.
        source: The checkpoint.
        folder: Where traces and tables are written; an existing one, or ``None``.
        tick: Called before each step.

    Returns:
        The report with devices' ``ceilings``, ``ScopeReport.cost`` and ``RowReport.floor``; the profiles.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    # In proportion to the run, so that a short look stays short.
    seconds = min(SECONDS, report.schedule.seconds / 5)
    ceilings: dict[str, Ceilings] = {}
    why: list[str] = []
    for device in dict.fromkeys(row.device for row in report.rows if row.state == "ran"):
        tick()
        try:
            ceilings[device] = measure_ceilings(device, report.threads, seconds=seconds)
        except TaemiError as error:
            why.append(f"rows on {device} have no floor: {describe_failure(error)}")
    profiles, missing = profile_report(report, bundle, source, ceilings, folder, tick=tick)
    tick()
    report = with_floors(report, bundle, ceilings, profiles)
    if folder is not None:
        write_profiles(folder, profiles, describe_gaps(report, MOST_GAPS), missing)
    return Roof(report, profiles, why=tuple(why))


def print_roof(report: Report, profiles: Mapping[str, Profile], *, operators: bool) -> None:
    """Print the largest gaps to the floor on stdout, and the costliest operators where they were asked for.

    Args:
        report: The report, with floors.
        profiles: Where the rows' time goes.
        operators: Whether every profile's table is printed.
    """
    # A pipe has no width: cut columns are useless there.
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    for profile in profiles.values() if operators else ():
        table = Table(title=escape(title(profile)), title_justify="left")
        for place, column in enumerate(COLUMNS):
            table.add_column(column, justify="left" if place < 2 else "right", overflow="fold")
        for values in cells(profile):
            table.add_row(*map(escape, values))
        console.print(table)
    for gap in describe_gaps(report, SHOWN_GAPS):
        console.print(escape(f"gap: {gap}"), soft_wrap=True)
