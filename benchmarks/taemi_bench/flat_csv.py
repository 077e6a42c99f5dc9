"""The report as CSV: one line for each row of each scope, and one for each row at each point of a sweep."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from taemi_bench.report import Report
from taemi_bench.row_report import DeviceSplit, RowReport
from taemi_bench.scope_report import ScopeReport, SweepReport
from taemi_bench.stats import Latency
from taemi_runtime.atomic import write_text

_STATISTICS = tuple(item.name for item in fields(Latency) if item.name != "values")
_PARTS = tuple(item.name for item in fields(DeviceSplit) if item.name != "warnings")
COLUMNS = (
    *("kind", "scope", "scope_kind", "axis", "point", "value", "sizes"),
    *("row", "backend", "precision", "device", "threads", "file", "state", "why"),
    *("load_ms", "cold_ms", "warmup_calls", "calls_per_round"),
    *(f"latency_ms_{name}" for name in _STATISTICS),
    "items_per_second",
    *("baseline", "times_faster", "times_faster_low", "times_faster_high", "confidence"),
    *("times_faster_spread_low", "times_faster_spread_high", "rounds"),
    *("output", "max_abs", "mean_abs", "cosine", "rho", "parity_note"),
    *("host_bytes", "device_bytes", "engine_bytes", "memory_note"),
    *(f"{part.removesuffix('_ms')}_p50_ms" for part in _PARTS),
    "split_warnings",
    *("floor_ms", "floor_share", "floor_note", "stages_ms", "noise"),
)


def write_csv(path: Path, report: Report) -> None:
    """Write a report as CSV, atomically; an empty cell is what was not measured."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    scopes = {scope.name: scope for scope in report.scopes}
    writer.writerows(_row(row, scopes.get(row.scope)) for row in report.rows)
    for sweep in report.sweeps:
        writer.writerows(_points(sweep, scopes.get(sweep.scope)))
    write_text(path, stream.getvalue())


def _row(row: RowReport, scope: ScopeReport | None) -> dict[str, Any]:
    found = {name: getattr(row, name) for name in COLUMNS if name in RowReport.__dataclass_fields__}
    found |= {"kind": "row", "row": row.name, "stages_ms": _pairs(row.stages_ms)}
    if scope is not None:
        found |= {"scope_kind": scope.kind, "sizes": _pairs(scope.sizes), "noise": scope.noise.note}
    found |= _statistics(row.latency_ms)
    if (ratio := row.times_faster) is not None:
        found |= {
            "times_faster": ratio.median,
            "times_faster_low": ratio.low,
            "times_faster_high": ratio.high,
            "times_faster_spread_low": ratio.spread_low,
            "times_faster_spread_high": ratio.spread_high,
            "confidence": ratio.confidence,
            "rounds": ratio.rounds,
        }
    if (memory := row.memory) is not None:
        found |= {
            "host_bytes": memory.host_bytes,
            "device_bytes": memory.device_bytes,
            "engine_bytes": memory.engine_bytes,
            "memory_note": memory.note,
        }
    if row.split is not None:
        parts = {part: getattr(row.split, part) for part in _PARTS}
        found |= {f"{part.removesuffix('_ms')}_p50_ms": took and took.p50 for part, took in parts.items()}
        found["split_warnings"] = "; ".join(row.split.warnings)
    if (floor := row.floor) is not None:
        found |= {"floor_ms": floor.floor_ms, "floor_share": floor.share, "floor_note": floor.note}
    return found


def _points(sweep: SweepReport, scope: ScopeReport | None) -> Iterator[dict[str, Any]]:
    shared: dict[str, Any] = {"kind": "sweep", "scope": sweep.scope, "axis": sweep.axis}
    if scope is not None:
        shared["scope_kind"] = scope.kind
    if sweep.why:
        yield shared | {"state": "not run", "why": sweep.why}
    for point in sweep.points:
        for item in point.rows:
            yield (
                shared
                | {"point": point.label, "value": point.value, "sizes": _pairs(point.sizes)}
                | {"row": item.name, "state": "not run" if item.why else "ran", "why": item.why}
                | {"items_per_second": item.items_per_second, "rho": item.rho, "noise": point.noise.note}
                | _statistics(item.latency_ms)
            )


def _statistics(latency: Latency | None) -> dict[str, Any]:
    return {f"latency_ms_{name}": getattr(latency, name) for name in _STATISTICS} if latency else {}


def _pairs(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:g}" for name, value in values.items())
