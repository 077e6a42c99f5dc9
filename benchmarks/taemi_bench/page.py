"""The report as one self-contained page for a browser: pictures, tables, the machine, what did not run."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from taemi.pages import Html, html_page, html_table
from taemi.pictures import svg
from taemi.sheets import Sheet
from taemi_bench.nvidia_smi import Gpu
from taemi_bench.page_pictures import (
    draw_conditions,
    draw_error,
    draw_floor,
    draw_growth,
    draw_latency,
    draw_rho,
    draw_stages,
)
from taemi_bench.report import Report
from taemi_bench.row_report import RowReport
from taemi_bench.rows import PYTORCH
from taemi_bench.tables import describe_ceilings, heading, notes, reasons, sheets, typical_ms
from taemi_runtime.atomic import write_text
from taemi_runtime.console import format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
figure { margin: .8rem 0 1.4rem; }
figure img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
.wide table { font-size: .85rem; }
li { margin: .2rem 0; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.lead { color: #52606d; }
"""


def write_page(path: Path, report: Report) -> None:
    """Write a report as HTML, atomically.

    Args:
        path: The file.
        report: What was measured.
    """
    parts = [
        *_lead(report),
        *_fastest(report),
        *_latency(report),
        *_growth(report),
        *_errors(report),
        *_section("How near to the machine's limit", _floor(report)),
        *_section("Where the time goes", _stages(report)),
        *_section("Tables", [part for sheet in sheets(report) for part in _sheet(sheet)]),
        *_section("The machine", [_machine(report)]),
        *_section("Not run, or failed", _list(reasons(report))),
        *_section("Notes", _list(note for note in notes(report) if note not in set(reasons(report)))),
    ]
    write_text(path, html_page(heading(report), parts, style=_STYLE))


def _lead(report: Report) -> Iterator[str]:
    machine = report.machine
    where = " and ".join([machine.cpu, *dict.fromkeys(gpu.name for gpu in machine.gpus)])
    yield f"<p class='lead'>{escape(where)}, {report.threads} threads, {escape(report.created)}</p>"
    if report.interrupted:
        yield "<p class='note'>Interrupted: this is what was finished until then.</p>"
    if not report.trained:
        yield (
            "<p class='note'>The weights are random. Speed does not depend on that; differences between "
            "outputs do.</p>"
        )
    restless = [scope.name for scope in report.scopes if scope.noise.note]
    if restless:
        yield (
            f"<p class='note'>The machine was not quiet while it measured {escape(', '.join(restless))}: "
            "those figures are doubtful. The notes at the end say what went on.</p>"
        )


def _fastest(report: Report) -> list[str]:
    """Name the fastest engine of each scope whose numbers hold."""
    found = []
    for scope in report.scopes:
        rows = [
            (row.latency_ms.typical, row)
            for row in report.rows
            if row.scope == scope.name
            and row.state == "ran"
            and row.backend != PYTORCH
            and row.latency_ms is not None
        ]
        if rows:
            _, best = min(rows, key=lambda item: item[0])
            times = f"{best.times_faster.median:.2f}" if best.times_faster else "-"
            found.append(
                (
                    scope.name,
                    best.name,
                    _number(typical_ms(best.latency_ms)),
                    _number(times),
                    _sentence(scope.includes),
                )
            )
    header = ("scope", "fastest engine", "p50, ms", "times faster than PyTorch", "one call includes")
    return _section("At a glance", [_wide(html_table(header, found))] if found else [])


def _latency(report: Report) -> list[str]:
    parts = []
    for scope in report.scopes:
        rows = _of(report, scope.name)
        sizes = ", ".join(f"{name} {length}" for name, length in scope.sizes.items())
        caption = f"{scope.name}: {scope.includes}. {sizes}; {scope.rounds} interleaved rounds."
        parts += _figure(draw_latency(rows), f"latency of {scope.name}", caption)
    return _section("Latency", parts)


def _growth(report: Report) -> list[str]:
    parts = []
    for sweep in report.sweeps:
        title = f"{sweep.scope} by {sweep.axis}"
        hollow = "a hollow mark is a mean of too few calls for a median"
        parts += _figure(draw_growth(sweep), title, f"{title}: medians, shaded up to p90; {hollow}.")
        parts += _figure(draw_conditions(sweep), title, f"{title}: medians; {hollow}.")
    return _section("Growth", parts)


def _errors(report: Report) -> list[str]:
    parts = []
    for scope in report.scopes:
        title = f"{scope.name}: speed against error"
        parts += _figure(draw_error(_of(report, scope.name)), title, f"{title}; low and left is better.")
    for sweep in report.sweeps:
        title = f"{sweep.scope} by {sweep.axis}: speed against correlation with labels"
        parts += _figure(draw_rho(sweep), title, f"{title}; high and left is better.")
    return _section("Speed against error", parts)


