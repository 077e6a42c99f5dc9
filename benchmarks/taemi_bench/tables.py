"""The report for people: tables in the terminal, and the same as Markdown."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from taemi.sheets import Sheet, format_markdown, format_sheets
from taemi_bench.machine import Machine
from taemi_bench.report import Report
from taemi_bench.roofline import Ceilings
from taemi_bench.row_report import RowReport
from taemi_bench.scope_report import ScopeReport, SweepReport, SweepRow
from taemi_bench.stats import PERCENTS, SPREAD, Latency, samples_needed
from taemi_runtime.atomic import write_text
from taemi_runtime.console import format_size

LATENCY_COLUMNS = (
    "scope",
    "row",
    *(f"p{percent}" for percent in PERCENTS),
    "mean",
    "stdev",
    "load",
    "cold",
    "times faster",
)
COST_COLUMNS = (
    "scope",
    "row",
    "largest difference",
    "mean difference",
    "rho",
    "host memory",
    "device memory",
    "engine file",
    "share of floor",
)
# A pipe has no width, and lines that are cut are useless; nor is a table readable below this.
PIPE_WIDTH, LEAST_WIDTH = 200, 120


def print_report(report: Report) -> None:
    """Print a report on stdout."""
    width = shutil.get_terminal_size((PIPE_WIDTH, 0)).columns
    print(heading(report), end="\n\n")
    print(format_sheets(sheets(report), width=max(width, LEAST_WIDTH)), end="\n\n")
    for note in notes(report):
        print(note)


def write_markdown(path: Path, report: Report) -> None:
    """Write a report as Markdown, atomically."""
    said = "\n".join(f"- {note}" for note in notes(report))
    write_text(path, f"# {heading(report)}\n\n{format_markdown(sheets(report))}\n## Notes\n\n{said}\n")


def heading(report: Report) -> str:
    """Return the title: what was measured, and that its weights are random where they are."""
    state = "" if report.trained else ", untrained (random weights)"
    return f"{report.bundle}{state}: latency in milliseconds"


def sheets(report: Report) -> list[Sheet]:
    """Return a report's tables; those without a row are left out."""
    shown = [row for row in report.rows if row.state != "not run"]
    found = [
        Sheet("Latency, ms", LATENCY_COLUMNS, tuple(map(cells, shown)), names=2),
        filled(Sheet("Accuracy and cost", COST_COLUMNS, tuple(map(cost_cells, shown)), names=2)),
        _splits(shown),
        *(_stages(scope, shown) for scope in report.scopes),
        *(sheet for sweep in report.sweeps for sheet in _sweep(sweep)),
    ]
    return [sheet for sheet in found if sheet.rows]


def cells(row: RowReport) -> tuple[str, ...]:
    """Return a row's cells in the order of ``LATENCY_COLUMNS``; latencies in milliseconds."""
    latency = row.latency_ms
    percentiles = [getattr(latency, f"p{percent}") if latency else None for percent in PERCENTS]
    spread = (latency.mean, latency.stdev) if latency else (None, None)
    ratio = row.times_faster
    return (
        row.scope,
        row_name(row),
        *map(format_ms, (*percentiles, *spread, row.load_ms, row.cold_ms)),
        "-" if ratio is None else f"{ratio.median:.2f} ({ratio.spread_low:.2f} to {ratio.spread_high:.2f})",
    )


def cost_cells(row: RowReport) -> tuple[str, ...]:
    """Return a row's cells in the order of ``COST_COLUMNS``."""
    memory = row.memory
    sizes = (memory.host_bytes, memory.device_bytes, memory.engine_bytes) if memory else (None, None, None)
    return (
        row.scope,
        row_name(row),
        format_difference(row.max_abs),
        format_difference(row.mean_abs),
        "-" if row.rho is None else f"{row.rho:.4f}",
        *("-" if size is None else format_size(size) for size in sizes),
        "-" if row.floor is None else f"{100 * row.floor.share:.0f} %",
    )


def filled(sheet: Sheet) -> Sheet:
    """Return a table without the figures that no row has."""
    kept = [
        place
        for place in range(len(sheet.header))
        if place < sheet.names or any(row[place] != "-" for row in sheet.rows)
    ]
    rows = tuple(tuple(row[place] for place in kept) for row in sheet.rows)
    return replace(sheet, header=tuple(sheet.header[place] for place in kept), rows=rows)


