"""The report for people: a table in the terminal, and the same as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from taemi_bench.machine import Machine
from taemi_bench.report import Report
from taemi_bench.row_report import RowReport
from taemi_bench.stats import PERCENTS, samples_needed
from taemi_runtime.atomic import write_text
from taemi_runtime.console import format_size

COLUMNS = (
    "scope",
    "row",
    *(f"p{percent}" for percent in PERCENTS),
    "mean",
    "cold",
    "times faster than PyTorch",
    "difference, max / mean",
)
_PIPE_WIDTH = 200


def cells(row: RowReport) -> tuple[str, ...]:
    """Return a row's cells in the order of ``COLUMNS``; latencies in milliseconds."""
    latency = row.latency_ms
    if latency is None:
        return (row.scope, row.name, *("-",) * len(PERCENTS), "-", _ms(row.cold_ms), "-", row.state)
    return (
        row.scope,
        row.name,
        *(_ms(getattr(latency, f"p{percent}")) for percent in PERCENTS),
        _ms(latency.mean),
        _ms(row.cold_ms),
        _times_faster(row),
        _difference(row),
    )


def heading(report: Report) -> str:
    """Return the title: what was measured, and that its weights are random where they are."""
    state = "" if report.trained else ", untrained (random weights)"
    return f"{report.bundle}{state}: latency in milliseconds"


def notes(report: Report) -> Iterator[str]:
    """Yield what a reader must know to judge the table, one line each."""
    yield f"on {describe_machine(report.machine)}"
    yield (
        f"{report.threads} thread{'s' * (report.threads != 1)} for every row on the CPU; "
        "inputs are drawn, never zeros"
    )
    for includes in dict.fromkeys(scope.includes for scope in report.scopes):
        names = ", ".join(scope.name for scope in report.scopes if scope.includes == includes)
        yield f"{names}: {includes}"
    for scope in report.scopes:
        sizes = ", ".join(f"{name} {length}" for name, length in scope.sizes.items())
        capped = {"capped": ", stopped by the cap", "interrupted": ", interrupted"}.get(scope.stopped, "")
        noise = f"; {scope.noise.note} meanwhile" if scope.noise.note else ""
        yield f"{scope.name}: {sizes}; {scope.rounds} rounds in {scope.seconds:.1f} s{capped}{noise}"
    latencies = [row.latency_ms for row in report.rows if row.latency_ms]
    lacking = [
        percent for percent in PERCENTS if any(getattr(item, f"p{percent}") is None for item in latencies)
    ]
    if lacking:
        needed = ", ".join(f"p{percent} {samples_needed(percent)}" for percent in lacking)
        yield f"- is too few samples ({needed} needed): more with --rounds"
    if any(row.times_faster for row in report.rows):
        yield "times faster: median over the rounds, with the 95 % interval of that median"
    yield from _reasons(report)


def print_report(report: Report) -> None:
    """Print a report on stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # A pipe has no width: cut columns are useless there.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    table = Table(title=escape(heading(report)))
    for index, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if index < 2 else "right", overflow="fold")
    previous = ""
    for row in report.rows:
        if row.state == "not run":
            continue
        if previous and row.scope != previous:
            table.add_section()
        previous = row.scope
        style = "bold red" if row.state == "failed" else None
        table.add_row(*(escape(cell) for cell in cells(row)), style=style)
    console.print(table)
    for note in notes(report):
        console.print(escape(note), soft_wrap=True)


def write_markdown(path: Path, report: Report) -> None:
    """Write a report as Markdown, atomically."""
    lines = [f"# {heading(report)}", "", _markdown_row(COLUMNS), _markdown_row(("---",) * len(COLUMNS))]
    lines += [_markdown_row(cells(row)) for row in report.rows if row.state != "not run"]
    lines += ["", *(f"- {note.removeprefix('- ')}" for note in notes(report)), f"- measured {report.created}"]
    write_text(path, "\n".join(lines) + "\n")


def describe_machine(machine: Machine) -> str:
    """Describe a machine in one line."""
    parts = [
        f"{machine.cpu}, {machine.cores_usable} usable core{'s' * (machine.cores_usable != 1)}",
        f"{format_size(machine.memory_bytes)} memory",
        machine.system,
        f"Python {machine.python}",
        *(f"{name} {version}" for name, version in machine.packages.items() if name in _SHOWN),
    ]
    for gpu in machine.gpus:
        clocks = f" at {gpu.sm_clock_mhz:.0f} MHz" if gpu.sm_clock_mhz else ""
        slowed = f", slowed by {', '.join(gpu.slowed_by)}" if gpu.slowed_by else ""
        parts.append(f"{gpu.name}{clocks}, driver {gpu.driver}{slowed}")
    return ", ".join(parts)


_SHOWN = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")


def _reasons(report: Report) -> Iterator[str]:
    """Yield why rows did not run, one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for row in report.rows:
        if row.state == "not run":
            reasons.setdefault(f"not run: {row.name}: {row.why}", []).append(row.scope)
        elif row.state == "failed":
            reasons.setdefault(f"FAILED: {row.scope}, {row.name}: {row.why}", [])
    for reason, graphs in reasons.items():
        everywhere = not graphs or len(graphs) == len(report.scopes)
        yield reason if everywhere else f"{reason} ({', '.join(graphs)})"


def _ms(value: float | None) -> str:
    """Format milliseconds with three significant digits below 100, whole ones above."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _times_faster(row: RowReport) -> str:
    ratio = row.times_faster
    if ratio is None:
        return "-"
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _difference(row: RowReport) -> str:
    if row.max_abs is None or row.mean_abs is None:
        return row.parity_note if row.state == "failed" else "-"
    mark = " FAILED" if row.state == "failed" else ""
    return f"{row.max_abs:.1e} / {row.mean_abs:.1e}{mark}"


def _markdown_row(values: tuple[str, ...]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"
