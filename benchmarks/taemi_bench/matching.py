"""What a report has to compare, by what two reports must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from taemi_bench.report import Report
from taemi_bench.row_report import RowReport
from taemi_bench.stats import Latency

Key = tuple[str, ...]


@dataclass(frozen=True)
class Timed:
    """What one report says of a row, or of a row at a point of a sweep.

    Args:
        scope: The scope, with the point where it is one of a sweep.
        name: The row.
        latency: Its calls.
        row: The whole row; ``None`` at a point of a sweep.
        base: The calls of its baseline, interleaved with its own; ``None`` where there is none.
        yardstick: What must be alike in two reports for their baselines to be one yardstick.
        inputs: Digest of the inputs; empty at a point of a sweep.
        is_base: Whether it is the baseline of others.
    """

    scope: str
    name: str
    latency: Latency
    row: RowReport | None
    base: Latency | None
    yardstick: Key
    inputs: str = ""
    is_base: bool = False


def timed_rows(report: Report) -> Iterator[tuple[Key, Timed]]:
    """Yield every row that has latencies, then every point of a sweep, each with its key."""
    scopes = {scope.name: scope for scope in report.scopes}
    rows = {(row.scope, row.name): row for row in report.rows}
    bases = {(row.scope, row.baseline) for row in report.rows if row.baseline}
    for row in report.rows:
        scope = scopes.get(row.scope)
        if row.latency_ms is None or scope is None:
            continue
        base = rows.get((row.scope, row.baseline))
        key: Key = ("row", row.scope, row.name, row.device, format_sizes(scope.sizes))
        is_base = (row.scope, row.name) in bases
        yield (
            key,
            Timed(
                row.scope,
                row.name,
                row.latency_ms,
                row,
                base.latency_ms if base else None,
                _yardstick(row, base),
                scope.inputs_sha256,
                is_base,
            ),
        )
    for sweep in report.sweeps:
        for point in sweep.points:
            found = {item.name: item.latency_ms for item in point.rows}
            for item in point.rows:
                if item.latency_ms is None:
                    continue
                same = rows.get((sweep.scope, item.name))
                base = rows.get((sweep.scope, same.baseline)) if same else None
                place = f"{sweep.scope}, {sweep.axis} {point.label}"
                key = ("sweep", place, item.name, same.device if same else "", format_sizes(point.sizes))
                yield (
                    key,
                    Timed(
                        place,
                        item.name,
                        item.latency_ms,
                        None,
                        found.get(base.name) if base else None,
                        _yardstick(same, base),
                        is_base=(sweep.scope, item.name) in bases,
                    ),
                )


def format_sizes(sizes: dict[str, int]) -> str:
    """Format lengths of axes in a line, the same in whatever order they come."""
    return " ".join(f"{name}={length}" for name, length in sorted(sizes.items()))


def _yardstick(row: RowReport | None, base: RowReport | None) -> Key:
    if row is None or base is None:
        return ()
    threads = (str(base.threads), str(row.threads))
    return (base.name, base.device, *threads, *map(str, sorted(base.versions.items())))
