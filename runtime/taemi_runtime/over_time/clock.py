"""Time, so that tests need not wait for it."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What tells the time and waits."""

    def now_s(self) -> float:
        """Return a time in seconds that never goes back."""

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait; return whether ``stop`` was set, which ends the wait at once."""


class WallClock:
    """The machine's own time."""

    def now_s(self) -> float:
        """Return the seconds of a clock that never goes back."""
        return time.monotonic()

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait for real."""
        return stop.wait(max(seconds, 0.0))
