"""Throughput: several threads that call one engine at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from taemi_bench.rows import Row
from taemi_bench.scope_report import SweepRow
from taemi_bench.stats import Latency
from taemi_bench.sweep import PlannedPoint, Sweep
from taemi_bench.timer import Samples
from taemi_runtime.crew import Crew
from taemi_runtime.spec import Arrays

CALLERS = (1, 2, 4)
AXIS = "callers"
SECONDS = 40.0
_SETTLE_S = 0.05
_WINDOW_S = 0.2
_MOST_CALLS = 200

Window = tuple[float, float, list[float]]
"""When a caller's timed calls began and ended, in seconds, and what each took in milliseconds."""


@dataclass
class Callers:
    """Threads that call one row at a time.

    Each first calls for as long as threads of what ran before stay awake (``taemi_bench.timer``), then as
    often as fits into a fifth of a second, at least once. The rate is all calls by the time from the first
    one's beginning to the last one's end.

    Args:
        calls: One call of each thread.
        windows: For each run what its callers did.
    """

    calls: Sequence[Callable[[], Any]]
    windows: list[list[Window]] = field(default_factory=list)

    def run(self) -> None:
        """Let all of them call."""
        start = time.perf_counter() + _SETTLE_S
        with Crew[Window](len(self.calls), "caller") as crew:
            for call in self.calls:
                crew.give(partial(_call, call, start))
            self.windows.append([crew.take() for _ in self.calls])

    def report(self, row: Row, samples: Samples, items: int) -> SweepRow:
        """Return what the timed runs gave.

        Args:
            row: The row.
            samples: The runs.
            items: Items that one call computes.
        """
        first = 1 + samples.warmup_calls
        timed = self.windows[first : first + len(samples.values_ms)]
        calls = [spent for run in timed for _, _, each in run for spent in each]
        seconds = sum(max(end for _, end, _ in run) - min(begin for begin, _, _ in run) for run in timed)
        rate = items * len(calls) / seconds if seconds else None
        return SweepRow(row.name, Latency.from_values(calls), rate, samples.why)


def callers_sweep(
    scope: str, sizes: dict[str, int], rows: Sequence[Row], items: int, inputs: Arrays | None = None
) -> Sweep:
    """Return the sweep over how many threads call a row at a time.

    Args:
        scope: The scope.
        sizes: Length of every axis.
        rows: Its rows, open.
        items: Items that one call computes.
        inputs: The inputs, which every caller gets for itself; ``None`` lets all of them make the row's call.
    """
    points = []
    for count in CALLERS:
        some = {row.name: Callers(_calls(row, count, inputs)) for row in rows if row.run is not None}
        points.append(
            PlannedPoint(
                label=str(count),
                value=float(count),
                sizes=sizes,
                rows=partial(_rows, rows, some),
                work=float(count),
                summarise=partial(_summarise, some, items),
            )
        )
    threads = max((row.threads for row in rows), default=0)
    notes = {
        "threads": f"a call on the CPU may use {threads} threads; callers share the cores",
        "latency": "of each caller's calls, while the others call, too",
    }
    return Sweep(scope, AXIS, points, SECONDS, notes=notes)


def _calls(row: Row, count: int, inputs: Arrays | None) -> list[Callable[[], Any]]:
    assert row.run is not None  # only rows that run have callers
    if inputs is None or row.bind is None:
        return [row.run] * count
    return [row.bind(inputs) for _ in range(count)]


def _call(call: Callable[[], Any], start: float) -> Window:
    pace = 0.0
    while (now := time.perf_counter()) < start or not pace:
        call()
        pace = time.perf_counter() - now
    begin = time.perf_counter()
    spent: list[float] = []
    for _ in range(max(1, min(_MOST_CALLS, int(_WINDOW_S / pace)))):
        before = time.perf_counter()
        call()
        spent.append((time.perf_counter() - before) * 1e3)
    return begin, time.perf_counter(), spent


def _rows(rows: Sequence[Row], some: dict[str, Callers]) -> list[Row]:
    return [
        replace(row, run=some[row.name].run, synchronise=None, close=lambda: None)
        if row.name in some
        else row
        for row in rows
    ]


def _summarise(some: dict[str, Callers], items: int, row: Row, samples: Samples) -> SweepRow:
    if row.name not in some:
        return SweepRow(row.name, why=samples.why)
    return some[row.name].report(row, samples, items)