def row_name(row: RowReport) -> str:
    """Return what a table calls a row: its name, and that it failed where it did."""
    return f"{row.name} FAILED" if row.state == "failed" else row.name


def format_difference(value: float | None) -> str:
    """Format a difference between outputs."""
    return "-" if value is None else f"{value:.1e}" if value else "0"


def format_ms(value: float | None) -> str:
    """Format milliseconds with three significant digits below 100, whole ones above."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def typical_ms(latency: Latency | None) -> str:
    """Format the median, or with a ``~`` the mean of samples that are too few for one."""
    if latency is None:
        return "-"
    return format_ms(latency.p50) if latency.p50 is not None else f"~{format_ms(latency.mean)}"


def notes(report: Report) -> Iterator[str]:
    """Yield what a reader must know to judge the tables, one line each."""
    yield f"measured {report.created} on {describe_machine(report.machine)}"
    yield (
        f"{report.threads} thread{'s' * (report.threads != 1)} for every row on the CPU; "
        f"inputs are drawn, never zeros; TF32 is {'on' if report.tf32 else 'off'}"
    )
    for includes in dict.fromkeys(scope.includes for scope in report.scopes):
        names = ", ".join(scope.name for scope in report.scopes if scope.includes == includes)
        yield f"{names}: {includes}"
    yield from map(_describe_scope, report.scopes)
    yield from _missing_samples(report)
    if any(row.times_faster for row in report.rows):
        yield f"times faster than PyTorch eager fp32: median of rounds, and where {SPREAD} % of them lie"
    yield from map(describe_ceilings, report.ceilings.values())
    yield from _row_notes(report)
    yield from reasons(report)


def describe_machine(machine: Machine) -> str:
    """Describe a machine in one line."""
    parts = [
        f"{machine.cpu}, {machine.cores_usable} usable core{'s' * (machine.cores_usable != 1)}",
        f"{format_size(machine.memory_bytes)} memory",
        machine.system,
        f"Python {machine.python}",
        *(f"{name} {version}" for name, version in machine.packages.items() if name in _SHOWN),
        *(f"{name}={value}" for name, value in machine.thread_variables.items()),
    ]
    for gpu in machine.gpus:
        clocks = f" at {gpu.sm_clock_mhz:.0f} MHz" if gpu.sm_clock_mhz else ""
        slowed = f", slowed by {', '.join(gpu.slowed_by)}" if gpu.slowed_by else ""
        parts.append(f"{gpu.name}{clocks}, driver {gpu.driver}, CUDA {gpu.cuda}{slowed}")
    return ", ".join(parts)


_SHOWN = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "openvino")


def describe_ceilings(ceilings: Ceilings) -> str:
    """Say in a line what a device reached."""
    rates = ", ".join(
        f"{rate / 1e9:.3g} G multiply-adds/s in {precision}"
        for precision, rate in ceilings.multiply_adds_per_second.items()
    )
    memory = f"{ceilings.bytes_per_second / 1e9:.3g} GB/s"
    return f"ceilings of {ceilings.device}, measured in this run: {rates}, {memory}"


def reasons(report: Report) -> Iterator[str]:
    """Yield why rows and sweeps did not run, one line for each reason."""
    found: dict[str, list[str]] = {}
    for row in report.rows:
        if row.state == "not run":
            found.setdefault(f"not run: {row.name}: {row.why}", []).append(row.scope)
        elif row.state == "failed":
            found.setdefault(f"FAILED: {row.scope}, {row.name}: {row.why}", [])
    for sweep in report.sweeps:
        if sweep.why:
            found.setdefault(f"not run: {sweep.axis} of {sweep.scope}: {sweep.why}", [])
        for why, item in dict.fromkeys(
            (item.why, item.name) for point in sweep.points for item in point.rows
        ):
            if why:
                found.setdefault(f"not run: {item}: {why}", []).append(f"{sweep.axis} of {sweep.scope}")
    for reason, scopes in found.items():
        everywhere = not scopes or {scope.name for scope in report.scopes} <= set(scopes)
        yield reason if everywhere else f"{reason} ({', '.join(dict.fromkeys(scopes))})"


def _describe_scope(scope: ScopeReport) -> str:
    sizes = ", ".join(f"{name} {length}" for name, length in scope.sizes.items())
    capped = {"capped": ", stopped by the cap", "interrupted": ", interrupted"}.get(scope.stopped, "")
    noise = f"; {scope.noise.note} meanwhile" if scope.noise.note else ""
    return f"{scope.name}: {sizes}; {scope.rounds} rounds in {scope.seconds:.1f} s{capped}{noise}"


def _missing_samples(report: Report) -> Iterator[str]:
    latencies = [row.latency_ms for row in report.rows if row.latency_ms]
    lacking = [
        percent for percent in PERCENTS if any(getattr(item, f"p{percent}") is None for item in latencies)
    ]
    if lacking:
        needed = ", ".join(f"p{percent} {samples_needed(percent)}" for percent in lacking)
        yield f"a percentile that is missing has too few samples ({needed} needed): more with --rounds"
    items = [item.latency_ms for sweep in report.sweeps for point in sweep.points for item in point.rows]
    if any(item is not None and item.p50 is None for item in items):
        yield f"~: mean of fewer calls than a median needs ({samples_needed(50)})"


def _row_notes(report: Report) -> Iterator[str]:
    """Yield what figures need beside them: what to look at next, what makes one doubtful or missing."""
    found: dict[str, list[str]] = {}
    for row in report.rows:
        label = f"{row.scope}, {row.name}"
        if row.floor is not None and row.floor.note:
            found.setdefault(f"{row.scope}: {row.floor.note}", []).append(row.name)
        for warning in row.split.warnings if row.split else ():
            found.setdefault(f"{label}: {warning}", [])
        if row.state == "ran" and row.memory is not None and row.memory.note:
            found.setdefault(f"memory: {row.memory.note}", []).append(label)
    for sweep in report.sweeps:
        for name, note in sweep.notes.items():
            found.setdefault(f"{sweep.axis} of {sweep.scope}, {name}: {note}", [])
    for note, labels in found.items():
        yield f"{note} ({'; '.join(labels)})" if labels else note


def _splits(rows: Sequence[RowReport]) -> Sheet:
    header = ("scope", "row", "enqueue", "host to device", "compute", "device to host")
    found = []
    for row in rows:
        if row.split is not None:
            part = row.split
            times = (part.enqueue_ms, part.host_to_device_ms, part.compute_ms, part.device_to_host_ms)
            found.append((row.scope, row_name(row), *map(typical_ms, times)))
    return Sheet("Where a call on the GPU goes, medians in ms", header, tuple(found), names=2)


def _stages(scope: ScopeReport, rows: Sequence[RowReport]) -> Sheet:
    staged = [row for row in rows if row.scope == scope.name and row.stages_ms]
    names = list(dict.fromkeys(stage for row in staged for stage in row.stages_ms))
    found = tuple((row_name(row), *(format_ms(row.stages_ms.get(name)) for name in names)) for row in staged)
    return Sheet(f"Stages of {scope.name}, medians in ms", ("row", *names), found)


def _sweep(sweep: SweepReport) -> Iterator[Sheet]:
    """Yield a table for each thing that was measured along an axis: a line a row, a column a point."""
    names = list(dict.fromkeys(item.name for point in sweep.points for item in point.rows))
    columns = [{item.name: item for item in point.rows} for point in sweep.points]
    header = ("row", *(point.label for point in sweep.points))

    def sheet(title: str, shown: Callable[[SweepRow], str]) -> Sheet:
        found = [
            (name, *(shown(column[name]) if name in column else "-" for column in columns)) for name in names
        ]
        rows = tuple(row for row in found if set(row[1:]) != {"-"})
        return Sheet(f"{title} of {sweep.scope} by {sweep.axis}", header, rows)

    yield sheet("Median ms", lambda item: typical_ms(item.latency_ms))
    yield sheet(
        "Items a second",
        lambda item: "-" if item.items_per_second is None else f"{item.items_per_second:.3g}",
    )
    yield sheet("Rho with labels", lambda item: "-" if item.rho is None else f"{item.rho:.4f}")
