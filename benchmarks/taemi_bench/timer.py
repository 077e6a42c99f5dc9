"""The one timer behind every figure: all rows in turn, round after round.

Timing one row to its end and then the next compares two stretches of time, and whatever the machine
did in one of them. Here a round gives every row its turn, so that all rows meet the same machine, and
a row is compared with its baseline within each round (``stats.ratio_per_round``).

What ran before has a say, too, for it leaves its threads awake. On two cores a PyTorch call took twice
as long right behind an ONNX Runtime call, because ONNX Runtime's pool spins for 35 to 48 ms after a
call where nothing else is set (taemi's engines sleep at once, or after 20 microseconds), and PyTorch's
OpenMP threads for 8 to 10 ms (onnxruntime 1.31.1, torch 2.13.0). A turn therefore
begins with a settling time off the clock, in which the row itself is called until the threads of its
predecessor sleep; what is timed is the row back to back with itself, as a loop over it alone would be.
What may still carry over is spread evenly by the order of the rounds (``schedule.round_orders``).
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from taemi_bench.schedule import Schedule, Stop, round_orders
from taemi_runtime.errors import TaemiError, UsageError

_CALLS_AFTER = 3

Clock = Callable[[], int]
Sleep = Callable[[float], None]
Progress = Callable[[int, float], None]


class Timed(Protocol):
    """What can be timed.

    ``run`` is None for a row that cannot run here; ``why`` then says why. ``synchronise`` waits for
    work that ``run`` only queued (CUDA); it is called before the clock starts and before it stops.
    """

    @property
    def name(self) -> str:
        """What the row is called."""
        ...

    @property
    def run(self) -> Callable[[], object] | None:
        """One call."""
        ...

    @property
    def synchronise(self) -> Callable[[], None] | None:
        """Wait for queued work."""
        ...

    @property
    def why(self) -> str:
        """Why there is nothing to run."""
        ...


@dataclass(frozen=True)
class Samples:
    """What was measured of one row.

    Args:
        name: The row's name.
        cold_ms: The first call ever, in milliseconds; it is in none of the statistics.
        warmup_calls: How many calls warmed it up.
        calls_per_round: How many timed calls make one turn.
        values_ms: Every timed call in milliseconds, in order; each round adds ``calls_per_round``.
        why: Why it did not run, or what stopped it; empty when it ran to the end.
    """

    name: str
    cold_ms: float | None = None
    warmup_calls: int = 0
    calls_per_round: int = 1
    values_ms: tuple[float, ...] = ()
    why: str = ""

    @property
    def round_medians_ms(self) -> tuple[float, ...]:
        """The median of each round's timed calls, in milliseconds."""
        size = self.calls_per_round
        return tuple(
            statistics.median(self.values_ms[at : at + size]) for at in range(0, len(self.values_ms), size)
        )


@dataclass(frozen=True)
class Timing:
    """What was measured of all rows.

    Args:
        rows: One entry a row, in the order given.
        rounds: Finished rounds.
        seconds: How long they took, settling included.
        stopped: ``done``: the minimum was reached; ``capped``: a cap came first; ``interrupted``:
            Ctrl-C, all finished rounds are here and the unfinished one is not.
    """

    rows: tuple[Samples, ...]
    rounds: int
    seconds: float
    stopped: Stop


