"""A sweep: the same rows at one point of an axis after the other, within so many seconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from taemi_bench.measured import Tick, meter, time_rows
from taemi_bench.rows import Row
from taemi_bench.schedule import Schedule
from taemi_bench.scope_report import SweepPoint, SweepReport, SweepRow
from taemi_bench.stats import Latency
from taemi_bench.timer import Samples

POINT = Schedule(
    rounds=3,
    seconds=0.0,
    max_rounds=40,
    max_seconds=6.0,
    warmup_calls=1,
    warmup_seconds=0.02,
    settle_seconds=0.02,
    settle_call_seconds=0.0,
    block_seconds=0.03,
    slow_seconds=5.0,
)
"""A point of a fast row has up to 30 samples in its three rounds. Its rows settle for twice as long as
PyTorch's threads stay awake; those of the engines sleep sooner (``timer``)."""
ONCE = Schedule(
    rounds=1,
    seconds=0.0,
    max_rounds=1,
    warmup_calls=0,
    warmup_seconds=0.0,
    settle_seconds=0.0,
    settle_call_seconds=0.0,
)
"""A point whose calls take seconds is measured once."""
SLOW_SECONDS = 3.0
"""All rows' calls of a point together; above it the point is measured once."""
INTERRUPTED = "interrupted"

Summary = Callable[[Row, Samples], SweepRow]


@dataclass(frozen=True)
class PlannedPoint:
    """One point that is to be measured.

    Args:
        label: As in ``SweepPoint``, like the next two.
        value: Where it stands on the axis.
        sizes: Length of every axis.
        rows: Makes its rows; they close nothing.
        items: Items that one call computes.
        work: How much a call has to do, in any unit; points of one sweep are compared by it.
        summarise: Makes what is reported of a row; by its calls and ``items`` when ``None``.
    """

    label: str
    value: float | None
    sizes: dict[str, int]
    rows: Callable[[], Sequence[Row]]
    items: int = 1
    work: float = 1.0
    summarise: Summary | None = None


@dataclass
class Pace:
    """What a point costs, judged by the ones before it.

    Args:
        call_seconds: One call of each row together, at the last point.
        work: That point's work.
    """

    call_seconds: float = 0.0
    work: float = 1.0

    def expect(self, point: PlannedPoint) -> float:
        """Return what one call of each row will take, in seconds; 0 where nothing is known."""
        return self.call_seconds * point.work / self.work

    def learn(self, point: PlannedPoint, samples: Sequence[Samples]) -> None:
        """Note what a point took."""
        calls = [statistics.median(row.values_ms or (row.cold_ms or 0.0,)) for row in samples if not row.why]
        self.call_seconds, self.work = sum(calls) / 1e3, point.work


@dataclass
class Sweep:
    """What is swept.

    Args:
        scope: The scope that one call computes.
        axis: What changes.
        points: The points, the least work first.
        seconds: Points that would not end within so many are left out.
        pace: What is known of its calls before the first point.
        notes: What a reader should know.
    """

    scope: str
    axis: str
    points: Sequence[PlannedPoint]
    seconds: float
    pace: Pace = field(default_factory=Pace)
    notes: dict[str, str] = field(default_factory=dict)


def measure_sweep(sweep: Sweep, progress: Tick | None = None) -> SweepReport:
    """Measure every point of a sweep, its rows interleaved.

    Ctrl-C ends it with the points that are finished, and a note.

    Args:
        sweep: What is swept.
        progress: Called with (scope, axis and point; rounds done; rounds expected).
    """
    notes = dict(sweep.notes)
    found: list[SweepPoint] = []
    try:
        for point in _measure(sweep, notes, progress):
            found.append(point)
            if point.stopped == INTERRUPTED:
                notes[INTERRUPTED] = f"by Ctrl-C at {point.label}"
    except KeyboardInterrupt:
        notes[INTERRUPTED] = f"by Ctrl-C after {len(found)} points"
    return SweepReport(sweep.scope, sweep.axis, tuple(found), notes=notes)


def _measure(sweep: Sweep, notes: dict[str, str], progress: Tick | None) -> Iterator[SweepPoint]:
    pace, spent = replace(sweep.pace), 0.0
    left_out = []
    for point in sweep.points:
        expected = pace.expect(point)
        slow = expected > SLOW_SECONDS
        # A point that is measured once makes two calls: the cold one and the timed one.
        cost = 2 * expected if slow else 0.0
        if spent + cost > sweep.seconds:
            left_out.append(f"{point.label} (some {cost:.0f} s)")
            continue
        schedule = ONCE if slow else POINT
        name = f"{sweep.scope}, {sweep.axis} {point.label}"
        rows = point.rows()
        timing, noise = time_rows(rows, schedule, meter(name, schedule, progress))
        spent += noise.seconds
        if timing.stopped == INTERRUPTED and not timing.rounds:
            raise KeyboardInterrupt  # nothing of the point is whole
        pace.learn(point, timing.rows)
        summarise = point.summarise or item_summary(point.items)
        reports = tuple(summarise(row, samples) for row, samples in zip(rows, timing.rows, strict=True))
        yield SweepPoint(point.label, point.value, point.sizes, reports, timing.stopped, noise)
        if timing.stopped == INTERRUPTED:
            return
    if left_out:
        notes["left out"] = f"{', '.join(left_out)}: more than is left of the sweep's {sweep.seconds:.0f} s"


def item_summary(items: int) -> Summary:
    """Return what reports a row by its calls, and the items that they compute a second."""

    def summarise(row: Row, samples: Samples) -> SweepRow:
        latency = Latency.from_values(samples.values_ms)
        # By the median, however few they are: one disturbed call must not stand for the point.
        rate = items * 1e3 / statistics.median(samples.values_ms) if samples.values_ms else None
        return SweepRow(row.name, latency, rate, samples.why)

    return summarise
