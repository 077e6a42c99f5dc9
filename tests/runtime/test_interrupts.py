"""Ctrl-C at whatever moment ends a wait for other threads, and what it must not cut off is finished first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from taemi_runtime.crew import Crew, map_all
from taemi_runtime.interrupts import finished_first

ROOT = Path(__file__).parents[2]

# Interrupts work again and again, each time at another moment; a lock that stays taken hangs it.
_STRESS = """
import faulthandler, random, signal, sys, threading
from taemi_runtime.crew import Crew, map_all
from taemi_runtime.over_time.worker import Worker

class Session:
    def __iter__(self):
        yield from range(1 << 30)
    def close(self, patience_s):
        return True

def crew():
    with Crew(3, "test") as crew:
        while True:
            while crew.pending < 4:
                crew.give(lambda: None)
            crew.take()

def mapped():
    while True:
        map_all(abs, range(20), 3, "test")

def windows():
    worker = Worker(Session())
    try:
        for _ in worker:
            pass
    finally:
        worker.stop()

def interrupt(*_):
    if armed:
        armed.clear()
        raise KeyboardInterrupt

def lost(_):
    # Python drops what is raised in a weak reference's callback: press again.
    armed.append(True)
    signal.setitimer(signal.ITIMER_REAL, 0.001)

sys.unraisablehook = lost
faulthandler.dump_traceback_later(50, exit=True)
signal.signal(signal.SIGINT, interrupt)
chance = random.Random(1)
armed = []
for _ in range(TIMES):
    # A process of its own would send it so; the timer only chooses the moment.
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    armed.append(True)
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0003, 0.004))
    try:
        BODY()
    except KeyboardInterrupt:
        pass
    assert not armed
print("ended")
"""


@pytest.mark.parametrize(("body", "times"), [("crew", 300), ("mapped", 300), ("windows", 40)])
def test_whatever_the_moment_a_wait_ends(body, times):
    done = subprocess.run(
        [sys.executable, "-c", _STRESS.replace("BODY", body).replace("TIMES", str(times))],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_ctrl_c_waits_for_the_end_of_a_block():
    steps = []
    with pytest.raises(KeyboardInterrupt), finished_first():
        signal.raise_signal(signal.SIGINT)
        steps.append("finished")
    assert steps == ["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_of_the_block_is_not_hidden_by_ctrl_c():
    with pytest.raises(OSError, match="full"), finished_first():
        signal.raise_signal(signal.SIGINT)
        raise OSError("full")


@pytest.mark.parametrize("ignored", [True, False])
def test_what_ctrl_c_does_stays_the_programs_choice(monkeypatch, ignored):
    heard = []
    handler = signal.SIG_IGN if ignored else lambda number, _: heard.append(number)
    before = signal.signal(signal.SIGINT, handler)
    try:
        with finished_first():
            signal.raise_signal(signal.SIGINT)
            assert heard == []
        assert heard == ([] if ignored else [signal.SIGINT])
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_nothing_to_hold_back():
    done = []

    def work():
        with finished_first():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGINT)]


def test_results_come_in_order_and_errors_as_they_were():
    assert map_all(lambda value: value * value, range(100), 3, "test") == [value**2 for value in range(100)]
    assert map_all(abs, [], 3, "test") == []
    with pytest.raises(ZeroDivisionError):
        map_all(lambda value: 1 // value, range(5), 2, "test")


def test_a_closed_crew_begins_nothing_more():
    begun, go = [], threading.Event()
    before = threading.active_count()

    def work(number):
        begun.append(number)
        go.wait(20)

    with Crew[None](1, "test") as crew:
        for number in range(5):
            crew.give(lambda number=number: work(number))
        while not begun:
            pass
        threading.Timer(0.05, go.set).start()
    assert begun == [0]
    go.wait(20)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert threading.active_count() == before
