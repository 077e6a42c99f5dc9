"""Ctrl-C at whatever moment: nothing torn, no lock left taken.

Python raises ``KeyboardInterrupt`` in the main thread between any two of its steps, also within
``threading.Condition`` and what stands on it (``Event.wait``, ``queue.Queue``, ``concurrent.futures``): their
lock then stays taken, and whoever needs it next waits for ever. So the main thread waits for other threads
with [next_of][] only, and starts threads with [start_all][].
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# How often a wait looks whether Ctrl-C was pressed, where the platform does not interrupt it.
_LOOK_S = 0.1


@contextlib.contextmanager
def finished_first() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that no line is torn or counted wrongly.

    What Ctrl-C does then is what it would have done: an embedding program's handler is called, and where it
    is ignored nothing happens.
    """
    held = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not None
    )
    if (
        not held
    ):  # Other threads are not interrupted, and a handler that is not Python's could not be put back.
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        signal.raise_signal(signal.SIGINT)


def start_all(threads: Iterable[threading.Thread]) -> None:
    """Start threads; Ctrl-C is held back until all of them run."""
    with finished_first():
        for thread in threads:
            thread.start()


def next_of(items: queue.SimpleQueue[T]) -> T:
    """Wait for the next item of a queue; Ctrl-C ends the wait and nothing stays taken."""
    while True:
        try:
            # One call in C: it is interrupted as a whole or not at all.
            return items.get(timeout=_LOOK_S)
        except queue.Empty:
            continue
