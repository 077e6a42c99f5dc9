"""Where the time of stages that overlap goes, and threads that are ended."""

from __future__ import annotations

import threading
import time

import pytest

from taemi_runtime import clock as module
from taemi_runtime.clock import Clock
from taemi_runtime.threads import end_threads, left_behind


@pytest.fixture
def now(monkeypatch):
    """A clock's own time, moved by the test: milliseconds since the start."""
    reading = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: reading[0] / 1e3)
    return lambda ms: reading.__setitem__(0, float(ms))


def test_stages_that_overlap_count_in_full_and_the_total_is_wall_clock(now):
    clock = Clock()
    with clock.stage("one"):
        now(10)
        with clock.stage("other"):
            now(30)
    with clock.stage("one"):
        now(35)
    assert clock.spent_ms == pytest.approx({"one": 35.0, "other": 20.0})
    assert clock.total_ms() == pytest.approx(35.0)


def test_only_time_in_which_nothing_else_was_done_is_loading(now):
    clock = Clock()
    now(5)  # Neither busy nor loading: it counts.
    with clock.loading():
        now(105)  # Nothing else: it does not.
        with clock.stage("one"):
            now(135)  # Beside a stage: it counts.
        now(145)  # Nothing else again.
        with clock.loading():
            now(155)
    assert clock.spent_ms == pytest.approx({"one": 30.0})
    assert clock.total_ms() == pytest.approx(35.0)


def test_a_stage_that_fails_is_timed_and_ended(now):
    clock = Clock()
    with pytest.raises(KeyError), clock.stage("one"):
        now(10)
        raise KeyError
    with clock.loading():
        now(50)
    assert clock.spent_ms == pytest.approx({"one": 10.0})
    assert clock.total_ms() == pytest.approx(10.0)


def test_threads_are_stopped_until_they_end_and_not_waited_for_longer():
    over, asked = threading.Event(), []

    def stop(threads):
        asked.append(list(threads))
        if len(asked) == 3:
            over.set()

    worker = threading.Thread(target=over.wait, name="taemi-test")
    worker.start()
    assert left_behind() == ["taemi-test"]
    end_threads([worker], stop, 5.0)
    assert asked == [[worker.ident]] * 3
    assert left_behind() == []
    stuck = threading.Event()
    worker = threading.Thread(target=stuck.wait)
    worker.start()
    begin = time.monotonic()
    end_threads([worker], lambda _: None, 0.1)
    assert 0.1 <= time.monotonic() - begin < 2
    stuck.set()
    worker.join()