class _Row:
    """One row while it is measured."""

    def __init__(self, timed: Timed, clock: Clock, sleep: Sleep) -> None:
        self.timed = timed
        self.clock = clock
        self.sleep = sleep
        self.cold_ms: float | None = None
        self.warmup_ms: list[float] = []
        self.pace_seconds = 0.0
        self.calls_per_round = 1
        self.values_ms: list[float] = []
        self.why = "" if timed.run is not None else timed.why or "it has nothing to run"

    def call(self) -> float | None:
        """Time one call in milliseconds; ``None`` when it failed."""
        run, synchronise = self.timed.run, self.timed.synchronise
        if run is None or self.why:
            return None
        try:
            if synchronise is not None:
                synchronise()
            start = self.clock()
            run()
            if synchronise is not None:
                synchronise()
            return (self.clock() - start) / 1e6
        # A benchmark of five engines is not lost because one of them breaks: the row says what broke.
        except Exception as error:
            self.why = describe_failure(error)
            return None

    def warm_up(self, schedule: Schedule) -> None:
        """Make the cold call and the warm-up, and learn the row's pace."""
        self.cold_ms = self.call()
        start = self.clock()
        slow_ms = schedule.slow_seconds * 1e3 if schedule.slow_seconds is not None else math.inf
        while not self.why and (self.cold_ms or 0.0) <= slow_ms:
            seconds = (self.clock() - start) / 1e9
            warm = len(self.warmup_ms) >= schedule.warmup_calls and seconds >= schedule.warmup_seconds
            if warm or seconds >= schedule.max_seconds:
                break
            self.warmup_ms += [value for value in [self.call()] if value is not None]
        # The median warm-up call; the cold call where there was no other.
        self.pace_seconds = (
            statistics.median(self.warmup_ms) if self.warmup_ms else self.cold_ms or 0.0
        ) / 1e3
        if self.pace_seconds > 0:
            calls = int(schedule.block_seconds / self.pace_seconds)
            self.calls_per_round = max(1, min(schedule.block_calls, calls))

    def turn(self, schedule: Schedule) -> list[float]:
        """Settle, then time one block; empty when a call failed."""
        if 0 < schedule.settle_seconds < self.pace_seconds <= schedule.settle_call_seconds:
            self.call()
        elif self.pace_seconds > schedule.settle_seconds:
            self.sleep(schedule.settle_seconds)
        elif schedule.settle_seconds:
            start = self.clock()
            while not self.why and (self.clock() - start) < schedule.settle_seconds * 1e9:
                self.call()
            # The call in which the time runs out is more often than not one that was interrupted, and leaves
            # cold caches to the next: on a busy machine the first timed call of 0.05 ms took twice as long.
            if self.pace_seconds * _CALLS_AFTER <= schedule.settle_seconds:
                for _ in range(_CALLS_AFTER):
                    self.call()
        block = [self.call() for _ in range(self.calls_per_round)]
        return [value for value in block if value is not None] if not self.why else []

    def samples(self, rounds: int) -> Samples:
        values = tuple(self.values_ms[: rounds * self.calls_per_round])
        return Samples(
            self.timed.name, self.cold_ms, len(self.warmup_ms), self.calls_per_round, values, self.why
        )


def interleave(
    rows: Sequence[Timed],
    schedule: Schedule | None = None,
    *,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
    progress: Progress | None = None,
) -> Timing:
    """Time rows against each other.

    Each row makes its cold call and its warm-up; then the rounds are timed with the garbage collector
    off. A row that raises is kept with its reason and its finished rounds; the others go on.

    Args:
        rows: What to time.
        schedule: How long; the default schedule when ``None``.
        clock: Monotonic nanoseconds.
        sleep: Waits for some seconds.
        progress: Called after each round with the rounds done and the seconds passed, off the clock.

    Returns:
        Every sample of every row.

    Raises:
        UsageError: Two rows have one name.
    """
    schedule = schedule or Schedule()
    names = [row.name for row in rows]
    if len(set(names)) != len(names):
        raise UsageError("cannot time these rows", f"two have the same name: {names}", "Rename one")
    states = [_Row(row, clock, sleep) for row in rows]
    rounds, seconds = 0, 0.0
    stopped: Stop = "interrupted"
    try:
        for state in states:
            state.warm_up(schedule)
        orders = round_orders(len(states), schedule.order)
        with _no_garbage_collection():
            start = clock()
            while (stop := _stop(schedule, rounds, seconds, states)) is None:
                turns = [states[index] for index in next(orders) if not states[index].why]
                # A round counts when it is whole: Ctrl-C in the middle leaves no row ahead of another.
                for state, block in [(state, state.turn(schedule)) for state in turns]:
                    state.values_ms += block
                rounds += 1
                seconds = (clock() - start) / 1e9
                if progress is not None:
                    progress(rounds, seconds)
            stopped = stop
    except KeyboardInterrupt:
        pass
    return Timing(tuple(state.samples(rounds) for state in states), rounds, seconds, stopped)


def describe_failure(error: BaseException) -> str:
    """Return a failure in one line: the message of our own errors, type and first line of others."""
    lines = str(error).strip().splitlines()
    if isinstance(error, TaemiError) and lines:
        return " ".join(lines)
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _stop(schedule: Schedule, rounds: int, seconds: float, states: Sequence[_Row]) -> Stop | None:
    if all(state.why for state in states) or (rounds >= schedule.rounds and seconds >= schedule.seconds):
        return "done"
    late = seconds >= schedule.max_seconds and rounds >= schedule.least_rounds
    if rounds >= schedule.max_rounds or late or seconds >= 2 * schedule.max_seconds:
        return "capped"
    return None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
