"""Where the time of a clip goes when its stages run beside one another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from taemi_runtime.stopwatch import stopwatch


class Clock:
    """Times stages that may overlap.

    ``spent_ms`` holds how long each stage was busy, so that the stages of a clip may add up to more than its
    total. The total is wall clock, less the time in which nothing was done but opening engines: they are
    opened once, and no part of what a clip takes.
    """

    def __init__(self) -> None:
        self.spent_ms: dict[str, float] = {}
        self._lock = threading.Lock()
        self._busy = 0
        self._loading = 0
        self._waited_s = 0.0
        self._start = self._last = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a part of a stage: on the device where its calls are timed there, else by the clock."""
        self._change(busy=1)
        try:
            with stopwatch() as watch:
                yield
        finally:
            self._change(busy=-1)
            with self._lock:
                self.spent_ms[name] = self.spent_ms.get(name, 0.0) + watch.ms

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Mark the opening of an engine."""
        self._change(loading=1)
        try:
            yield
        finally:
            self._change(loading=-1)

    def total_ms(self) -> float:
        """Return the total so far, in milliseconds."""
        return (self._change() - self._start - self._waited_s) * 1e3

    def _change(self, busy: int = 0, loading: int = 0) -> float:
        """Note that something begins or ends, and return the time."""
        with self._lock:
            now = time.perf_counter()
            if self._loading and not self._busy:
                self._waited_s += now - self._last
            self._last = now
            self._busy += busy
            self._loading += loading
            return now
