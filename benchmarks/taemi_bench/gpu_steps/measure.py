"""Timing inside a step, with the same timer as everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from taemi_bench.schedule import Schedule
from taemi_bench.stats import Latency, ratio_per_round
from taemi_bench.timer import interleave

# A step has seconds, not minutes: enough rounds for the 90th percentile, and a cap.
SHORT = Schedule(rounds=50, seconds=1.0, max_seconds=25.0, warmup_calls=10, warmup_seconds=0.5)


@dataclass(frozen=True)
class Call:
    """One thing to time.

    Args:
        name: What it is called.
        run: One call.
        synchronise: Waits for queued work.
        why: Why it cannot run; then ``run`` is ``None``.
    """

    name: str
    run: Callable[[], object] | None
    synchronise: Callable[[], None] | None = None
    why: str = ""


def measure(calls: Sequence[Call], baseline: str = "", schedule: Schedule = SHORT) -> list[dict[str, Any]]:
    """Time calls against each other.

    Args:
        calls: What to time.
        baseline: The name of the one that ratios refer to; none when empty.
        schedule: How long.

    Returns:
        One plain object for each call: ``name``, ``cold_ms``, ``latency_ms``, ``times_faster``, ``why``.
    """
    timing = interleave(calls, schedule)
    base = next((row for row in timing.rows if row.name == baseline), None)
    found = []
    for row in timing.rows:
        latency = Latency.from_values(row.values_ms)
        ratio = None
        if base is not None and row is not base:
            ratio = ratio_per_round(base.round_medians_ms, row.round_medians_ms)
        found.append(
            {
                "name": row.name,
                "cold_ms": row.cold_ms,
                "latency_ms": asdict(latency) if latency else None,
                "times_faster": asdict(ratio) | {"than": baseline} if ratio else None,
                "why": row.why,
            }
        )
    return found


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names and reasons of calls that failed."""
    return [f"{row['name']}: {row['why']}" for row in rows if row["why"]]
