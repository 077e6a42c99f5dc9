from __future__ import annotations

import gc
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from taemi_bench.schedule import Schedule, default_schedule, round_orders
from taemi_bench.timer import interleave
from taemi_runtime.errors import EngineError, UsageError


class Clock:
    """Time that passes only when something says so."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.slept: list[float] = []

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


@dataclass
class Fake:
    """A row that takes a known time and keeps a log that it shares with the others."""

    name: str
    clock: Clock
    seconds: float
    log: list[str] = field(default_factory=list)
    fails_at: int = 0
    error: BaseException = field(default_factory=lambda: ValueError("it broke\nsecond line"))
    synchronise: object = None
    why: str = ""
    calls: int = 0

    def run(self) -> None:
        self.calls += 1
        self.log.append(self.name)
        if self.fails_at and self.calls >= self.fails_at:
            raise self.error
        self.clock.advance(self.seconds)


BARE = Schedule(
    rounds=4, seconds=0, warmup_calls=0, warmup_seconds=0, settle_seconds=0, block_calls=1, order="fixed"
)


def schedule(**changes) -> Schedule:
    return Schedule(**(vars(BARE) | changes))


def timed(rows, clock, **changes):
    return interleave(rows, schedule(**changes), clock=clock, sleep=clock.sleep)


def trio(clock, log, seconds=0.01):
    return [Fake(name, clock, seconds, log) for name in "ABC"]


def test_rounds_call_the_rows_in_turn():
    clock, log = Clock(), []
    found = timed(trio(clock, log), clock, rounds=3)
    # One cold call each, then three rounds.
    assert "".join(log) == "ABC" + "ABC" * 3
    assert [len(row.values_ms) for row in found.rows] == [3, 3, 3]
    assert (found.rounds, found.stopped) == (3, "done")


def test_latency_is_what_the_clock_said():
    clock = Clock()
    found = timed([Fake("fast", clock, 0.002), Fake("slow", clock, 0.25)], clock, rounds=2)
    fast, slow = found.rows
    assert fast.values_ms == pytest.approx((2.0, 2.0))
    assert slow.values_ms == pytest.approx((250.0, 250.0))
    assert found.seconds == pytest.approx(2 * 0.252)


def test_the_cold_call_stands_apart():
    clock = Clock()

    class Cold(Fake):
        def run(self):
            super().run()
            if self.calls == 1:
                self.clock.advance(5.0)

    row = timed([Cold("A", clock, 0.01)], clock).rows[0]
    assert row.cold_ms == pytest.approx(5010.0)
    assert max(row.values_ms) == pytest.approx(10.0)


@pytest.mark.parametrize(("seconds", "calls"), [(0.1, 5), (0.25, 3), (1.0, 3)])
def test_warm_up_reaches_a_count_and_a_time(seconds, calls):
    clock = Clock()
    row = Fake("A", clock, seconds)
    found = timed([row], clock, rounds=1, warmup_calls=3, warmup_seconds=0.5).rows[0]
    assert found.warmup_calls == calls
    assert row.calls == 1 + calls + 1


def test_a_turn_settles_with_own_calls_off_the_clock():
    clock, log = Clock(), []
    rows = [Fake("A", clock, 0.01, log), Fake("B", clock, 0.01, log)]
    found = timed(rows, clock, rounds=2, settle_seconds=0.03)
    # Three calls fill the time, three more go before what is timed.
    assert "".join(log) == "AB" + ("A" * 6 + "A" + "B" * 6 + "B") * 2
    assert [len(row.values_ms) for row in found.rows] == [2, 2]
    assert clock.slept == []


@pytest.mark.parametrize(
    ("seconds", "limit", "calls", "slept"),
    [(0.2, 0.5, 2, []), (0.5, 0.5, 2, []), (0.6, 0.5, 1, [0.05]), (0.2, 0.0, 1, [0.05])],
)
def test_a_row_slower_than_the_settling_time_makes_one_call_or_waits(seconds, limit, calls, slept):
    clock = Clock()
    row = Fake("A", clock, seconds)
    found = timed([row], clock, rounds=3, settle_seconds=0.05, settle_call_seconds=limit).rows[0]
    assert clock.slept == slept * 3
    assert row.calls == 1 + calls * 3
    assert len(found.values_ms) == 3


@pytest.mark.parametrize(("seconds", "size"), [(0.0005, 10), (0.004, 5), (0.011, 1), (0.5, 1)])
def test_fast_rows_collect_more_samples_a_round(seconds, size):
    clock = Clock()
    found = timed([Fake("A", clock, seconds)], clock, rounds=3, block_calls=10, block_seconds=0.0201).rows[0]
    assert found.calls_per_round == size
    assert len(found.values_ms) == 3 * size
    assert len(found.round_medians_ms) == 3


def test_a_round_stands_for_the_median_of_its_calls():
    clock = Clock()

    class Jumpy(Fake):
        def run(self):
            super().run()
            self.clock.advance([0, 0.001, 0.9][self.calls % 3])

    found = timed([Jumpy("A", clock, 0.002)], clock, rounds=2, block_calls=3, block_seconds=1.0).rows[0]
    assert found.calls_per_round == 3
    assert found.round_medians_ms == pytest.approx((3.0, 3.0))


@pytest.mark.parametrize(
    ("rounds", "seconds", "expected"), [(3, 1.0, 10), (30, 1.0, 30), (3, 0, 3)], ids=["time", "count", "bare"]
)
def test_both_minimums_are_reached(rounds, seconds, expected):
    clock = Clock()
    found = timed([Fake("A", clock, 0.1)], clock, rounds=rounds, seconds=seconds)
    assert (found.rounds, found.stopped) == (expected, "done")


@pytest.mark.parametrize("caps", [{"max_seconds": 0.5}, {"max_rounds": 5}])
def test_a_cap_ends_it_before_the_minimum(caps):
    clock = Clock()
    limits = {"rounds": 5, "seconds": 0.5} | caps
    limits |= {"rounds": 100} if "max_seconds" in caps else {"seconds": 60.0}
    found = timed([Fake("A", clock, 0.1)], clock, **limits)
    assert (found.rounds, found.stopped) == (5, "capped")


@pytest.mark.parametrize(("seconds", "rounds"), [(0.5, 10), (5.0, 2)])
def test_slow_rows_get_rounds_enough_for_a_median_within_twice_the_cap(seconds, rounds):
    clock = Clock()
    limits = {"rounds": 100, "seconds": 0, "max_seconds": 0.6 if seconds == 0.5 else 5.0, "least_rounds": 10}
    found = timed([Fake("A", clock, 0.1 if seconds == 0.5 else seconds)], clock, **limits)
    assert (found.rounds, found.stopped) == (rounds, "capped")


def test_a_cap_that_was_asked_for_holds():
    assert default_schedule().least_rounds == 10
    assert default_schedule(rounds=4).least_rounds == 4
    assert default_schedule(max_seconds=2.0).least_rounds == 0
    assert default_schedule(max_seconds=2.0).max_seconds == 3.0
    quick, usual = default_schedule(quick=True), default_schedule()
    assert (quick.rounds, quick.max_seconds) < (usual.rounds, usual.max_seconds)


def test_a_failing_row_is_kept_with_its_reason_and_the_others_go_on():
    clock, log = Clock(), []
    rows = [
        Fake("A", clock, 0.01, log),
        # Cold, round 1, round 2, and the call of round 3 fails.
        Fake("B", clock, 0.01, log, fails_at=4),
        Fake("C", clock, 0.01, log),
    ]
    found = timed(rows, clock, rounds=6)
    assert [len(row.values_ms) for row in found.rows] == [6, 2, 6]
    assert found.rows[1].why == "ValueError: it broke"
    assert "".join(log) == "ABC" + "ABC" * 3 + "AC" * 3


def test_a_row_that_fails_cold_has_a_reason_and_no_sample():
    clock = Clock()
    broken = Fake("B", clock, 0.01, fails_at=1, error=EngineError("cannot run", "no kernel", "Export again"))
    found = timed([broken, Fake("A", clock, 0.01)], clock, rounds=2)
    assert found.rows[0].why == "cannot run: no kernel. Export again"
    assert (found.rows[0].cold_ms, found.rows[0].values_ms) == (None, ())
    assert len(found.rows[1].values_ms) == 2


def test_a_row_that_cannot_run_is_a_row_with_its_reason():
    @dataclass
    class Absent:
        name: str = "C"
        run: None = None
        synchronise: None = None
        why: str = "no CUDA device"

    clock = Clock()
    found = timed([Absent(), Fake("A", clock, 0.01)], clock, rounds=2)
    assert (found.rows[0].why, found.rows[0].values_ms) == ("no CUDA device", ())
    assert timed([Absent()], clock).rounds == 0


def test_ctrl_c_keeps_whole_rounds_only():
    clock = Clock()
    rows = [
        Fake("A", clock, 0.01),
        Fake("B", clock, 0.01, fails_at=5, error=KeyboardInterrupt()),
    ]
    found = timed(rows, clock, rounds=100)
    assert (found.rounds, found.stopped) == (3, "interrupted")
    assert [len(row.values_ms) for row in found.rows] == [3, 3]
    assert gc.isenabled()


def test_ctrl_c_while_warming_up_leaves_rows_without_samples():
    clock = Clock()
    found = timed([Fake("A", clock, 0.01, fails_at=2, error=KeyboardInterrupt())], clock, warmup_calls=5)
    assert (found.rounds, found.stopped, found.rows[0].values_ms) == (0, "interrupted", ())
    assert found.rows[0].cold_ms == pytest.approx(10.0)


def test_queued_work_is_waited_for_before_the_clock_starts_and_before_it_stops():
    clock, log = Clock(), []
    row = Fake("run", clock, 0.001, log)
    queued = [0.0]

    def synchronise():
        log.append("wait")
        clock.advance(queued[0])
        queued[0] = 0.0

    class Queue(Fake):
        def run(self):
            super().run()
            queued[0] = 0.1

    row = Queue("run", clock, 0.001, log, synchronise=synchronise)
    found = timed([row], clock, rounds=2).rows[0]
    assert log == ["wait", "run", "wait"] * 3
    assert found.values_ms == pytest.approx((101.0, 101.0))


def test_the_garbage_collector_rests_while_rounds_are_timed():
    states = []

    class Looks(Fake):
        def run(self):
            super().run()
            states.append(gc.isenabled())

    clock = Clock()
    timed([Looks("A", clock, 0.01)], clock, rounds=3)
    assert states == [True, False, False, False]
    assert gc.isenabled()


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_balanced_rounds_put_every_row_behind_every_other_equally_often(count):
    period = count if count % 2 == 0 else 2 * count
    turns = list(itertools.islice(round_orders(count, "balanced"), period))
    assert all(sorted(turn) == list(range(count)) for turn in turns)
    followers = Counter(pair for turn in turns for pair in itertools.pairwise(turn))
    assert len(followers) == count * (count - 1)
    assert len(set(followers.values())) == 1
    places = Counter((place, row) for turn in turns for place, row in enumerate(turn))
    assert len(set(places.values())) == 1


def test_the_timer_follows_the_balanced_order():
    clock, log = Clock(), []
    timed(trio(clock, log), clock, rounds=6, order="balanced")
    rounds = ["".join(log[at : at + 3]) for at in range(3, len(log), 3)]
    assert rounds == ["ABC", "BCA", "CAB", "CBA", "ACB", "BAC"]


def test_progress_is_told_off_the_clock():
    clock, told = Clock(), []
    interleave(
        [Fake("A", clock, 0.1)],
        schedule(rounds=3),
        clock=clock,
        sleep=clock.sleep,
        progress=lambda rounds, seconds: told.append((rounds, round(seconds, 3))),
    )
    assert told == [(1, 0.1), (2, 0.2), (3, 0.3)]


@pytest.mark.parametrize(
    "changes",
    [{"rounds": 0}, {"seconds": -1}, {"rounds": 9, "max_rounds": 8}, {"seconds": 9, "max_seconds": 8}],
)
def test_a_schedule_that_makes_no_sense_is_refused(changes):
    with pytest.raises(UsageError):
        Schedule(**changes)


def test_two_rows_of_one_name_are_refused():
    clock = Clock()
    with pytest.raises(UsageError, match="same name"):
        timed([Fake("A", clock, 0.1), Fake("A", clock, 0.1)], clock)


def test_on_the_real_clock_a_sleep_of_two_milliseconds_costs_at_least_that():
    @dataclass
    class Sleeper:
        name: str
        seconds: float
        synchronise: None = None
        why: str = ""

        def run(self):
            time.sleep(self.seconds)

    found = interleave([Sleeper("short", 0.001), Sleeper("long", 0.003)], schedule(rounds=10))
    short, long = found.rows
    assert min(short.values_ms) >= 1.0
    assert min(long.values_ms) >= 3.0
    assert sum(long.values_ms) > sum(short.values_ms)