def _floor(report: Report) -> list[str]:
    caption = (
        "The shortest time that this machine's measured arithmetic and memory rates allow for the graph's "
        "counted operations and bytes, as a share of the row's median. 100 % is the limit."
    )
    said = [caption, *(f"{describe_ceilings(ceilings)}." for ceilings in report.ceilings.values())]
    return _figure(draw_floor(report.rows), "share of the floor", " ".join(said))


def _stages(report: Report) -> list[str]:
    parts = []
    for scope in report.scopes:
        rows = _of(report, scope.name)
        timed = [(row, row.latency_ms) for row in rows if row.latency_ms is not None]
        staged = [(row.name, row.stages_ms, call) for row, call in timed if row.stages_ms]
        parts += _figure(draw_stages(staged), f"stages of {scope.name}", f"{scope.name}: {scope.includes}.")
        split = [(row.name, _medians(row), call) for row, call in timed if row.split is not None]
        title = f"{scope.name}: copies and computation on the GPU"
        clocked = [row.name for row in rows if row.split is not None and row.split.enqueue_ms is None]
        other = f"; {', '.join(clocked)} by the host's clock" if clocked else ""
        parts += _figure(draw_stages(split), title, f"{title}, by CUDA events{other}.")
    return parts


def _medians(row: RowReport) -> dict[str, float]:
    if row.split is None:
        return {}
    parts = {
        "host to device": row.split.host_to_device_ms,
        "compute": row.split.compute_ms,
        "device to host": row.split.device_to_host_ms,
    }
    return {name: part.typical for name, part in parts.items()}


def _machine(report: Report) -> str:
    machine, schedule = report.machine, report.schedule
    rows = [
        ("processor", machine.cpu),
        ("cores", f"{machine.cores_usable} usable of {machine.cores_online} logical"),
        ("memory", format_size(machine.memory_bytes)),
        ("system", f"{machine.system}, {machine.architecture}"),
        ("Python", machine.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in machine.packages.items())),
        ("thread variables", _assignments(machine.thread_variables) or "none set"),
        *((f"GPU {place}", _describe_gpu(gpu)) for place, gpu in enumerate(machine.gpus)),
        *([("GPU", machine.gpu_note)] if machine.gpu_note else []),
        ("TF32", "on" if report.tf32 else "off"),
        (
            "schedule",
            f"at least {schedule.rounds} rounds and {schedule.seconds:g} s, at most "
            f"{schedule.max_seconds:g} s for each scope; warm-up at least {schedule.warmup_calls} calls and "
            f"{schedule.warmup_seconds:g} s; {schedule.order} order",
        ),
    ]
    rows += [
        (f"ceiling of {device}: {name}", how)
        for device, ceilings in report.ceilings.items()
        for name, how in ceilings.how.items()
    ]
    return _wide(html_table(("", ""), [(name, _sentence(value)) for name, value in rows]))


def _describe_gpu(gpu: Gpu) -> str:
    clocks = (
        f"{gpu.sm_clock_mhz:.0f} of {gpu.sm_clock_max_mhz:.0f} MHz"
        if gpu.sm_clock_mhz is not None and gpu.sm_clock_max_mhz is not None
        else ""
    )
    slowed = f"slowed by {', '.join(gpu.slowed_by)}" if gpu.slowed_by else ""
    facts = (gpu.name, format_size(gpu.memory_bytes), f"driver {gpu.driver}, CUDA {gpu.cuda}", clocks, slowed)
    return ", ".join(fact for fact in facts if fact)


def _assignments(values: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _of(report: Report, scope: str) -> list[RowReport]:
    return [row for row in report.rows if row.scope == scope]


def _section(title: str, parts: Sequence[str]) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", *parts] if parts else []


def _figure(figure: Figure | None, title: str, caption: str) -> list[str]:
    if figure is None:
        return []
    # As a picture of its own: two drawings in one page may use the same names inside.
    data = base64.b64encode(svg(figure)).decode()
    image = f"<img alt='{escape(title, quote=True)}' src='data:image/svg+xml;base64,{data}'>"
    return [f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"]


def _sheet(sheet: Sheet) -> list[str]:
    rows = [[*row[: sheet.names], *map(_number, row[sheet.names :])] for row in sheet.rows]
    return [f"<h3>{escape(sheet.title)}</h3>", _wide(html_table(sheet.header, rows))]


def _number(text: str) -> Html:
    return Html(f"<td class='n'>{escape(text)}</td>")


def _sentence(text: str) -> Html:
    return Html(f"<td style='white-space: normal'>{escape(text)}</td>")


def _wide(table: str) -> str:
    return f"<div class='wide'>{table}</div>"


def _list(lines: Iterator[str]) -> list[str]:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f"<ul>{items}</ul>"] if items else []
